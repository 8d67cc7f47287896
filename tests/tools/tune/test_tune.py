"""`lowc tune` on tiny products: measured once, stopped and resumed, in stages, taken elsewhere."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from lowc.compiler.backend import vector_unit
from lowc.compiler.measuring.fingerprint import SOFTWARE, effort_on
from lowc.compiler.measuring.worker import Effort
from lowc.compiler.target import load_target
from lowc.errors import UserError
from lowc.passes.tiling import space
from lowc.passes.tiling.record import Machine
from lowc.tools.cli import main
from lowc.tools.tune import command, plan
from lowc.tools.tune.run import Job
from lowc.tools.tune.store import Store

SHAPES = ("--shape", "1x5x200x33", "--shape", "2x9x150x20")
FORMS = ("--form", "f32", "--form", "lmul")


def tune(*arguments):
    """Run it with one process for each tile, unless it is told otherwise."""
    assert main(["tune", "--passes", "1", *map(str, arguments)]) == 0


def tried(place):
    with Store(place) as store:
        return [
            (record.problem.shape, record.problem.form, record.tiling) for record in store.records()
        ]


@pytest.mark.slow
def test_measured_once_and_more_later(tmp_path, capsys):
    place = tmp_path / "tiles.sqlite"
    tune("--store", place, *SHAPES, *FORMS, "--tiles", 2)
    first = tried(place)
    assert len(first) == len(set(first)) == 8
    assert f"{place}: 8 ok" in capsys.readouterr().out
    tune("--store", place, *SHAPES, *FORMS, "--tiles", 2)
    assert tried(place) == first
    other = tmp_path / "other.sqlite"
    tune("--store", other, *SHAPES, *FORMS, "--tiles", 2)
    assert "modules were taken from the cache" in capsys.readouterr().err
    capsys.readouterr()
    tune("--store", place, *SHAPES, "--form", "f32", "--tiles", 3, "--json")
    more = tried(place)
    assert more[:8] == first
    # A third tile of both products, and the default again beside it.
    assert len(more) == 12 and len(set(more)) == 10
    assert json.loads(capsys.readouterr().out)["records"] == {"ok": 12}
    with Store(place) as store:
        machines = {record.machine for record in store.records()}
    assert len(machines) == 1
    assert min(machines.pop().bandwidth, 1) == 1


@pytest.mark.slow
def test_in_stages(tmp_path):
    place, work = tmp_path / "tiles.sqlite", tmp_path / "work"
    some = (*SHAPES[:2], "--form", "f32", "--tiles", 2, "--work", work)
    tune("--store", place, *some, "--stage", "prepare")
    assert tried(place) == []
    prepared = [path.stat().st_mtime_ns for path in work.glob("*/part0.vmfb")]
    assert len(prepared) == 1
    tune("--store", place, *some, "--stage", "prepare")
    assert [path.stat().st_mtime_ns for path in work.glob("*/part0.vmfb")] == prepared
    tune("--store", place, *some, "--stage", "measure", "--passes", 2)
    assert len(tried(place)) == 4 and len(set(tried(place))) == 2
    assert not list(work.iterdir())


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """A run that is ended in its middle has kept what it measured, and the next one does the rest."""
    place = tmp_path / "tiles.sqlite"
    shapes = [part for m in range(1, 7) for part in ("--shape", f"1x{m}x200x33")]
    command = [sys.executable, "-m", "lowc.tools.cli", "tune", "--store", str(place), "--form", "f32",
               "--tiles", "2", "--passes", "1", *shapes]  # fmt: skip
    run = "import sys; from lowc.tools.cli import main; sys.exit(main())"
    child = subprocess.Popen([sys.executable, "-c", run, *command[3:]], start_new_session=True)
    try:
        while not place.exists() or not _count(place):
            assert child.poll() is None, "it was done before it was stopped"
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    kept = tried(place)
    assert 0 < len(kept) < 12
    tune("--store", place, "--form", "f32", "--tiles", 2, *shapes)
    found = tried(place)
    assert found[: len(kept)] == kept
    assert len(set(found)) == 12
    # A round that was cut short has its default twice; nothing else was measured again.
    assert len(found) <= 13


def _count(place):
    try:
        return len(tried(place))
    except UserError:  # it is being made
        return 0


@pytest.mark.slow
def test_no_time(tmp_path, capsys):
    place = tmp_path / "tiles.sqlite"
    tune("--store", place, *SHAPES, "--seconds", 0, "--work", tmp_path)
    assert "no records" in capsys.readouterr().out


def test_export_and_import(tmp_path, capsys):
    from products.measurements import records

    one, two, file = tmp_path / "one.sqlite", tmp_path / "two.sqlite", tmp_path / "tiles.parquet"
    with Store(one) as store:
        store.add(records())
    tune("--store", one, "--export", file)
    tune("--store", two, "--import", file)
    tune("--store", two, "--import", file)
    with Store(one) as first, Store(two) as second:
        assert list(first.records()) == list(second.records()) == records()
    said = capsys.readouterr().err
    assert "4 records written" in said
    assert "4 records are new" in said
    assert "0 records are new" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "5x6"), "'5x6' is no shape"),
        (("--shape", "1x0x2x3"), "sizes of '1x0x2x3' are to be 1 to"),
        (("--shape", "2x3x4x5", "--form", "w4a8"), "'w4a8' is a form of products with a weight"),
        (("--form", "w4a9"), "there is no form 'w4a9' to measure"),
        (("--lowering", "linalg", "--form", "w4a8"), "'w4a8' is not one contraction"),
        (("--target", "cuda:sm_50", "--stage", "prepare", "--work", "."), "sm_50 is too old"),
        (("--stage", "measure"), "a stage alone needs a folder"),
        (("--round", "1"), "a round has 2 tiles or more"),
        (("--executor", "magic"), "there is no executor 'magic'"),
        (("--seconds", "-1"), "-1.0 is not in the range"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capsys):
    place = ("--store", str(tmp_path / "tiles.sqlite"))
    assert main(["tune", *place, "--seconds", "0", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--executor", "foo"), "there is no executor 'foo'"),
        (("--executor", "ray", "--target", "vulkan"), "clusters measure on CPUs, not on 'vulkan'"),
        (
            ("--executor", "ray", "--stage", "prepare", "--work", "."),
            "compiles and measures in one go",
        ),
        (("--executor", "ray:h", "--stage", "measure", "--work", "."), "in one go"),
    ],
)
def test_executors_are_refused_before_anything_is_done(arguments, message, tmp_path, capsys):
    """Before the store opens: this one could not be opened."""
    assert main(["tune", "--store", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_only_the_usual_stores_folder_is_made(tmp_path, capsys, monkeypatch):
    nope = tmp_path / "nope" / "dir"
    assert main(["tune", "--store", str(nope / "x.sqlite"), "--seconds", "0"]) == 2
    assert f"there is no folder '{nope}'" in capsys.readouterr().err
    monkeypatch.setenv("LOWC_STORE", str(nope / "x.sqlite"))
    assert main(["tune", "--seconds", "0"]) == 2
    assert not nope.parent.exists()
    monkeypatch.delenv("LOWC_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert command._place(None) == str(tmp_path / "cache" / "lowc" / "tiles.sqlite")
    assert (tmp_path / "cache" / "lowc").is_dir()


def test_software_devices_are_called_less_often():
    software, gpu = (Machine(name, "spirv") for name in (*SOFTWARE, "vulkan:rdna3"))
    assert effort_on(software).most < effort_on(gpu).most == Effort().most


def test_a_cost_model_that_is_not_there_is_told(tmp_path, capsys, monkeypatch):
    """No model comes with lowc for the code of GPUs."""
    monkeypatch.setenv("LOWC_MODELS", str(tmp_path / "home"))
    job = Job(None, Machine("vulkan:rdna3", "spirv"), "vulkan:rdna3", tmp_path, Effort(), 0.0)
    with Store(tmp_path / "tiles.sqlite") as store:
        job = dataclasses.replace(job, store=store)
        asked = (job, ("w4a16",), ("1x1x64x64",), "kernel", 2, 24)
        command._rounds(*asked, "learned")
        assert (
            "no tiles are those that a cost model thinks best: there is no cost model for spirv"
            in (capsys.readouterr().err)
        )
        command._rounds(*asked, "none")
        assert capsys.readouterr().err == ""


def test_what_is_planned():
    unit = vector_unit(load_target("cpu"))
    chosen = plan.problems(plan.STANDARD[:4], unit)
    assert len({one.key for one in chosen}) == len(chosen)
    for form in plan.STANDARD[:4]:
        of_form = [one for one in chosen if one.form == form]
        assert len(of_form) >= 40
        assert len({(one.n, one.k) for one in of_form}) >= 40
    assert any(one.packs for one in chosen)


def test_a_larger_sample_has_the_smaller_one_in_it():
    one = plan.problem_of("f32", "avx512vnni", (1, 128, 384, 384))
    small, large = plan.sample(one, 5), plan.sample(one, 20)
    assert large[:5] == small
    assert 8 <= sum(tiling in space.candidates(one) for tiling in large) <= 12
    assert small[0] == space.default(one)
    assert set(plan.sample(one, 0)) == set(space.every(one))
    measured = {(one.key, tiling.text) for tiling in small}
    (again,) = plan.rounds([one], 20, measured, 24)
    assert again.tilings == (small[0], *large[5:])
    cut = list(plan.rounds([one], 20, set(), 8))
    assert [len(part.tilings) for part in cut] == [8, 8, 6]
    assert all(part.tilings[0] == small[0] for part in cut)
    assert not list(plan.rounds([one], 20, {(one.key, t.text) for t in large}, 8))
    assert len({part.name for part in cut}) == 3
