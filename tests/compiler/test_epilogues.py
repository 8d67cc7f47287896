"""What follows a linear layer, done by its kernel: beside stock code, and PyTorch with the definition."""

import functools

import lowc
import numpy as np
import pytest
from lowc.compiler import backend
from lowc.compiler.recipe import Recipe
from lowc.compiler.target import load_target
from lowc.passes.formats import lmul
from lowc.passes.forms import Form, Rule
from products.additive import lm

pytestmark = pytest.mark.slow

WIDTH, HIDDEN = 37, 43
# What the kernel of each layer does, as its row of the report says.
DONE = {
    "bias": "+ scaling, bias",
    "relu": "+ scaling, bias, relu",
    "gelu": "+ scaling, bias, gelu",
    "tanh_gelu": "+ scaling, bias, gelu",
    "silu": "+ scaling, bias, silu",
    "gate": "+ scaling, silu, gate",
    "up": "+ scaling",
    "residual": "+ scaling, bias, residual",
    "hard": "+ scaling, bias, clamp",
    "twice": "+ scaling, bias",
    "heads": "+ scaling, bias",
    "bfloat": "+ scaling, bias, relu",
}
OUTPUTS = [name for name in DONE if name != "up"]
# Largest differences, relative to the largest magnitude.  A tanh has some more of them; the
# bfloat16 layer is rounded after every operation, and stock code may leave some out.
FROM_STOCK = {"bfloat": 2**-8}
FROM_PYTORCH = {"tanh_gelu": 5e-6}


@functools.cache
def layers(dynamic):
    """A model with a layer of each name, which all read the same input."""
    import torch
    from torch.nn import functional

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleDict()
            for name in DONE:
                out = WIDTH if name == "residual" else 44 if name == "heads" else HIDDEN
                self.layers[name] = torch.nn.Linear(WIDTH, out, bias=name not in ("gate", "up"))
            self.layers["bfloat"].to(torch.bfloat16)
            self.product = None  # what stands for a product of f32, if not PyTorch's own

        def linear(self, name, x):
            layer = self.layers[name]
            if self.product is None:
                return layer(x)
            y = self.product(x, layer.weight)
            return y if layer.bias is None else y + layer.bias

        def forward(self, x):
            parts = {name: self.linear(name, x) for name in DONE if name != "bfloat"}
            batch, rows, _ = x.shape
            return {
                "bias": parts["bias"],
                "relu": functional.relu(parts["relu"]),
                "gelu": functional.gelu(parts["gelu"]),
                "tanh_gelu": functional.gelu(parts["tanh_gelu"], approximate="tanh"),
                "silu": functional.silu(parts["silu"]),
                "gate": functional.silu(parts["gate"]) * parts["up"],
                "residual": x + parts["residual"],
                "hard": functional.hardswish(parts["hard"]),
                "twice": parts["twice"] * parts["twice"].sum(-1, keepdim=True),
                "heads": parts["heads"].view(batch, rows, 4, 11).transpose(1, 2) * 2,
                "bfloat": functional.relu(self.layers["bfloat"](x.to(torch.bfloat16))).float(),
            }

    torch.manual_seed(3)
    model = Layers().eval()
    sizes = {0: torch.export.Dim("batch", max=9), 1: torch.export.Dim("rows", max=70)}
    program = torch.export.export(
        model, (torch.randn(2, 9, WIDTH),), dynamic_shapes={"x": sizes} if dynamic else None
    )
    return model, program


@functools.cache
def compiled(dynamic, target="cpu", recipe="", *, kernels=True):
    """(The module, what became of each layer, the model)."""
    model, program = layers(dynamic)
    recipe = recipe or Recipe("test", (Rule("*", lm(gain=True)),))
    found = lowc.compile(program, recipe, target, kernels=kernels)
    rows = {row["name"].removeprefix("layers."): row["lowering"] for row in found.report["matmuls"]}
    return lowc.load(found), rows, model


