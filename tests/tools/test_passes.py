"""``lowc passes`` and the page that is made of docstrings."""

from __future__ import annotations

import json

import pytest
from lowc.passes import registry
from lowc.tools import docs, docstring
from lowc.tools.cli import main

DOCSTRING = """Do one thing.

More about ``it``, and :class:`.Form`.

Parameters
----------
rules : str
    The rules,
    on two lines.
max_rows : int
    A limit.

Before::

    %a = op

    %b = op

After, for one row::

    %c = op
"""


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes"]) == 0
    shown = capsys.readouterr().out
    for name in registry.PASSES:
        assert name in shown
    assert "max-rows: int = 4" in shown
    assert "packing: bits|words = bits" in shown


def test_one_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "lowc-fuse-dequant"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("lowc-fuse-dequant\n")
    assert "Before::" in shown
    assert "After, for one row::" in shown
    assert "  max-rows: int = 4\n      The largest M that is fused." in shown


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in data] == list(registry.PASSES)
    assert main(["passes", "lowc-assign-forms", "--json"]) == 0
    (option,) = json.loads(capsys.readouterr().out)["options"]
    assert option["name"] == "rules"
    assert option["type"] == "str"
    assert option["default"] == '"[]"'


def test_sections_are_taken_out_of_the_text() -> None:
    text, sections = docstring.split_sections(DOCSTRING)
    assert "Parameters" not in text
    assert text.index("Before::") > text.index("More about")
    assert "%c = op" in text
    assert docstring.parameter_texts(sections["Parameters"]) == {
        "rules": "The rules, on two lines.",
        "max_rows": "A limit.",
    }


def test_markdown_of_a_docstring() -> None:
    described = docstring.PassDoc(
        "lowc-x", "Do one thing", docstring.split_sections(DOCSTRING)[0],
        (docstring.Option("kind", "a|b", "a", "``a`` or ``b``."),),
    )  # fmt: skip
    shown = docs._section(described)
    assert "More about `it`, and `.Form`." in shown
    assert "Before:\n\n```mlir\n%a = op\n\n%b = op\n```\n\nAfter, for one row:\n" in shown
    assert shown.endswith("| `kind` | a\\|b | `a` | `a` or `b`. |")


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (int, "int"),
        (int | None, "int|none"),
        (tuple[str, ...], "list of str"),
    ],
)
def test_type_text(type_: object, text: str) -> None:
    assert docstring.type_text(type_) == text
