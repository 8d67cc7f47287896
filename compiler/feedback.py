"""Round a weight column by column, each column making up for the errors of those before it (GPTQ).

A product ``x W^T`` with a stored weight Q instead of W has, over the inputs X of a calibration, the
squared error ``tr((W - Q) H (W - Q)^T)`` with ``H = X^T X``; factors of H do not matter.  Columns
are rounded in order, and what is lost in column j is taken from the columns that are still floats::

    U^T U = H^-1,  U upper triangular;     e = (w[:, j] - q[:, j]) / U[j, j]
    w[:, l] -= e U[j, l]   for l > j

How a column is rounded is the format's: scales or alphas are found when their group starts, from
the weights as they are by then, and stay.  So a group of :class:`BinaryCodes` in one column of all
outputs (``group = 1``) has its alphas fitted to what is rounded; blocks of 8 columns and rows of a
group keep the alphas of their first column, and only signs are chosen anew.

H gets 1 % of its mean diagonal, or 10 times more until it can be factored.  Updates beyond the
columns at hand are done 128 columns at a time, which changes nothing.  The weights of an input that
was always 0 are rounded to nearest: GPTQ sets them to 0, but inputs to come may be others, and
binary codes have no 0.

Binary codes are then made better all together (``descent.py``).

Source: GPTQ (arXiv 2210.17323); with binary codes, ShiftAddLLM (arXiv 2406.05981).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..passes.formats import binary_codes, half_scales, integer, powers
from ..passes.formats.binary_codes import BinaryCodes, Coded, Levels
from ..passes.formats.integer import GroupedInteger, Quantized
from .descent import descend, upper_factor

Float = NDArray[np.float64]

DAMPING = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the mean diagonal
LAZY = 128  # columns between updates of all that is left
DESCENTS = 3


@dataclass(frozen=True)
class Feedback:
    """What errors do to later columns: the damped H ``[K, K]`` and U."""

    hessian: Float
    upper: Float

    @classmethod
    def of(cls, moments: NDArray[Any]) -> Feedback:
        """Prepare ``X^T X`` ``[K, K]``, of any scale.

        Raises
        ------
        ValueError
            When it holds NaN or infinity, or is no matrix of second moments.
        """
        hessian = np.array(moments, np.float64)
        if not np.isfinite(hessian).all():
            raise ValueError("the activations of the calibration hold NaN or infinity")
        diagonal = np.diagonal(hessian).copy()
        alive = diagonal > 0
        mean = float(diagonal[alive].mean()) if alive.any() else 1.0
        hessian[~alive, ~alive] = mean
        for damping in DAMPING:
            damped = hessian + damping * mean * np.eye(len(hessian))
            try:
                return cls(damped, upper_factor(damped))
            except np.linalg.LinAlgError:
                continue
        raise ValueError("the activations of the calibration have no second moments")


def integers(weight: NDArray[Any], feedback: Feedback, fmt: GroupedInteger) -> Quantized:
    """Round a weight ``[N, K]`` to grouped integers.

    Raises
    ------
    ValueError
        When the weight holds NaN or infinity.
    """
    given = np.asarray(weight, np.float32)
    rounding = _Integers(fmt, half_scales.factors_of(given) if fmt.has_halves else None)
    _round_columns(weight, feedback, fmt.group, rounding)
    n, k = weight.shape
    scales, zeros = np.stack(rounding.scales, axis=1), np.stack(rounding.zeros, axis=1)
    kind: Any = np.int8 if fmt.symmetric else np.uint8
    codes = np.repeat(zeros, fmt.group, axis=1).astype(kind)  # what fills up K means 0
    codes[:, :k] = np.stack(rounding.codes, axis=1)
    return Quantized(
        codes.reshape(n, -1, fmt.group), scales,
        None if fmt.symmetric else zeros.astype(np.uint8), rounding.factors,
    )  # fmt: skip


def binary(
    weight: NDArray[Any],
    feedback: Feedback,
    fmt: BinaryCodes,
    rounds: int = binary_codes.ROUNDS,
    descents: int = DESCENTS,
) -> Coded:
    """Code a weight ``[N, K]`` in planes of signs.

    `rounds` are those of :func:`.binary_codes.encode` for each group, `descents` those of
    :func:`.descent.descend` after all columns are coded; 0 is what ShiftAddLLM does.

    Raises
    ------
    ValueError
        When the weight holds NaN, infinity or numbers too large for a term.
    """
    rounding = _Binary(fmt, rounds)
    _round_columns(weight, feedback, fmt.group, rounding)
    n, k = weight.shape
    terms = np.stack(rounding.terms, axis=1)
    signs = np.ones((n, fmt.planes, terms.shape[1] * fmt.group), np.bool_)
    patterns = np.stack(rounding.patterns, axis=1)
    signs[..., :k] = binary_codes.signs_of(patterns, fmt.planes).transpose(0, 2, 1)
    return descend(weight, Coded(signs, terms), feedback.hessian, fmt, descents)


def output_error(weight: NDArray[Any], stored: NDArray[Any], moments: NDArray[Any]) -> float:
    """Return ``tr((W - Q) H (W - Q)^T)``: the squared error of the product with those inputs."""
    difference = np.asarray(weight, np.float64) - stored
    return float(((difference @ np.asarray(moments, np.float64)) * difference).sum())


class _Rounding(Protocol):
    def begin(self, columns: Float) -> None:
        """Find scales for the columns ``[N, g]`` of a group as they are now."""

    def take(self, column: Float) -> Float:
        """Round the next column ``[N]``, keep its codes, and return its value."""


def _round_columns(
    weight: NDArray[Any], feedback: Feedback, group: int, rounding: _Rounding
) -> None:
    # Columns as rows, so that each lies together in memory.
    left = np.array(np.asarray(weight).T, np.float64, order="C")
    if not np.isfinite(left).all():
        raise ValueError("the weight holds NaN or infinity")
    k, upper = len(left), feedback.upper
    for first, end in _blocks(k, group):
        errors = np.empty((end - first, left.shape[1]))
        for j in range(first, end):
            if j % group == 0:
                # All of it is up to date: it lies in this block, or starts with it.
                rounding.begin(left[j : min(j + group, k)].T)
            error = (left[j] - rounding.take(left[j])) / upper[j, j]
            left[j + 1 : end] -= upper[j, j + 1 : end, None] * error
            errors[j - first] = error
        left[end:] -= upper[first:end, end:].T @ errors


def _blocks(k: int, group: int) -> Iterator[tuple[int, int]]:
    """Yield columns of at most LAZY: whole groups, or parts of one group."""
    step = group * max(1, LAZY // group)
    for start in range(0, k, step):
        end = min(start + step, k)
        for first in range(start, end, LAZY):
            yield first, min(first + LAZY, end)


@dataclass
class _Integers:
    fmt: GroupedInteger
    factors: NDArray[np.float32] | None = None
    codes: list[NDArray[Any]] = field(default_factory=list)
    scales: list[NDArray[np.float32]] = field(default_factory=list)
    zeros: list[NDArray[np.float32]] = field(default_factory=list)

    def begin(self, columns: Float) -> None:
        scales, zeros = integer.ranges(columns.astype(np.float32), self.fmt, self.factors)
        self.scales.append(scales)
        self.zeros.append(zeros)

    def take(self, column: Float) -> Float:
        scales, zeros = self.scales[-1], self.zeros[-1]
        cut = column.astype(np.float32)[:, None]
        codes = integer.round_to_codes(cut, scales, zeros, self.fmt)[:, 0]
        self.codes.append(codes)
        value: Float = (codes.astype(np.float64) - zeros) * scales
        return value


@dataclass
class _Binary:
    fmt: BinaryCodes
    rounds: int
    patterns: list[NDArray[np.uint8]] = field(default_factory=list)
    terms: list[powers.Terms] = field(default_factory=list)
    levels: Levels = field(default_factory=lambda: Levels.of(np.zeros((0, 1))))

    def begin(self, columns: Float) -> None:
        one = BinaryCodes(self.fmt.planes, columns.shape[1], self.fmt.outputs, self.fmt.terms)
        self.terms.append(binary_codes.encode(columns, one, self.rounds).terms[:, 0])
        self.levels = Levels.of(powers.values(self.terms[-1]))

    def take(self, column: Float) -> Float:
        n, outputs = len(column), self.fmt.outputs
        blocks = np.pad(column, (0, -n % outputs)).reshape(-1, outputs)
        patterns, values = self.levels.nearest(blocks)
        self.patterns.append(patterns.reshape(-1)[:n])
        flat: Float = values.reshape(-1)[:n]
        return flat
