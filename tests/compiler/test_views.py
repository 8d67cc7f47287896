"""Views of dynamic shapes, written as merges and splits, still give what they gave."""

import pytest
import torch
from lowc.compiler.decompositions import decomposition_table, index, variance_and_mean
from lowc.compiler.views import groups, rewrite_views
from torch import nn
from torch.export import Dim


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([2, 3, 4], [6, 4], [(2, 1), (1, 1)]),
        ([6, 4], [2, 3, 4], [(1, 2), (1, 1)]),
        ([2, 12], [2, 3, 4], [(1, 1), (1, 2)]),
        ([5, 1, 4], [5, 4], [(1, 1), (1, 0), (1, 1)]),
        ([5, 4], [1, 5, 4, 1], [(0, 1), (1, 1), (1, 1), (0, 1)]),
        ([4, 6], [3, 8], [(2, 2)]),
        ([], [1, 1], [(0, 1), (0, 1)]),
        ([7], [7], [(1, 1)]),
    ],
)
def test_shapes_are_cut_into_the_shortest_runs(before, after, expected):
    assert groups(before, after) == expected


class Views(nn.Module):
    def forward(self, x):
        """x is [b, s, 24]."""
        batch, length, _ = x.shape
        return (
            x.view(batch * length, 24), x.view(-1), x.view(batch, length, 2, 3, 4),
            torch.relu(x).view(batch, length * 24), x.view(batch, length * 4, 6),
            x.view(batch, 1, length, 24), x.view(length, batch, 24), x.view(batch * 4, length * 6),
            x.view(batch, -1, 1), x.view(batch * length * 6, 4).view(batch, length, 6, 4),
        )  # fmt: skip


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1), (4, 6)])
def test_the_rewritten_graph_gives_the_same(sizes):
    dims = {"x": {0: Dim("b", min=1, max=64), 1: Dim("s", min=1, max=64)}}
    program = torch.export.export(Views(), (torch.randn(3, 5, 24),), dynamic_shapes=dims)
    program = program.run_decompositions(decomposition_table())
    rewrite_views(program.graph)
    left = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.aten.view.default not in left
    program.graph_module.recompile()
    x = torch.randn(*sizes, 24)
    for got, wanted in zip(program.graph_module(x), Views()(x), strict=True):
        assert got.shape == wanted.shape
        assert torch.equal(got, wanted)


def test_static_views_are_left_to_torch_mlir():
    class Static(nn.Module):
        def forward(self, x):
            return x.view(6, 4)

    program = torch.export.export(Static(), (torch.randn(2, 3, 4),)).run_decompositions({})
    before = str(program.graph)
    rewrite_views(program.graph)
    assert str(program.graph) == before


@pytest.mark.parametrize("dims", [[1], [0, 2], None])
@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("correction", [0, 1, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_variance_is_that_of_pytorch(dims, keepdim, correction, dtype):
    # A mean far from zero: the sum of squares would lose all digits.
    x = (torch.randn(3, 40, 5, dtype=torch.float64) + 1000).to(dtype)
    got = variance_and_mean(x, dims, correction=correction, keepdim=keepdim)
    wanted = torch.var_mean(x, dims, correction=correction, keepdim=keepdim)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4,
                                   atol=1e-6)  # fmt: skip


def test_look_ups_that_torch_mlir_can_do_are_left_to_it():
    x = torch.randn(4, 5)
    assert index(x, [torch.tensor([1, 2])]) is NotImplemented
    assert index(x, [torch.tensor([1, 2]), torch.tensor([0, -1])]) is NotImplemented
    assert index(x, [x > 0]) is NotImplemented
