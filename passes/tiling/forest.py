"""Boosted trees, answered for many rows at once in NumPy, with the very numbers of LightGBM.

As in QuickScorer (Lucchese et al., SIGIR 2015): a tree is a set of its leaves, as bits from left to
right, and a node whose answer is "right" takes the leaves on its left away; the lowest bit that
stays is the leaf.  Of a feature only its place among all thresholds matters, so for each place the
sets of all trees are there already, and a row takes one line of each feature's table::

    leaves[row] = AND over features of table[feature][number of thresholds below the row's value]

Features that all rows share are put together once.  A single row's sets are whole numbers of
Python's, of any size: NumPy would take longer to begin.  Many rows walk (:mod:`.tree_walks`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from . import tree_nodes
from .tree_nodes import Floats, Tree, Whole
from .tree_walks import Walks

_Sets = NDArray[np.unsignedinteger]

MOST_LEAVES = 64
_MOST_BYTES = 64 << 20  # of tables
_ZERO = float(np.float32(1e-35))  # LightGBM's: what is no larger counts as 0
_WALKED, _ASKED = 64, 16  # so many rows walk, where trees ask for so many features
_ROWS = 64  # whose sets stay in the caches of a core


class Forest:
    """The trees of some models.

    Parameters
    ----------
    texts : sequence of str
        LightGBM's texts of the models, as :func:`.tree_text.checked` wrote them.

    Raises
    ------
    ValueError
        When one is of a kind that is not answered here: a tree of more than 64 leaves, missing
        values, an objective that changes the sum, or tables that would be too large.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        models = [[*tree_nodes.read(text)] for text in texts]
        trees = [tree for model in models for tree in model]
        leaves = max(len(tree.values) for tree in trees)
        if leaves > MOST_LEAVES:
            raise ValueError(f"a tree has {leaves} leaves, more than {MOST_LEAVES}")
        self._ends = np.cumsum([len(model) for model in models]).tolist()
        bits = next(bits for bits in (16, 32, 64) if bits >= leaves)
        nodes = sum(len(tree.left) for tree in trees)
        size = max(1, _MOST_BYTES // (max(nodes, 1) * bits // 8))
        self._blocks = [
            _Block(trees[start : start + size], np.dtype(f"u{bits // 8}"))
            for start in range(0, len(trees), size)
        ]

    def predict(self, rows: Floats) -> Floats:
        """Return ``[models, rows]``, what each model says of ``[rows, features]``.

        NaN counts as 0, and so does what is as small as LightGBM's zero: that is how it has it for
        trees that do not ask for missing values.
        """
        is_number = np.abs(rows) > _ZERO
        if not (is_number | (rows == 0)).all():
            rows = np.where(is_number, rows, 0.0)
        if len(rows) == 1:
            return self._one(rows[0].tolist())
        found = np.empty((len(self._ends), len(rows)))
        place = 0
        for values in zip(*(block.values(rows) for block in self._blocks), strict=True):
            both = values[0] if len(values) == 1 else np.concatenate(values)
            found[:, place : place + both.shape[1]] = self._sums(both)
            place += both.shape[1]
        return found

    def _one(self, row: list[float]) -> Floats:
        values = [block.values_of(row) for block in self._blocks]
        sums = self._sums(values[0] if len(values) == 1 else np.concatenate(values))
        return np.array(sums)[:, None]

    def _sums(self, values: Floats) -> list[Floats]:
        return [_sum(values[begin:end]) for begin, end in pairwise((0, *self._ends))]


def _sum(values: Floats) -> Floats:
    """Return the sum of lines, one after the other as LightGBM adds them."""
    # NumPy adds lines so, but a single column in pairs.
    alone = values.ndim == 1 or values.shape[1] == 1
    found: Floats = np.add.accumulate(values)[-1] if alone else np.add.reduce(values)
    return found


class _Block:
    """Trees whose tables are together."""

    def __init__(self, trees: Sequence[Tree], dtype: np.dtype) -> None:
        width = max(len(tree.values) for tree in trees)
        leaves = np.zeros((len(trees), width))
        # :func:`_lowest` is 1 or more.
        self._starts = np.arange(len(trees), dtype=np.intp) * width - 1
        nodes: dict[int, list[tuple[float, int, int]]] = {}
        for number, tree in enumerate(trees):
            order, sets, _ = tree.sides()
            leaves[number, : len(order)] = tree.values[order]
            for feature, threshold, gone in zip(tree.features, tree.thresholds, sets, strict=True):
                nodes.setdefault(int(feature), []).append((float(threshold), number, gone))
        self._flat = leaves.reshape(-1)
        every = np.array(np.iinfo(dtype).max, dtype)
        self._features = sorted(nodes)
        self._walks = Walks(trees, dtype) if len(nodes) >= _ASKED else None
        self._thresholds: list[Floats] = []
        self._tables: list[_Sets] = []
        for feature in self._features:
            thresholds = np.unique([threshold for threshold, _, _ in nodes[feature]])
            table = np.full((len(thresholds) + 1, len(trees)), every, dtype)
            for threshold, number, gone in nodes[feature]:
                place = int(np.searchsorted(thresholds, threshold)) + 1
                table[place, number] &= every ^ dtype.type(gone)
            self._thresholds.append(thresholds)
            self._tables.append(np.bitwise_and.accumulate(table, axis=0))
        self._every: _Sets = np.full(len(trees), every, dtype)
        lists = [thresholds.tolist() for thresholds in self._thresholds]
        # A table's lines as numbers are made when they are first asked for.
        empty: list[list[int | None]] = [[None] * len(table) for table in self._tables]
        self._for_one = [*zip(self._features, lists, empty, self._tables, strict=True)]
        self._all = int.from_bytes(self._every.tobytes(), "little")

    def values(self, rows: Floats) -> Iterator[Floats]:
        """Return iterator over ``[trees, rows]``, the values of leaves, for some rows each."""
        if self._walks is not None and len(rows) >= _WALKED:
            return self._walks.values(rows)
        return self._looked_up(rows)

    def _looked_up(self, rows: Floats) -> Iterator[Floats]:
        shared, varying = self._places(rows)
        # New ones for each would be pages that the system has to clear.
        sets = np.empty((min(len(rows), _ROWS), len(shared)), shared.dtype)
        other = np.empty_like(sets)
        for begin in range(0, len(rows), _ROWS):
            left, lines = (kept[: min(_ROWS, len(rows) - begin)] for kept in (sets, other))
            left[:] = shared
            for table, at in varying:
                table.take(at[begin : begin + _ROWS], axis=0, out=lines, mode="clip")
                np.bitwise_and(left, lines, out=left)
            # Bytes are sooner turned round than what they become.
            leaf = np.ascontiguousarray(_lowest(left, lines).T)
            yield self._flat.take(leaf + self._starts[:, None])

    def _places(self, rows: Floats) -> tuple[_Sets, list[tuple[_Sets, Whole]]]:
        """Return the set that all `rows` share, and where they are in tables that differ."""
        used = np.ascontiguousarray(rows[:, self._features].T)
        same = (used == used[:, :1]).all(axis=1).tolist()
        shared = self._every.copy()
        differing = []
        for column, is_same, thresholds, table in zip(
            used, same, self._thresholds, self._tables, strict=True
        ):
            if is_same:
                shared &= table[thresholds.searchsorted(column[0])]
            else:
                differing.append((table, thresholds.searchsorted(column)))
        return shared, differing

    def values_of(self, row: Sequence[float]) -> Floats:
        """Return ``[trees]``, the values of one row."""
        left = self._all
        for feature, thresholds, lines, table in self._for_one:
            at = bisect_left(thresholds, row[feature])
            line = lines[at]
            if line is None:
                line = lines[at] = int.from_bytes(table[at].tobytes(), "little")
            left &= line
        sets = np.frombuffer(left.to_bytes(self._every.nbytes, "little"), self._every.dtype)
        return self._flat.take(_lowest(sets, np.empty_like(sets)) + self._starts)


def _lowest(sets: _Sets, room: _Sets) -> NDArray[np.uint8]:
    """Return how many bits are up to the lowest one that is set, that one too."""
    np.subtract(sets, sets.dtype.type(1), out=room)
    found: NDArray[np.uint8] = np.bitwise_count(np.bitwise_xor(sets, room, out=room))
    return found
