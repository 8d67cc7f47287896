"""Text that arrives in pieces, until a stop string: what may be shown already, and what may not."""

from __future__ import annotations

from collections.abc import Sequence


class StoppedText:
    """Gives text piece by piece, and nothing from a stop string on.

    A stop string may come in several pieces, so the longest end that could begin one is held back.

    Attributes
    ----------
    is_stopped : bool
        Whether a stop string came.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.is_stopped = False
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def add(self, piece: str) -> str:
        """Return what can be shown after `piece`."""
        if self.is_stopped:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return text[: min(places)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Return what was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how long the longest end of `text` is that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
