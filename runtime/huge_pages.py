"""Parameters in memory of huge pages, which a processor reads faster than a mapped file (Linux).

A mapped file has pages of 4 KiB.  A model of more than the second TLB reaches (3072 pages on Zen 4)
misses it at every page of every weight: two cores of Zen 4 read 134 MB with 34 GB/s from such
pages, and with 47 from pages of 2 MiB.  A step of a language model is bound by that.

So what a call reads as a whole is read from the archive once, into memory that the kernel was
asked to make of huge pages (``madvise``).  A table that is only looked into stays in the file:
most of its pages are never touched.  The copy is as large in memory as the mapping would become,
but no other process shares it, and it cannot be given up as a mapping's pages can; so there is none
of what is small, nor of more than half of the memory that is free, in the machine and within the
limits of the process's control groups.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import iree.runtime as rt

from .quota import memory_left

LEAST = 8 << 20  # bytes, which the second TLB still reaches in pages of 4 KiB
PAGE = 2 << 20
ALIGNMENT = 64  # of an archive's entries, which the memory keeps
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MEMORY = Path("/proc/meminfo")


def read(path: Path, mapped: Any, looked_up: Collection[str]) -> Any:
    """Return an index of the archive `path` with what is read as a whole in huge pages.

    Parameters
    ----------
    path : Path
        The archive.
    mapped : iree.runtime.ParameterIndex
        Its index over a mapping of the file.
    looked_up : collection of str
        Keys of parameters that are read in places only, and stay mapped.

    Returns
    -------
    iree.runtime.ParameterIndex
        `mapped` itself where huge pages would not help, or cannot be had.

    Raises
    ------
    OSError
        The file cannot be read, or is shorter than its index says.
    """
    whole = [
        (key, entry) for key, entry in mapped.items() if entry.is_file and key not in looked_up
    ]
    size = sum(map(_room, whole))
    if size < LEAST or not are_offered() or size > _available() // 2:
        return mapped
    try:
        memory = _allocate(size)
    except OSError:  # no memory, or no such advice: the file is as good, only slower
        return mapped
    index, rest = rt.ParameterIndex(), memory
    read_here = {key for key, _ in whole}
    with path.open("rb", buffering=0) as file:
        for key, entry in mapped.items():
            if key in read_here:
                _fill(rest[: entry.length], file, entry.file_storage[1])
                index.add_buffer(key, rest[: entry.length].toreadonly())
                rest = rest[_room((key, entry)) :]
            elif entry.is_splat:
                index.add_splat(key, entry.splat_pattern, entry.length)
            else:
                handle, offset = entry.file_storage
                index.add_from_file_handle(key, handle, entry.length, offset)
    return index


def are_offered() -> bool:
    """Whether the kernel makes huge pages for who asks."""
    try:
        return hasattr(mmap, "MADV_HUGEPAGE") and "[never]" not in _ENABLED.read_text()
    except OSError:
        return False


def _available() -> int:
    """Return the bytes that are free, or can be made so without swapping, within any limit."""
    free, left = next(_lines("MemAvailable:"), 0), memory_left()
    return free if left is None else min(free, left)


def _lines(name: str) -> Iterator[int]:
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _room(item: tuple[str, Any]) -> int:
    return -(-item[1].length // ALIGNMENT) * ALIGNMENT


def _allocate(size: int) -> memoryview:
    """Return `size` bytes that begin on a huge page; whoever holds them keeps them."""
    area = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(area)
    first = -_address(view) % PAGE
    return view[first : first + size]


def _address(view: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(view, np.uint8, 1).ctypes.data)


def _fill(target: memoryview, file: Any, offset: int) -> None:
    file.seek(offset)
    while target:
        count = file.readinto(target)
        if not count:
            raise OSError("it ends before its parameters do")
        target = target[count:]
