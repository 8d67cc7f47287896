"""``lowc bench``: measure side by side with named opponents."""

from __future__ import annotations

import click

from .model import model_command


@click.group()
def bench() -> None:
    """Measure side by side with named opponents, interleaved in one run."""


bench.add_command(model_command)
