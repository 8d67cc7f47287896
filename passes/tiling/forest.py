"""Boosted trees, answered for many rows at once in NumPy, with the very numbers of LightGBM.

As in QuickScorer (Lucchese et al., SIGIR 2015): a tree is a set of its leaves, as bits from left to
right, and a node whose answer is "right" takes the leaves on its left away; the lowest bit that
stays is the leaf.  Of a feature only its place among all thresholds matters, so for each place the
sets of all trees are there already, and a row takes one line of each feature's table::

    leaves[row] = AND over features of table[feature][number of thresholds below the row's value]

Features that all rows share are put together once, which is most of them for tiles of one product.
Of features that are known to be alike, such as all that a tile's rows and vectors decide, each set
of places that comes is put together once too.  A single row's sets are whole numbers of Python's,
of any size: NumPy would take longer to begin.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]
_Sets = NDArray[np.unsignedinteger]
_Places = tuple[_Sets, list[tuple[_Sets, Whole]]]

MOST_LEAVES = 64
_MOST_BYTES = 64 << 20  # of tables
_TOGETHER = 4096  # rows whose places are looked up at once
_FEWEST = 64  # rows that alike features are put together for
_ROWS = 64  # whose sets stay in the caches of a core
_MISSING = 12  # bits of a decision: what counts as missing, which rows of ours have none of
# Objectives whose trees' sum is the answer.
_PLAIN = (
    "regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg",
)  # fmt: skip


@dataclass(frozen=True)
class _Tree:
    """Nodes in LightGBM's order; a child of -1 - i is leaf i."""

    features: Whole
    thresholds: Floats
    left: Whole
    right: Whole
    values: Floats


