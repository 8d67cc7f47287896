"""A program is imported once by a process, whatever it is compiled to; another one is not taken for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import lowc
import numpy as np
import pytest
import torch
from hostile import archives as hostile
from lowc.compiler import frontend, recent_imports, subprocesses
from lowc.compiler.archive import Archive
from lowc.compiler.program import read_program
from lowc.compiler.subprocesses import Limits

pytestmark = pytest.mark.slow


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that the importer runs for, from now on, with nothing remembered."""
    monkeypatch.setattr(recent_imports, "_found", type(recent_imports._found)())
    run, found = subprocesses.run, []

    def watched(command, *rest, **options):
        if "lowc.compiler.importer" in command:
            found.append(Path(command[-1]).name)
        return run(command, *rest, **options)

    monkeypatch.setattr(subprocesses, "run", watched)
    return found


class Scaled(torch.nn.Module):
    """A layer, a number that the graph holds, and a constant whose bytes stand beside it."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(40, 3)
        self.scale, self.shift = scale, torch.tensor([shift, 1.0, 2.0])

    def forward(self, x):
        return self.fc(x) * self.scale + self.shift


def save(path: Path, seed=0, scale=2.0, shift=0.0, rows=2) -> Path:
    torch.manual_seed(seed)
    model = Scaled(scale, shift).requires_grad_(False)
    torch.export.save(torch.export.export(model, (torch.ones(rows, 40),)), path)
    return path


def run(path: Path, recipe: str = "f32") -> np.ndarray:
    return np.asarray(lowc.load(lowc.compile(path, recipe))(np.ones((2, 40), np.float32)))


def test_recipes_copies_and_other_weights_share_an_import(tmp_path, imports):
    path = save(tmp_path / "model.pt2")
    copied, other = Path(shutil.copy(path, tmp_path / "copy.pt2")), save(tmp_path / "1.pt2", seed=1)
    first, second, rounded = run(path), run(copied), run(path, "w8a16")
    np.testing.assert_array_equal(first, second)
    assert 0 < np.abs(rounded - first).max() < 0.05
    # Weights are read when they are written, not when the program is imported.
    torch.manual_seed(1)
    wanted = Scaled(2.0, 0.0)(torch.ones(2, 40)).detach().numpy()
    np.testing.assert_allclose(run(other), wanted, rtol=1e-4)
    assert np.abs(first - wanted).max() > 1e-2
    with frontend.open_model(path) as model:
        before = str(model.module)
        frontend.entry_function(model.module).operation.erase()
        model.interface.args_tree.clear()
    with frontend.open_model(path) as again:
        assert str(again.module) == before
        assert again.interface.args_tree
    assert len(imports) == 1


def test_another_value_or_shape_is_another_program(tmp_path, imports):
    for scale, rows in ((2.0, 2), (3.0, 2), (3.0, 5)):
        with frontend.open_model(save(tmp_path / "model.pt2", scale=scale, rows=rows)) as model:
            assert model.interface.inputs[0].shape == (rows, 40)
            assert f"constant {scale:.6e}" in str(model.module)
    assert len(imports) == 3


def test_only_small_constants_are_told_apart_by_their_bytes(tmp_path):
    found = []
    for seed, shift in ((0, 0.0), (1, 0.0), (0, 5.0)):
        program = read_program(Archive(save(tmp_path / f"{seed} {shift}.pt2", seed, shift=shift)))
        found.append(frontend.import_spec(program))
    without = [spec | {"archive": ""} for spec in found]
    assert without[0] == without[1] == without[2]
    keys = [recent_imports.key(spec, Limits()) for spec in found]
    assert keys[0] == keys[1] != keys[2]


def test_a_failed_import_is_not_kept(tmp_path, imports, monkeypatch):
    path = damaged(save(tmp_path / "model.pt2"), tmp_path / "damaged.pt2")
    with monkeypatch.context() as limited:
        limited.setattr(frontend, "IMPORT_LIMITS", Limits(seconds=300, memory=20 << 20))
        with pytest.raises(lowc.InternalError, match="the importer"):
            run(path)
    with pytest.raises(lowc.UserError, match="PyTorch cannot read the program"):
        run(path)
    assert len(imports) == 2
    assert not recent_imports._found


def damaged(path: Path, output: Path) -> Path:
    def change(document):
        hostile.graph_of(document)["nodes"][1]["inputs"][0]["arg"]["as_tensor"]["name"] = "nobody"

    return hostile.edit_program(path, output, change)


def test_few_are_kept(imports):
    made = recent_imports.Imported(b"", "{}")
    for number in range(9):
        recent_imports.remember(recent_imports.Key(bytes([number]), Limits()), made)
        assert recent_imports.look_up(recent_imports.Key(b"\0", Limits()))  # used, so kept
    kept = [n for n in range(9) if recent_imports.look_up(recent_imports.Key(bytes([n]), Limits()))]
    assert kept == [0, 6, 7, 8]
    assert recent_imports.look_up(recent_imports.Key(b"\0", Limits(seconds=1))) is None
