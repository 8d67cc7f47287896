"""``lowc report lmul``: errors of L-Mul beside those of float formats, and the paper's claims.

Operands are independent, their mantissas uniform over the f32 patterns of [1, 2).  For k bits:

* ``f1(k) = 2.25 - (1 + E[x_k])^2`` is the expected loss of truncating both operands to k bits and
  multiplying exactly, ``f2(k) = 2.25 - (1 + 2 E[x_k] + 2^-l(k))`` that of the algebraic form of
  L-Mul, in units of ``2^(xe + ye)``, with ``E[x_k] = (1 - 2^-k) / 2``;
* its claims are that L-Mul of 4 bits is as precise as products in E4M3, and that of 3 bits more
  precise than products in E5M2.  They are judged by the rms error of the integer form.

Source: "Addition is All You Need" (arXiv 2410.00907).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ...passes.formats import lmul as definition
from ...passes.formats.floats import (
    BF16,
    F8E4M3FN,
    F8E5M2,
    F16,
    F32,
    Bits,
    Float,
    FloatFormat,
    round_to,
    value_of,
)
from .. import output
from .plots import check_plot_path, draw

BITS = (1, 2, 3, 4, 5, 6, 7, F32.mantissa_bits)
OPPONENTS = {"E5M2": F8E5M2, "E4M3": F8E4M3FN, "bf16": BF16, "f16": F16}
# Bits of L-Mul, the format whose exact products it is compared with, and whether it must be better.
CLAIMS = ((4, "E4M3", False), (3, "E5M2", True))
_BLOCK = 1 << 18  # samples held in memory at a time
_COLOURS = ("#6b6b6b", "#c0392b", "#d9822b", "#2e8b57", "#7d4bb0")  # of PAM and OPPONENTS
_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Mean, root of the mean square, and largest magnitude of the relative error, in percent."""

    mean: float
    rms: float
    max: float


