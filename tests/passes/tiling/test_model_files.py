"""Model files: what is written is read and predicts the same; what is damaged is refused in words."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
from lowc import UserError
from lowc.passes.tiling import choice, model_files, rankers, space, tree_ranker
from lowc.passes.tiling.record import Machine
from lowc.tools.tune import fit
from tiny.measurements import HERE, problem, records

pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of records that follow a formula."""
    folder = tmp_path_factory.mktemp("model")
    fit.fit(list(records()), folder, lambda _: None, rounds=40)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_it_ranks(folder):
    ranker = rankers.ranker(str(folder), HERE)
    one = problem(100, 500, 300)
    tilings = space.candidates(one)
    found = ranker.predict(one, tilings)
    assert found.seconds.shape == found.spread.shape == (len(tilings),)
    assert (found.seconds > 0).all() and (found.spread > 0).all()
    chosen = choice.choose(one, ranker)
    assert chosen.tiling in tilings and "cost model avx512" in chosen.reason
    manifest = model_files.read(folder).manifest
    assert manifest.machine == HERE and manifest.data["products"] == 22
    assert manifest.metrics["all"]["tau"] > 0.2


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Another CPU"}, {"unit": "avx512vnni"}, {"threads": 8},
        {"caches": (48 << 10, 2 << 20, 64 << 20)},
    ],
)  # fmt: skip
def test_elsewhere_it_is_less_sure_and_says_so(folder, change):
    other = dataclasses.replace(HERE, **change)
    held = model_files.read(folder).manifest.numbers
    there, here = rankers.ranker(str(folder), other), rankers.ranker(str(folder), HERE)
    one = problem(100, 500, 300)
    a, b = (ranker.predict(one, space.candidates(one)) for ranker in (there, here))
    assert (a.spread >= tree_ranker.ELSEWHERE * held.spread_floor * 0.99).all()
    if "name" in change:  # of which the features know nothing
        np.testing.assert_allclose(a.spread, tree_ranker.ELSEWHERE * b.spread)
    assert "another machine" in there.name and "another" not in here.name
    assert "lowc tune" in there.warning and not here.warning


def manifest_of(copy, change):
    path = copy / model_files.MANIFEST
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(format="x"), "no manifest of a cost model"),
        (lambda v: v["features"].append("x"), "other features"),
        (lambda v: v.update(features_version=99), "other features"),
        (lambda v: v.pop("time"), "damaged"),
        (lambda v: v.update(time=["../../etc/passwd"]), "no name of a model's file"),
        (lambda v: v.update(time=["/etc/passwd.txt"]), "no name of a model's file"),
        (lambda v: v.update(time=["other.txt"]), "does not list 'other.txt'"),
        (lambda v: v.update(time=[]), "names no trees"),
        (lambda v: v.update(time=v["time"] * 2), "trees twice, or too many"),
        (lambda v: v.update(rank=[f"rank-{i}.txt" for i in range(99)]), "trees twice, or too many"),
        (lambda v: v["machine"].update(bandwidth=-1), "rate is out of range"),
        (lambda v: v["machine"].update(bandwidth=float("inf")), "rate is out of range"),
        (lambda v: v["machine"].update(multiply_rate=float("nan")), "rate is out of range"),
        (lambda v: v["machine"].update(threads=0), "threads or caches are out of range"),
        (lambda v: v["machine"].update(threads=float("inf")), "damaged"),
        (lambda v: v["machine"].update(caches=[1, 2, -3]), "threads or caches are out of range"),
        (lambda v: v.update(files=[]), "lists no files"),
        (lambda v: v["numbers"].update(rank_slope=float("nan")), "out of range"),
        (lambda v: v["numbers"].update(rank_slope="x"), "damaged"),
        (lambda v: v["formulas"].update({"f32/kernel": [1.0]}), "a formula has"),
        (lambda v: v.update(machine={"x": 1}), "damaged"),
        (lambda v: v["files"]["time-0.txt"].update(sha256="0"), "SHA-256"),
    ],
)
def test_a_damaged_manifest_is_refused(copy, change, said):
    manifest_of(copy, change)
    with pytest.raises(UserError, match=said) as caught:
        rankers.ranker(str(copy), HERE)
    assert caught.value.exit_code == 2 and str(copy) in str(caught.value)


