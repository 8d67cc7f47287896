"""``lowc report``: what a form or a recipe costs and saves."""

from __future__ import annotations

import click

from ..lazy_group import LazyGroup

COMMANDS = {
    "lmul": (
        "lmul:lmul_command",
        "Errors of L-Mul beside those of float formats: the paper's table.",
    ),
    "accuracy": ("accuracy:accuracy_command", "What recipes do to a model's outputs, by layer."),
    "devices": (
        "devices:devices_command",
        "Whether a GPU gives what the CPU gives, recipe by recipe.",
    ),
    "energy": (
        "energy:energy_command",
        "Operations of a compiled model, and what they cost in joules.",
    ),
    "cost-model": (
        "cost_model:cost_model_command",
        "How well tiles are chosen: learned models beside formulas, on shapes they did not see.",
    ),
}


@click.group(cls=LazyGroup, commands_at=COMMANDS, package=__package__)
def report() -> None:
    """Say what a form or a recipe costs in accuracy and saves in energy."""