@dataclass(frozen=True)
class Row:
    """One way to multiply: its errors, and what the paper expects where it is L-Mul."""

    name: str
    mantissa_bits: int
    errors: Errors
    slope: float | None = None
    offset_exponent: int | None = None
    f1: float | None = None
    f1_measured: float | None = None
    f2: float | None = None
    f2_measured: float | None = None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: `bits` of L-Mul against products in `format`, rms errors in percent."""

    bits: int
    format: str
    strict: bool
    lmul: float
    exact: float

    @property
    def holds(self) -> bool:
        """Whether the rms error is at most (`strict`: below) that of the format."""
        return self.lmul < self.exact if self.strict else self.lmul <= self.exact

    @property
    def text(self) -> str:
        """The claim in one line, with its numbers."""
        relation = "<" if self.strict else "<="
        verdict = "holds" if self.holds else "does not hold"
        return (
            f"L-Mul of {self.bits} bits {relation} {self.format} products: {verdict} "
            f"(rms {self.lmul:.3f} % against {self.exact:.3f} %)"
        )


@click.command("lmul")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Draw errors over mantissa bits into this .png, .svg or .pdf.",
)  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(min=1), default=2_000_000, show_default=True,
    help="Pairs of operands.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the operands."
)
def lmul_command(as_json: bool, plot: Path | None, samples: int, seed: int) -> None:
    """Measure L-Mul by mantissa bits, beside exact products of operands rounded to float formats.

    Operands have uniform mantissas.  L-Mul truncates them to the given bits and adds patterns; a
    float format rounds them to nearest and multiplies exactly; PAM is L-Mul without its offset.
    Errors are relative, in percent; slope is what a gain correction divides by.  f1 and f2 are the
    paper's expected losses, in units of 2^(xe+ye), of a product of truncated operands and of the
    algebraic L-Mul, beside those measured.
    """
    if plot is not None:
        check_plot_path(plot)
    rows = measure(samples, seed)
    claims = judge(rows)
    if plot is not None:
        draw(plot, lambda figure: _fill(figure, rows), size=(12, 5.5))
        output.remark(f"plotted in {plot}")
    if as_json:
        output.result_json(
            {
                "samples": samples,
                "seed": seed,
                "rows": [asdict(row) for row in rows],
                "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims],
            }
        )
        return
    _print(rows, claims, samples)


def measure(samples: int, seed: int) -> list[Row]:
    """Return a row for every way to multiply: L-Mul by bits, PAM, then the float formats."""
    lmul = {bits: _Sums() for bits in BITS}
    lost = {bits: _Sums() for bits in BITS}  # of truncated operands, multiplied exactly
    lost_algebraic = {bits: _Sums() for bits in BITS}
    pam, opponents = _Sums(), {name: _Sums() for name in OPPONENTS}
    for a, b in _operands(samples, seed):
        x, y = (value_of(side, F32).astype(np.float64) for side in (a, b))
        exact = x * y
        for bits in BITS:
            lmul[bits].add(_product(a, b, bits) / exact - 1)
            p, q = (_truncated(side, bits) for side in (a, b))
            lost[bits].add(exact - p * q)
            offset = 2.0 ** -definition.offset_exponent(bits)
            lost_algebraic[bits].add(exact - (p + q - 1 + offset))
        pam.add(_product(a, b, 0, offset=False) / exact - 1)
        for name, fmt in OPPONENTS.items():
            opponents[name].add(_rounded(x, fmt) * _rounded(y, fmt) / exact - 1)
    rows = []
    for bits in BITS:
        f1, f2 = expected_losses(bits)
        rows.append(
            Row(
                "L-Mul", bits, lmul[bits].errors(), definition.slope(bits),
                definition.offset_exponent(bits), f1, lost[bits].mean(), f2,
                lost_algebraic[bits].mean(),
            )
        )  # fmt: skip
    rows.append(Row("PAM", F32.mantissa_bits, pam.errors(), definition.slope(offset=False)))
    for name, fmt in OPPONENTS.items():
        rows.append(Row(name, fmt.mantissa_bits, opponents[name].errors()))
    return rows


def judge(rows: list[Row]) -> list[Claim]:
    """Return the claims with the rms errors of `rows`."""
    lmul = {row.mantissa_bits: row.errors.rms for row in rows if row.name == "L-Mul"}
    exact = {row.name: row.errors.rms for row in rows}
    return [Claim(bits, name, strict, lmul[bits], exact[name]) for bits, name, strict in CLAIMS]


def expected_losses(bits: int) -> tuple[float, float]:
    """Return f1 and f2 of the paper for mantissas of `bits` uniform bits."""
    kept = (1 - 2.0**-bits) / 2
    offset = 2.0 ** -definition.offset_exponent(bits)
    return 2.25 - (1 + kept) ** 2, 2.25 - (1 + 2 * kept + offset)


class _Sums:
    """What errors need of a stream of numbers."""

    def __init__(self) -> None:
        self.count, self.total, self.squares, self.greatest = 0, 0.0, 0.0, 0.0

    def add(self, values: _Numbers) -> None:
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float(values @ values)
        self.greatest = max(self.greatest, float(np.abs(values).max()))

    def mean(self) -> float:
        return self.total / self.count

    def errors(self) -> Errors:
        rms = float(np.sqrt(self.squares / self.count))
        return Errors(100 * self.mean(), 100 * rms, 100 * self.greatest)


def _operands(samples: int, seed: int) -> Iterator[tuple[Bits, Bits]]:
    """Yield blocks of pairs of f32 patterns in [1, 2), all equally likely."""
    rng = np.random.default_rng(seed)
    for start in range(0, samples, _BLOCK):
        size = (2, min(_BLOCK, samples - start))
        a, b = rng.integers(F32.one, F32.one + F32.smallest_normal, size)
        yield a.astype(np.uint32), b.astype(np.uint32)


def _product(a: Bits, b: Bits, bits: int, *, offset: bool = True) -> _Numbers:
    # Within [1, 2) "finite" gives what "full" gives, and is faster.
    found = definition.multiply_bits(a, b, F32, bits, "finite", offset=offset)
    return value_of(found, F32).astype(np.float64)


def _truncated(patterns: Bits, bits: int) -> _Numbers:
    return value_of(definition.truncate(patterns, F32, bits), F32).astype(np.float64)


def _rounded(values: _Numbers, fmt: FloatFormat) -> _Numbers:
    rounded: Float = round_to(values, fmt)
    return rounded.astype(np.float64)


def _print(rows: list[Row], claims: list[Claim], samples: int) -> None:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    headers = (
        "product", "bits", "mean %", "rms %", "max %", "slope", "l", "f1", "f1 measured", "f2",
        "f2 measured",
    )  # fmt: skip
    output.table(
        headers,
        (
            (
                row.name, str(row.mantissa_bits),
                f"{row.errors.mean:+.3f}", f"{row.errors.rms:.3f}", f"{row.errors.max:.2f}",
                number(row.slope, ".4f"), number(row.offset_exponent, "d"),
                number(row.f1, ".4f"), number(row.f1_measured, ".4f"),
                number(row.f2, ".4f"), number(row.f2_measured, ".4f"),
            )
            for row in rows
        ),
        right=headers[1:],
    )  # fmt: skip
    output.result(f"\n{samples} pairs of operands with uniform mantissas.")
    for claim in claims:
        output.result(claim.text)


def _fill(figure: Any, rows: list[Row]) -> None:
    """Draw relative errors over bits (left) and the paper's expected losses (right)."""
    errors, losses = figure.subplots(1, 2, width_ratios=(3, 2))
    lmul = [row for row in rows if row.name == "L-Mul"]
    # The last place stands for all bits of f32, far from the others.
    places = [*range(1, len(lmul)), len(lmul) + 0.5]
    labels = [str(row.mantissa_bits) for row in lmul]

    errors.plot(
        places, [row.errors.max for row in lmul], "s--", color="#7fa8d1", label="L-Mul, greatest"
    )
    errors.plot(places, [row.errors.rms for row in lmul], "o-", color="#1f5fa8", label="L-Mul, rms")
    others = [row for row in rows if row.name != "L-Mul"]
    for row, colour in zip(others, _COLOURS, strict=True):
        errors.axhline(row.errors.rms, color=colour, linewidth=1.2, linestyle=":")
        errors.annotate(
            f"{row.name}, {row.errors.rms:#.3g} %", (1, row.errors.rms), (5, 0),
            xycoords=("axes fraction", "data"), textcoords="offset points", color=colour,
            va="center", fontsize=9,
        )  # fmt: skip
    errors.set_yscale("log")
    errors.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    errors.set(
        title="Relative error of one product (dotted: rms of others)",
        ylabel="percent", ylim=(0.015, 80),
    )  # fmt: skip
    errors.legend(loc=(0.03, 0.46), frameon=False)

    losses.plot(places, [row.f1 for row in lmul], "-", color="#c0392b", label="f1, expected")
    losses.plot(
        places, [row.f1_measured for row in lmul], "o", color="#c0392b", mfc="none",
        label="truncated product, measured",
    )  # fmt: skip
    losses.plot(places, [row.f2 for row in lmul], "-", color="#1f5fa8", label="f2, expected")
    losses.plot(
        places, [row.f2_measured for row in lmul], "s", color="#1f5fa8", mfc="none",
        label="algebraic L-Mul, measured",
    )  # fmt: skip
    losses.set(
        title="Expected loss in the paper", ylabel="units of $2^{x_e + y_e}$", ylim=(0, None)
    )
    losses.legend(frameon=False)
    for axes in (errors, losses):
        axes.set_xticks(places, labels)
        axes.set_xlabel("mantissa bits kept of each operand")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
