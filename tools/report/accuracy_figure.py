"""The figure of ``lowc report accuracy``: output errors by recipe, and the damage of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accuracy import Result

MOST_LAYERS = 48
# Colours that people with any colour vision can tell apart (Okabe and Ito), and as many markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def size(results: Sequence[Result]) -> tuple[float, float]:
    """Return width and height in inches, high enough for the names of the layers."""
    return 13.0, max(5.0, 1.5 + 0.15 * len(_worst_layers(results)))


def fill(figure: Any, results: Sequence[Result], against: str) -> None:
    """Draw both parts onto a figure of matplotlib's."""
    names = _worst_layers(results)
    if not names:
        _outputs(figure.subplots(), results, against)
        return
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 2.2)})
    _outputs(left, results, against)
    _layers(right, results, names)


def _outputs(axes: Any, results: Sequence[Result], against: str) -> None:
    """Bars on a logarithmic axis, each with its number; what is exact has no bar."""
    values = [_drawable(result.outputs.relative_l2) if result.outputs else 0 for result in results]
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(results))]
    places = range(len(results))
    axes.bar(places, [value or math.nan for value in values], color=colours, width=0.6)
    drawn = [value for value in values if value]
    if drawn:
        axes.set_yscale("log")
        axes.set_ylim(min(drawn) / 4, max(drawn) * 2)
    for place, value in zip(places, values, strict=True):
        text, height = (f"{value:.1e}", value) if value else ("0", axes.get_ylim()[0])
        axes.annotate(
            text, (place, height), (0, 3), textcoords="offset points", ha="center", fontsize=9
        )
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(results) > 3 else {}
    axes.set_xticks(places, [result.recipe for result in results], **turned)
    axes.set_xlim(-0.6, len(results) - 0.4)
    axes.set_ylabel("relative L2 error")
    axes.set_title(f"outputs, against {against}")
    _tidy(axes, "y")


def _layers(axes: Any, results: Sequence[Result], names: list[str]) -> None:
    """One row per layer, the worst on top, one marker per recipe."""
    total = len({layer.name for result in results for layer in result.layers})
    prefix = _common_path(names)
    for index, result in enumerate(results):
        errors = {layer.name: _drawable(layer.relative_rms) for layer in result.layers}
        # Equal errors of two recipes shall both be seen: the first ones lie higher, and are larger.
        last = len(results) - 1
        lower = 0.5 * (index / last - 0.5) if last else 0.0
        points = [(errors[name], row + lower) for row, name in enumerate(names) if errors.get(name)]
        if points:
            axes.plot(
                *zip(*points, strict=True), linestyle="none", markersize=5 + min(last - index, 4),
                marker=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)],
                label=result.recipe, markeredgecolor="white", markeredgewidth=0.5,
            )  # fmt: skip
    axes.set_xscale("log")
    labels = [_short(name.removeprefix(prefix)) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=min(9, 330 / max(len(names), 1)))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("relative rms error of the layer alone, on exact inputs")
    below = f" (names below {prefix.rstrip('.')})" if prefix else ""
    which = "layers" if len(names) == total else f"{len(names)} of {total} layers"
    axes.set_title(f"{which}, worst first{below}")
    if axes.lines:
        axes.legend(loc="best", frameon=True)
    _tidy(axes, "both")


def _tidy(axes: Any, grid: str) -> None:
    axes.grid(visible=True, axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _worst_layers(results: Sequence[Result]) -> list[str]:
    """Return the names of the layers to draw, by the largest error under any recipe."""
    worst: dict[str, float] = {}
    for result in results:
        for layer in result.layers:
            worst[layer.name] = max(worst.get(layer.name, 0.0), _drawable(layer.relative_rms))
    return sorted(worst, key=worst.__getitem__, reverse=True)[:MOST_LAYERS]


def _drawable(value: float) -> float:
    """Return `value`, or what stands for one that is too large or no number."""
    return value if value < 1e6 else 1e6


def _common_path(names: Sequence[str]) -> str:
    """Return the module path that all names begin with, with its dot."""
    shared = ""
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(names) < 2 or len(set(parts)) > 1:
            break
        shared += f"{parts[0]}."
    return shared


def _short(name: str, most: int = 44) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]
