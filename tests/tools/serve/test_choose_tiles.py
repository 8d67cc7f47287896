"""`/v1/choose-tiles`: the choice that the compiler itself would make with the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowc.passes.tiling import choice, features, model_files, space, text_model, tokens
from lowc.passes.tiling.problem import Problem
from lowc.tools.serve import cost_model, sources
from lowc.tools.serve.cost_model import CostModel
from serving import trained
from serving.server import Server

FORMS = ["f32", "lmul", "pam", "w4a16", "w2a8", "w4a8", "w8a8", "shift-add", "lut", "ternary"]


@pytest.fixture(scope="module")
def model(repository: Path) -> CostModel:
    return cost_model.load_cost_model(repository / "tiles" / "1", "tiles", "1")


def choose(server: Server, *matmuls: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    status, found, _ = server.ask("/v1/choose-tiles", {"matmuls": list(matmuls), **more})
    assert status == 200, found
    return found["matmuls"]


@pytest.mark.parametrize("lowering", ["kernel", "linalg"])
def test_every_form(server: Server, lowering: str) -> None:
    asked = [{"form": form, "shape": [1, 64, 256, 128], "lowering": lowering} for form in FORMS]
    for one, found in zip(asked, choose(server, *asked), strict=True):
        assert found["form"] == one["form"]
        assert found["count"] >= len(found["best"]) > 1
        times = [tile["seconds"] for tile in found["best"]]
        assert times == sorted(times)
        assert min(times) > 0
        assert found["seconds"] <= found["default_seconds"]
        assert found["model"] == "tiles 1"
        assert found["limits"]["by"] in ("bytes", "operations")


def test_it_is_the_choice_of_the_compiler(server: Server, model: CostModel) -> None:
    sizes = [(1, 1, 512, 512), (1, 128, 1536, 384), (12, 64, 64, 32)]
    asked = [{"form": "f32", "shape": list(shape)} for shape in sizes]
    for shape, found in zip(sizes, choose(server, *asked, all=True), strict=True):
        problem = Problem("f32", "kernel", trained.MACHINE.unit, *shape)
        wanted = choice.choose(problem, model.ranker)
        tilings = space.candidates(problem)
        said = model.ranker.predict(problem, tilings)
        assert (found["tile"], found["is_default"]) == (wanted.tiling.text, wanted.is_default)
        assert found["seconds"] == wanted.seconds
        assert [tile["tile"] for tile in found["tiles"]] == [one.text for one in tilings]
        assert [tile["seconds"] for tile in found["tiles"]] == list(said.seconds)
        assert [tile["spread"] for tile in found["tiles"]] == list(said.spread)


def test_the_tabular_model_says_the_same(server: Server, model: CostModel) -> None:
    """The protocol's way to the same trees: features in, seconds out."""
    problem = Problem(
        "w4a8",
        "kernel",
        trained.MACHINE.unit,
        1,
        16,
        384,
        384,
        own_batch=True,
        weight="i4",
        group=32,
        scales="f16",  # as the recipe has them
    )
    tilings = space.candidates(problem)
    rows = features.matrix(problem, tilings, trained.MACHINE)
    tensor = {
        "name": "features",
        "datatype": "FP64",
        "shape": list(rows.shape),
        "data": rows.tolist(),
    }
    form = {
        "name": "form",
        "datatype": "BYTES",
        "shape": [len(rows)],
        "data": ["w4a8/kernel"] * len(rows),
    }
    status, found, _ = server.ask("/v2/models/tiles/infer", {"inputs": [tensor, form]})
    assert status == 200, found
    outputs = {one["name"]: np.array(one["data"]) for one in found["outputs"]}
    np.testing.assert_allclose(
        outputs["seconds"], model.ranker.predict(problem, tilings).seconds, rtol=1e-12
    )
    chosen = choose(server, {"form": "w4a8", "shape": [16, 384, 384]}, all=True)[0]
    np.testing.assert_allclose(
        outputs["seconds"], [one["seconds"] for one in chosen["tiles"]], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("matmul", "status", "said"),
    [
        ({"form": "f33"}, 400, "matmuls.0.form: String should match pattern"),
        ({"form": "w4a8", "right": "activation"}, 400, "needs a weight"),
        ({"shape": [1 << 20] * 3}, 400, "no call has the sizes 1x1048576x1048576x1048576"),
        ({"shape": [1 << 24, 64, 64]}, 400, "less than or equal to 1048576"),
        ({"shape": [1 << 17, 1, 1, 1]}, 400, "a product has at most 65536 batches"),
        (
            {"shape": [0, 8, 8]},
            400,
            "matmuls.0.shape.0: Input should be greater than or equal to 1",
        ),
        ({"shape": [8, 8]}, 400, "matmuls.0.shape"),
        ({"target": "cuda"}, 404, "there is no model for 'cuda'"),
        ({"colour": "red"}, 400, "matmuls.0.colour: Extra inputs are not permitted"),
        ({"form": "w4a8", "group": 7}, 400, "a group is 16, 32, 48 or a multiple of 64"),
    ],
)
def test_refusals(server: Server, matmul: dict[str, Any], status: int, said: str) -> None:
    asked = {"matmuls": [{"form": "f32", "shape": [8, 8, 8], **matmul}]}
    found = server.ask("/v1/choose-tiles", asked)
    assert found[0] == status
    assert said in found[1]["error"]


def test_all_tiles_are_told_of_a_few(server: Server) -> None:
    asked = {"matmuls": [{"form": "f32", "shape": [8, 8, 8]}] * 9, "all": True}
    status, found, _ = server.ask("/v1/choose-tiles", asked)
    assert (status, found["error"]) == (400, "all tiles are told of 8 matmuls at most")
    assert server.ask("/v1/choose-tiles", {**asked, "all": False})[0] == 200


