"""Room on a disk, taken before it is needed: a full one is then an error, and no end of a process.

What is written through a mapping of a file that has no room for it ends the process with SIGBUS.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import UserError

PIECE = 1 << 16  # bytes of a new file of figures
FILES = 4  # of a worker: counters, histograms, and two kinds of gauges


def take(path: str, size: int) -> None:
    """Make the file `path` at least `size` bytes long, with room on the disk for all of them.

    Raises
    ------
    OSError
        There is none, or no such folder; names the file.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.posix_fallocate(number, 0, size)
    except OSError as error:
        if not os.fstat(number).st_size:
            os.unlink(path)  # an empty one would be no file of figures
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(number)


def check(folder: Path, workers: int) -> None:
    """Refuse a folder that has no room for the figures of so many workers.

    Raises
    ------
    UserError
        Says how much is needed.
    """
    needed = (workers + 1) * FILES * PIECE  # the supervisor has figures too
    path = folder / "room"
    try:
        take(str(path), needed)
        path.unlink()
    except OSError as error:
        raise UserError(
            f"there is no room for the figures of the workers ({error.strerror})",
            where=str(folder),
            hint=f"they take {needed} bytes at first; TMPDIR names another folder",
        ) from error
