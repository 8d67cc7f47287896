"""A group of subcommands that are imported when they are called: help must not wait for MLIR."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from ..errors import UserError, nearest


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called.

    Parameters
    ----------
    commands_at : mapping
        Name → (``module:attribute`` below `package`, its line in the help), in the order to list.
    package : str
        The package that the modules are relative to.
    """

    def __init__(
        self, *args: Any, commands_at: Mapping[str, tuple[str, str]], package: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at, self.package = commands_at, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order that they were given in."""
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand."""
        if cmd_name not in self.commands_at:
            return None
        module, _, attribute = self.commands_at[cmd_name][0].partition(":")
        loaded = importlib.import_module(f".{module}", self.package)
        command: click.Command = getattr(loaded, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.commands_at.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand, or name the nearest one."""
        name = args[0]
        if name not in self.commands_at and not name.startswith("-"):
            raise UserError(
                f"there is no subcommand '{name}'", hint=nearest(name, self.commands_at)
            )
        return super().resolve_command(ctx, args)
