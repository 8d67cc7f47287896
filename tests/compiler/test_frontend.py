"""From a model to named globals, in a child process that cannot hurt its parent."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import archives as hostile
from lowc.compiler import frontend
from lowc.compiler.subprocesses import Limits
from lowc.errors import InternalError, LowcError, UserError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow  # every import is a process that loads PyTorch


def _save(module: Any, path: Path, *args: Any, **kwargs: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), args, kwargs), path)
    return path


class Apply(torch.nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _children() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == os.getpid():
                found.add(int(entry.name))
    return found


# -- what must be taken ----------------------------------------------------------------------------


def test_parameters_become_named_globals(plain_pt2: Path) -> None:
    with frontend.open_model(plain_pt2) as model:
        text = str(model.module)
        assert set(model.tensors) == {"fc.weight", "fc.bias", "scale", "shift"}
        for name in model.tensors:
            assert f'"model"::"{name}"' in text
        assert "func.func @main(%arg0: tensor<2x4xf32>) -> tensor<2x3xf32>" in text
        assert [leaf.name for leaf in model.interface.inputs] == ["x"]


def test_dynamic_sizes(dynamic_pt2: Path) -> None:
    with frontend.open_model(dynamic_pt2) as model:
        function = "func.func @main(%arg0: tensor<?x4xf32>, %arg1: tensor<?x4xf32>)"
        assert function in str(model.module)
        assert sorted(model.interface.ranges.values()) == [(2, 64), (3, 9)]
        assert {leaf.shape[0] for leaf in model.interface.inputs} == set(model.interface.ranges)


def test_nested_inputs_of_every_kind_with_their_examples(tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def forward(self, x, pair, options, count=2, flag=True, *, mask=None, extra=None):
            y = x * count + pair[0] + options["a"][0]
            if flag:
                y = torch.where(mask["m"], y, options["b"].to(y.dtype))
            return {"y": y, "more": (pair[1] + 1, [x > 0])}

    args = (
        torch.ones(3),
        (torch.ones(3), torch.ones(2, dtype=torch.int64)),
        {"a": [torch.ones(3)], "b": torch.ones(3, dtype=torch.bfloat16)},
        3,
        True,
    )
    mask = {"m": torch.ones(3, dtype=torch.bool)}
    path = _save(Nested(), tmp_path / "nested.pt2", *args, mask=mask, extra=None)
    with frontend.open_model(path) as model:
        inputs = model.interface.inputs
        tensors = {leaf.name: (leaf.shape, leaf.dtype) for leaf in inputs if not leaf.literal}
        assert tensors == {
            "x": ((3,), "float32"),
            "pair.0": ((3,), "float32"),
            "pair.1": ((2,), "int64"),
            "options.a.0": ((3,), "float32"),
            "options.b": ((3,), "bfloat16"),
            "mask.m": ((3,), "bool"),
        }
        literals = {leaf.name: leaf.value for leaf in inputs if leaf.literal}
        assert literals == {"count": 3, "flag": True, "extra": None}
        outputs = [(leaf.name, leaf.shape, leaf.dtype) for leaf in model.interface.outputs]
        assert outputs == [
            ("y", (3,), "float32"),
            ("more.0", (2,), "int64"),
            ("more.1.0", (3,), "bool"),
        ]
        assert "!torch" not in str(model.module)


def test_a_transformers_model_saved_with_its_examples(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    ids = torch.ones(1, 8, dtype=torch.int64)
    model = transformers.BertModel(config)
    path = _save(model, tmp_path / "bert.pt2", input_ids=ids, attention_mask=ids)
    with frontend.open_model(path) as found:
        names = [leaf.name for leaf in found.interface.inputs]
        assert names == ["input_ids", "attention_mask"]
        assert found.interface.out_tree["keys"] == ["last_hidden_state", "pooler_output"]
        assert "encoder.layer.0.attention.self.query.weight" in found.tensors


def test_a_program_in_memory_keeps_its_example_inputs() -> None:
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    examples = program.example_inputs
    with frontend.open_model(program) as model:
        assert len(model.interface.outputs) == 1
    assert program.example_inputs is examples


@pytest.mark.parametrize(
    ("model", "hint"),
    [(torch.nn.ReLU(), "export it first"), (7, "pass a path"), (None, "pass a path")],
)
def test_what_is_no_program(model: Any, hint: str) -> None:
    with pytest.raises(UserError, match=hint), frontend.open_model(model):
        pass


# -- operators that cannot be lowered --------------------------------------------------------------


class Outer(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), Apply(function)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def _branch(x):
    return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


def _singular_values(x):
    return torch.linalg.svd(x)[1]


def _custom(x):
    return _scaled(x, 3.0)


@torch.library.custom_op("lowc_tests::scaled", mutates_args=())
def _scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x * factor


_scaled.register_fake(lambda x, factor: torch.empty_like(x))


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (_singular_values, "'aten._linalg_svd' cannot be lowered"),
        (_branch, "'cond' cannot be imported"),
        (_custom, "'lowc_tests.scaled.default' is not known to PyTorch"),
    ],
)
def test_an_unsupported_operator(
    function: Callable[..., Any], operator: str, tmp_path: Path
) -> None:
    path = _save(Outer(function), tmp_path / "model.pt2", torch.ones(4, 4))
    with pytest.raises(UserError) as caught, frontend.open_model(path):
        pass
    error = caught.value
    assert error.exit_code == 2
    assert f"the operator {operator}" in error.what
    assert "module 'blocks.1'" in error.where
    first = inspect.getsourcelines(function)[1]
    # In cond the innermost line of the model is inside the branch, which FX has no line for.
    lines = [first + 1, inspect.getsourcelines(Apply.forward)[1] + 1]
    assert any(f"{__file__}, line {line}" in error.where for line in lines)
    assert "hint: " in str(error)


def test_a_dynamic_number_as_output(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=2, max=8)
    program = torch.export.export(
        Apply(lambda x: (x + 1, x.shape[0] * 2)), (torch.ones(3),), dynamic_shapes={"x": {0: rows}}
    )
    torch.export.save(program, tmp_path / "model.pt2")
    with (
        pytest.raises(UserError, match="an output of kind") as caught,
        frontend.open_model(tmp_path / "model.pt2"),
    ):
        pass
    assert "return tensors" in caught.value.hint


# -- programs that would hurt ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def endless_pt2(archives: Path) -> Path:
    """A split of a thousand million rows into single ones: hours, and terabytes of results."""
    genuine = _save(Apply(lambda x: x.split(1)[0] + 1), archives / "split.pt2", torch.ones(2, 3))

    def change(document: Any) -> None:
        hostile.graph_of(document)["tensor_values"]["x"]["sizes"][0]["as_int"] = 10**9

    return hostile.edit_program(genuine, archives / "endless.pt2", change)


def test_an_endless_import_is_stopped(endless_pt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "IMPORT_LIMITS", Limits(seconds=10))
    before = _children()
    with (
        pytest.raises(UserError, match="importing took more than 10 s and was stopped"),
        frontend.open_model(endless_pt2),
    ):
        pass
    assert _children() <= before


def test_an_import_that_eats_memory_is_stopped(
    endless_pt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "IMPORT_LIMITS", Limits(seconds=300, memory=1 << 30))
    before = _children()
    with pytest.raises(LowcError) as caught, frontend.open_model(endless_pt2):
        pass
    assert str(endless_pt2) in caught.value.where
    assert "memory" in str(caught.value)
    assert _children() <= before


def test_a_crash_is_one_error(tmp_path: Path) -> None:
    """torch-mlir divides by zero when it reshapes nothing."""
    path = _save(Apply(lambda x: x[4:].reshape(-1)), tmp_path / "x.pt2", torch.ones(4, 3))
    before = _children()
    with pytest.raises(InternalError) as caught, frontend.open_model(path):
        pass
    assert caught.value.exit_code == 1
    assert "the importer was ended by SIGFPE" in caught.value.what
    assert "torch-mlir lowers the program" in caught.value.detail
    assert str(path) in caught.value.where
    assert _children() <= before


def test_an_import_without_memory_to_start(
    plain_pt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child dies before it can say why: still one error that names the archive."""
    monkeypatch.setattr(frontend, "IMPORT_LIMITS", Limits(seconds=300, memory=20 << 20))
    with pytest.raises(InternalError) as caught, frontend.open_model(plain_pt2):
        pass
    assert str(plain_pt2) in caught.value.where
    assert "the importer" in caught.value.what


def test_a_damaged_graph_is_one_error(plain_pt2: Path, tmp_path: Path) -> None:
    def change(document: Any) -> None:
        hostile.graph_of(document)["nodes"][1]["inputs"][0]["arg"]["as_tensor"]["name"] = "nobody"

    path = hostile.edit_program(plain_pt2, tmp_path / "x.pt2", change)
    with pytest.raises(UserError, match="PyTorch cannot read the program") as caught:  # noqa: SIM117
        with frontend.open_model(path):
            pass
    assert "Traceback" not in str(caught.value)
