"""``lowc bench``: measure side by side with named opponents."""

from __future__ import annotations

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "model": ("model:model_command", "A whole model under some recipes, beside its opponents."),
    "matmul": ("matmul:matmul_command", "One product under one form, beside peers and the limit."),
    "llm": ("llm:llm_command", "A Llama that generates, beside llama.cpp."),
}


@click.group(cls=LazyGroup, commands_at=COMMANDS, package=__package__)
def bench() -> None:
    """Measure side by side with named opponents, interleaved in one run."""
