"""The zip around a ``.pt2``, checked before anything in it is used.

A ``.pt2`` stores its entries uncompressed, so an entry is a name and a range of the file.  Here the
directory of the zip is read and every entry is placed; whatever could leave the archive, unpack to
more than it is, or be read in two ways is refused.  Nothing is ever unpacked.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import BinaryIO, NoReturn

from ..errors import UserError

MAX_ENTRIES = 200_000
MAX_DIRECTORY_BYTES = 64 << 20
SAVE_AGAIN = "save the model again with torch.export.save"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_BROKEN = (
    zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, IndexError,
    OSError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Where the bytes of one stored entry lie in the archive file."""

    name: str
    offset: int
    size: int


class Window:
    """A range of a file, as a file of its own; what :class:`zipfile.ZipFile` reads from.

    A read is bounded, because the directory of a zip is read in one piece whose length the zip
    states.
    """

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._at = 0
        self.size = size

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the window."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move like ``io.IOBase.seek``."""
        position = offset + (0, self._at, self.size)[whence]
        if position < 0:
            raise OSError("a position before the start of the archive")
        self._at = position
        return position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        rest = max(self.size - self._at, 0)
        size = rest if size < 0 else min(size, rest)
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has {size} bytes")
        self._file.seek(self._offset + self._at)
        found = self._file.read(size)
        self._at += len(found)
        return found


class Container:
    """The directory of a zip; :meth:`check` it before anything is read.

    Parameters
    ----------
    window : Window
        The zip.
    where : str
        Its name for messages.

    Attributes
    ----------
    names : list of str
        Of the entries, not yet checked; good for saying what the archive is.
    entries : dict of str to Entry
        By full name, in the order of the file; ``offset`` counts from the start of the window.
        Empty until :meth:`check` has filled it.

    Raises
    ------
    UserError
        The message names the entry that is to blame.
    """

    def __init__(self, window: Window, where: str) -> None:
        self.where = where
        self.entries: dict[str, Entry] = {}
        self._window = window
        try:
            with zipfile.ZipFile(window) as archive:
                self._infos: list[zipfile.ZipInfo] = archive.infolist()
                self._comment = archive.comment
        except _BROKEN as error:
            raise self._damaged(error) from error
        self.names = [info.filename for info in self._infos]

    def check(self) -> None:
        """Place every entry; refuse an archive that one cannot trust to be what it says."""
        try:
            self._check(self._window, self._infos)
        except _BROKEN as error:
            raise self._damaged(error) from error
        if self._comment:
            raise UserError("the archive ends in a comment, a .pt2 does not", where=self.where)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"the archive is damaged or truncated ({shown(str(error))})",
            where=self.where,
            hint="copy or save the file again",
        )

    def refuse(self, entry: str, what: str, hint: str = "") -> NoReturn:
        """Raise the error that blames `entry`."""
        refuse_entry(self.where, entry, what, hint)

    def strip_root(self) -> dict[str, Entry]:
        """Return the entries by their names below the one top-level folder.

        Raises
        ------
        UserError
            When there are several.
        """
        roots = {name.split("/", 1)[0] for name in self.entries}
        if len(roots) != 1:
            raise UserError(
                f"the archive has {len(roots)} top-level folders, a .pt2 has one",
                where=self.where,
                hint=SAVE_AGAIN,
            )
        short = {name: name.split("/", 1)[-1] for name in self.entries}
        return {
            short[name]: replace(entry, name=short[name]) for name, entry in self.entries.items()
        }

    def _check(self, window: Window, infos: list[zipfile.ZipInfo]) -> None:
        if not infos:
            raise UserError("the archive is empty", where=self.where)
        if len(infos) > MAX_ENTRIES:
            raise UserError(f"the archive has {len(infos)} entries", where=self.where)
        for info in infos:
            self._check_entry(info)
        end = 0
        seen: set[str] = set()
        for info in sorted(infos, key=lambda info: info.header_offset):
            entry = self._place(window, info)
            if info.header_offset < end:
                self.refuse(entry.name, "the entry overlaps another one (a zip bomb)")
            end = entry.offset + entry.size
            # PyTorch's own reader looks names up without regard to case.
            if entry.name.lower() in seen:
                self.refuse(entry.name, "the entry is in the archive twice")
            seen.add(entry.name.lower())
            self.entries[entry.name] = entry
        if end > window.size:
            self.refuse(entry.name, "the entry reaches past the end of the file (truncated)")

    def _check_entry(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        parts = name.split("/")
        if (
            name.startswith("/")
            or ".." in parts
            or ":" in parts[0]
            or any(bad in text for text in (name, info.orig_filename) for bad in "\\\0")
        ):
            self.refuse(info.orig_filename, "the path leaves the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            self.refuse(name, "the entry is a symbolic link")
        if info.flag_bits & 0x41:
            self.refuse(name, "the entry is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            self.refuse(
                name,
                f"the entry is compressed ({info.compress_size} to {info.file_size} bytes); "
                "torch.export.save stores entries as they are, and a zip bomb does not",
                SAVE_AGAIN,
            )

    def _place(self, window: Window, info: zipfile.ZipInfo) -> Entry:
        window.seek(info.header_offset)
        raw = window.read(_LOCAL_HEADER.size)
        if len(raw) != _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
            self.refuse(info.filename, "the entry has no local header (damaged archive)")
        header = _LOCAL_HEADER.unpack(raw)
        name_length, extra_length = header[-2:]
        name = window.read(name_length)
        encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
        if name != info.orig_filename.encode(encoding, "replace"):
            self.refuse(info.filename, "the entry has two different names (damaged archive)")
        offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        return Entry(info.filename, offset, info.file_size)


def refuse_entry(archive: str, entry: str, what: str, hint: str = "") -> NoReturn:
    """Raise the error that blames `entry` of `archive`."""
    raise UserError(shown(what, 1000), where=f"{archive}, entry '{shown(entry)}'", hint=hint)


def shown(text: str, limit: int = 200) -> str:
    """Return `text` cut to `limit` and without control characters, fit for a terminal."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
