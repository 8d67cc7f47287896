"""Operators that torch-mlir lowers in no case, or not in all: what they are calculated from."""

from __future__ import annotations

import importlib

import lowc
import numpy as np
import pytest
import torch
from lowc.compiler import rare_operators
from lowc.errors import UserError
from torch import nn
from torch.export import Dim
from torch.nn import functional
from zoo.comparison import TOLERANCE, error, export, run_and_compare

pytestmark = pytest.mark.slow


class Rare(nn.Module):
    """Each of them, at least once."""

    def forward(self, x, i):
        """x is f32 ``[3, 4, 6]``, i is i64 ``[3, 4]`` with negative ones."""
        ordered = torch.tensor([-1.0, 0.0, 0.5])
        return {
            "transposed and strided": x.transpose(0, 2).as_strided((2, 3), (5, 1), 2),
            "sliced and strided": x[1:].as_strided((2, 3), (5, 1)),
            "sliced, strided from the start": x[1:].as_strided((2, 3), (5, 1), 26),
            "windows": x.as_strided((5, 10), (6, 1)),
            "finite": (torch.isfinite(x.log()), torch.isfinite(i)),
            "remainders": (torch.fmod(x, 0.7), torch.fmod(i, 3), torch.fmod(i, 2.5)),
            "powers": (i**2, i**0, i**5),
            "bits": (i ^ 3, i | 4, i & 6),
            "booleans with numbers": (((x > 0) | 2) * x, ((x > 0) ^ 3) * x, ((x > 0) ** 2) * x),
            "booleans": ((x > 0) | True, (x > 0) ^ True),
            "variance of too few": x.var(-1, correction=7) > 1e30,
            "distances": (torch.cdist(x, x * 2), torch.cdist(x[0], x[1], p=1.0)),
            "positions": torch.searchsorted(ordered, x, right=True),
            "positions of NaN": (
                torch.searchsorted(ordered, x.log()),
                torch.searchsorted(ordered, x.log(), right=True),
            ),
            "positions in rows": torch.searchsorted(torch.tensor([[1, 4, 9]] * 3), i),
            "matrix by vector": torch.addmv(x[0, :, 0], x[0], x[1, 0], beta=0.3, alpha=0.7),
            "distance": torch.dist(x[0], x[1]),
            "logarithms": (x.abs().log10(), i.abs().log10()),
            "histogram": torch.histc(x, 5, -1, 1),
            "histogram of edges": torch.histc((x > 0) * (100 / 3), 3, 0, 100),
            "sorted stably": (*torch.sort(x, dim=1, stable=True), torch.argsort(x, stable=True)),
            "largest in any order": torch.topk(x, 6, sorted=False)[0].sum(-1),
            "cropped": functional.pad(x, (1, -2, 0, 1), value=3.0),
            "cropped only": functional.pad(x, (-1, -2)),
        }


def test_rare_operators_give_what_pytorch_gives():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 6, generator=generator)
    i = torch.randint(-5, 6, (3, 4), generator=generator)
    module = lowc.load(lowc.compile(export(Rare(), (x, i))))
    got, wanted = module(x.numpy(), i.numpy()), Rare()(x, i)
    worst = {name: error(got[name], wanted[name]) for name in wanted}
    assert {name: found for name, found in worst.items() if not found < 1e-5} == {}


class Images(nn.Module):
    """What networks of convolutions do with images of any size."""

    def forward(self, x):
        """x is [b, 4, h, w]."""
        pooled = functional.adaptive_avg_pool1d(x.flatten(2).transpose(1, 2).transpose(1, 2), 1)
        return (
            pooled, functional.adaptive_avg_pool2d(x, 1), functional.interpolate(x, scale_factor=2),
            torch.var_mean(x, (2, 3)), functional.group_norm(x, 2), x.std((1, 2)),
            x.var(2, correction=50) > 1e30, x.var(2, correction=6).clamp(max=1e9),
        )  # fmt: skip


def test_images_of_dynamic_sizes_are_pooled_normalised_and_enlarged():
    sizes = {0: Dim("b", max=9), 2: Dim("h", min=3, max=40), 3: Dim("w", min=3, max=40)}
    program = export(Images(), (torch.randn(2, 4, 8, 6),), dynamic_shapes={"x": sizes})
    module = lowc.load(lowc.compile(program))
    for shape in ((2, 4, 8, 6), (1, 4, 5, 9)):
        assert run_and_compare(module, Images(), torch.randn(*shape)) < TOLERANCE


