"""What few bits per weight cost: writes the tables of docs/quality.md (``make quality``).

Two models, MiniLM (``make demo``) and the small GPT (``python -m lowc.tools.tiny_gpt``), each in
every form that stores its weights in two to four bits: errors of the outputs, stored bits, energy.
Texts are not those of the calibration, nor those that a way to spend bits was chosen by.

A result is kept as a file of its own in FOLDER (``benchmarks/quality``), so the run may be
interrupted.  It says what it was made from (``quality_origin.py``), and is measured again where
recipe, model, inputs or calibration are others now.  The tables are written into PAGE between their
markers.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UserError
from . import output, standalone
from .bench.record import new_record
from .quality_origin import commit_here, differences, origin

if TYPE_CHECKING:
    from ..compiler.recipe import Recipe

PAGE = Path("docs/quality.md")
FOLDER = Path("benchmarks/quality")


@dataclass(frozen=True)
class Subject:
    """A model with its inputs, and the columns of its table: header, key, digits."""

    name: str
    model: Path
    inputs: Path
    calibration: Path
    columns: tuple[tuple[str, str, int], ...]
    next_token: bool = False
    made_by: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a table: what it says, the recipe, and whether codes depend on a calibration."""

    text: str
    recipe: Callable[[], Recipe]
    stem: str
    calibrated: bool = False


SUBJECTS = (
    Subject(
        "minilm", Path("build/demo/minilm.pt2"), Path("build/demo/minilm-texts.npz"),
        Path("build/demo/minilm-calibration.npz"),
        (("mean cosine", "mean_cosine", 4), ("relative error", "relative_l2", 3),
         ("rank correlation", "rank_correlation", 3)),
        made_by="make demo",
    ),
    Subject(
        "tiny-gpt", Path("build/tiny-gpt/tiny-gpt.pt2"), Path("build/tiny-gpt/tiny-gpt-inputs.npz"),
        Path("build/tiny-gpt/tiny-gpt-calibration.npz"),
        (("bits / byte", "bits_per_token", 4), ("relative error", "relative_l2", 3)),
        next_token=True, made_by="python -m lowc.tools.tiny_gpt",
    ),
)  # fmt: skip


def built_in(name: str) -> Callable[[], Recipe]:
    """Return what loads a built-in recipe."""

    def load() -> Recipe:
        from ..compiler.recipe import load_recipe

        return load_recipe(name)

    return load


def integers(bits: int, group: int, method: str) -> Callable[[], Recipe]:
    """Return what makes a recipe of integer weights with zero points."""

    def make() -> Recipe:
        from ..compiler.recipe import Recipe
        from ..passes.forms import Form, Rule

        form = Form("dequant", f"i{bits}", group, symmetric=False, method=method)
        rules = (Rule("*:*", Form()), Rule("*", form))
        return Recipe(f"{method}-{bits}", rules)

    return make


def budget() -> Recipe:
    """Return the recipe ``shiftadd-3`` with three planes on average, and two to four in a layer."""
    from ..compiler.recipe import Budget, Recipe, load_recipe

    usual = load_recipe("shiftadd-3")
    *others, last = usual.rules
    most = dataclasses.replace(last, form=dataclasses.replace(last.form, planes=4))
    choices = ((len(others), (2, 3, 4)),)
    return Recipe("average-3", (*others, most), budget=Budget(3.0, choices))


def rows() -> list[Row]:
    """Return the lines of a table, from few bits to many."""
    found = []
    for bits in (2, 3, 4):
        named = f"{bits} bits, zero points, groups of 128"
        found += [
            Row(f"{named}, rounded to nearest", integers(bits, 128, "rtn"), f"rtn-{bits}"),
            Row(f"{named}, GPTQ", integers(bits, 128, "gptq"), f"gptq-{bits}", True),
            Row(f"`lut-{bits}`", built_in(f"lut-{bits}"), f"lut-{bits}"),
            Row(f"`shiftadd-{bits}`", built_in(f"shiftadd-{bits}"), f"shiftadd-{bits}-alone"),
            Row(f"`shiftadd-{bits}`", built_in(f"shiftadd-{bits}"), f"shiftadd-{bits}", True),
        ]
    found.append(Row("`shiftadd-3` with 2 to 4 planes, 3 on average", budget, "average-3", True))
    others = [Row(f"`{n}`", built_in(n), n) for n in ("w4a16", "ternary", "shift", "matadd", "f32")]
    return [*found, *others]


