"""Run a command that is no subcommand of ``lowc``, as ``python -m lowc.tools.NAME``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..errors import LowcError


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Run `command`; return the exit code: 0, 1 (lowc's fault), 2 (the user's), 130 (Ctrl-C)."""
    try:
        command.main(list(arguments), name, standalone_mode=False)
    except LowcError as error:
        sys.stderr.write(f"{name}: error: {error}\n")
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write(f"{name}: interrupted\n")
        return 130
    return 0
