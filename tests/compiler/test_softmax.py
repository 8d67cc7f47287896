"""Softmax and masked attention through the whole road: which get the kernel, beside PyTorch."""

import lowc
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo.comparison import export

KERNEL = "lowc-outline-softmax"


class Softmax(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return x.softmax(self.dim)


class Attention(nn.Module):
    """Attention whose scores are hidden by a mask of booleans, the same for all heads."""

    def forward(self, q, k, v, mask):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Shifted(nn.Module):
    """What is added to the exponents is a constant, and memory is used before."""

    def forward(self, x):
        y = (x * 3).tanh() * 100
        return (x + 1.0).softmax(-1) @ y, (y + 1.0).softmax(-1) @ x, y


class Entropy(nn.Module):
    """The exponentials of a softmax have another reader, and their sum has one."""

    def forward(self, x):
        powers = torch.exp(x - x.amax(-1, keepdim=True))
        total = powers.sum(-1, keepdim=True)
        return powers / total, powers, total


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def compare(model, *args, rows=None, atol=1e-6):
    """Compare with PyTorch; return what the pass says of each softmax."""
    shapes = None
    if rows is not None:
        shapes = tuple({0: torch.export.Dim("rows", max=64)} for _ in args)
    program = export(model, args, {}, dynamic_shapes=shapes) if rows else export(model, args, {})
    artifact = lowc.compile(program)
    given = args if rows is None else tuple(randn(rows, *x.shape[1:]) for x in args)
    found = lowc.load(artifact)(*given)
    expected = model(*given)
    pairs = (
        zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=atol, equal_nan=True)
    said = artifact.report["remarks"]
    return [(row["kind"], row["message"]) for row in said if row["pass"] == KERNEL]


@pytest.mark.parametrize("shape", [(3, 33), (2, 4, 5, 129), (7,)])
def test_softmax_over_the_last_dimension_has_a_kernel(shape):
    ((kind, message),) = compare(Softmax(-1), 3 * randn(*shape))
    assert kind == "applied" and message.startswith("softmax in one dispatch")


def test_rows_of_nothing_are_those_of_pytorch():
    x = randn(4, 21)
    x[1] = -torch.inf
    x[2, 3] = torch.nan
    assert compare(Softmax(-1), x)[0][0] == "applied"


def test_over_another_dimension_there_is_none():
    said = compare(Softmax(1), randn(2, 6, 5))
    assert said == [("refused", "softmax has no kernel: it is not over the last dimension")]


def test_any_number_of_rows():
    assert compare(Softmax(-1), randn(3, 40), rows=11)[0][0] == "applied"


def test_a_mask_is_added_by_the_kernel_and_may_leave_nothing():
    mask = torch.ones(2, 1, 9, 17, dtype=torch.bool)
    mask[0, 0, 3:, 10:] = False
    mask[1, 0, 4] = False
    q, k, v = randn(2, 3, 9, 8), randn(2, 3, 17, 8), randn(2, 3, 17, 5)
    ((kind, message),) = compare(Attention(), q, k, v, mask)
    assert kind == "applied" and message.startswith("softmax of a masked product in one dispatch")


def test_a_constant_is_no_mask():
    said = compare(Shifted(), randn(128, 128), atol=1e-4)
    assert [kind for kind, _ in said] == ["applied", "applied"]
    assert not any("masked" in message for _, message in said)


def test_exponentials_that_are_used_elsewhere_stay():
    ((kind, message),) = compare(Entropy(), randn(4, 21))
    assert kind == "refused" and message.endswith("its exponentials are used elsewhere")