def test_a_form_s_own_formula(server: Server) -> None:
    """The same features are other seconds for a form that has a formula."""
    problem = Problem("lmul", "kernel", trained.MACHINE.unit, 1, 16, 384, 384)
    rows = features.matrix(problem, space.candidates(problem)[:2], trained.MACHINE)
    rows = np.concatenate([rows, rows])
    tensors = [
        {"name": "features", "datatype": "FP64", "shape": list(rows.shape), "data": rows.tolist()},
        {
            "name": "form",
            "datatype": "BYTES",
            "shape": [4],
            "data": ["lmul/kernel"] * 2 + ["other"] * 2,
        },
    ]
    status, found, _ = server.ask("/v2/models/tiles/infer", {"inputs": tensors})
    assert status == 200, found
    seconds = found["outputs"][0]["data"]
    assert seconds[:2] != seconds[2:]
    chosen = choose(server, {"form": "lmul", "shape": [16, 384, 384]}, all=True)[0]
    assert min(one["seconds"] for one in chosen["tiles"]) > 0


def test_the_text_model(server: Server, repository: Path) -> None:
    loaded = model_files.read(repository / "tiles" / "1")
    manifest = loaded.manifest
    model = text_model.from_bytes(loaded.files[manifest.text], manifest.vocabulary, "")
    texts = [
        "func.func @f(%a: f32) -> f32 {\n  %b = arith.addf %a, %a : f32\n  return %b : f32\n}",
        "func.func @g(%a: f32) -> f32 {\n  return %a : f32\n}",
    ]
    tensor = {"name": "mlir", "datatype": "BYTES", "shape": [2], "data": texts}
    status, found, _ = server.ask("/v2/models/tiles-text/infer", {"inputs": [tensor]})
    assert status == 200, found
    said = {one["name"]: one["data"] for one in found["outputs"]}
    assert "seconds" not in said, "it has learnt no times"
    for i, text in enumerate(texts):
        wanted = model.predict(tokens.tokenize(text, trained.MACHINE.unit))
        for name, values in said.items():
            assert values[i] == getattr(wanted, name)
    for bad, status in (("", 400), ("x" * (300 << 10), 413)):
        asked = {"inputs": [{**tensor, "shape": [1], "data": [bad]}]}
        assert server.ask("/v2/models/tiles-text/infer", asked)[0] == status


def test_limits_count_scales_of_groups(server: Server) -> None:
    asked = [{"form": form, "shape": [1, 4096, 4096]} for form in ("w4a8", "w8a8")]
    four, eight = (found["limits"]["bytes_moved"] for found in choose(server, *asked))
    assert four == 4 * 2 * 4096 + 4096 * 4096 * 4.5 / 8  # of 32, in f16
    assert eight == 4 * 2 * 4096 + 4096 * (4096 + 4)  # of a row, in f32


def test_limits(server: Server) -> None:
    """One row reads each weight for one product: its bytes limit it; many rows do not."""
    one, many = choose(
        server,
        {"form": "f32", "shape": [1, 4096, 4096]},
        {"form": "f32", "shape": [512, 4096, 4096]},
    )
    assert one["limits"]["by"] == "bytes"
    assert one["limits"]["bytes_moved"] == 4 * (4096 * 4096 + 2 * 4096)
    assert many["limits"]["by"] == "operations"
    assert many["limits"]["operation_seconds"] == pytest.approx(
        512 * 4096**2 / trained.MACHINE.multiply_rate
    )


def test_each_form_has_a_model_of_its_own(server: Server, model: CostModel) -> None:
    """Formulas are of forms: that of lmul has one here, and the others have none."""
    problem = Problem("lmul", "kernel", trained.MACHINE.unit, 1, 16, 384, 384)
    rows = features.matrix(problem, space.candidates(problem)[:5], trained.MACHINE)
    tensor = {
        "name": "features",
        "datatype": "FP64",
        "shape": [5, rows.shape[1]],
        "data": rows.tolist(),
    }
    names = [one["name"] for one in server.ask("/v2/repository/index", {})[1]]
    assert "tiles-lmul" in names
    assert "tiles-f32" not in names
    status, found, _ = server.ask("/v2/models/tiles-lmul/infer", {"inputs": [tensor]})
    assert status == 200, found
    said = model.predict({"features": rows, "form": np.array([b"lmul/kernel"] * 5, object)})
    assert {one["name"]: one["data"] for one in found["outputs"]} == {
        name: list(values) for name, values in said.items()
    }
    status, about, _ = server.ask("/v2/models/tiles-lmul")
    assert [one["name"] for one in about["inputs"]] == ["features"]
    other = model.predict({"features": rows, "form": np.array([b"f32/kernel"] * 5, object)})
    assert (other["seconds"] != said["seconds"]).all()


def test_the_package_has_the_forms_that_were_measured() -> None:
    source = sources.Packaged()
    every = {name: source.load(name, "1") for name in source.versions()}
    forms = {model.form for model in every.values() if isinstance(model, CostModel)}
    assert {"", "f32/kernel", "w4a8/kernel"} <= forms
    of_one = [m.ranker for m in every.values() if isinstance(m, CostModel) and "avx512" in m.name]
    assert len({id(ranker) for ranker in of_one}) == 1, "the parts of a model share its trees"


def test_the_package_s_model_is_for_a_family_of_units() -> None:
    names = sources.Packaged().versions()
    assert "tiles-avx512" in names
    model = sources.Packaged().load("tiles-avx512", "1")
    assert model.unit.startswith("avx512")
    assert model.is_for("avx512vnni")
    assert model.is_for("avx512")
    assert not model.is_for("avx2")
