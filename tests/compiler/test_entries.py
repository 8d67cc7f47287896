"""Several models as entries of one module: one set of weights, one state, and what is refused."""

from __future__ import annotations

import iree.runtime as rt
import lowc
import numpy as np
import pytest
from lowc.compiler.entries import check_names
from lowc.errors import UserError
from lowc.runtime.program import RESERVED, Program

torch = pytest.importorskip("torch")


def _pair(seed=0, width=16):
    """Return two programs of one model that adds up what it is given, in two states."""

    class Sums(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(seed)
            self.fc = torch.nn.Linear(width, 64)
            self.register_buffer("total", torch.zeros(64))
            self.register_buffer("largest", torch.zeros(64))

        def forward(self, x):
            y = self.fc(x).sum(0)
            self.total += y
            self.largest.copy_(torch.maximum(self.largest, y))
            return self.total * 2, self.largest * 2

    rows = torch.export.Dim("rows", min=2, max=64)
    many = torch.export.export(Sums(), (torch.ones(5, width),), dynamic_shapes=({0: rows},))
    return Sums(), many, torch.export.export(Sums(), (torch.ones(1, width),))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """One module of both, whose products of many rows and of one like other panels best."""
    reference, many, one = _pair()
    place = tmp_path_factory.mktemp("entries") / "model.vmfb"
    return reference, lowc.compile({"many": many, "one": one}, output=place)


def test_entries_share_their_state(compiled):
    reference, artifact = compiled
    program = lowc.load(artifact)
    generator = np.random.default_rng(0)
    for entry, rows in ((program.many, 3), (program["one"], 1), (program.many, 7)):
        x = generator.standard_normal((rows, 16)).astype(np.float32)
        for got, wanted in zip(entry(x), reference(torch.from_numpy(x)), strict=True):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5, atol=1e-5)
    program.reset()
    total, largest = program.one(np.zeros((1, 16), np.float32))
    bias = reference.fc.bias.detach().numpy()
    np.testing.assert_allclose(total, 2 * bias, rtol=1e-6)
    np.testing.assert_allclose(largest, 2 * np.maximum(bias, 0), rtol=1e-6)


def test_every_weight_is_stored_once_and_zeros_not_at_all(compiled):
    _, artifact = compiled
    index = rt.ParameterIndex()
    index.load(str(artifact.parameters_path))
    sizes = {key: entry.length for key, entry in index.items() if entry.is_file}
    assert sum(sizes.values()) == 4 * (16 * 64 + 64), sizes
    assert len([key for key in sizes if key.startswith("fc.weight")]) == 1
    assert {row["name"] for row in artifact.report["matmuls"]} == {"fc@many", "fc@one"}


def test_a_program_says_which_entries_it_has(compiled):
    program = lowc.load(compiled[1])
    assert isinstance(program, Program)
    assert list(program.entries) == ["many", "one"]
    with pytest.raises(UserError, match=r"several entries: many, one"):
        program(np.ones((1, 16), np.float32))
    with pytest.raises(UserError, match=r"no entry 'ona'[\s\S]*did you mean 'one'"):
        program["ona"]
    with pytest.raises(AttributeError, match="its entries are many, one"):
        program.two  # noqa: B018


def test_different_weights_of_one_name_are_refused(tmp_path):
    _, many, _ = _pair(0)
    _, _, one = _pair(1)
    with pytest.raises(UserError, match=r"fc\.\w+'[\s\S]*'many' and 'one' have different weights"):
        lowc.compile({"many": many, "one": one}, output=tmp_path / "model.vmfb")


@pytest.mark.parametrize("name", ["", "a b", "_x", "class", "reset", "bound", "path"])
def test_names_that_no_entry_can_have(name):
    with pytest.raises(UserError, match="an entry cannot be called"):
        check_names({name: None})


def test_what_a_module_has_is_reserved(compiled):
    program = lowc.load(compiled[1])
    assert {name for name in vars(program) if not name.startswith("_")} <= RESERVED
