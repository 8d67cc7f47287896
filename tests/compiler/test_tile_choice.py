"""Tiles of a model: measured before it is compiled, or taken from what was measured; still right."""

import numpy as np
import pytest
from lowc.compiler.backend import vector_unit
from lowc.compiler.frontend import parse_module
from lowc.compiler.target import load_target
from lowc.compiler.tile_choice import TileChoice, with_tiles
from lowc.errors import UserError
from lowc.passes import annotations
from lowc.passes.assign_forms import AssignForms
from lowc.passes.forms import Form
from lowc.passes.name_matmuls import NameMatmuls
from lowc.passes.outline_kernels import OutlineKernels
from lowc.passes.runner import Runner
from lowc.passes.select_tiles import products
from lowc.passes.tiling import attribute, space
from lowc.tools.cli import main
from products.linear import compile_linear, linear_text
from products.problems import linalg, problem

M, N, K = 24, 96, 64


@pytest.fixture
def weight():
    return np.random.default_rng(3).standard_normal((N, K)).astype(np.float32)


def check(artifact, weight):
    import lowc

    x = np.random.default_rng(4).standard_normal((M, K)).astype(np.float32)
    (found,) = [lowc.load(artifact)(x)]
    np.testing.assert_allclose(np.asarray(found), x @ weight.T, atol=1e-4)


@pytest.mark.slow
def test_the_best_are_measured(weight, tmp_path):
    choice = TileChoice(measure_top=2)
    artifact = compile_linear(tmp_path, weight, Form(), M, tiles=choice)
    (row,) = artifact.report["matmuls"]
    assert row["tile_reason"].startswith("measured: ")
    assert row["predicted_seconds"] > 0
    assert "tiles" in artifact.report["seconds"]
    check(artifact, weight)


@pytest.mark.slow
def test_what_was_measured_is_taken(weight, tmp_path):
    one = problem("f32", vector_unit(load_target("cpu")), 1, M, N, K)
    usual, other = space.candidates(one)[:2]
    known = {one.key: {usual.text: 2e-5, other.text: 1e-5}}
    artifact = compile_linear(tmp_path, weight, Form(), M, tiles=TileChoice(measured=known))
    (row,) = artifact.report["matmuls"]
    assert row["tile"] == other.text
    assert row["predicted_seconds"] == 1e-5
    assert row["tile_reason"] == "measured: the fastest of 2, 100 % faster than the default"
    check(artifact, weight)


@pytest.mark.slow
def test_code_generation_takes_a_tile(weight, tmp_path):
    """Sums of added products have an order: another tile gives the same bits."""
    import lowc

    one = linalg("lmul", vector_unit(load_target("cpu")), 1, M, N, K)
    tile = space.candidates(one)[5].text
    known = {one.key: {"stock": 2e-3, tile: 1e-4}}
    x = np.random.default_rng(4).standard_normal((M, K)).astype(np.float32)
    found = []
    for name, choice in (("stock", None), ("tiled", TileChoice(measured=known))):
        folder = tmp_path / name
        folder.mkdir()
        artifact = compile_linear(folder, weight, Form(form="lmul"), M, kernels=False, tiles=choice)
        (row,) = artifact.report["matmuls"]
        assert row["tile"] == (None if choice is None else tile)
        found.append(np.asarray(lowc.load(artifact)(x)))
    assert np.array_equal(*found)


