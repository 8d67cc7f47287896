"""Rounds: what crashes, hangs or is wrong ends only itself, and says how."""

import dataclasses
import json

import numpy as np
import pytest
from lowc.compiler.backend import vector_unit
from lowc.compiler.measuring import rounds, worker
from lowc.compiler.measuring.data import difference, useless
from lowc.compiler.measuring.rounds import Prepared, measure, prepare
from lowc.compiler.measuring.worker import Effort
from lowc.compiler.target import load_target
from lowc.errors import InternalError
from lowc.passes.kernels.tiles import Tile
from lowc.passes.tiling import space
from lowc.passes.tiling.tilings import KernelTiling
from products.problems import linalg, problem

SHORT = Effort(block_seconds=0.001, least=1, most=2)
# What is copied to a worker's stack of 1 MiB.
FAR = 1 << 25


@pytest.fixture(scope="module")
def one():
    return problem("f32", vector_unit(load_target("cpu")), 1, 8, 48, 64)


def tile_of(one, **changes):
    tile = Tile(space.default(one).tile.lanes, 8, 1, 64, 1, 8)
    return KernelTiling(dataclasses.replace(tile, **changes))


@pytest.mark.slow
def test_a_round(one, tmp_path):
    chosen = space.candidates(one)[:3]
    prepared = prepare("r", one, chosen, "cpu", tmp_path)
    assert Prepared.read(tmp_path) == prepared
    assert [part.module.name for part in prepared.parts] == ["part0.vmfb"]
    found = list(measure(prepared, SHORT))
    assert sorted(f.tiling for f in found) == sorted(tiling.text for tiling in chosen)
    for finding in found:
        assert finding.outcome == "ok"
        times = finding.times
        assert 0 < times["p10"] <= times["seconds"] * 1.5
        assert times["blocks"] >= 1 and times["calls"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("scales", ["f32", "f16"])
@pytest.mark.parametrize("unit", [vector_unit(load_target("cpu")), "portable"])
def test_operands_of_every_width(unit, scales, tmp_path):
    """Codes are words, zeros are bytes, and scales are f32 or patterns of f16 with factors.

    Where a unit does not read f16, the same scales are stored in f32.
    """
    one = problem("w4a8", unit, 1, 5, 48, 64, symmetric=False, scales=scales)
    chosen = [space.default(one)]
    found = [*measure(prepare("r", one, chosen, "cpu", tmp_path), SHORT)]
    assert [(f.outcome, f.note) for f in found] == [("ok", "")]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "batch"), [("lmul", 1), ("f32", 3)])
def test_tiles_of_code_generation(form, batch, tmp_path):
    one = linalg(form, vector_unit(load_target("cpu")), batch, 16, 64, 24)
    one = dataclasses.replace(one, own_batch=batch > 1)
    chosen = [space.default(one), *space.candidates(one)[1::40]][:4]
    found = {
        f.tiling: f.outcome for f in measure(prepare("r", one, chosen, "cpu", tmp_path), SHORT)
    }
    assert found == {tiling.text: "ok" for tiling in chosen}


@pytest.mark.slow
def test_code_that_crashes(one, tmp_path):
    """Rows are copied to a gigabyte of a stack that is not there: a real SIGSEGV."""
    usual, other = space.candidates(one)[:2]
    crashing = dataclasses.replace(tile_of(one, k_block=FAR), copies=True)
    target = load_target("cpu")
    target = target.with_flags((*target.flags, "--iree-llvmcpu-stack-allocation-limit=2gib"))
    prepared = prepare("r", one, [usual, crashing, other], target, tmp_path)
    assert not prepared.failed
    found = {f.tiling: f for f in measure(prepared, SHORT)}
    assert len(found) == 3
    assert (found[crashing.text].outcome, found[crashing.text].note) == (
        "crash",
        "ended by SIGSEGV",
    )
    assert found[usual.text].outcome == found[other.text].outcome == "ok"


@pytest.mark.slow
def test_code_that_cannot_be_compiled(one, tmp_path):
    usual, other = space.candidates(one)[:2]
    large = dataclasses.replace(tile_of(one, k_block=FAR), copies=True)
    prepared = prepare("r", one, [usual, large, other], "cpu", tmp_path)
    assert [f.tiling for f in prepared.failed] == [large.text]
    assert "exceeded stack allocation limit" in prepared.failed[0].note
    found = [(f.tiling, f.outcome) for f in measure(Prepared.read(tmp_path), SHORT)]
    assert sorted(found) == sorted([(usual.text, "ok"), (large.text, "crash"), (other.text, "ok")])


