"""What one measurement says: a product, a tile, a machine, and how long it took or why not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .problem import Problem

OUTCOMES = ("ok", "crash", "timeout", "wrong")
MOST_THREADS, MOST_CACHE = 4096, 1 << 40
Outcome = Literal["ok", "crash", "timeout", "wrong"]


@dataclass(frozen=True)
class Machine:
    """What a product runs on.

    Attributes
    ----------
    name : str
        The processor's name, as it says itself.
    unit : str
        Its vector unit, or the code of a GPU, as :class:`.problem.Problem` has it.
    features : tuple of str
        What it has beside that, sorted (``avx512_vnni`` …).
    threads : int
        Workers of the runtime.
    caches : tuple of int
        Bytes of the first, second and third cache of one core's; 0 where it has none.
    bandwidth, multiply_rate : float
        Measured: bytes per second that all threads read from memory, and fused multiply-adds of
        f32 per second; 0 where nothing was measured.
    """

    name: str
    unit: str
    features: tuple[str, ...] = ()
    threads: int = 1
    caches: tuple[int, int, int] = (0, 0, 0)
    bandwidth: float = 0.0
    multiply_rate: float = 0.0

    @property
    def key(self) -> str:
        """A short name of the machine; what was measured, which varies, is not part of it."""
        fixed = [self.name, self.unit, list(self.features), self.threads, list(self.caches)]
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the canonical text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Machine:
        """Undo :meth:`to_json`.

        Raises
        ------
        ValueError
            When `text` is no machine.
        """
        values = json.loads(text)
        names = {one.name for one in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - names:
            raise ValueError("a machine is a JSON object of " + ", ".join(sorted(names)))
        try:
            found = cls(
                str(values["name"]),
                str(values["unit"]),
                tuple(map(str, values.get("features", ()))),
                int(values.get("threads", 1)),
                _three(values.get("caches", (0, 0, 0))),
                float(values.get("bandwidth", 0.0)),
                float(values.get("multiply_rate", 0.0)),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a machine lacks a field, or has a wrong one: {error}") from error
        if not 1 <= found.threads <= MOST_THREADS or not all(
            0 <= size < MOST_CACHE for size in found.caches
        ):
            raise ValueError("a machine's threads or caches are out of range")
        if not all(0 <= rate < math.inf for rate in (found.bandwidth, found.multiply_rate)):
            raise ValueError("a machine's rate is out of range")
        return found


def standard_error(spread: float, blocks: int) -> float:
    """Return how far a time may be off, as a fraction, that is the lower quartile of blocks.

    Of a normal distribution it is 1.36 sigma by the root of their number; `spread` is 0.67 sigma.
    """
    return 2.03 * spread / max(blocks, 1) ** 0.5


def _three(values: Any) -> tuple[int, int, int]:
    first, second, third = map(int, values)
    return first, second, third


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes
    ----------
    problem, tiling, machine : Problem, str, Machine
        What was measured, with which tile (:func:`.tilings.parse`), and where.
    outcome : str
        ``ok``; ``crash`` of compiler or code; ``timeout``; ``wrong``, its result was another one.
    seconds, p10, p90 : float
        Of a call: the lower quartile of the blocks' 10th percentiles, and of all calls; 0 unless
        ``ok``.
    spread : float
        How far blocks differ: half the distance of their quartiles by the median.
    blocks, calls : int
        Blocks of calls, each timed apart from the others, and calls in all.
    round : str
        What names the measurements of one process that took turns: the fairest to compare.
    when : str
        Its end, in UTC, as ISO 8601 has it.
    versions : mapping of str to str
        Of what generated the code.
    note : str
        Why it is not ``ok``.
    """

    problem: Problem
    tiling: str
    machine: Machine
    outcome: Outcome
    seconds: float = 0.0
    p10: float = 0.0
    p90: float = 0.0
    spread: float = 0.0
    blocks: int = 0
    calls: int = 0
    round: str = ""
    when: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether there is a time."""
        return self.outcome == "ok"

    @property
    def error(self) -> float:
        """How far the time may be off, as a fraction."""
        return standard_error(self.spread, self.blocks)
