"""Boosted trees for many rows that have most in common, such as tiles of one product.

What the least and the greatest value of each feature say alike is decided for all rows at once;
some of a tree's nodes stay.  Rows walk down all trees together, a node at a time::

    leaf = the first leaf that can be reached
    for each node, parents first:
        leaf = first leaf on its right, where the row goes right and leaf is the first one below it

A leaf is the first one below a node only where the row comes by: whoever turned off before is left
of it, or past it.  A node's answers are bytes, and so are leaves, so that one instruction takes
many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .tree_nodes import Floats, Tree, Whole

_Sets = NDArray[np.unsignedinteger]
_Bytes = NDArray[np.uint8]
_ROWS = 256  # at a time, whose answers and leaves stay in the second cache


@dataclass(frozen=True)
class _Plan:
    """What is left to ask of some rows.

    Attributes
    ----------
    first : ``[trees]``
        The first leaf of each tree that any row can reach.
    open : ``[open trees]``
        Those whose leaf is not known yet, the ones with most nodes first.
    tests : ``[tests]``
        What is asked, as numbers of features with thresholds.
    steps : list of (int, ``[count]``, ``[count, 1]``, ``[count, 1]``)
        For so many open trees each: the test, the first leaf below the node, and how far the first
        one on its right is from that.
    """

    first: _Bytes
    open: Whole
    tests: Whole
    steps: list[tuple[int, Whole, _Bytes, _Bytes]]


class Walks:
    """Some trees of at most 64 leaves, ``dtype`` having a bit for each."""

    def __init__(self, trees: Sequence[Tree], dtype: np.dtype) -> None:
        nodes = max(len(tree.features) for tree in trees)
        width = nodes + 1
        # Nodes that a tree does not have lead nowhere.
        tests = np.zeros((nodes, len(trees)), np.intp)
        self._left = np.zeros(tests.shape, dtype)
        self._right = np.zeros(tests.shape, dtype)
        leaves = np.zeros((len(trees), width))
        asked = [
            pair for tree in trees for pair in zip(tree.features, tree.thresholds, strict=True)
        ]
        # Beside all that are asked one that no tree asks, so that there is one.
        distinct = sorted({(int(feature), float(edge)) for feature, edge in asked} | {(0, np.inf)})
        numbers = {pair: number for number, pair in enumerate(distinct)}
        for number, tree in enumerate(trees):
            order, left, right = tree.sides()
            leaves[number, : len(order)] = tree.values[order]
            pairs = zip(tree.features.tolist(), tree.thresholds.tolist(), strict=True)
            tests[: len(left), number] = [numbers[pair] for pair in pairs]
            self._left[: len(left), number], self._right[: len(left), number] = left, right
        self._tests = tests
        self._leaves = np.array([(1 << len(tree.values)) - 1 for tree in trees], dtype)
        self._features = np.array([feature for feature, _ in distinct], np.intp)
        self._thresholds = np.array([threshold for _, threshold in distinct])
        self._values = leaves.reshape(-1)
        self._starts = np.arange(len(trees), dtype=np.intp)[:, None] * width

    def values(self, rows: Floats) -> Iterator[Floats]:
        """Yield ``[trees, rows]``, the values of leaves, for each :data:`_ROWS` of `rows`."""
        columns = np.ascontiguousarray(rows.T)
        plan = self._plan(columns)
        features, thresholds = self._features[plan.tests], self._thresholds[plan.tests][:, None]
        for start in range(0, len(rows), _ROWS):
            part = columns[:, start : start + _ROWS]
            answers = (part.take(features, axis=0) > thresholds).view(np.uint8)
            found = np.empty((len(plan.first), part.shape[1]), np.uint8)
            found[:] = plan.first[:, None]
            found[plan.open] = _walked(plan, answers)
            places = found.astype(np.intp)
            places += self._starts
            yield self._values.take(places)

    def _plan(self, columns: Floats) -> _Plan:
        dtype, count = self._left.dtype, len(self._leaves)
        every = -(columns.min(axis=1).take(self._features) > self._thresholds).astype(dtype)
        none = -(columns.max(axis=1).take(self._features) <= self._thresholds).astype(dtype)
        rights, lefts = every.take(self._tests), none.take(self._tests)
        gone = np.bitwise_or.reduce((self._left & rights) | (self._right & lefts), axis=0)
        reached = self._leaves & ~gone
        rights |= lefts
        is_open = ((self._left & reached) != 0) & ((self._right & reached) != 0) & (rights == 0)
        counts = np.add.reduce(is_open.view(np.uint8), axis=0)
        order = np.argsort(255 - counts, kind="stable")[: np.count_nonzero(counts)]
        # Nodes by the place of their tree, and then by how many of that tree are before.
        by_tree = np.ascontiguousarray(is_open.T).take(order, axis=0)
        trees, nodes = np.divmod(np.flatnonzero(by_tree), len(is_open))
        counts = counts[order].astype(np.intp)
        before = np.arange(len(trees)) - (np.cumsum(counts) - counts)[trees]
        by_step = np.argsort(before.astype(np.uint8), kind="stable")
        trees = order[trees[by_step]]
        places = nodes[by_step] * count + trees
        on_right = self._right.take(places) & reached[trees]
        below = _lowest((self._left.take(places) & reached[trees]) | on_right)
        further = _lowest(on_right) - below
        asked = self._tests.take(places)
        is_asked = np.zeros(len(self._features), bool)
        is_asked[asked] = True
        asked = (np.cumsum(is_asked) - 1).take(asked)
        steps, start = [], 0
        for size in np.bincount(before).tolist():
            end = start + size
            steps.append((size, asked[start:end], below[start:end, None], further[start:end, None]))
            start = end
        return _Plan(_lowest(reached), order, np.flatnonzero(is_asked), steps)


def _walked(plan: _Plan, answers: _Bytes) -> _Bytes:
    """Return ``[open trees, rows]``, the leaves; `answers`, ``[tests, rows]``: who goes right."""
    leaves = np.empty((len(plan.open), answers.shape[1]), np.uint8)
    leaves[:] = plan.first[plan.open][:, None]
    # New ones for each step would be pages that the system has to clear.
    all_moves, all_here = np.empty_like(leaves), np.empty(leaves.shape, bool)
    for count, tests, below, further in plan.steps:
        here, leaf = all_here[:count], leaves[:count]
        moves = answers.take(tests, axis=0, out=all_moves[:count], mode="clip")
        np.equal(leaf, below, out=here)
        np.bitwise_and(moves, here.view(np.uint8), out=moves)
        np.multiply(moves, further, out=moves)
        np.add(leaf, moves, out=leaf)
    return leaves


def _lowest(sets: _Sets) -> _Bytes:
    """Return the number of the lowest bit that is set."""
    found: _Bytes = np.bitwise_count(sets ^ (sets - sets.dtype.type(1))) - np.uint8(1)
    return found