class Forest:
    """The trees of some models.

    Parameters
    ----------
    texts : sequence of str
        LightGBM's texts of the models, as :func:`.tree_text.checked` wrote them.
    alike : sequence of sequence of int
        Features that have few different values together, each in one group at most: it changes how
        fast rows are answered, and nothing else.

    Raises
    ------
    ValueError
        When one is of a kind that is not answered here: a tree of more than 64 leaves, missing
        values, an objective that changes the sum, or tables that would be too large.
    """

    def __init__(self, texts: Sequence[str], alike: Sequence[Sequence[int]] = ()) -> None:
        models = [[*_trees(text)] for text in texts]
        trees = [tree for model in models for tree in model]
        leaves = max(len(tree.values) for tree in trees)
        if leaves > MOST_LEAVES:
            raise ValueError(f"a tree has {leaves} leaves, more than {MOST_LEAVES}")
        self._ends = np.cumsum([len(model) for model in models]).tolist()
        bits = next(bits for bits in (16, 32, 64) if bits >= leaves)
        nodes = sum(len(tree.left) for tree in trees)
        size = max(1, _MOST_BYTES // (max(nodes, 1) * bits // 8))
        self._blocks = [
            _Block(trees[start : start + size], np.dtype(f"u{bits // 8}"), alike)
            for start in range(0, len(trees), size)
        ]

    def predict(self, rows: Floats) -> Floats:
        """Return ``[models, rows]``, what each model says of ``[rows, features]``; NaN counts as 0.

        That is how LightGBM has it for trees that do not ask for missing values.
        """
        if np.isnan(rows).any():
            rows = np.where(np.isnan(rows), 0.0, rows)
        if len(rows) == 1:
            return self._one(rows[0].tolist())
        found = np.empty((len(self._ends), len(rows)))
        for start in range(0, len(rows), _TOGETHER):
            part = rows[start : start + _TOGETHER]
            walks = [block.values(block.places(part), len(part)) for block in self._blocks]
            for begin, *values in zip(range(start, len(rows), _ROWS), *walks, strict=False):
                both = values[0] if len(values) == 1 else np.concatenate(values)
                found[:, begin : begin + _ROWS] = self._sums(both)
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

    def __init__(
        self, trees: Sequence[_Tree], dtype: np.dtype, alike: Sequence[Sequence[int]]
    ) -> None:
        width = max(len(tree.values) for tree in trees)
        leaves = np.zeros((len(trees), width))
        # :func:`_lowest` is 1 or more.
        self._starts = np.arange(len(trees), dtype=np.intp) * width - 1
        nodes: dict[int, list[tuple[float, int, int]]] = {}
        for number, tree in enumerate(trees):
            order, sets = _sets(tree)
            leaves[number, : len(order)] = tree.values[order]
            for feature, threshold, gone in zip(tree.features, tree.thresholds, sets, strict=True):
                nodes.setdefault(int(feature), []).append((float(threshold), number, gone))
        self._flat = leaves.reshape(-1)
        every = np.array(np.iinfo(dtype).max, dtype)
        self._features = sorted(nodes)
        group_of = {feature: number for number, group in enumerate(alike) for feature in group}
        # Those in none are alone.
        self._groups = [group_of.get(feature, -1 - feature) for feature in self._features]
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

    def places(self, rows: Floats) -> _Places:
        """Return the set that all `rows` share, and where they are in tables that differ."""
        used = np.ascontiguousarray(rows[:, self._features].T)
        same = (used == used[:, :1]).all(axis=1).tolist()
        shared = self._every.copy()
        differing = []
        for column, is_same, thresholds, table, group in zip(
            used, same, self._thresholds, self._tables, self._groups, strict=True
        ):
            if is_same:
                shared &= table[thresholds.searchsorted(column[0])]
            else:
                differing.append((group, table, thresholds.searchsorted(column)))
        groups: dict[int, list[tuple[_Sets, Whole]]] = {}
        if differing:
            every = np.array([at for _, _, at in differing])
            same = (every == every[:, :1]).all(axis=1).tolist()
            for (group, table, at), is_same in zip(differing, same, strict=True):
                if is_same:
                    shared &= table[at[0]]
                else:
                    groups.setdefault(group, []).append((table, at))
        return shared, [pair for group in groups.values() for pair in _together(group)]

    def values(self, places: _Places, count: int) -> Iterator[Floats]:
        """Yield ``[trees, rows]``, the values of leaves, for each :data:`_ROWS` of so many rows."""
        shared, varying = places
        # New ones for each would be pages that the system has to clear.
        sets = np.empty((min(count, _ROWS), len(shared)), shared.dtype)
        other = np.empty_like(sets)
        for begin in range(0, count, _ROWS):
            left, lines = (kept[: min(_ROWS, count - begin)] for kept in (sets, other))
            left[:] = shared
            for table, at in varying:
                table.take(at[begin : begin + _ROWS], axis=0, out=lines, mode="clip")
                np.bitwise_and(left, lines, out=left)
            # Bytes are sooner turned round than what they become.
            leaf = np.ascontiguousarray(_lowest(left, lines).T)
            yield self._flat.take(leaf + self._starts[:, None])

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


def _together(group: list[tuple[_Sets, Whole]]) -> list[tuple[_Sets, Whole]]:
    """Return a group's tables as one of what rows have, or the group itself if that is much."""
    count = len(group[0][1])
    if len(group) == 1 or count < _FEWEST:
        return group
    places = np.stack([at for _, at in group], axis=1)
    numbers: dict[bytes, int] = {}
    keys = places.view(f"V{places.itemsize * len(group)}").ravel().tolist()
    of_row = [numbers.setdefault(key, len(numbers)) for key in keys]
    if len(numbers) > count // 2:
        return group
    different = np.frombuffer(b"".join(numbers), np.intp).reshape(len(numbers), len(group)).T
    found = group[0][0].take(different[0], axis=0)
    lines = np.empty_like(found)  # new ones for each would be pages that the system has to clear
    for (table, _), at in zip(group[1:], different[1:], strict=True):
        table.take(at, axis=0, out=lines, mode="clip")
        np.bitwise_and(found, lines, out=found)
    return [(found, np.array(of_row, np.intp))]


def _trees(text: str) -> Iterator[_Tree]:
    head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
    objective = _line(head, "objective")
    if objective not in _PLAIN:
        raise ValueError(f"what trees add up to is not yet the answer of '{objective}'")
    for tree in trees:
        values = _floats(_line(tree, "leaf_value"))
        if len(values) == 1:
            none = np.empty(0, np.intp)
            yield _Tree(none, np.empty(0), none, none, values)
            continue
        if any(int(kind) & _MISSING for kind in _line(tree, "decision_type").split()):
            raise ValueError("a tree asks for missing values")
        features, left, right = (
            np.array(_line(tree, name).split(), np.intp)
            for name in ("split_feature", "left_child", "right_child")
        )
        yield _Tree(features, _floats(_line(tree, "threshold")), left, right, values)


def _line(text: str, name: str) -> str:
    return text.partition(f"\n{name}=")[2].partition("\n")[0]


def _floats(text: str) -> Floats:
    return np.array([float(word) for word in text.split()])


def _sets(tree: _Tree) -> tuple[list[int], list[int]]:
    """Return the leaves from left to right, and the set of those on each node's left."""
    order: list[int] = []
    sets = [0] * len(tree.left)

    def walk(node: int) -> int:
        if node < 0:
            order.append(-1 - node)
            return 1 << (len(order) - 1)
        sets[node] = walk(int(tree.left[node]))
        return sets[node] | walk(int(tree.right[node]))

    walk(0 if len(tree.left) else -1)
    return order, sets