def measure(subject: Subject, row: Row, expected: dict[str, Any]) -> dict[str, Any]:
    """Return the record of one line; `expected` keeps the exact outputs between lines."""
    from ..compiler.calibration import read_calibration
    from ..compiler.frontend import open_model
    from .report.accuracy import Study

    with open_model(subject.model) as imported, tempfile.TemporaryDirectory() as folder:
        calls = read_calibration(subject.inputs, imported.interface)
        given = str(subject.calibration) if row.calibrated else None
        study = Study(imported, "cpu", Path(folder), None, calls, given)
        study.next_token, study.with_layers = subject.next_token, False
        if "outputs" not in expected:
            expected["outputs"] = study.outputs(built_in("f32")()).outputs
        result = study.result(row.recipe(), row.stem, expected["outputs"])
        exact = study.bits_per_token(expected["outputs"])
    facts = dataclasses.asdict(result)
    del facts["layers"]
    return new_record(
        model=subject.model.name, inputs=subject.inputs.name, calibrated=row.calibrated,
        bits_per_token_f32=exact, **facts, origin=_origin(subject, row), commit=commit_here(),
    )  # fmt: skip


def _origin(subject: Subject, row: Row) -> dict[str, str]:
    given = subject.calibration if row.calibrated else None
    return origin(row.recipe(), subject.model, subject.inputs, given)


def table(subject: Subject, records: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """Return the table in Markdown; bits per weight count scales, energy is that of a call."""
    headers = ["weights", "calibrated", "bits / weight", *(h for h, _, _ in subject.columns)]
    lines = [[*headers, "energy, mJ"], ["---"] * (len(headers) + 1)]
    for row, record in records:
        values = {**(record["outputs"] or {}), **record}
        cells = [_number(values.get(key), digits) for _, key, digits in subject.columns]
        joules = record["picojoules"]
        energy = _number(None if joules is None else joules * 1e-9, 2)
        bits = _number(record["bits_per_weight"], 2)
        lines.append([row.text, "yes" if row.calibrated else "", bits, *cells, energy])
    written_lines = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    commits = sorted({str(record["commit"] or "unknown")[:12] for _, record in records})
    measured = f"\n\nMeasured at commit {', '.join(commits)}." if commits else ""
    return written_lines + measured


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def written(text: str, name: str, found: str) -> str:
    """Return the page `text` with the table `found` between the markers of `name`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise UserError(f"the page has no '{begin}' and '{end}' to write the table between")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{found}\n\n{end}{rest.split(end, 1)[1]}"


def _why_again(kept: Path, subject: Subject, row: Row) -> str:
    """Say why a line is to be measured, or nothing if what is kept is of the same things."""
    if not kept.exists():
        return "not measured yet"
    other = differences(json.loads(kept.read_text()).get("origin", {}), _origin(subject, row))
    return f"other {', '.join(other)} than when it was measured" if other else ""


def _write(path: Path, text: str) -> None:
    output.write_atomically(path, lambda file: file.write(text.encode()))


@click.command("quality")
@click.argument("page", type=click.Path(path_type=Path), default=PAGE)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--only", "wanted", multiple=True, help="A line's name, shiftadd-3; several times.")
@click.option(
    "--model", "models", multiple=True, type=click.Choice([subject.name for subject in SUBJECTS])
)
def quality(page: Path, folder: Path, wanted: tuple[str, ...], models: tuple[str, ...]) -> None:
    """Measure every form of few bits on both models, and write the tables into PAGE."""
    text = page.read_text()
    folder.mkdir(parents=True, exist_ok=True)
    unknown = sorted(set(wanted) - {row.stem for row in rows()})
    if unknown:
        known = ", ".join(row.stem for row in rows())
        raise UserError(f"no line is named '{unknown[0]}'", hint=f"lines: {known}")
    names = models or [subject.name for subject in SUBJECTS]
    for subject in SUBJECTS:
        if not subject.model.exists():
            raise UserError("the model is missing", where=str(subject.model), hint=subject.made_by)
        found, expected = [], dict[str, Any]()
        for row in rows():
            kept = folder / f"{subject.name}-{row.stem}.json"
            is_wanted = row.stem in (wanted or [row.stem]) and subject.name in names
            why = _why_again(kept, subject, row)
            if why and is_wanted:
                output.remark(f"{subject.name}: {row.stem} ({why})")
                _write(kept, json.dumps(measure(subject, row, expected), indent=2) + "\n")
            if kept.exists():
                found.append((row, json.loads(kept.read_text())))
        text = written(text, subject.name, table(subject, found))
    _write(page, text)
    output.result(str(page))


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    return standalone.run(quality, "quality", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
