"""Threads of the lowest priority that spin, one on each core, so that cores do not sleep (Linux).

Under the policy ``SCHED_IDLE`` whoever has work in the same scheduling group takes the core from
them at once; another group on the core (a container, a service, a session where autogroups are on)
has to share it with this one, as with any work of it (0.1 to 0.4 percent against 31 to 33).  They
are no threads of Python's: one that spins must not hold Python's lock, and one of this priority
must never take it, since it may be kept from its core for long on a busy machine, with the lock.
So the C library starts them, with a loop of machine code that touches nothing but two words.

Each gives way once in 20 to 50 microseconds (``sched_yield``).  Linux owes every thread that waits
its share, if only 0.3 percent, and pays it by the tick: a spinner that only spins now and then kept
a core for 2 to 4 ms from a caller who was about to run (measured on Linux 6.18 with a lock of the C
library to spin on: one call in 70 to 500; means were no better than without).  Giving way all the
time is no good either: to do so takes a lock that whoever wakes a thread there needs.

On two virtual cores they took 16 to 33 percent off the medians and 12 to 25 off the means of calls
of 0.09 to 0.16 ms (1 x 4096 x 4096 in ``w4a8``: 0.154 to 0.121 ms).  One call in a thousand still
met a stall: the 99.9th percentile of 1 x 2048 x 2048 rose from 0.20 to 1.76 ms.  Calls of 5 ms were
slower with them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
from collections.abc import Sequence
from typing import Any

_IDLE: Any = getattr(os, "SCHED_IDLE", None)
_STACK_BYTES = 1 << 16
_DETACHED = 1
# Between two calls of sched_yield; one takes 20 to 50 nanoseconds.
_PAUSES = 1000

# void spin(int *word): word[0] says whether to spin, word[1] whether the thread is there.
_CODE = {
    "x86_64": (
        b"\xb9" + _PAUSES.to_bytes(4, "little")  # again: mov ecx, PAUSES
        + bytes.fromhex("f390")  # spin: pause
        + bytes.fromhex("833f00")  # cmp dword [rdi], 0
        + bytes.fromhex("740d")  # je done
        + bytes.fromhex("ffc9")  # dec ecx
        + bytes.fromhex("75f5")  # jnz spin
        + bytes.fromhex("b818000000")  # mov eax, 24 (sched_yield)
        + bytes.fromhex("0f05")  # syscall
        + bytes.fromhex("ebe7")  # jmp again
        + bytes.fromhex("c7470400000000")  # done: mov dword [rdi + 4], 0
        + bytes.fromhex("31c0")  # xor eax, eax
        + bytes.fromhex("c3")  # ret
    )
}  # fmt: skip


def problem() -> str:
    """Return why threads cannot spin here, nothing if they can."""
    if _IDLE is None or _library() is None:
        return "only Linux with glibc can keep them awake"
    if platform.machine() not in _CODE or ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"no loop to spin in is written for {platform.machine()}"
    return "" if _loop() else "this system does not run code that a program makes"


class Spinners:
    """One thread for each of some logical CPUs, from ``begin`` to ``end``."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = tuple(cores)

    @functools.cached_property
    def _words(self) -> Any:
        """Two words for each thread, which may look at them for as long as the process lives."""
        words = ctypes.c_int * (2 * len(self._cores))
        return words.from_address(_memory_that_stays(ctypes.sizeof(words)))

    def begin(self) -> None:
        """Start the threads; where one cannot be, its core may sleep."""
        for index, core in enumerate(self._cores):
            self._words[2 * index] = 1
            # One that has not run since it was told to end spins on.
            if not self._words[2 * index + 1]:
                self._words[2 * index + 1] = 1
                if not self._start(index, core):
                    self._words[2 * index + 1] = 0

    def end(self) -> None:
        """Tell the threads to end; on a busy core one may notice later."""
        for index in range(len(self._cores)):
            self._words[2 * index] = 0

    def _start(self, index: int, core: int) -> bool:
        library = _library()
        attributes = (ctypes.c_long * 16)()  # more than a pthread_attr_t
        thread = ctypes.c_ulong()
        cores = (ctypes.c_ubyte * 128)()  # a cpu_set_t
        if core >= 8 * len(cores) or library.pthread_attr_init(attributes):
            return False
        cores[core // 8] |= 1 << core % 8
        try:
            failed = (
                library.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_STACK_BYTES))
                or library.pthread_attr_setdetachstate(attributes, _DETACHED)
                or library.pthread_attr_setaffinity_np(
                    attributes, ctypes.c_size_t(len(cores)), cores
                )
                or library.pthread_create(
                    ctypes.byref(thread),
                    attributes,
                    ctypes.c_void_p(_loop()),
                    ctypes.byref(self._words, 8 * index),
                )
            )
        finally:
            library.pthread_attr_destroy(attributes)
        if failed:
            return False
        library.pthread_setname_np(thread, b"lowc-spin")
        priority = ctypes.c_int(0)  # a sched_param
        if library.pthread_setschedparam(thread, _IDLE, ctypes.byref(priority)):
            self._words[2 * index] = 0  # of the normal policy it would be in the way: it ends
        return True


# -- the C library ---------------------------------------------------------------------------------


@functools.cache
def _library() -> Any:
    """Return the C library of this process, None if it is another one than glibc."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "pthread_attr_setaffinity_np"):
        return None
    library.mmap.restype = ctypes.c_void_p
    return library


@functools.cache
def _loop() -> int:
    """Return the address of the loop, 0 where memory cannot be made executable."""
    code = _CODE[platform.machine()]
    address = _memory_that_stays(len(code))
    ctypes.memmove(address, code, len(code))
    # Never writable and executable at once.
    executable = mmap.PROT_READ | mmap.PROT_EXEC
    failed = _library().mprotect(
        ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), executable
    )
    return 0 if failed else address


def _memory_that_stays(size: int) -> int:
    """Return the address of so many bytes of zeros, which nobody ever gives back.

    A thread that a busy core keeps waiting may come back to them when Python has ended.
    """
    address = _library().mmap(
        None,
        ctypes.c_size_t(size),
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        -1,
        ctypes.c_long(0),
    )
    if address == ctypes.c_void_p(-1).value:
        raise MemoryError
    return int(address)
