"""``lowc report devices`` on a tiny model: what agrees, what does not, and what is kept."""

import dataclasses
import json

import pytest
from lowc.compiler.recipe import built_in_names, load_recipe
from lowc.tools.cli import main
from lowc.tools.report import devices

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("devices") / "tiny.pt2"
    layer = torch.nn.Linear(64, 48)
    torch.export.save(torch.export.export(layer, (torch.ones(3, 64),)), path)
    return path


@pytest.mark.vulkan
def test_a_device_that_agrees(model, capsys, tmp_path):
    given = ["report", "devices", str(model), "--target", "vulkan", "--json"]
    code = main([*given, "--recipe", "w4a8", "--recipe", "lmul", "--keep", str(tmp_path)])
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    rounded, added = record["recipes"]
    assert rounded["rounds"] and not added["rounds"] and added["bound"] == devices.BOUND
    for row in (rounded, added):
        assert row["holds"] and row["difference"] < 1e-6 < row["recipe_error"]
        assert row["kernels"] == row["products"] == 1
    (kept,) = tmp_path.glob("devices-tiny-vulkan-*.json")
    assert json.loads(kept.read_text()) == record


@pytest.mark.vulkan
def test_a_run_that_ends_early_has_kept_what_was_done(model, capsys, tmp_path, monkeypatch):
    given = ["report", "devices", str(model), "--target", "vulkan", "--calls", "1"]
    both = [*given, "--recipe", "pam", "--recipe", "w8a16"]
    compare = devices.Study.compare

    def fall(self, recipe, name, *rest):
        if name == "w8a16":
            raise KeyboardInterrupt
        return compare(self, recipe, name, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(devices.Study, "compare", fall)
        assert main([*both, "--keep", str(tmp_path)]) == 130
    (kept,) = tmp_path.glob("*.json")
    (first,) = json.loads(kept.read_text())["recipes"]
    assert first["recipe"] == "pam" and first["holds"]

    assert main([*both, "--resume", str(kept)]) == 0
    assert "pam: is in" in capsys.readouterr().err
    assert [row["recipe"] for row in json.loads(kept.read_text())["recipes"]] == ["pam", "w8a16"]
    assert json.loads(kept.read_text())["recipes"][0] == first
    assert list(tmp_path.iterdir()) == [kept]

    assert main([*both, "--resume", str(kept), "--keep", str(tmp_path)]) == 2
    assert main([*given[:-1], "2", "--recipe", "pam", "--resume", str(kept)]) == 2
    assert "the record has calls 1, not 2" in capsys.readouterr().err
    kept.write_text("[]")
    assert main([*given, "--recipe", "pam", "--resume", str(kept)]) == 2
    assert "this is no record of devices" in capsys.readouterr().err


@pytest.mark.vulkan
def test_a_device_that_does_not_is_named(model, capsys, monkeypatch):
    monkeypatch.setattr(devices, "BOUND", -1.0)
    assert main(["report", "devices", str(model), "--target", "vulkan", "--recipe", "pam"]) == 1
    said = capsys.readouterr()
    assert "TOO FAR" in said.out and "vulkan gives other results than the CPU: pam" in said.err


def test_which_recipes_round_activations():
    rounding = {
        name
        for name in built_in_names()
        if any(devices.rounds_activations(rule.form) for rule in load_recipe(name).rules)
    }
    exact = {
        "f32",
        "lmul",
        "pam",
        "shift",
        "w4a16",
        "w8a16",
    }
    assert rounding == set(built_in_names()) - exact
    bounds = {
        name: devices.bound_for([rule.form for rule in load_recipe(name).rules])
        for name in built_in_names()
    }
    assert {name for name, bound in bounds.items() if bound == devices.BOUND} == exact
    assert [name for name, bound in bounds.items() if bound == devices.COARSE_BOUND] == ["lmul-k3"]


def test_differences():
    assert devices._difference([[[1.0, 2.0]]], [[[1.0, 2.5]]]) == 0.2
    assert devices._least_cosine([[[1.0, 0.0]]], [[[0.0, 1.0]]]) == 0


@pytest.mark.parametrize(
    ("found", "wanted"),
    [([NAN, 2.0], [1.0, 2.5]), ([1.0, 2.5], [NAN, 2.5]), ([NAN, 2.5], [INF, 2.5]),
     ([INF, 2.5], [-INF, 2.5]), ([NAN, 2.5], [2.5, NAN]), ([INF, 2.5], [1.0, 2.5])],
)  # fmt: skip
def test_what_is_not_finite_on_one_side_is_no_agreement(found, wanted, capsys):
    assert devices._difference([[found]], [[wanted]]) is None
    assert devices._least_cosine([[found]], [[wanted]]) is None
    row = devices.Agreement(None, None, None, False, 1.0, 1, 1, 0.0, 0.0)
    assert not row.holds
    shown = {"recipe": "pam", **dataclasses.asdict(row), "holds": row.holds}
    devices._print([json.loads(json.dumps(shown))], "head")
    assert "not finite" in capsys.readouterr().out


def test_the_same_infinities_in_the_same_places_agree():
    both = [NAN, INF, -INF]
    assert devices._difference([[[*both, 1.0, 2.0]]], [[[*both, 1.0, 2.5]]]) == 0.2
    assert devices._least_cosine([[[*both, 1.0, 0.0]]], [[[*both, 0.0, 1.0]]]) == 0
