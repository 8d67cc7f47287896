"""Added products in models of PyTorch: convolutions, attention with a mask"""

from __future__ import annotations

import math

import lowc
import numpy as np
import pytest
from lowc.compiler import backend
from lowc.compiler.recipe import Recipe
from lowc.passes.formats import lmul
from lowc.passes.forms import Rule
from products.additive import check_sum, lm

pytestmark = pytest.mark.slow


def windows(x, size, stride, padding, dilation=1):
    """Image ``[B, C, H, W]`` → ``[B, C, kh * kw, L]``, zeros around it; and the output's size."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    reach = dilation * (size - 1)
    rows = range(0, x.shape[2] - reach, stride)
    columns = range(0, x.shape[3] - reach, stride)
    parts = [
        [x[:, :, r + dilation * i, c + dilation * j] for i in range(size) for j in range(size)]
        for r in rows
        for c in columns
    ]
    return np.array(parts).transpose(2, 3, 1, 0), (len(rows), len(columns))


CONVOLUTIONS = {
    "plain": {"in_channels": 4, "out_channels": 5, "kernel_size": 3},
    "strided": {"in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2, "padding": 1},
    "dilated": {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "dilation": 2},
    "groups": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "groups": 4,
                  "stride": 2},
    "pointwise": {"in_channels": 4, "out_channels": 7, "kernel_size": 1},
}  # fmt: skip


@pytest.fixture(scope="session")
def convolutions():
    """Name → (weight, bias, result), all in one model; and its input."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleDict(
                {n: torch.nn.Conv2d(bias=n != "plain", **o) for n, o in CONVOLUTIONS.items()}
            )

        def forward(self, x):
            return tuple(layer(x) for layer in self.layers.values())

    torch.manual_seed(5)
    model = Model().eval()
    x = torch.randn(2, 4, 9, 8)
    artifact = lowc.compile(torch.export.export(model, (x,)), Recipe("test", (Rule("*", lm()),)))
    assert [row["form"] for row in artifact.report["matmuls"]] == ["lmul"] * len(CONVOLUTIONS)
    found = lowc.load(artifact)(x.numpy())
    layers = {
        name: (
            layer.weight.detach().numpy(),
            None if layer.bias is None else layer.bias.detach().numpy(),
        )
        for name, layer in model.layers.items()
    }
    return x.numpy(), layers, dict(zip(CONVOLUTIONS, map(np.asarray, found), strict=True))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, convolutions):
    """Against the product with a matrix of windows, in the order channel, row, column."""
    x, layers, results = convolutions
    options = CONVOLUTIONS[name]
    weight, bias = layers[name]
    groups = options.get("groups", 1)
    image, size = windows(
        x, options["kernel_size"], options.get("stride", 1), options.get("padding", 0),
        options.get("dilation", 1),
    )  # fmt: skip
    images = np.split(image, groups, axis=1)
    filters = np.split(weight, groups, axis=0)
    parts = [
        lmul.matmul(f.reshape(len(f), -1), i.reshape(len(i), -1, math.prod(size)))
        for f, i in zip(filters, images, strict=True)
    ]
    expected = np.concatenate(parts, axis=1).reshape(len(x), len(weight), *size)
    if bias is not None:
        expected = expected + bias[:, None, None]
    check_sum(results[name], expected)


@pytest.fixture(scope="session")
def attention():
    """A layer, attention of two heads with a mask, a layer; and its report."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.before = torch.nn.Linear(16, 16, bias=False)
            self.after = torch.nn.Linear(16, 8, bias=False)

        def forward(self, q, k, v, mask):
            q = self.before(q)
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return found, self.after(found)

    torch.manual_seed(6)
    model = Model().eval()
    q, k, v = (torch.randn(2, 12, 16) for _ in range(3))
    mask = torch.ones(12, 12, dtype=torch.bool)
    artifact = lowc.compile(torch.export.export(model, (q, k, v, mask)), "lmul-attention")
    weights = [layer.weight.detach().numpy() for layer in (model.before, model.after)]
    return lowc.load(artifact), artifact.report["matmuls"], weights, [t.numpy() for t in (q, k, v)]


def test_attention_alone_changes(attention):
    module, rows, (before, after), (q, k, v) = attention
    forms = {row["name"]: row["form"] for row in rows}
    assert sorted(forms.values()) == ["exact", "exact", "lmul", "lmul"]
    assert [name.rpartition(":")[2] for name, form in forms.items() if form == "lmul"] == [
        "qk", "pv",
    ]  # fmt: skip
    mask = np.tril(np.ones((12, 12), bool))
    found, last = map(np.asarray, module(q, k, v, mask))

    def attend(product):
        # The scale 1/4 is a power of two: where it is applied does not matter.
        scores = product((q @ before.T) * np.float32(0.25), k.transpose(0, 2, 1))
        scores = np.where(mask, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return product((weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32), v)

    expected = attend(lambda a, b: lmul.matmul(a.astype(np.float32), b, 4))
    # An operand at the edge of a step of 4 bits may fall on its other side: rounding before it.
    error = np.abs(found - expected)
    assert np.quantile(error, 0.9) < 1e-5 and error.max() < 0.1
    assert np.quantile(np.abs(found - attend(np.matmul)), 0.5) > 1e-3
    assert np.allclose(last, found @ after.T, atol=1e-5)


def test_masked_keys_do_not_matter(attention):
    """Their weights are exact zeros, and their values stay below the bound."""
    module, _, _, (q, k, v) = attention
    mask = np.ones((12, 12), bool)
    mask[:, 7:] = False
    other = v.copy()
    other[:, 7:] = 1000
    first, second = (np.asarray(module(q, k, values_, mask)[0]) for values_ in (v, other))
    assert np.abs(first - second).max() <= 5 * 1.125 * 2.0**-63 * 2000
    assert np.abs(first).max() > 0.1
    assert not np.array_equal(first, np.asarray(module(q, k, other, ~mask)[0]))


@pytest.mark.parametrize(
    ("recipe", "kernels", "any_order"),
    [("f32", True, True), ("f32", False, True), ("lmul", True, True), ("lmul", False, False)],
)
def test_only_sums_without_an_order_are_vectorised(monkeypatch, recipe, kernels, any_order):
    import torch

    flags, real = [], backend.compile_module

    def compile_module(source, output, target, *rest):
        flags.extend(target.flags)
        return real(source, output, target, *rest)

    monkeypatch.setattr(backend, "compile_module", compile_module)
    program = torch.export.export(torch.nn.Linear(16, 8).eval(), (torch.randn(3, 16),))
    lowc.compile(program, recipe, kernels=kernels)
    assert ("--iree-llvmcpu-reassociate-fp-reductions=true" in flags) == any_order
