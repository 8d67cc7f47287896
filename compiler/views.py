"""Write ``aten.view`` on dynamic shapes as merges and splits of neighbouring dimensions.

torch-mlir has only the sizes of a view to go by, and pairs them up from the left:
``[batch, sequence, 56]`` as ``[batch * sequence, 56]`` becomes a cast that takes the sequence for
1, in silence.  PyTorch knows every size as an expression, so here each view is taken apart exactly:

    view(x: [b, s, 56], [b*s, 56])       →  collapse(x, 0, 1)
    view(x: [b*s, 56], [b, s, 4, 14])    →  split_dim(unflatten(x, 0, [b, s]), 2, 4)

Runs only in the importer's process, on the decomposed graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

_VIEWS = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.reshape.default,
)
Sizes = list[Any]  # int or torch.SymInt


def rewrite_views(graph: Graph) -> None:
    """Rewrite in place every view with a dynamic size."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _VIEWS:
            before, after = (list(value.meta["val"].shape) for value in (node.args[0], node))
            if all(isinstance(size, int) for size in (*before, *after)):
                continue
            with graph.inserting_before(node):
                node.replace_all_uses_with(_Chain(graph, node).build(before, after))
            graph.erase_node(node)


def groups(before: Sizes, after: Sizes) -> list[tuple[int, int]]:
    """Cut both shapes into the shortest runs of equal product; return the lengths of the runs.

    What cannot be proven equal ends up in one run, which is always right.
    """
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        both = i < len(before) and j < len(after)
        if both and _same(before[i : i + 1], after[j : j + 1]):
            run = (1, 1)
        else:
            run = _shortest(before[i:], after[j:])
        found.append(run)
        i, j = i + run[0], j + run[1]
    return found


def _shortest(before: Sizes, after: Sizes) -> tuple[int, int]:
    """Return the lengths of the first run; one side has none where the other is of size 1."""
    for total in range(1, len(before) + len(after)):
        for taken in range(max(0, total - len(after)), min(total, len(before)) + 1):
            if _same(before[:taken], after[: total - taken]):
                return taken, total - taken
    return len(before), len(after)


def _same(before: Sizes, after: Sizes) -> bool:
    return statically_known_true(_product(before) == _product(after))


def _product(sizes: Sizes) -> Any:
    result = 1
    for size in sizes:
        result = result * size
    return result


class _Chain:
    """The nodes that replace one view, made one after the other."""

    def __init__(self, graph: Graph, view: Node) -> None:
        self.graph = graph
        self.view = view
        self.value: Any = view.args[0]
        self.shape: Sizes = list(self.value.meta["val"].shape)

    def build(self, before: Sizes, after: Sizes) -> Node:
        requested: Any = self.view.args[1]
        axis = start = 0
        for taken, given in groups(before, after):
            wanted = after[start : start + given]
            if taken == 0:
                for _ in range(given):
                    self._unsqueeze(axis)
                    axis += 1
            elif given == 0:
                for _ in range(taken):
                    self._squeeze(axis)
            else:
                if taken > 1:
                    self._merge(axis, taken)
                self._split(axis, wanted, requested[start : start + given])
                axis += given
            start += given
        return self.value

    def _merge(self, axis: int, count: int) -> None:
        merged = _product(self.shape[axis : axis + count])
        shape = [*self.shape[:axis], merged, *self.shape[axis + count :]]
        self._add(torch.ops.prims.collapse.default, shape, axis, axis + count - 1)

    def _split(self, axis: int, sizes: Sizes, nodes: Any) -> None:
        """Split off the first size while there are several, the dynamic part first if it can be."""
        dynamic = [index for index, size in enumerate(sizes) if not isinstance(size, int)]
        if len(sizes) == 1:
            return
        if len(dynamic) > 1:
            parts = [size if isinstance(size, int) else node for size, node in
                     zip(sizes, nodes, strict=True)]  # fmt: skip
            shape = [*self.shape[:axis], *sizes, *self.shape[axis + 1 :]]
            self._add(torch.ops.aten.unflatten.int, shape, axis, parts)
            return
        for position in range(len(sizes) - 1):
            outer, inner = sizes[position], _product(sizes[position + 1 :])
            shape = [*self.shape[:axis], outer, inner, *self.shape[axis + 1 :]]
            if not dynamic:
                self._add(torch.ops.prims.split_dim.default, shape, axis, outer)
            else:
                # One of the two is the -1: the other one is a number.
                parts = [part if isinstance(part, int) else -1 for part in (outer, inner)]
                self._add(torch.ops.aten.unflatten.int, shape, axis, parts)
                dynamic = [index for index in dynamic if index > position]
            axis += 1

    def _unsqueeze(self, axis: int) -> None:
        shape = [*self.shape[:axis], 1, *self.shape[axis:]]
        self._add(torch.ops.aten.unsqueeze.default, shape, axis)

    def _squeeze(self, axis: int) -> None:
        shape = [*self.shape[:axis], *self.shape[axis + 1 :]]
        self._add(torch.ops.aten.squeeze.dim, shape, axis)

    def _add(self, target: Any, shape: Sizes, *arguments: Any) -> None:
        node = self.graph.call_function(target, (self.value, *arguments))
        # Not all of it: "tensor_meta" would give the view's shape to a step on the way there.
        kept = ("nn_module_stack", "stack_trace")
        node.meta = {key: self.view.meta[key] for key in kept if key in self.view.meta}
        like = self.view.meta["val"]
        with like.fake_mode:
            node.meta["val"] = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.value, self.shape = node, shape
