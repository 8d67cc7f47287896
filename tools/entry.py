"""Where the command ``lowc`` begins: Ctrl-C is answered before anything else is loaded."""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Run the command line; return the exit code."""
    # Not by an exception: it would come up in the middle of an import, with Python's own traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from .cli import main as run

    return run()


def _end(_number: int, _frame: object) -> None:
    os.write(2, b"lowc: interrupted\n")
    os._exit(130)