def test_a_refusal_of_code_generation_names_the_tiles_it_was_told():
    module = parse_module(linear_text(M, N, K), "test")
    rules = AssignForms(rules='[{"match":"*","form":"exact"}]')
    Runner([NameMatmuls(), rules]).run(module)
    unit = vector_unit(load_target("cpu"))
    with module.context:
        ((op, one),) = products(module, unit, kernels=False)
        name, tile = annotations.text(op, annotations.MATMUL), space.candidates(one)[1].text
        assert attribute.told(module) == {}
        annotations.set_text(op, annotations.TILE, tile)
    Runner([OutlineKernels(unit=unit, kernels=False)]).run(module)
    with module.context:
        told = attribute.told(module)
    assert told == {name: tile}
    refused = UserError("iree-compile cannot lower 'linalg.generic'", where="x", hint="then this")
    named = with_tiles(refused, told)
    assert named.hint == (
        f"it was told the tiles '{tile}' of '{name}': without --cost-model, --measure-top and "
        "'lowc.tile' it takes its own; then this"
    )
    assert (named.what, named.where) == (refused.what, refused.where)
    assert with_tiles(refused, {}) is refused
    other = UserError("the disk is full")
    assert with_tiles(other, told) is other


@pytest.mark.slow
def test_a_chosen_tile_that_iree_refuses_is_left_out(weight, tmp_path, monkeypatch):
    """None of those that can be chosen is known to be refused: another text stands in for one."""
    one = linalg("lmul", vector_unit(load_target("cpu")), 1, M, N, K)
    tile = space.candidates(one)[5].text
    wrong = attribute._CPU.format("[7]", "[3, 1, 1, 1, 1]", "[0]")
    monkeypatch.setattr(attribute, "compilation_info", lambda *_: wrong)
    choice = TileChoice(measured={one.key: {"stock": 2e-3, tile: 1e-4}})
    artifact = compile_linear(
        tmp_path, weight, Form(form="lmul"), M, kernels=False, tiles=choice
    )  # fmt: skip
    (row,) = artifact.report["matmuls"]
    assert (row["tile"], row["predicted_seconds"]) == (None, None)
    assert row["tile_reason"] == "IREE refused the chosen tile"
    (note,) = artifact.report["notes"]
    assert note.startswith(
        f"IREE tiles {row['name']} by itself: with the chosen tiles iree-compile"
    )
    assert artifact.manifest.report["matmuls"] == [row]


@pytest.mark.slow
@pytest.mark.vulkan
def test_the_best_are_measured_on_a_gpu(weight, tmp_path):
    import lowc

    artifact = compile_linear(
        tmp_path, weight, Form(form="lmul"), M, target="vulkan", tiles=TileChoice(measure_top=2)
    )
    (row,) = artifact.report["matmuls"]
    assert row["tile_reason"].startswith("measured: ")
    assert row["predicted_seconds"] > 0
    x = np.ones((M, K), np.float32)
    usual = compile_linear(tmp_path, weight, Form(form="lmul"), M, target="vulkan")
    assert np.array_equal(*(np.asarray(lowc.load(one, "vulkan")(x)) for one in (artifact, usual)))


@pytest.mark.vulkan
def test_only_for_a_gpu_that_is_here(weight, tmp_path):
    with pytest.raises(UserError, match="tiles for 'vulkan:valhall' cannot be measured here"):
        compile_linear(
            tmp_path, weight, Form(), M, target="vulkan:valhall", tiles=TileChoice(measure_top=2)
        )


def test_only_for_this_machine(weight, tmp_path):
    with pytest.raises(UserError, match="tiles for 'cpu:haswell' cannot be measured here"):
        compile_linear(
            tmp_path, weight, Form(), M, target="cpu:haswell", tiles=TileChoice(measure_top=2)
        )


def test_no_choice_leaves_no_trace(weight, tmp_path):
    artifact = compile_linear(tmp_path, weight, Form(), M)
    (row,) = artifact.report["matmuls"]
    assert row["tile_reason"] is None
    assert row["predicted_seconds"] is None
    assert row["tile"].startswith("t")
    assert "tiles" not in artifact.report["seconds"]


@pytest.mark.parametrize("name", ["nonsense", "http://[", "http://", "https://a b", "http://h:x"])
def test_a_cost_model_that_is_none_is_found_before_the_model_is_read(name, capsys):
    assert main(["compile", "no-such-model.pt2", "--cost-model", name]) == 2
    said = capsys.readouterr().err
    assert "there is no cost model 'nonsense'" in said or "is no address of a server" in said
