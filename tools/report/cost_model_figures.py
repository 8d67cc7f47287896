"""Figures of ``lowc report cost-model``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...passes.tiling import features
from ...passes.tiling.tilings import KernelTiling, Tiling
from ..tune.evaluate import Held
from ..tune.measured import Table
from ..tune.trees import Trees

_COLOURS = ("#2e8b57", "#c0392b", "#2c6fbb", "#d9822b", "#7d4bb0", "#6b6b6b")
_MOST_FEATURES = 24


def predicted(figure: Any, held: Held) -> None:
    """Draw predicted against measured times, of products that the models did not see."""
    axes = figure.subplots()
    forms = sorted({table.problem.form for table in held.tables})
    for place, form in enumerate(forms):
        pairs = [
            (table.seconds, found.seconds)
            for table, found in zip(held.tables, held.predictions, strict=True)
            if table.problem.form == form
        ]
        measured, said = (np.concatenate(part) for part in zip(*pairs, strict=True))
        colour = _COLOURS[place % len(_COLOURS)]
        axes.scatter(measured * 1e3, said * 1e3, s=6, alpha=0.5, color=colour, label=form)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms")
    axes.set_title("Held-out shapes")
    axes.legend()


def regret(figure: Any, held: Held) -> None:
    """Draw the regret of each product: of the tile that is chosen, and of the default."""
    scores = sorted(held.scores(), key=lambda one: one.default_regret)
    axes = figure.subplots()
    x = np.arange(len(scores))
    axes.plot(x, [100 * s.default_regret for s in scores], color="#6b6b6b", label="default tile")
    axes.scatter(
        x, [100 * s.chosen_regret for s in scores], s=12, color="#2e8b57", label="chosen tile"
    )
    axes.plot(x, [100 * s.floor for s in scores], color="#d9822b", linewidth=0.8, label="noise")
    axes.set(xlabel="product", ylabel="longer than the best tile, %", title="Regret by product")
    axes.set_ylim(bottom=0)
    axes.legend()


def learning(figure: Any, curve: Sequence[dict[str, float]]) -> None:
    """Draw regret against the number of measurements that were learnt."""
    axes = figure.subplots()
    x = [point["tiles"] for point in curve]
    for key, label, colour in (
        ("mean_regret", "predicted fastest", "#2c6fbb"),
        ("chosen_regret", "chosen", "#2e8b57"),
        ("top_regret", "best of the first 8", "#7d4bb0"),
    ):
        axes.plot(x, [100 * point[key] for point in curve], "o-", color=colour, label=label)
    axes.set(xlabel="measurements", ylabel="mean regret, %", title="Learning curve", xscale="log")
    axes.set_ylim(bottom=0)
    axes.legend()


def importance(figure: Any, model: Trees) -> None:
    """Draw how much each feature lowers the error of times."""
    gains = np.sum([booster.feature_importance("gain") for booster in model.time], axis=0)
    share = 100 * gains / max(gains.sum(), 1e-12)
    order = np.argsort(share)[-_MOST_FEATURES:]
    axes = figure.subplots()
    axes.barh([features.NAMES[i] for i in order], share[order], color="#2c6fbb")
    axes.set(xlabel="share of the gain, %", title="Features of the models of times")


def landscape(figure: Any, table: Table) -> None:
    """Draw times of all measured tiles of one product: register tiles by how work is cut."""
    cells: dict[tuple[str, str], float] = {}
    for tiling, seconds in zip(table.tilings, table.seconds, strict=True):
        cell = _cell(tiling)
        cells[cell] = min(seconds, cells.get(cell, np.inf))
    columns = sorted({column for _, column in cells}, key=_numbers)
    rows = sorted({row for row, _ in cells}, key=_numbers)
    grid = np.full((len(rows), len(columns)), np.nan)
    for (row, column), seconds in cells.items():
        grid[rows.index(row), columns.index(column)] = seconds / table.best
    axes = figure.subplots()
    image = axes.imshow(
        grid, aspect="auto", cmap="viridis_r", vmin=1, vmax=np.nanpercentile(grid, 95)
    )
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set(xlabel="panels x rows of a workgroup, block of K", ylabel="register tile")
    axes.set_title(f"{table.problem}: time over the best, {table.best * 1e3:.3f} ms")
    figure.colorbar(image)


def _cell(tiling: Tiling) -> tuple[str, str]:
    if not isinstance(tiling, KernelTiling):
        return tiling.text, ""
    tile = tiling.tile
    copied = " copied" * tiling.copies
    return (
        f"{tile.rows} x {tile.columns}{copied}",
        f"{tile.panels} x {tile.row_chunk}, {tile.k_block}",
    )


def _numbers(text: str) -> list[int]:
    digits = "".join(c if c.isdigit() else " " for c in text)
    return [int(word) for word in digits.split()]
