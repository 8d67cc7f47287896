"""Hold this machine's device while something is measured on it, whoever else measures."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import UserError


@contextlib.contextmanager
def device_lock(device: str = "cpu", tell: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold this machine's device: two measurements at once would disturb each other.

    Parameters
    ----------
    tell : callable, optional
        Called with a sentence when there is something to wait for.

    Raises
    ------
    UserError
        When the file that all users of this machine lock cannot be opened.
    """
    path = Path(tempfile.gettempdir()) / f"lowc-measuring-{device}.lock"
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if tell is not None:
                tell("another measurement is running on this machine; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Open the file for reading, which is enough for a lock: it may be another user's."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)
            return descriptor
        return os.open(path, flags)
    except OSError as error:
        raise UserError(
            f"the lock of measurements cannot be opened ({error.strerror})", where=str(path),
            hint="its owner can remove it when nothing is measured",
        ) from error  # fmt: skip