def reference(model, x):
    """PyTorch, with the definition of the format for each product of f32."""
    import torch

    factor = np.float32(1 / lmul.slope(0, offset=True))

    def product(value, weight):
        rows = value.detach().numpy().reshape(-1, WIDTH)
        total = lmul.matmul(rows, weight.detach().numpy().T) * factor
        return torch.from_numpy(total.reshape(*value.shape[:-1], -1))

    model.product = product
    return plain(model, x)


def rows_of(*shape, strange=False):
    rng = np.random.default_rng(shape)
    x = rng.standard_normal((*shape, WIDTH)).astype(np.float32)
    if strange:
        x[..., ::7] = rng.choice(np.float32([0, 1e30, -1e30, 3e38]), x[..., ::7].shape)
    return x


SIZES = [(False, (2, 9)), (True, (1, 1)), (True, (3, 5)), (True, (2, 64))]
CASES = [("cpu", *size) for size in SIZES] + [("cpu:haswell", True, (2, 7))]


def test_what_the_report_says():
    _, rows, _ = compiled(dynamic=False)
    assert rows.keys() == DONE.keys()
    for name, done in DONE.items():
        _, plus, rest = rows[name].partition(" sums in registers")
        assert plus, rows[name]
        assert rest == f", {done}", name


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 64)])
@pytest.mark.parametrize("name", OUTPUTS)
def test_against_stock_code(name, shape):
    """The same operations, by the same code generator."""
    ours, stock = compiled(dynamic=True)[0], compiled(dynamic=True, kernels=False)[0]
    for strange in (False, True):
        x = rows_of(*shape, strange=strange)
        close(ours(x)[name], stock(x)[name], FROM_STOCK.get(name, 4e-7))


@pytest.mark.parametrize(("target", "dynamic", "shape"), CASES)
def test_against_pytorch(target, dynamic, shape):
    if target != "cpu" and backend.vector_unit(load_target("cpu")) == "portable":
        pytest.skip("this machine does not run the code of that chip")
    ours, _, model = compiled(dynamic, target)
    x = rows_of(*shape)
    found, wanted = ours(x), reference(model, x)
    for name in OUTPUTS:
        if name != "bfloat":  # the definition above is of products of f32
            close(found[name], wanted[name], FROM_PYTORCH.get(name, 1e-6))


def test_products_of_floats():
    """Their sums are in another order than PyTorch's."""
    ours, rows, model = compiled(dynamic=True, recipe="f32")
    x = rows_of(3, 7)
    model.product = None
    wanted = plain(model, x)
    found = ours(x)
    for name in OUTPUTS:
        if name != "bfloat":
            assert rows[name].endswith(DONE[name].replace("scaling, ", "")), rows[name]
            close(found[name], wanted[name], FROM_PYTORCH.get(name, 4e-6))


CODES = Recipe("test", (Rule("*", Form("dequant", weights="nf4", group=16)),))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7)])
@pytest.mark.parametrize(
    ("recipe", "behind"), [("w8a8", ""), (CODES, ", codes in registers")], ids=["w8a8", "nf4"]
)
def test_products_of_few_bits(recipe, behind, shape):
    """What is said of a kernel ends with its epilogue, or with how it decodes."""
    ours, rows, _ = compiled(dynamic=True, recipe=recipe)
    stock = compiled(dynamic=True, recipe=recipe, kernels=False)[0]
    x = rows_of(*shape)
    found, wanted = ours(x), stock(x)
    for name in OUTPUTS:
        if name != "bfloat":
            said = DONE[name].replace("scaling, ", "") + behind
            assert said in rows[name] and (behind or rows[name].endswith(said)), rows[name]
            close(found[name], wanted[name], FROM_PYTORCH.get(name, 4e-6))


def plain(model, x):
    """What PyTorch gives."""
    import torch

    with torch.no_grad():
        return {name: value.numpy() for name, value in model(torch.from_numpy(x)).items()}


def close(found, wanted, bound):
    """Equal to within `bound` of the largest magnitude; NaN and infinity in their places."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    largest = np.abs(wanted[finite]).max(initial=0) or 1
    error = np.abs(found[finite].astype(np.float64) - wanted[finite]) / largest
    assert error.max(initial=0) <= bound
