"""The evaluator of computed sizes."""

from __future__ import annotations

import pytest
from lowc.errors import UserError
from lowc.runtime.manifest import Leaf
from lowc.runtime.shapes import ShapeChecker, evaluate, is_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*s0", 10),
        ("s0 + s1 - 1", 11),
        ("(s0 + 3)//4", 2),
        ("-s0 + 8", 3),
        ("s0*s1*2", 70),
        ("s0//0", None),
        ("unknown + 1", None),
        ("Mod(s0, 2)", None),
        ("s0**99999", None),
        ("s0.real", None),
        ("True + s0", None),
        ("s0 +", None),
        ("(" * 5000, None),
        ("+".join(["s0"] * 5000), None),
        ("__import__('os')", None),
        ("'a' * 3", None),
    ],
)
def test_evaluates_only_arithmetic(text: str, value: int | None) -> None:
    assert evaluate(text, {"s0": 5, "s1": 7}) == value


def test_plain() -> None:
    assert is_plain(3)
    assert is_plain("s0")
    assert not is_plain("s0 + 1")
    assert not is_plain("arg0.1")


def test_unknown_expressions_are_left_to_the_module() -> None:
    ShapeChecker({}).check([(Leaf("x", ("Mod(s0, 2)", "arg0.1"), "float32"), (3, 4))])


def test_an_expression_may_come_before_its_symbol() -> None:
    leaves = [Leaf("a", ("2*n",), "float32"), Leaf("b", ("n",), "float32")]
    ShapeChecker({}).check(zip(leaves, [(6,), (3,)], strict=True))
    with pytest.raises(UserError, match=r"input 'a': .* dimension 0 must be 2\*n = 8"):
        ShapeChecker({}).check(zip(leaves, [(6,), (4,)], strict=True))


def test_ranges_hold_for_expressions_too() -> None:
    checker = ShapeChecker({"2*n": (4, 8), "m": (None, 3)})
    with pytest.raises(UserError, match=r"'2\*n' must be in \[4, 8\], and is 10"):
        checker.check([(Leaf("a", ("2*n",), "float32"), (10,))])
    with pytest.raises(UserError, match="'m' must be at most 3, and is 4"):
        checker.check([(Leaf("a", ("m",), "float32"), (4,))])
