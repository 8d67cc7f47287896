"""Check the tables of a parameter archive (``.irpa``) before IREE reads them.

IREE's reader adds offsets and lengths of 64 bits without asking whether the sum still is one, and
walks entries that lie behind the end of their table, so that damaged bytes can end the process.
Here every number is compared with the size of the file.  What the archive may hold is what lowc
and IREE's own tools write: one header, of the version 0.0, with parameters in the file itself or of
one repeated value (``iree/schemas/parameter_archive.h``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import BinaryIO

ALIGNMENT = 64  # of a parameter in the file: kernels read whole vectors

# Little-endian and without gaps.  Magic, version, size of the header, offset of the next one and
# flags; the number of entries; offset and length of their table, of the names and of the storage.
_HEADER = Struct("<4s2H3Q Q 2Q 2Q 2Q")
# Size of the entry, its kind, flags; offset and length of name and metadata; alignment.
_ENTRY = Struct("<QIQ 2Q 2Q Q")
_DATA = Struct("<2Q")  # offset in the storage and length
_SPLAT = Struct("<Q16sB")  # length, pattern and length of the pattern
_SKIPPED, _REPEATED, _STORED = 0, 1, 2
MOST_BYTES = 64 << 20  # of a table and of its text: half a million parameters
_TABLE_STEP = 16  # bytes that entries begin at multiples of


def check_tables(path: Path) -> None:
    """Refuse an archive whose tables say what cannot be.

    Raises
    ------
    ValueError
        Says what is wrong with it.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < _HEADER.size:
            raise ValueError("it is shorter than its header")
        table, names, storage, count = _header(_read(file, slice(0, _HEADER.size)), size)
        for part, what in ((table, "table"), (names, "text")):
            if part.stop - part.start > MOST_BYTES:
                raise ValueError(f"its {what} has more than {MOST_BYTES >> 20} MiB")
        if count > (table.stop - table.start) // _ENTRY.size:
            raise ValueError(f"its table is too short for {count} entries")
        entries, text = _read(file, table), _read(file, names)
    known = set()
    for number, at, length in _entries(entries, count):
        where = f"its entry {number}"
        name = _check_entry(entries[at : at + length], text, storage, where)
        if name in known:
            raise ValueError(f"{where} has the name of another one")
        known.add(name)


def _header(head: bytes, size: int) -> tuple[slice, slice, slice, int]:
    """Return where the table, the names and the storage are, and how many entries there are."""
    (magic, major, minor, header, following, _, count, *segments) = _HEADER.unpack(head)
    if magic != b"IRPA":
        raise ValueError("it does not begin with IRPA")
    if (major, minor) != (0, 0) or header != _HEADER.size:
        raise ValueError(f"its header has version {major}.{minor} and {header} bytes, "
                         f"not 0.0 and {_HEADER.size}")  # fmt: skip
    if following:
        raise ValueError("it goes on in another header")
    pairs = zip(segments[::2], segments[1::2], strict=True)
    table, names, storage = (
        _within(pair, size, f"its {what} ends behind the file")
        for what, pair in zip(("table", "text", "storage"), pairs, strict=True)
    )
    if storage.stop and storage.start < max(_HEADER.size, table.stop, names.stop):
        raise ValueError("its storage begins before its tables end")
    return table, names, storage, count


def _read(file: BinaryIO, part: slice) -> bytes:
    file.seek(part.start)
    return file.read(part.stop - part.start)


def _within(pair: tuple[int, int], room: int, otherwise: str) -> slice:
    offset, length = pair
    if length and offset + length > room:
        raise ValueError(otherwise)
    return slice(offset, offset + length) if length else slice(0, 0)


def _entries(table: bytes, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, place in the table, and size of each entry."""
    at = 0
    for number in range(count):
        if at + _ENTRY.size > len(table):
            raise ValueError(f"its table ends before entry {number} of {count}")
        size = _ENTRY.unpack_from(table, at)[0]
        if size < _ENTRY.size or at + size > len(table):
            raise ValueError(f"its entry {number} ends behind the table")
        yield number, at, size
        at += -(-size // _TABLE_STEP) * _TABLE_STEP


def _check_entry(entry: bytes, names: bytes, storage: slice, where: str) -> bytes:
    """Check one entry; return its name."""
    _, kind, _, *pairs, alignment = _ENTRY.unpack_from(entry)
    name = _within((pairs[0], pairs[1]), len(names), f"{where} has a name outside the text")
    _within((pairs[2], pairs[3]), len(names), f"{where} has metadata outside the text")
    key = names[name]
    try:
        key.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where} has a name that is no text") from None
    more = {_SKIPPED: 0, _REPEATED: _SPLAT.size, _STORED: _DATA.size}.get(kind)
    if more is None:
        raise ValueError(f"{where} is of kind {kind}, which is none")
    if len(entry) < _ENTRY.size + more:
        raise ValueError(f"{where} is shorter than its kind")
    if kind == _REPEATED:
        length, _, pattern = _SPLAT.unpack_from(entry, _ENTRY.size)
        if pattern not in (1, 2, 4, 8, 16) or length % pattern:
            raise ValueError(f"{where} repeats {pattern} bytes up to {length}")
    if kind == _STORED:
        _check_place(_DATA.unpack_from(entry, _ENTRY.size), alignment, storage, where)
    return key


def _check_place(pair: tuple[int, int], alignment: int, storage: slice, where: str) -> None:
    place = _within(pair, storage.stop - storage.start, f"{where} ends behind the storage")
    wanted = max(ALIGNMENT, alignment)
    if pair[1] and (storage.start + place.start) % wanted:
        raise ValueError(f"{where} begins at no multiple of {wanted} bytes")
