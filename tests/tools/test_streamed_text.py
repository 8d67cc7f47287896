"""Stop strings in text that comes in pieces."""

from __future__ import annotations

import pytest
from lowc.tools.streamed_text import StoppedText


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "rest"),
    [
        (["ab", "c"], [], ["ab", "c"], ""),
        (["ab", "cd"], ["bc"], ["a", ""], ""),
        (["ab", "xd"], ["bc"], ["a", "bxd"], ""),
        (["ab"], ["bc"], ["a"], "b"),
        (["aab", "c"], ["aabd", "abc"], ["", "a"], ""),
        (["x\n", "\ny"], ["\n\n"], ["x", ""], ""),
        (["abcabc"], ["c", "b"], ["a"], ""),
    ],
)
def test_nothing_from_a_stop_string_on_is_shown(pieces, stops, shown, rest):
    text = StoppedText(stops)
    assert [text.add(piece) for piece in pieces] == shown
    assert text.rest() == rest
