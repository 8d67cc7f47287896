"""Binary-coded weights: planes of signs, and scales that are sums of powers of two.

A weight ``w[N, K]`` is cut into blocks of `group` inputs by `outputs` output channels, K filled up
to whole groups and N to whole blocks.  Block by block, with q planes::

    w[n, k] ~ sum over i < q of alpha[i] * b[i, n, k],    b in {-1, +1},   alpha[0] >= alpha[1] …

and every alpha is a sum of at most `terms` powers of two (``powers.py``).  The paper's shapes of
blocks: row-wise (``outputs = 1``), column-wise (``group = 1``), and 8 inputs by an eighth of the
outputs.  Signs are stored as bits, 1 means +1.

Alphas and signs are found in turns (:func:`encode`): the first by taking signs and mean magnitude
of what is left, plane after plane; then alphas by least squares for fixed signs, projected to
powers of two, and signs by the nearest of the 2^q sums for fixed alphas.  A block takes the outcome
of a round only where that makes its squared error smaller, so the error never grows.

A product ``y = x w^T`` adds activations by their signs, and shifts the sum of a group (``f``,
``powers.shift``) by the terms of its alpha, all in f32 and from the first to the last::

    W[n, u, i] = sum over the inputs k of u of ±x[k]           u: 32 inputs, or a shorter group
    P[n, G, i] = sum over the u of G of W[n, u, i]
    y[n] = sum over G, i of (f(P[n, G, i], term 0) + f(P[n, G, i], term 1)) + …

(IREE's threads add subnormal numbers as zeros; nothing else differs.)

Source: LUT-GEMM (arXiv 2206.09557) for the coding, ShiftAddLLM (arXiv 2406.05981) for alphas that
are sums of powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import powers

Float = NDArray[np.float64]

ROUNDS = 20
MAX_PLANES = 4
WORD = 32  # signs in a word
_CHUNK = 1 << 20  # weights at a time
# A round must win this part of the squared weights: more than what rounding does to running sums,
# so that what is taken is better indeed.
_MARGIN = 1e-10


@dataclass(frozen=True)
class BinaryCodes:
    """The format: `planes` 1…4, blocks of `group` inputs x `outputs` channels, `terms` 1…3."""

    planes: int
    group: int
    outputs: int = 1
    terms: int = 3

    def blocks(self, n: int, k: int) -> tuple[int, int]:
        """Return how many blocks lie along N and along K."""
        return -(-n // self.outputs), -(-k // self.group)

    def bits_per_weight(self, n: int, k: int) -> float:
        """Return the stored bits per weight, terms (a byte each) and filling of K counted."""
        along_n, along_k = self.blocks(n, k)
        signs = n * along_k * self.group
        return self.planes * (signs + 8 * self.terms * along_n * along_k) / (n * k)


@dataclass(frozen=True)
class Coded:
    """Signs ``bool [N, planes, G * group]`` and terms ``u8 [blocks, G, planes, terms]``."""

    signs: NDArray[np.bool_]
    terms: powers.Terms


def encode(weight: NDArray[Any], fmt: BinaryCodes, rounds: int = ROUNDS) -> Coded:
    """Code a weight ``[N, K]``; 0 `rounds` is the greedy start alone.

    Raises
    ------
    ValueError
        When the weight holds NaN, infinity or numbers too large for a term.
    """
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    n, k = weight.shape
    along_n, along_k = fmt.blocks(n, k)
    flat = _to_blocks(np.asarray(weight, np.float64), fmt)
    counted = _to_blocks(np.ones((n, k)), fmt) > 0
    signs = np.empty((*flat.shape, fmt.planes), np.bool_)
    terms = np.empty((len(flat), fmt.planes, fmt.terms), np.uint8)
    step = max(1, _CHUNK // flat.shape[1])
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        signs[part], terms[part] = encode_blocks(flat[part], counted[part], fmt, rounds)
    # [along_n, along_k, outputs, group, planes] -> [N, planes, K]
    split = signs.reshape(along_n, along_k, fmt.outputs, fmt.group, fmt.planes)
    joined = split.transpose(0, 2, 4, 1, 3).reshape(-1, fmt.planes, along_k * fmt.group)
    shaped = terms.reshape(along_n, along_k, fmt.planes, fmt.terms)
    return Coded(np.ascontiguousarray(joined[:n]), shaped)


def encode_blocks(
    blocks: Float, counted: NDArray[np.bool_], fmt: BinaryCodes, rounds: int
) -> tuple[NDArray[np.bool_], powers.Terms]:
    """Code blocks ``[B, L]``: signs ``[B, L, planes]`` and terms ``[B, planes, terms]``.

    What is not `counted` fills up a block and has no part in its error.
    """
    terms = _sorted(powers.project(_greedy(blocks, counted, fmt.planes), fmt.terms))
    if rounds:
        terms = _refined(_Ranked.of(blocks, counted), terms, rounds)
    return assign(blocks, powers.values(terms)), terms


def _refined(ranked: _Ranked, terms: powers.Terms, rounds: int) -> powers.Terms:
    """Return better terms for sorted blocks; those that got no better are left alone at once."""
    counts, sums, error = ranked.levels(powers.values(terms))
    terms, moving = terms.copy(), np.arange(len(terms))
    for _ in range(rounds):
        solved = _least_squares(counts, sums)
        tried = _sorted(powers.project(np.abs(solved), terms.shape[2]))
        counts, sums, tried_error = ranked.levels(powers.values(tried))
        better = tried_error < error - _MARGIN * ranked.squares
        if not better.any():
            break
        moving, ranked, error = moving[better], ranked.where(better), tried_error[better]
        counts, sums = counts[better], sums[better]
        terms[moving] = tried[better]
    return terms


def assign(blocks: Float, alpha: Float) -> NDArray[np.bool_]:
    """Return the best signs ``[B, L, planes]`` of blocks ``[B, L]`` for alphas ``[B, planes]``.

    Between two sums that are equally near the smaller one is taken.
    """
    return signs_of(Levels.of(alpha).nearest(blocks)[0], alpha.shape[1])


@dataclass(frozen=True)
class Levels:
    """What blocks can stand for: the ``2^planes`` signed sums of their alphas, in rising order.

    A *pattern* is a choice of signs as an integer; bit i is plane i, 1 means +1.
    """

    values: Float  # [B, 2^planes]
    middles: Float  # [B, 2^planes - 1]
    patterns: NDArray[np.uint8]

    @classmethod
    def of(cls, alpha: Float) -> Levels:
        """Sort the sums of alphas ``[B, planes]``."""
        planes = alpha.shape[1]
        sums = alpha @ _signed_patterns(planes).T
        order = np.argsort(sums, axis=1, kind="stable")
        values = np.take_along_axis(sums, order, axis=1)
        return cls(values, (values[:, 1:] + values[:, :-1]) / 2, order.astype(np.uint8))

    def nearest(self, blocks: Float) -> tuple[NDArray[np.uint8], Float]:
        """Return the pattern and the value that is nearest to each number of ``[B, L]``.

        Between two that are equally near the smaller one is taken.
        """
        place = np.arange(len(blocks), dtype=np.int64)[:, None] * self.values.shape[1]
        place = np.repeat(place, blocks.shape[1], axis=1)
        for middle in self.middles.T:
            place += blocks > middle[:, None]
        return self.patterns.reshape(-1)[place], self.values.reshape(-1)[place]


def signs_of(patterns: NDArray[np.uint8], planes: int) -> NDArray[np.bool_]:
    """Return patterns ``[…]`` as signs ``[…, planes]``."""
    found: NDArray[np.bool_] = _patterns(planes)[patterns]
    return found


def decode(coded: Coded, fmt: BinaryCodes, k: int) -> NDArray[np.float32]:
    """Return the weight ``[N, K]`` that the codes stand for, rounded to f32 once."""
    n, _, padded = coded.signs.shape
    alpha = powers.values(coded.terms)
    spread = np.repeat(np.repeat(alpha, fmt.outputs, axis=0)[:n], fmt.group, axis=1)
    signs = np.where(coded.signs, 1.0, -1.0).transpose(0, 2, 1)
    total = (signs * spread[:, :padded]).sum(axis=-1)
    return np.ascontiguousarray(total[:, :k].astype(np.float32))


def product(x: NDArray[np.float32], coded: Coded, fmt: BinaryCodes) -> NDArray[np.float32]:
    """Return y ``[..., N]`` of rows ``[..., K]``, as the portable form computes it, to the bit."""
    padded = coded.signs.shape[-1]
    unit = min(fmt.group, WORD)
    full = np.pad(np.asarray(x, np.float32), [(0, 0)] * (x.ndim - 1) + [(0, padded - x.shape[-1])])
    cut = full.reshape(*x.shape[:-1], 1, 1, -1, unit)
    signs = coded.signs.reshape(*coded.signs.shape[:2], -1, unit)
    words = _added(np.where(signs, cut, -cut))
    per_group = words.reshape(*words.shape[:-1], -1, fmt.group // unit)
    return shifted(np.moveaxis(_added(per_group), -2, -1), coded, fmt)


def shifted(sums: NDArray[np.float32], coded: Coded, fmt: BinaryCodes) -> NDArray[np.float32]:
    """Return y ``[..., N]`` from the sums of groups ``[..., N, G, planes]``."""
    terms = np.repeat(coded.terms, fmt.outputs, axis=0)[: sums.shape[-3]]
    with np.errstate(invalid="ignore", over="ignore"):
        each = _added(powers.shift(sums[..., None], terms), zero=False)
    return _added(each.reshape(*each.shape[:-2], -1))


def _added(values: NDArray[np.float32], *, zero: bool = True) -> NDArray[np.float32]:
    """Add along the last axis in f32, from the first to the last; to a `zero`, or to the first."""
    total = np.zeros_like(values[..., 0]) if zero else values[..., 0]
    with np.errstate(invalid="ignore", over="ignore"):
        for i in range(0 if zero else 1, values.shape[-1]):
            total = total + values[..., i]
    return total


def pack_signs(signs: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return signs ``[…, K]`` as words ``[…, K / 32]``: bit t of word i is weight ``32 i + t``.

    K is filled up with 1.
    """
    k = signs.shape[-1]
    missing = -k % 32
    full = np.pad(signs, [(0, 0)] * (signs.ndim - 1) + [(0, missing)], constant_values=True)
    packed = np.packbits(full, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4")


def unpack_signs(words: NDArray[np.uint32], k: int) -> NDArray[np.bool_]:
    """Undo :func:`pack_signs`."""
    data = np.ascontiguousarray(words.astype("<u4", copy=False)).view(np.uint8)
    return np.unpackbits(data, axis=-1, count=k, bitorder="little").astype(np.bool_)


def _to_blocks(weight: Float, fmt: BinaryCodes) -> Float:
    """``[N, K]`` → ``[blocks along N * blocks along K, outputs * group]``, filled up with 0."""
    n, k = weight.shape
    along_n, along_k = fmt.blocks(n, k)
    full = np.zeros((along_n * fmt.outputs, along_k * fmt.group))
    full[:n, :k] = weight
    cut = full.reshape(along_n, fmt.outputs, along_k, fmt.group).transpose(0, 2, 1, 3)
    return cut.reshape(along_n * along_k, fmt.outputs * fmt.group)


def _greedy(blocks: Float, counted: NDArray[np.bool_], planes: int) -> Float:
    rest, weights = blocks.copy(), np.maximum(counted.sum(axis=1), 1)
    found = []
    for _ in range(planes):
        mean = (np.abs(rest) * counted).sum(axis=1) / weights
        found.append(mean)
        rest -= np.where(rest >= 0, 1.0, -1.0) * mean[:, None]
    return np.stack(found, axis=1)


@dataclass(frozen=True)
class _Ranked:
    """Blocks with their weights sorted: values ``[B, L]``, infinite beyond those that count.

    The weights of a level lie together, so that their number and sum are differences of two places
    and of two running sums, and a round does not look at each weight again.
    """

    values: Float
    running: Float  # [B, L + 1]
    counts: NDArray[np.int64]
    squares: Float

    @classmethod
    def of(cls, blocks: Float, counted: NDArray[np.bool_]) -> _Ranked:
        """Sort blocks ``[B, L]``."""
        values = np.sort(np.where(counted, blocks, np.inf), axis=1)
        running = np.zeros((len(blocks), blocks.shape[1] + 1))
        np.cumsum(np.where(np.isinf(values), 0.0, values), axis=1, out=running[:, 1:])
        squares = np.where(counted, blocks**2, 0.0).sum(axis=1)
        return cls(values, running, counted.sum(axis=1), squares)

    def where(self, chosen: NDArray[np.bool_]) -> _Ranked:
        """Return some of the blocks."""
        if chosen.all():
            return self
        return _Ranked(
            self.values[chosen], self.running[chosen], self.counts[chosen], self.squares[chosen]
        )

    def levels(self, alpha: Float) -> tuple[Float, Float, Float]:
        """Assign signs for alphas ``[B, planes]``, as :func:`assign` does.

        Return how many weights took each pattern and their sums, ``[B, 2^planes]`` in the order of
        the patterns, and the squared errors ``[B]``.
        """
        found = Levels.of(alpha)
        levels = found.values
        places = _count_at_most(self.values, found.middles)
        places = np.pad(places, ((0, 0), (1, 0)))
        places = np.concatenate([places, self.counts[:, None]], axis=1)
        counts = np.diff(places, axis=1).astype(np.float64)
        sums = np.diff(np.take_along_axis(self.running, places, axis=1), axis=1)
        error = self.squares + (levels * (levels * counts - 2 * sums)).sum(axis=1)
        by_pattern = np.argsort(found.patterns, axis=1)
        return (
            np.take_along_axis(counts, by_pattern, axis=1),
            np.take_along_axis(sums, by_pattern, axis=1),
            error,
        )


def _count_at_most(values: Float, limits: Float) -> NDArray[np.int64]:
    """Return how many of the sorted `values` ``[B, L]`` are at most `limits` ``[B, T]``."""
    length = values.shape[1]
    start = (np.arange(len(values)) * length - 1)[:, None]  # of the value before the block
    flat, found = values.reshape(-1), np.zeros(limits.shape, np.int64)
    step = 1 << (length.bit_length() - 1)
    while step:
        probe = found + step
        below = flat[start + np.minimum(probe, length)] <= limits
        found = np.where(below & (probe <= length), probe, found)
        step >>= 1
    return found


def _least_squares(counts: Float, sums: Float) -> Float:
    """Return ``argmin |w - B alpha|^2`` for each block; a singular system is damped.

    `counts` and `sums` ``[B, 2^planes]`` are those of the weights with each pattern of signs.
    """
    planes = counts.shape[1].bit_length() - 1
    signs = _signed_patterns(planes)
    pairs = (signs[:, :, None] * signs[:, None, :]).reshape(-1, planes * planes)
    damping = 1e-6 * np.maximum(counts.sum(axis=1), 1)[:, None, None] * np.eye(planes)
    normal = (counts @ pairs).reshape(-1, planes, planes) + damping
    right = sums @ signs
    solved: Float = np.linalg.solve(normal, right[..., None])[..., 0]
    return solved


def _sorted(terms: powers.Terms) -> powers.Terms:
    """Order the planes of ``[B, planes, terms]`` from the largest alpha down."""
    order = np.argsort(-powers.values(terms), axis=1, kind="stable")
    return np.take_along_axis(terms, order[..., None], axis=1)


def _patterns(planes: int) -> NDArray[np.bool_]:
    """Return all signs ``[2^planes, planes]``."""
    return (np.arange(1 << planes)[:, None] >> np.arange(planes) & 1).astype(np.bool_)


def _signed_patterns(planes: int) -> Float:
    return np.where(_patterns(planes), 1.0, -1.0)
