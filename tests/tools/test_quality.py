"""The tables of docs/quality.md: what a line says, that it is measured once, and where it is put."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lowc.compiler.recipe import load_recipe
from lowc.errors import UserError
from lowc.tools import quality
from lowc.tools.quality_origin import archive_digest, recipe_digest

PAGE = "# Page\n\n<!-- few -->\n\nold\n\n<!-- end of few -->\n\nend\n"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def subject(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 32))
    x = torch.zeros(2, 64)
    torch.export.save(torch.export.export(model.eval(), (x,)), tmp_path / "few.pt2")
    for name, seed in (("inputs", 0), ("calibration", 1)):
        data = np.random.default_rng(seed).standard_normal((8, 64)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", input=data)
    return quality.Subject(
        "few", tmp_path / "few.pt2", tmp_path / "inputs.npz", tmp_path / "calibration.npz",
        (("mean cosine", "mean_cosine", 4), ("bits / byte", "bits_per_token", 3)),
        made_by="a script",
    )  # fmt: skip


@pytest.mark.slow
def test_lines_are_measured_once_and_written_into_the_page(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "SUBJECTS", (subject,))
    page, folder = tmp_path / "page.md", tmp_path / "kept"
    page.write_text(PAGE)
    arguments = [str(page), "--folder", str(folder), "--only", "rtn-3", "--only", "gptq-3"]
    assert quality.main(arguments) == 0
    text = page.read_text()
    lines = [line for line in text.splitlines() if line.startswith("| 3 bits")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[1] for row in cells] == ["", "yes"]
    # 3 bits, and 40 of scale and zero point for a row of 64.
    assert [row[2] for row in cells] == ["3.62", "3.62"] and {row[4] for row in cells} == {"-"}
    assert 0.9 < float(cells[0][3]) < 1 and 0.9 < float(cells[1][3]) < 1
    assert "old" not in text and text.endswith("<!-- end of few -->\n\nend\n")
    kept = folder / "few-gptq-3.json"
    record = json.loads(kept.read_text())
    assert record["calibrated"] is True and record["outputs"]["rows"] == 8
    # What is kept is not measured again, but shown.
    record["bits_per_weight"] = 9.0
    kept.write_text(json.dumps(record))
    assert quality.main(arguments) == 0
    assert "| yes | 9.00 |" in page.read_text()
    # But what was made from another recipe is.
    record["origin"]["recipe"] = "another"
    kept.write_text(json.dumps(record))
    assert quality.main(arguments) == 0
    assert "| yes | 3.62 |" in page.read_text() and "| yes | 9.00 |" not in page.read_text()


def test_a_line_that_is_not_there_is_refused_with_those_that_are(subject, monkeypatch, capsys):
    monkeypatch.setattr(quality, "SUBJECTS", (subject,))
    assert quality.main(["--only", "budget"]) == 2
    said = capsys.readouterr().err
    assert "no line is named 'budget'" in said and "average-3" in said


def test_every_line_has_a_recipe_and_a_name_of_its_own():
    rows = quality.rows()
    assert len({row.stem for row in rows}) == len(rows)
    for row in rows:
        recipe = row.recipe()
        assert row.calibrated <= recipe.takes_inputs and recipe.needs_inputs <= row.calibrated
    assert rows[1].recipe().rules[1].form.method == "gptq"
    assert load_recipe("shiftadd-3") in [row.recipe() for row in rows]


def _kept(subject):
    """Return the lines of a model that are kept in the repository."""
    lines = [
        (row, ROOT / quality.FOLDER / f"{subject.name}-{row.stem}.json") for row in quality.rows()
    ]
    return [(row, json.loads(path.read_text())) for row, path in lines if path.exists()]


@pytest.mark.parametrize("subject", quality.SUBJECTS, ids=lambda subject: subject.name)
def test_the_page_says_what_was_measured(subject):
    text = (ROOT / quality.PAGE).read_text()
    assert _kept(subject)
    assert quality.written(text, subject.name, quality.table(subject, _kept(subject))) == text


@pytest.mark.parametrize("subject", quality.SUBJECTS, ids=lambda subject: subject.name)
def test_lines_are_of_todays_recipes_and_of_one_model(subject):
    for row, record in _kept(subject):
        assert record["origin"]["recipe"] == recipe_digest(row.recipe()), f"'make quality': {row}"
        assert record["calibrated"] == row.calibrated == ("calibration" in record["origin"])
    for name in ("model", "inputs", "calibration"):
        assert len({record["origin"].get(name) for _, record in _kept(subject)} - {None}) == 1


def test_a_page_without_the_places_is_refused():
    with pytest.raises(UserError, match="the page has no '<!-- other -->'"):
        quality.written(PAGE, "other", "")


def test_a_digest_is_of_what_counts(tmp_path):
    digests = {
        row.stem.removesuffix("-alone"): recipe_digest(row.recipe()) for row in quality.rows()
    }
    assert len(set(digests.values())) == len(digests)
    recipe = load_recipe("shiftadd-3")
    assert (
        recipe_digest(dataclasses.replace(recipe, name="other", description="x"))
        == (digests["shiftadd-3"])
    )
    for name, when, byte in (("a", 1990, b"1"), ("b", 2020, b"1"), ("c", 1990, b"2")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(zipfile.ZipInfo("weights", (when, 1, 1, 0, 0, 0)), byte)
    a, b, c = (archive_digest(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_model_that_was_exported_elsewhere_is_the_same(tmp_path):
    def exported(name, trace, target):
        node = {"target": target, "metadata": {"stack_trace": f'File "{trace}", line 1'}}
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("few/models/model.json", json.dumps({"graph": {"nodes": [node]}}))
            archive.writestr("few/.data/serialization_id", trace)
        return archive_digest(tmp_path / name)

    here = exported("a", "/here/model.py", "relu")
    assert exported("b", "/elsewhere/model.py", "relu") == here
    assert exported("c", "/here/model.py", "tanh") != here


def test_a_missing_model_is_named(subject, tmp_path, monkeypatch, capsys):
    subject.model.unlink()
    monkeypatch.setattr(quality, "SUBJECTS", (subject,))
    (tmp_path / "page.md").write_text(PAGE)
    assert quality.main([str(tmp_path / "page.md"), "--folder", str(tmp_path / "kept")]) == 2
    assert "the model is missing" in (said := capsys.readouterr().err) and "a script" in said
