"""Records that are gone on with: only of the same files, recipes, code and machine."""

import json

import pytest
from lowc.errors import UserError
from lowc.tools.cli import main
from lowc.tools.report.devices import row_kinds
from lowc.tools.report.kept_rows import Kept

WHAT = {"model": "m.pt2", "commit": "c0ffee"}
FIGURES = {
    "difference": 0.0, "recipe_error": None, "cosine": 1.0, "rounds": False, "bound": 1e-5,
    "kernels": 1, "products": 1, "compile_s": 1.5, "calls_s": 0, "holds": True,
}  # fmt: skip
RECIPE = 'description = "x"\n[[rules]]\nmatch = "*"\nform = "dequant"\nweights = "{}"\ngroup = 32\n'


@pytest.fixture
def path(tmp_path):
    kept = Kept(WHAT, tmp_path, "devices-m")
    kept.add("pam", "0123", FIGURES)
    assert json.loads(kept.path.read_text()) == kept.record
    return kept.path


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(path, what=WHAT):
    with pytest.raises(UserError) as caught:
        Kept.resume(path, what, row_kinds())
    return str(caught.value)


def test_old_rows_keep_their_date(path):
    begun = "2020-01-01T00:00:00+00:00"
    (row,) = json.loads(path.read_text())["recipes"]
    change(path, date=begun, recipes=[row | {"date": begun}])
    kept = Kept.resume(path, WHAT, row_kinds())
    kept.add("w8a16", "4567", FIGURES)
    record = json.loads(path.read_text())
    assert record["date"] == record["recipes"][0]["date"] == begun < record["recipes"][1]["date"]
    assert kept.has("w8a16", "4567") and not kept.has("f32", "4567")


def test_another_recipe_of_the_same_name(path):
    with pytest.raises(UserError, match="the record has another recipe called pam"):
        Kept.resume(path, WHAT, row_kinds()).has("pam", "0124")


@pytest.mark.parametrize("name", ["cpu", "features", "cores", "versions"])
def test_another_machine(path, name):
    machine = json.loads(path.read_text())["machine"]
    change(path, machine=machine | {name: "other"})
    assert f"begun on a machine of other {name}" in refused(path)


def test_other_code_or_an_older_record(path):
    assert "the record has commit c0ffee, not c0de" in refused(path, WHAT | {"commit": "c0de"})
    assert "the record has no sha256: an older lowc wrote it" in refused(
        path, WHAT | {"sha256": {}}
    )


def test_rows_that_are_damaged(path):
    (row,) = json.loads(path.read_text())["recipes"]
    short = {name: value for name, value in row.items() if name != "bound"}
    for rows, said in (
        ([5], "row 1 of recipes is no object"),
        ([[["recipe", "pam"]]], "row 1 of recipes is no object"),
        ([row, short | {"recipe": "f32"}], "row 2 of recipes has no bound"),
        ([row | {"recipe": ["x"]}], "has a recipe of the wrong type"),
        ([row | {"kernels": True}], "has a kernels of the wrong type"),
        ([row, row], "row 2 of recipes is the second one of pam"),
        (None, "this is no record of devices"),
    ):
        change(path, recipes=rows)
        assert said in refused(path)


def test_another_model_or_recipe_in_a_file_of_the_same_name(tmp_path, capsys):
    import torch

    def write(seed, bits):
        torch.manual_seed(seed)
        program = torch.export.export(torch.nn.Linear(64, 32), (torch.ones(2, 64),))
        torch.export.save(program, tmp_path / "m.pt2")
        (tmp_path / "mine.toml").write_text(RECIPE.format(bits))

    given = ["report", "devices", str(tmp_path / "m.pt2"), "--recipe", str(tmp_path / "mine.toml"),
             "--calls", "1", "--device", "cpu"]  # fmt: skip
    write(0, "i4")
    model = (tmp_path / "m.pt2").read_bytes()
    assert main([*given, "--keep", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("devices-*.json")
    before = path.read_text()
    assert main([*given, "--resume", str(path)]) == 0
    assert "mine: is in" in capsys.readouterr().err
    write(0, "i8")
    (tmp_path / "m.pt2").write_bytes(model)
    assert main([*given, "--resume", str(path)]) == 2
    assert "the record has another recipe called mine" in capsys.readouterr().err
    write(1, "i4")
    assert main([*given, "--resume", str(path)]) == 2
    assert "the record has sha256" in capsys.readouterr().err
    assert path.read_text() == before