def test_a_damaged_file_is_refused(copy, monkeypatch):
    trees = copy / "time-0.txt"
    text = trees.read_text()
    trees.write_text(text.replace("left_child=", "left_child=7", 1))
    with pytest.raises(UserError, match="SHA-256"):
        rankers.ranker(str(copy), HERE)
    # With the right hash, it is the trees that are looked at.
    loaded = model_files.read(copy_with(copy, {"time-0.txt": trees.read_bytes()}))
    with pytest.raises(UserError, match="no model that lowc can use"):
        tree_ranker.TreeRanker(loaded, HERE)
    monkeypatch.setattr(model_files, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="larger"):
        rankers.ranker(str(copy), HERE)


def test_files_have_a_most_together(copy, monkeypatch):
    sizes = sorted(len(data) for data in model_files.read(copy).files.values())
    monkeypatch.setattr(model_files, "MOST_TOGETHER", sum(sizes))
    model_files.read(copy)
    monkeypatch.setattr(model_files, "MOST_TOGETHER", sum(sizes) - 1)
    with pytest.raises(UserError, match="larger"):
        model_files.read(copy)


def test_what_is_no_plain_file_is_not_read(copy):
    for name, said in (("time-0.txt", "no plain file"), (model_files.MANIFEST, "no plain file")):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(UserError, match=said):
            model_files.read(copy)
        (copy / name).unlink()
        (copy / name).symlink_to("/dev/zero")
        with pytest.raises(UserError, match=said):
            model_files.read(copy)


def test_half_a_model_has_no_manifest(copy):
    whole = model_files.read(copy)
    # The second file cannot be written.
    (copy / "time-1.txt").unlink()
    (copy / "time-1.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        model_files.write(copy, whole.manifest, whole.files)
    with pytest.raises(UserError, match="no cost model here"):
        model_files.read(copy)
    (copy / "time-1.txt").rmdir()
    model_files.write(copy, whole.manifest, whole.files)
    assert model_files.read(copy).files == whole.files


def copy_with(folder, changed):
    loaded_names = json.loads((folder / model_files.MANIFEST).read_text())["files"]
    files = {name: (folder / name).read_bytes() for name in loaded_names} | changed
    (folder / "time-0.txt").write_bytes(files["time-0.txt"])
    import hashlib

    for name, data in files.items():
        manifest_of(folder, lambda v, n=name, d=data: v["files"][n].update(
            sha256=hashlib.sha256(d).hexdigest()))  # fmt: skip
    return folder


def test_what_is_no_manifest_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no cost model here"):
        rankers.ranker(str(tmp_path), HERE)
    path = tmp_path / model_files.MANIFEST
    for text, said in (("{", "no JSON"), ("[]", "no JSON object"), ("[" * 100_000, "no JSON")):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            rankers.ranker(str(tmp_path), HERE)
    monkeypatch.setattr(model_files, "MOST_MANIFEST", 10)
    with pytest.raises(UserError, match="larger"):
        rankers.ranker(str(tmp_path), HERE)
    with pytest.raises(UserError, match="there is no cost model 'nowhere'"):
        rankers.ranker("nowhere", HERE)


def test_learned_takes_what_was_fitted_here(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWC_MODELS", str(tmp_path))
    unknown = Machine("Unknown", "avx2")
    found = rankers.ranker("learned", unknown)
    one = problem(64, 64, 64)
    chosen = choice.choose(one, found)
    assert chosen.is_default and "no cost model for avx2" in chosen.reason
    (tmp_path / HERE.key).symlink_to(folder)
    assert isinstance(rankers.ranker("learned", HERE), tree_ranker.TreeRanker)


def test_a_fitted_model_that_cannot_be_used_is_passed_over(copy, tmp_path, monkeypatch):
    manifest_of(copy, lambda v: v.update(features_version=99))
    monkeypatch.setenv("LOWC_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    one = problem(64, 64, 64)
    for machine in (HERE, Machine("Unknown", "avx2")):
        (tmp_path / "models" / machine.key).symlink_to(copy)
        found = rankers.ranker("learned", machine)
        assert isinstance(found, tree_ranker.TreeRanker) == (machine is HERE)
        chosen = choice.choose(one, found)
        assert f"{machine.key} (this model reads other features" in chosen.reason
    assert chosen.is_default


def test_without_lightgbm_tiles_are_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWC_MODELS", str(tmp_path))
    (tmp_path / HERE.key).symlink_to(folder)
    one = problem(64, 64, 64)
    chosen = choice.choose(one, rankers.ranker("learned", HERE))
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert choice.choose(one, rankers.ranker("learned", HERE)) == chosen
