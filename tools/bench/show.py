"""Results of ``lowc bench matmul`` for people: tables and bars."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import output
from ..report.plots import draw


def print_record(record: dict[str, Any]) -> None:
    """Print one table per product."""
    for position, product in enumerate(record["products"]):
        if position:
            output.result("")
        _print_product(product, record, record["has_weight"][position])
    for name, mean in mean_ratios(record["products"]).items():
        count = len(record["products"])
        output.result(f"\n{name}: {mean:.2f} of lowc's time, geometric mean of {count} shapes")


def mean_ratios(products: list[dict[str, Any]]) -> dict[str, float]:
    """Return the geometric means of times over lowc's, of contenders in all of several products."""
    if len(products) < 2:
        return {}
    ratios = [{row["name"]: row["ratio"] for row in product["rows"][1:]} for product in products]
    return {
        name: math.prod(own[name] for own in ratios) ** (1 / len(ratios))
        for name in ratios[0]
        if all(name in own for own in ratios)
    }


def _print_product(product: dict[str, Any], record: dict[str, Any], has_weight: bool) -> None:
    rows = product["rows"]
    rotated = ", weights rotated" if record["rotated"] else ""
    kind = "one weight" if has_weight else "two activations"
    output.result(
        f"{product['shape']} (BxMxNxK, {kind}) for {record['target']}, "
        f"{record['threads']} threads{rotated}"
    )
    # A product with one row reads its weight for nothing else: bytes are what counts.
    has_one_row = product["shape"].split("x")[1] == "1"
    speed = "GB/s" if has_one_row else "GFLOP/s"
    key = "gigabytes_per_second" if has_one_row else "gflops"
    headers = [
        "contender", "median ms", "p10", "p90", "ratio", speed, "limit ms", "over limit", "reached",
        "by", "error", "vs definition",
    ]  # fmt: skip
    output.table(
        headers,
        [
            [
                row["name"], _number(row["median_ms"]), _number(row["p10_ms"]),
                _number(row["p90_ms"]), f"{row['ratio']:.2f}", f"{row[key]:.1f}",
                _number(row["limit_ms"]), _times(row["over_limit"]), _share(row["reached"]),
                row["limited_by"] or "-", f"{row['error']:.1e}", _error(row["definition_error"]),
            ]
            for row in rows
        ],
        right=[header for header in headers if header not in ("contender", "by")],
    )  # fmt: skip
    for row in rows:
        if row["lowering"]:
            output.result(f"{row['name']}: {row['lowering']}")
    if product["best_peer"]:
        best = next(row for row in rows if row["name"] == product["best_peer"])
        output.result(
            f"best peer with the same weights and precision: {best['name']}, "
            f"{best['ratio']:.2f} of lowc's time"
        )
    if product["rates"]:
        output.result(f"limits: {', '.join(map(_rate, product['rates'].items()))}")
    for name, why in product["skipped"].items():
        output.result(f"skipped {name}: {why}")


def draw_bars(path: Path, record: dict[str, Any]) -> None:
    """Draw a panel per product: bars of milliseconds with p10 to p90, and a mark at each limit."""
    products = record["products"]

    def fill(figure: Any) -> None:
        panels = figure.subplots(len(products), 1, squeeze=False)[:, 0]
        for panel, product in zip(panels, products, strict=True):
            _draw_product(panel, product)
        panels[-1].set_xlabel("ms per call; bars: median, lines: p10 to p90, ◆: limit")

    bars = sum(len(product["rows"]) for product in products)
    draw(path, fill, (9, 0.9 + 0.6 * len(products) + 0.35 * bars))


def _draw_product(panel: Any, product: dict[str, Any]) -> None:
    rows = list(reversed(product["rows"]))
    names = [row["name"] for row in rows]
    medians = [row["median_ms"] for row in rows]
    spread = [
        [max(0.0, row["median_ms"] - row["p10_ms"]) for row in rows],
        [max(0.0, row["p90_ms"] - row["median_ms"]) for row in rows],
    ]
    colours = ["tab:orange" if name.startswith("lowc:") else "tab:blue" for name in names]
    panel.barh(names, medians, xerr=spread, color=colours, height=0.6)
    limits = [(row["limit_ms"], row["name"]) for row in rows if row["limit_ms"] is not None]
    if limits:
        panel.scatter(*zip(*limits, strict=True), marker="D", color="black", zorder=3, s=18)
    panel.set_xlim(left=0)
    panel.set_title(product["shape"], fontsize="medium", loc="left")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}×"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _rate(item: tuple[str, float]) -> str:
    name, rate = item
    kind, _, size = name.partition("-")
    if kind == "read":
        return f"reading {output.size_text(int(size))} {rate / 1e9:.1f} GB/s"
    return f"{name} {rate / 1e9:.1f} G products/s"
