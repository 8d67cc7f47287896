"""Attention through the whole road: heads are read and written where the layers have them."""

import lowc
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from zoo.comparison import export

QK = "heads of rows, columns where they are, transposes columns"
PV = "heads of columns, results where they are"


class Attention(nn.Module):
    """Attention of `heads` heads over what layers would have made."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, q, k, v):
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q * 2, k * 3, v * 5))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Plain(nn.Module):
    """The same with heads one behind another, and no transpose but that of the keys."""

    def forward(self, q, k, v):
        return functional.scaled_dot_product_attention(q * 2, k * 3, v * 5)


class Product(nn.Module):
    """Scores of keys whose last two dimensions are transposed, or have been."""

    def __init__(self, turned):
        super().__init__()
        self.turned = turned

    def forward(self, q, k):
        return q @ (k.transpose(-1, -2) if self.turned else k)


class Shared(nn.Module):
    """The result is read before it is transposed too."""

    def forward(self, q, k):
        y = q @ k
        return y.transpose(1, 2) * 2, y * 3


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def run(model, *args, dims=None, given=None):
    """Return what the module makes of `given`, else of `args`, and what is said of each product."""
    artifact = lowc.compile(export(model, args, {}, dynamic_shapes=dims))
    found = lowc.load(artifact)(*(given or args))
    return found, [row["lowering"] for row in artifact.report["matmuls"]]


def ends(said, *wanted):
    return [text.endswith(end) for text, end in zip(said, wanted, strict=True)] == [True] * len(
        wanted
    )


def behind_another(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2).contiguous()


def test_heads_stay_where_they_are_and_no_bit_changes():
    q, k, v = randn(2, 21, 30), randn(2, 35, 30), randn(2, 35, 57)
    found, said = run(Attention(3), q, k, v)
    assert ends(said, QK, PV)
    plain, said = run(Plain(), *(behind_another(x, 3) for x in (q, k, v)))
    assert ends(said, "transposes columns", "in registers")
    assert np.array_equal(found, plain.swapaxes(1, 2).reshape(found.shape))
    np.testing.assert_allclose(found, Attention(3)(q, k, v).numpy(), rtol=1e-4, atol=1e-5)


def test_sizes_known_only_at_run_time_are_transposed_as_before():
    dims = ({0: torch.export.Dim("b", max=9), 1: torch.export.Dim("t", max=99)},) * 3
    given = [randn(3, 37, 32) + i for i in range(3)]
    found, said = run(
        Attention(2), *(randn(2, 5, 32) + i for i in range(3)), dims=dims, given=given
    )
    assert ends(said, "in registers", "in registers")
    np.testing.assert_allclose(found, Attention(2)(*given).numpy(), rtol=1e-4, atol=1e-5)


def test_a_kernel_transposes_columns_itself():
    q, k = randn(2, 3, 9, 20), randn(2, 3, 40, 20)
    found, said = run(Product(True), q, k)
    assert ends(said, "transposes columns")
    plain, said = run(Product(False), q, k.transpose(2, 3).contiguous())
    assert ends(said, "in registers") and np.array_equal(found, plain)


def test_a_result_that_is_read_twice_is_stored_as_it_is():
    q, k = randn(1, 4, 9, 16), randn(1, 4, 16, 12)
    found, said = run(Shared(), q, k)
    assert not any("results" in text for text in said)
    for one, other in zip(found, Shared()(q, k), strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-5)
