"""Make binary codes better for given inputs: signs by error feedback, alphas by least squares.

Codes Q of a weight W have the squared error ``E = tr((W - Q) H (W - Q)^T)`` over the inputs that H
is the matrix of second moments of.  Steps of a round:

* *signs by feedback*, for fixed alphas: column by column, each making up for the errors of those
  before it (``feedback.py``).  As alphas are known beforehand, columns may be taken in any order:
  the one with the largest moment first, whose error would cost most and which many can make up for.
* *alphas*, for fixed signs: E is quadratic in all alphas of a row of blocks together; its minimum
  solves a system of planes x groups unknowns.  It is projected to powers of two.
* *signs, one by one*, for fixed alphas: column by column, with all others fixed, E is smallest for
  the value nearest to ``w[n, j] + sum over l != j of (w - q)[n, l] H[l, j] / H[j, j]``.

A row of blocks takes new alphas only where they make E smaller, and signs one by one cannot make it
larger.  Feedback can, but is not caught in the nearest minimum; of all rounds, each row of blocks
keeps the codes with the least E: E never grows.

Source: coordinate descent on codes is QuantEase (arXiv 2309.01885), least squares under H is
decoupleQ (arXiv 2404.12759), the order of columns that of GPTQ's reference code ("act order").
That they are done in turns for binary codes with powers of two is ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..passes.formats import binary_codes, powers
from ..passes.formats.binary_codes import BinaryCodes, Coded, Levels

Float = NDArray[np.float64]

LARGEST_SYSTEM = 1024  # unknowns; column-wise codes of a wide layer have more
LAZY = 128  # columns between updates of all that is left
_CHUNK = 1 << 23  # f64 at a time


def descend(
    weight: NDArray[Any], coded: Coded, hessian: Float, fmt: BinaryCodes, rounds: int
) -> Coded:
    """Return better codes of `weight` ``[N, K]`` under `hessian` ``[K, K]``, positive definite."""
    wide = np.asarray(weight, np.float64)
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    upper = upper_factor(hessian[np.ix_(order, order)]) if rounds else hessian
    best, least = coded, _block_errors(wide, coded, hessian, fmt)
    for _ in range(rounds):
        coded = feed_back(wide, coded, order, upper, fmt)
        # Alphas first, for signs that were chosen together; then both once more.
        for step in (solve_alphas, choose_signs, solve_alphas):
            if step is choose_signs or coded.terms.shape[1] * fmt.planes <= LARGEST_SYSTEM:
                coded = step(wide, coded, hessian, fmt)
        error = _block_errors(wide, coded, hessian, fmt)
        best, least = _better(best, coded, error < least, fmt), np.minimum(least, error)
    return in_order(best, fmt)


def feed_back(
    weight: Float, coded: Coded, order: NDArray[np.intp], upper: Float, fmt: BinaryCodes
) -> Coded:
    """Return the codes with all signs chosen anew, column by column in `order`, with feedback.

    `upper` is :func:`upper_factor` of H in that order.
    """
    k = weight.shape[1]
    alpha = _alphas(coded, fmt)
    levels = [Levels.of(alpha[:, group]) for group in range(alpha.shape[1])]
    left = np.ascontiguousarray(weight.T[order])
    patterns = np.empty(left.shape, np.uint8)
    for first in range(0, k, LAZY):
        end = min(first + LAZY, k)
        errors = np.empty((end - first, len(weight)))
        for j in range(first, end):
            pattern, value = levels[order[j] // fmt.group].nearest(left[j, :, None])
            patterns[order[j]] = pattern[:, 0]
            errors[j - first] = (left[j] - value[:, 0]) / upper[j, j]
            left[j + 1 : end] -= upper[j, j + 1 : end, None] * errors[j - first]
        left[end:] -= upper[first:end, end:].T @ errors
    return _with_patterns(coded, patterns, fmt)


def upper_factor(hessian: Float) -> Float:
    """Return the upper triangular U with ``U^T U = H^-1``.

    ``H = V V^T`` with V upper triangular is the Cholesky factor from the last column on, and U is
    its inverse: H itself need not be inverted.
    """
    reversed_ = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    return np.triu(np.linalg.inv(reversed_))


def solve_alphas(weight: Float, coded: Coded, hessian: Float, fmt: BinaryCodes) -> Coded:
    """Return the codes with the best alphas for their signs, where those are better."""
    n, k = weight.shape
    unknowns = coded.terms.shape[1] * fmt.planes
    rows = max(1, _CHUNK // max(unknowns**2, fmt.planes * k * fmt.outputs)) * fmt.outputs
    terms = coded.terms.copy()
    for start in range(0, n, rows):
        blocks = slice(start // fmt.outputs, -(-min(start + rows, n) // fmt.outputs))
        given = Coded(coded.signs[start : start + rows], coded.terms[blocks])
        part = weight[start : start + rows]
        normal, right = _normal_equations(part, given.signs, hessian, fmt)
        alpha = np.linalg.solve(normal, right[..., None])[..., 0]
        tried = Coded(given.signs, powers.project(alpha.reshape(given.terms.shape[:3]), fmt.terms))
        before, after = (_block_errors(part, one, hessian, fmt) for one in (given, tried))
        better = after < before
        terms[blocks][better] = tried.terms[better]
    return Coded(coded.signs, terms)


def choose_signs(weight: Float, coded: Coded, hessian: Float, fmt: BinaryCodes) -> Coded:
    """Return the codes with the signs of each column chosen anew, from the first to the last."""
    k = weight.shape[1]
    alpha = _alphas(coded, fmt)
    # Columns as rows, so that each lies together in memory.
    value = np.ascontiguousarray(_values(coded.signs, alpha, fmt, k).T)
    slope = hessian @ (weight.T - value)  # of E, halved
    patterns = np.empty(value.shape, np.uint8)
    for first in range(0, k, LAZY):
        end = min(first + LAZY, k)
        moved = np.empty((end - first, len(weight)))
        for j in range(first, end):
            if j == first or j % fmt.group == 0:
                levels = Levels.of(alpha[:, j // fmt.group])
            wanted = value[j] + slope[j] / hessian[j, j]
            pattern, found = levels.nearest(wanted[:, None])
            patterns[j], moved[j - first] = pattern[:, 0], found[:, 0] - value[j]
            slope[j + 1 : end] -= hessian[j + 1 : end, j, None] * moved[j - first]
        slope[end:] -= hessian[end:, first:end] @ moved
    return _with_patterns(coded, patterns, fmt)


def in_order(coded: Coded, fmt: BinaryCodes) -> Coded:
    """Return the same values with alphas that are positive and fall from plane to plane."""
    alpha = powers.values(coded.terms)
    is_negative = alpha < 0
    turned = np.where(is_negative[..., None] & (coded.terms > 0), powers.SIGN_MASK, 0)
    order = np.argsort(-np.abs(alpha), axis=2, kind="stable")
    terms = np.take_along_axis(coded.terms ^ turned.astype(np.uint8), order[..., None], axis=2)
    n, planes, padded = coded.signs.shape
    signs = coded.signs.reshape(n, planes, -1, fmt.group).transpose(0, 2, 1, 3)
    signs = signs ^ np.repeat(is_negative, fmt.outputs, axis=0)[:n, ..., None]
    places = np.repeat(order, fmt.outputs, axis=0)[:n, ..., None]
    sorted_ = np.take_along_axis(signs, places, axis=2).transpose(0, 2, 1, 3)
    return Coded(np.ascontiguousarray(sorted_).reshape(n, planes, padded), terms)


def _with_patterns(coded: Coded, patterns: NDArray[np.uint8], fmt: BinaryCodes) -> Coded:
    """Return the codes with the signs of `patterns` ``[K, N]``."""
    signs = coded.signs.copy()
    signs[..., : len(patterns)] = binary_codes.signs_of(patterns, fmt.planes).transpose(1, 2, 0)
    return Coded(signs, coded.terms)


def _better(one: Coded, other: Coded, chosen: NDArray[np.bool_], fmt: BinaryCodes) -> Coded:
    """Return `one` with the `chosen` rows of blocks of `other`."""
    rows = np.repeat(chosen, fmt.outputs)[: len(one.signs), None, None]
    return Coded(
        np.where(rows, other.signs, one.signs),
        np.where(chosen[:, None, None, None], other.terms, one.terms),
    )


def _alphas(coded: Coded, fmt: BinaryCodes) -> Float:
    """Return the alphas ``[N, G, planes]`` of each row."""
    spread = np.repeat(powers.values(coded.terms), fmt.outputs, axis=0)
    return spread[: len(coded.signs)]


def _values(signs: NDArray[np.bool_], alpha: Float, fmt: BinaryCodes, k: int) -> Float:
    total = np.zeros((len(signs), k))
    for plane in range(fmt.planes):
        spread = np.repeat(alpha[..., plane], fmt.group, axis=1)[:, :k]
        total += np.where(signs[:, plane, :k], spread, -spread)
    return total


def _block_errors(weight: Float, coded: Coded, hessian: Float, fmt: BinaryCodes) -> Float:
    """Return E of each row of blocks."""
    difference = weight - _values(coded.signs, _alphas(coded, fmt), fmt, weight.shape[1])
    of_rows = ((difference @ hessian) * difference).sum(axis=1)
    return _sum_rows(of_rows, fmt.outputs)


def _normal_equations(
    weight: Float, signs: NDArray[np.bool_], hessian: Float, fmt: BinaryCodes
) -> tuple[Float, Float]:
    """Return the systems ``[blocks, G * planes, G * planes]`` of all alphas, and their right sides.

    Signs that never differ make a system singular; it is damped.
    """
    n, planes, padded = signs.shape
    k, group = weight.shape[1], fmt.group
    groups = padded // group
    signed = np.where(signs, 1.0, -1.0)
    signed[..., k:] = 0
    by_group = signed.reshape(n, planes, groups, group).transpose(0, 2, 1, 3)
    full = np.zeros((padded, padded))
    full[:k, :k] = hessian
    pulled = np.pad(weight @ hessian, ((0, 0), (0, padded - k))).reshape(n, groups, group, 1)
    right = _sum_rows((by_group @ pulled)[..., 0].reshape(n, -1), fmt.outputs)
    size = groups * planes
    if fmt.outputs == 1:
        systems = _systems_of_rows(signed, by_group, full)
    else:
        systems = _systems_of_blocks(signed, full, fmt)
    systems = systems.reshape(-1, size, size)
    mean = np.trace(systems, axis1=1, axis2=2) / size
    return systems + 1e-9 * mean[:, None, None] * np.eye(size), right


def _systems_of_rows(signed: Float, by_group: Float, hessian: Float) -> Float:
    """Return ``[N, G, planes, G, planes]``; a group of columns of H at a time, for all rows."""
    n, groups, planes, group = by_group.shape
    normal = np.empty((n, groups, planes, groups, planes))
    for h in range(groups):
        columns = slice(h * group, (h + 1) * group)
        seen = (signed[..., columns] @ hessian[columns]).reshape(n, planes, groups, group)
        normal[..., h, :] = by_group @ seen.transpose(0, 2, 3, 1)
    return normal


def _systems_of_blocks(signed: Float, hessian: Float, fmt: BinaryCodes) -> Float:
    """Return ``[blocks, G, planes, G, planes]``: signs are multiplied and added up before H is."""
    n, planes, padded = signed.shape
    groups = padded // fmt.group
    normal = np.empty((-(-n // fmt.outputs), groups, planes, groups, planes))
    cut = (groups, fmt.group, groups, fmt.group)
    for number, systems in enumerate(normal):
        rows = signed[number * fmt.outputs : (number + 1) * fmt.outputs]
        for i in range(planes):
            for j in range(i, planes):
                both = (rows[:, i].T @ rows[:, j]) * hessian
                systems[:, i, :, j] = both.reshape(cut).sum(axis=(1, 3))
                systems[:, j, :, i] = systems[:, i, :, j].T
    return normal


def _sum_rows(values: Float, outputs: int) -> Float:
    """Add up neighbouring `outputs` rows of ``[N, …]``."""
    missing = -len(values) % outputs
    full = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
    total: Float = full.reshape(-1, outputs, *values.shape[1:]).sum(axis=1)
    return total