@pytest.mark.slow
def test_code_that_hangs(one, tmp_path):
    """A block of K of nothing: a loop without end."""
    usual = space.default(one)
    hanging = tile_of(one, k_block=0)
    prepared = prepare("r", one, [usual, hanging], "cpu", tmp_path)
    found = {f.tiling: f for f in measure(prepared, SHORT, seconds=(25.0, 1.0))}
    assert found[hanging.text].outcome == "timeout"
    assert found[hanging.text].note == "not done in 27 s"
    assert set(found) == {usual.text, hanging.text}


@pytest.mark.slow
def test_code_that_is_wrong(tmp_path):
    """Blocks of K of one vector and a half: a copied row runs into the next one."""
    one = problem("lmul", vector_unit(load_target("cpu")), 1, 8, 48, 64)
    usual = space.default(one)
    lanes = usual.tile.lanes
    wrong = KernelTiling(Tile(lanes, 8, 1, lanes * 3 // 2, 1, 8))
    assert space.illegal(one, wrong) == "a block of K has no whole vectors"
    found = {
        f.tiling: f for f in measure(prepare("r", one, [usual, wrong], "cpu", tmp_path), SHORT)
    }
    assert found[usual.text].outcome == "ok"
    assert found[wrong.text].outcome == "wrong"
    assert found[wrong.text].note.endswith("results have other bits")
    assert not found[wrong.text].times


def test_difference():
    one = problem("f32", "avx2", 1, 2, 3, 4)
    added = problem("lmul", "avx2", 1, 2, 3, 4)
    exact = np.linspace(1, 2, 6, dtype=np.float32).reshape(1, 2, 3)
    near = np.nextafter(exact, np.float32(9))
    assert difference(near, exact, one) == ""
    assert difference(near, exact, added) == "6 of 6 results have other bits"
    assert difference(exact, exact, added) == ""
    wrong = exact.copy()
    wrong[0, 0, 0] = 0
    assert difference(wrong, exact, one) == "it is off by 1, results are up to 2"
    wrong[0, 0, 0] = np.nan
    assert "off by inf" in difference(wrong, exact, one)


def test_what_is_no_round(tmp_path):
    (tmp_path / rounds.FILE).write_text(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match="is no round"):
        Prepared.read(tmp_path)


def test_modules_of_the_current_folder_are_not_run(one, tmp_path, monkeypatch):
    for name in ("lowc", "json", "numpy"):
        planted = tmp_path / name / "__init__.py"
        planted.parent.mkdir()
        planted.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    part = rounds.Part(tmp_path / "none.vmfb", (space.default(one).text,))
    with pytest.raises(InternalError, match="failed before it began"):
        list(measure(Prepared("r", one, (part,), ()), SHORT))
    assert not (tmp_path / "ran").exists()


def test_the_time_of_a_tile_is_the_lower_quartile_of_its_blocks():
    tile = worker._Tile(3, lambda: None)
    for seconds in (1.0, 1.1, 1.2, 9.0, 1.0):
        tile.blocks.append(seconds)
        tile.calls.append([seconds] * 4)
    summary = worker._summary(tile)
    assert (summary["time"], summary["seconds"], summary["blocks"]) == (3, 1.0, 5)
    assert summary["spread"] == pytest.approx((1.2 - 1.0) / 2 / 1.1)
    assert not tile.is_known(worker.Effort(seconds=100.0, least=5, error=0.01))
    assert tile.is_known(worker.Effort(seconds=100.0, least=5, error=0.1))
    assert tile.is_known(worker.Effort(seconds=50.0))  # it has had its time
    tile.drop(2)
    assert tile.blocks == [1.0, 1.1, 1.2] and worker._summary(tile)["p90"] == 1.2
    assert worker._summary(tile)["calls"] == 12 and tile.lost == 40.0
    assert tile.is_known(worker.Effort(seconds=50.0))  # what was lost was spent too


def test_nothing_is_compared_with_a_useless_default():
    fine = np.array([0.0, 1.0], np.float32)
    assert useless(fine) == ""
    assert "not all finite" in useless(np.array([np.nan, 1.0], np.float32))
    assert "not all finite" in useless(np.array([np.inf, 1.0], np.float32))
    assert "all 0" in useless(np.zeros(2, np.float32))