class Experts(nn.Module):
    """A mixture of experts as `transformers` exports it: rows sorted by expert, one product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6, 5))

    def forward(self, x, ids):
        """x is [n, 6]; ids [n, 2], which two experts each row goes to."""
        sorted_ids, order = torch.sort(ids.reshape(-1))
        counts = torch.histc(sorted_ids.float(), bins=4, min=0, max=3)
        ends = torch.cumsum(counts, 0, dtype=torch.int32)
        rows = x[order // 2]
        product = torch.ops.transformers.grouped_mm_fallback(rows, self.weight, ends)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        return product[inverse].view(-1, 2, 5).sum(1)


@pytest.mark.parametrize(("recipe", "bound"), [("f32", 1e-5), ("w8a8", 0.05)])
def test_experts_are_one_product_with_a_weight(recipe, bound):
    # It defines its operator itself, and could not after lowc has: other tests need it.
    importlib.import_module("transformers.integrations.moe")
    torch.manual_seed(0)
    inputs = torch.randn(7, 6), torch.randint(0, 4, (7, 2))
    model = Experts()
    artifact = lowc.compile(export(model, inputs), recipe)
    assert run_and_compare(lowc.load(artifact), model, *inputs) < bound
    form = artifact.report["matmuls"][0]["form"]
    assert form == ("exact" if recipe == "f32" else "dequant")


def test_rows_behind_the_last_group_are_zero():
    rows, weights = torch.randn(5, 3), torch.randn(2, 3, 4)
    got = rare_operators.experts(rows, weights, torch.tensor([1, 3]))
    wanted = [rows[0] @ weights[0], rows[1] @ weights[1], rows[2] @ weights[1]]
    np.testing.assert_allclose(got[:3], torch.stack(wanted), rtol=1e-5, atol=1e-6)
    assert not got[3:].any()


def test_strides_that_leave_their_tensor_are_refused_with_their_place():
    class Beside(nn.Module):
        def forward(self, x):
            return x[:2].as_strided((3, 4), (4, 1))

    model = nn.Sequential(nn.ReLU(), Beside())
    with pytest.raises(UserError, match="as_strided reads elements .* does not have") as caught:
        lowc.compile(export(model, (torch.randn(3, 4),)))
    text = str(caught.value)
    assert "module '1'" in text
    assert "test_rare_operators.py, line" in text
    assert "use reshape, an index or unfold" in text


@pytest.mark.parametrize(
    ("layer", "operator"),
    [(lambda x: torch.fft.fft(x).real, "fft_fft"), (lambda x: x.view(torch.int32), "view.dtype")],
)
def test_the_operator_is_named_where_torch_mlir_names_a_constant(layer, operator):
    class Layer(nn.Module):
        def forward(self, x):
            return layer(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.spectrum = Layer()

        def forward(self, x):
            return self.spectrum(torch.relu(x))

    with pytest.raises(UserError, match=rf"module 'spectrum'.*'aten\.{operator}'"):
        lowc.compile(export(Model(), (torch.randn(2, 8),)))


def test_two_sorts_of_a_dynamic_size_do_not_share_their_places():
    class Routers(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            """x is [n, 8]."""
            return *torch.topk(self.first(x), 2), *torch.topk(self.second(x), 2)

    model, rows = Routers(), torch.randn(7, 8)
    program = export(model, (rows,), dynamic_shapes={"x": {0: Dim("n", max=99)}})
    module = lowc.load(lowc.compile(program))
    assert run_and_compare(module, model, rows) < TOLERANCE
    assert run_and_compare(module, model, torch.randn(30, 8)) < TOLERANCE


def test_scatters_of_a_dynamic_size_do_not_share_what_they_write_into():
    class Scatters(nn.Module):
        def forward(self, x, i, j):
            """x is [n, 5], i and j are [n, 2]."""
            row = torch.arange(x.shape[0])
            first, second, counts = (torch.zeros_like(x) for _ in range(3))
            first[row, i[:, 0]], second[row, j[:, 0]] = 1.0, 2.0
            return (
                torch.zeros_like(x).scatter(1, i, x), torch.zeros_like(x).scatter(1, j, x),
                torch.ones_like(x).scatter_add(1, i, x), torch.ones_like(x).scatter_add(1, j, x),
                first, second, counts, torch.arange(5.0).expand_as(x).scatter(1, j, x),
            )  # fmt: skip

    model, n = Scatters(), {0: Dim("n", max=99)}
    places = [torch.stack([torch.randperm(5)[:2] for _ in range(7)]) for _ in range(2)]
    inputs = torch.randn(7, 5), *places
    program = export(model, inputs, dynamic_shapes={"x": n, "i": n, "j": n})
    assert run_and_compare(lowc.load(lowc.compile(program)), model, *inputs) < TOLERANCE
