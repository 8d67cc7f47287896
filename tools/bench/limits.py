"""What the machine allows: the time that a product takes at least, from measured constants.

A product cannot be faster than its bytes can be read, nor than its operations can be issued:
``max(bytes / bandwidth, products / rate)``.  Both constants are measured on the threads that the
contenders get, and beside them, by kernels that do nothing else (``probes.py``).  The bandwidth is
that of a buffer as large as what the calls touch: a weight that stays in the cache is held to the
cache, one that comes from memory to memory.

The best call of each kernel counts.  A contender below its limit says that the machine was too busy
for even one of them to have it for itself.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler import machine
from ...passes.forms import Form
from . import probes

if TYPE_CHECKING:
    from ...runtime.timing import Timing

FMA, ADDITIONS = "fma", "additions"
_DOT = "dot "
# Weights that are rotated fill this many last-level caches; assumed where Linux does not tell.
CACHES_TO_FILL = 4
ASSUMED_CACHE_BYTES = 64 << 20
# No smaller buffer is read: a kernel takes longer to start.
LEAST_BUFFER = 1 << 14


@dataclass(frozen=True)
class Demand:
    """What one call needs at least.

    Attributes
    ----------
    products : int
        Multiplications, or what stands for them.
    arithmetic : str
        :data:`FMA`, :data:`ADDITIONS` (an integer and a float addition per product), dot products
        by name, or empty when its instructions are not known: then only the bytes count.
    moved : float
        Bytes read and written.
    touched : float
        Bytes that calls go through before they come back to the same ones.
    streamed : float
        Bytes of the right operand among those moved.
    """

    products: int
    arithmetic: str
    moved: float
    touched: float
    streamed: float = 0.0


@dataclass(frozen=True)
class Limit:
    """The least time, and what sets it: ``memory`` or an arithmetic."""

    milliseconds: float
    by: str


def vectors_here() -> probes.Vectors:
    """Return the vector registers of this machine's processor."""
    architecture = platform.machine()
    features = machine.cpu_features(machine.read_text(Path("/proc/cpuinfo")), architecture)
    if features.get("avx512f"):
        return probes.Vectors(16, 32)
    if architecture in ("aarch64", "arm64"):
        return probes.Vectors(4, 32)
    return probes.Vectors(8 if features.get("avx2") else 4, 16)


def arithmetic(form: Form) -> str:
    """Return what the products of `form` are made of, as :class:`Demand` calls it.

    Empty for look-ups, shifts and counts, of which no rate is measured: only bytes are a limit.
    """
    if form.form in ("lmul", "pam"):
        return ADDITIONS
    if form.form in ("binary", "ternary", "lut", "shift", "bipolar", "signed-digits"):
        return ""
    return _dot(form.bits) if form.activations == "i8" else FMA


def _dot(bits: int) -> str:
    """Return the arithmetic of 8-bit activations and codes of `bits`: the fastest way here.

    Empty for a processor whose instructions for it lowc does not know.
    """
    architecture = platform.machine()
    features = machine.cpu_features(machine.read_text(Path("/proc/cpuinfo")), architecture)
    if features.get("avx512_vnni") or features.get("avx_vnni"):
        return _DOT + "vpdpbusd"
    if not features.get("avx2"):
        return ""
    if bits == 8:
        return _DOT + "vpmaddwd"
    return _DOT + ("vpmaddubsw+vpaddw" if bits <= 4 else "vpmaddubsw+vpmaddwd")


def cache_bytes() -> int:
    """Return the size of the last-level cache, or an assumed one where it is not known."""
    return machine.last_level_cache_bytes() or ASSUMED_CACHE_BYTES


def buffer_size(touched: float) -> int:
    """Return the size of the buffer that stands for `touched` bytes: a power of two, not above.

    A smaller buffer reads no slower, so that the limit stays one.
    """
    most = CACHES_TO_FILL * cache_bytes()
    return max(LEAST_BUFFER, 1 << (int(min(touched, most)).bit_length() - 1))


@dataclass
class Limits:
    """The probes of one command; each is compiled when it is first needed."""

    threads: int
    folder: Path
    _loaded: dict[str, tuple[probes.Probe, Callable[[], Any]]] = field(default_factory=dict)

    def runners(self, demands: list[Demand]) -> dict[str, Callable[[], Any]]:
        """Return what must be timed to know the limits of `demands`, by name."""
        names = {name for demand in demands for name in _probes_of(demand)}
        return {name: self._probe(name)[1] for name in sorted(names)}

    def rates(self, times: Mapping[str, Timing]) -> dict[str, float]:
        """Return products or bytes per second: each probe's best call."""
        return {name: self._probe(name)[0].work / timing.minimum for name, timing in times.items()}

    def _probe(self, name: str) -> tuple[probes.Probe, Callable[[], Any]]:
        if name not in self._loaded:
            probe = _make(name, vectors_here(), self.threads)
            run = probes.load_probe(probe, self.threads, self.folder, name)
            self._loaded[name] = probe, run
        return self._loaded[name]


def limit_of(demand: Demand, rates: Mapping[str, float]) -> Limit:
    """Return the least time for `demand` at the measured `rates`."""
    seconds = {"memory": demand.moved / rates[_reading(demand)]}
    if demand.arithmetic:
        seconds[demand.arithmetic] = demand.products / rates[demand.arithmetic]
    by = max(seconds, key=lambda name: seconds[name])
    return Limit(seconds[by] * 1e3, by)


def _probes_of(demand: Demand) -> list[str]:
    return [name for name in (demand.arithmetic, _reading(demand)) if name]


def _reading(demand: Demand) -> str:
    return f"read-{buffer_size(demand.touched)}"


def _make(name: str, vectors: probes.Vectors, threads: int) -> probes.Probe:
    if name == FMA:
        return probes.fma_probe(vectors, threads)
    if name == ADDITIONS:
        return probes.addition_probe(vectors, threads)
    if name.startswith(_DOT):
        return probes.dot_probe(vectors, threads, name.removeprefix(_DOT))
    return probes.read_probe(vectors, threads, int(name.removeprefix("read-")))
