"""The command ``lowc``: subcommands, exit codes, and how errors are shown.

Exit codes: 0 fine, 1 lowc's fault, 2 the user's, 130 after Ctrl-C, 143 after SIGTERM, 141 when the
reader of stdout went away.  ``LOWC_DEBUG=1`` adds the traceback to an error.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from ..errors import LowcError, UserError, nearest
from .lazy_group import LazyGroup

# Subcommand → where it is, and its line in ``lowc --help``.  A module is loaded when it is asked
# for: ``lowc --help`` must not wait for MLIR.
COMMANDS = {
    "compile": ("compile:compile_command", "Compile a model to a .vmfb."),
    "run": ("run:run_command", "Run a compiled model on inputs from files or text."),
    "opt": ("opt:opt_command", "Run passes over MLIR and print what they leave."),
    "passes": ("passes:passes_command", "List the passes, their options and what they do."),
    "bench": ("bench:bench", "Measure side by side with named opponents."),
    "generate": ("generate:generate_command", "Continue a text with a language model."),
    "serve": ("serve.command:serve_command", "Answer over the network what matmuls cost."),
    "report": ("report:report", "Say what a form or a recipe costs and saves."),
    "tune": ("tune.command:tune_command", "Measure tiles of products, and keep what was measured."),
    "doctor": ("doctor:doctor_command", "Tell what this machine has and what it lacks."),
}

# An OSError with one of these is about the user's files or disk, not about lowc.
_USERS_ERRNOS = frozenset(
    {
        errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EISDIR, errno.ENAMETOOLONG,
        errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
    }
)  # fmt: skip

# What click raises, with the help as its message, for a group that is called without a subcommand.
_NoSubcommand = click.exceptions.NoArgsIsHelpError


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"lowc {version('lowc')}")
    ctx.exit()


@click.group(
    cls=LazyGroup, commands_at=COMMANDS, package=__package__,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """Compile PyTorch models to cheap arithmetic, run them, and look inside.

    Results go to stdout; progress, remarks and errors to stderr.  Exit codes: 0 fine, 1 lowc's
    fault, 2 yours, 130 after Ctrl-C.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (``sys.argv[1:]`` if None); return the exit code."""
    try:
        with _interrupts_as_terminated():
            if arguments is None:
                _unwind_on_termination()
            code = _invoke(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        return 141
    except _Terminated as error:
        return _complain(error.text, error.code)
    except LowcError as error:
        return _complain(f"error: {error}", error.exit_code)
    except _NoSubcommand as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    except click.ClickException as error:
        return _complain(_usage_text(error), 2)
    except OSError as error:
        if error.errno in _USERS_ERRNOS:
            place = os.fsdecode(error.filename) if error.filename else "standard output"
            return _complain(f"error: {place}: {error.strerror}", 2)
        return _complain(_unexpected(error), 1)
    except Exception as error:
        return _complain(_unexpected(error), 1)
    return code


class _Terminated(BaseException):
    """Somebody asked the process to end; raised so that temporary files are removed on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        is_interrupt = number == signal.SIGINT
        self.text = "interrupted" if is_interrupt else f"ended by {signal.Signals(number).name}"


@contextmanager
def _interrupts_as_terminated() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise _Terminated(signal.SIGINT) from None


def _unwind_on_termination() -> None:
    def stop(number: int, _frame: object) -> None:
        raise _Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    # Who starts this in the background of a shell may have Ctrl-C ignored: that stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _invoke(arguments: list[str]) -> int:
    # What click's own main() would do, without its answers to Ctrl-C and to a closed pipe.
    try:
        with cli.make_context("lowc", arguments) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return code if isinstance(code, int) else 0


def _complain(text: str, code: int) -> int:
    if os.environ.get("LOWC_DEBUG") == "1":
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        _silence()
    try:
        sys.stderr.write(f"lowc: {text}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody is left to tell
    return code


def _silence() -> None:
    """Give stdout nowhere to go, so that Python does not fail on flushing it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _unexpected(error: Exception) -> str:
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"internal error: {text[:400]} (a fault of lowc; LOWC_DEBUG=1 shows where)"


def _usage_text(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lowc"
    if isinstance(error, click.NoSuchOption):
        parameters = context.command.get_params(context) if context else []
        known = [name for one in parameters for name in one.opts if name.startswith("--")]
        what = f"there is no option '{error.option_name}'"
        return f"error: {UserError(what, where=command, hint=nearest(error.option_name, known))}"
    what = error.format_message().rstrip(".")
    hint = f"'{command} --help' shows what it takes"
    return f"error: {UserError(what, where=command, hint=hint)}"
