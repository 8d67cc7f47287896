"""Trees of LightGBM's text as arrays of nodes, and the leaves on each side of a node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]

_MISSING = 12  # bits of a decision: what counts as missing, which rows of ours have none of
# Objectives whose trees' sum is the answer.
_PLAIN = (
    "regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg",
)  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """Nodes in LightGBM's order, a child behind its parent; a child of -1 - i is leaf i."""

    features: Whole
    thresholds: Floats
    left: Whole
    right: Whole
    values: Floats

    def sides(self) -> tuple[list[int], list[int], list[int]]:
        """Return the leaves from left to right, and for each node those on its left and right.

        Leaves of a side are a set, as bits from left to right.
        """
        order: list[int] = []
        left, right = [0] * len(self.left), [0] * len(self.left)

        def walk(node: int) -> int:
            if node < 0:
                order.append(-1 - node)
                return 1 << (len(order) - 1)
            left[node] = walk(int(self.left[node]))
            right[node] = walk(int(self.right[node]))
            return left[node] | right[node]

        walk(0 if len(self.left) else -1)
        return order, left, right


def read(text: str) -> Iterator[Tree]:
    """Yield the trees of a text that :func:`.tree_text.checked` wrote.

    Raises
    ------
    ValueError
        When trees ask for missing values, or the answer is not their sum.
    """
    head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
    objective = _line(head, "objective")
    if objective not in _PLAIN:
        raise ValueError(f"what trees add up to is not yet the answer of '{objective}'")
    for tree in trees:
        values = _floats(_line(tree, "leaf_value"))
        if len(values) == 1:
            none = np.empty(0, np.intp)
            yield Tree(none, np.empty(0), none, none, values)
            continue
        if any(int(kind) & _MISSING for kind in _line(tree, "decision_type").split()):
            raise ValueError("a tree asks for missing values")
        features, left, right = (
            np.array(_line(tree, name).split(), np.intp)
            for name in ("split_feature", "left_child", "right_child")
        )
        yield Tree(features, _floats(_line(tree, "threshold")), left, right, values)


def _line(text: str, name: str) -> str:
    return text.partition(f"\n{name}=")[2].partition("\n")[0]


def _floats(text: str) -> Floats:
    return np.array([float(word) for word in text.split()])
