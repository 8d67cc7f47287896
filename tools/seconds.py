"""Options that are a time: click's own range takes NaN, and infinity."""

from __future__ import annotations

import math
from typing import Any

import click

YEAR = 366 * 86400.0


class Seconds(click.FloatRange):
    """A number of seconds, at least `least` and at most a year."""

    name = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        super().__init__(min=least, max=YEAR)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a float."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):  # which is neither less nor more than anything
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return found
