"""The text form of passes: it round-trips, and what it refuses it refuses in words."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowc.errors import UserError
from lowc.passes import registry
from lowc.passes.base import Pass
from lowc.passes.runner import format_pipeline, parse_pipeline


@dataclass(frozen=True)
class Everything(Pass):
    """One option of every type; not in the registry."""

    flag: bool = False
    count: int = 3
    ratio: float = 0.5
    text: str = ""
    kind: Literal["rows", "columns"] = "rows"
    sizes: tuple[int, ...] = (4, 8)
    words: tuple[str, ...] = ()
    limit: int | None = None
    label: str | None = None
    name: ClassVar[str] = "lowc-everything"


# Braces, quotes, commas and the words that mean something are the ones that could break the form.
HOSTILE = st.text(alphabet="ab01=-._ ,;:{}[]()<>'\"\\\n\t\x00é∞#%*", max_size=20)
TEXTS = st.one_of(HOSTILE, st.text(max_size=20), st.sampled_from(["none", "true", "", "''", '""']))
STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    str: TEXTS,
    tuple[int, ...]: st.lists(st.integers()).map(tuple),
    tuple[str, ...]: st.lists(TEXTS).map(tuple),
    int | None: st.none() | st.integers(),
    str | None: st.none() | TEXTS,
    tuple[str, ...] | None: st.none() | st.lists(TEXTS).map(tuple),
}


def passes_of(found: type[Pass]) -> st.SearchStrategy[Pass]:
    """Any value of every option of the pass `found`."""
    hints = typing.get_type_hints(found)
    values = {}
    for field in dataclasses.fields(found):
        hint = hints[field.name]
        is_choice = typing.get_origin(hint) is Literal
        values[field.name] = (
            st.sampled_from(typing.get_args(hint)) if is_choice else STRATEGIES[hint]
        )
    return st.builds(found, **values)


REGISTERED = st.sampled_from(sorted(registry.PASSES)).map(registry.pass_class).flatmap(passes_of)


@given(passes_of(Everything))
def test_every_type_of_option_round_trips(made: Pass) -> None:
    text = str(made)
    assert text.startswith("lowc-everything")
    inside = text.removeprefix("lowc-everything")
    assert Everything.parse_options(inside[1:-1]) == made


@given(st.lists(REGISTERED, max_size=4))
def test_a_pipeline_of_registered_passes_round_trips(made: list[Pass]) -> None:
    text = format_pipeline(made)
    assert parse_pipeline(text) == made
    assert format_pipeline(parse_pipeline(text)) == text


@given(passes_of(Everything))
def test_equal_passes_have_equal_text(made: Pass) -> None:
    assert str(made) == str(dataclasses.replace(made))


def test_defaults_are_left_out() -> None:
    assert str(Everything()) == "lowc-everything"
    assert str(Everything(count=4)) == "lowc-everything{count=4}"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Everything(flag=True), "{flag=true}"),
        (Everything(text="a b"), '{text="a b"}'),
        (Everything(text='say "hi"\\'), '{text="say \\"hi\\"\\\\"}'),
        (Everything(sizes=(1, -2)), '{sizes="1,-2"}'),
        (Everything(words=("a,b", "c")), '{words="\\"a,b\\",c"}'),
        (Everything(label="none"), '{label="none"}'),
        (Everything(limit=7, ratio=1e-9), "{ratio=1e-09 limit=7}"),
    ],
)
def test_the_form_itself(made: Pass, text: str) -> None:
    assert str(made) == f"lowc-everything{text.replace(chr(34) + '1,-2' + chr(34), '1,-2')}"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("flag", Everything(flag=True)),
        ("  count=1\n text='a \"b\"' ", Everything(count=1, text='a "b"')),
        ("sizes=", Everything(sizes=())),
        ("limit=none label=none", Everything()),
        ("kind=columns", Everything(kind="columns")),
        ('count="12"', Everything(count=12)),
    ],
)
def test_forms_that_people_write(text: str, made: Pass) -> None:
    assert Everything.parse_options(text) == made


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("cuont=1", "has no option 'cuont'", "did you mean 'count'?"),
        ("zzz=1", "has no option 'zzz'", "known: count, flag"),
        ("count=x", "'x' is not a int", ""),
        ("count", "lacks a value", "count="),
        ("flag=yes", "'yes' is not true or false", ""),
        ("kind=row", "'row' is not a choice", "did you mean 'rows'?"),
        ("count=1 count=2", "given twice", ""),
        ("=1", "cannot read the options from '=1'", "key=value"),
        ('text="open', "cannot read the options", ""),
        ("sizes=1,b", "'b' is not a int", ""),
        ("sizes=1,,2", "cannot read the list from ',2'", ""),
    ],
)
def test_refusals(text: str, what: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        Everything.parse_options(text)
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert "lowc-everything" in caught.value.where


def test_a_pass_without_options_says_so() -> None:
    with pytest.raises(UserError, match="it takes no options"):
        registry.parse_pass("lowc-name-matmuls{x=1}")
