"""Measured times as tables: one for each product, of all its tiles on one machine.

A tile that was measured several times has the median of its times.  Measurements of one round took
turns and drift together, so times of other rounds are first brought to the level of the largest
one, by the tiles that both have.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import space
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Machine, Record
from ...passes.tiling.tilings import Tiling, parse

Floats = NDArray[np.float64]
LEAST_TILES = 4  # of a product: fewer say nothing about a choice


@dataclass(frozen=True)
class Table:
    """Times of tiles of one product.

    Attributes
    ----------
    problem, machine : Problem, Machine
        What was measured, and where.
    tilings : tuple of Tiling
        Each once, in the order of the space, those that are no candidates any more behind them.
    seconds, noise : array
        Of a call; and how far a time may be off, as a fraction.
    default : int
        Number of the default tile; -1 where it was not measured.
    """

    problem: Problem
    machine: Machine
    tilings: tuple[Tiling, ...]
    seconds: Floats
    noise: Floats
    default: int

    @property
    def family(self) -> str:
        """What is held out together: the weight's shape, whatever the form and the rows."""
        p = self.problem
        return f"{p.batch}x{p.n}x{p.k}"

    @property
    def best(self) -> float:
        """The least time."""
        return float(self.seconds.min())


def tables(records: Iterable[Record], least: int = LEAST_TILES) -> list[Table]:
    """Return a table for each product and machine with `least` tiles or more, in a fixed order."""
    grouped: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.is_ok and record.seconds > 0:
            grouped[record.machine.key, record.problem.key].append(record)
    found = [_table(grouped[key]) for key in sorted(grouped)]
    return [table for table in found if len(table.tilings) >= least]


def _table(records: Sequence[Record]) -> Table:
    by_round: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        by_round[record.round][record.tiling].append(record)
    rounds = sorted(by_round.values(), key=len, reverse=True)
    level = {text: statistics.median(r.seconds for r in same) for text, same in rounds[0].items()}
    times: dict[str, list[float]] = defaultdict(list)
    noise: dict[str, list[float]] = defaultdict(list)
    for one in rounds:
        shared = [text for text in one if text in level]
        factor = 1.0
        if shared and one is not rounds[0]:
            factor = statistics.median(
                level[text] / statistics.median(r.seconds for r in one[text]) for text in shared
            )
        for text, same in one.items():
            times[text] += [record.seconds * factor for record in same]
            noise[text] += [record.error for record in same]
    problem, machine = records[0].problem, records[0].machine
    order = {tiling.text: place for place, tiling in enumerate(space.candidates(problem))}
    texts = sorted(times, key=lambda text: (order.get(text, len(order)), text))
    usual = space.default(problem).text
    return Table(
        problem, machine, tuple(parse(text) for text in texts),
        np.array([statistics.median(times[text]) for text in texts]),
        np.array([statistics.median(noise[text]) for text in texts]),
        texts.index(usual) if usual in texts else -1,
    )  # fmt: skip


def data_hash(found: Sequence[Table]) -> str:
    """Return the SHA-256 of what models are made of: products, tiles, machines, times."""
    digest = hashlib.sha256()
    for table in found:
        digest.update(f"{table.machine.key} {table.problem.to_json()}\n".encode())
        for tiling, seconds in zip(table.tilings, table.seconds, strict=True):
            digest.update(f"{tiling.text} {seconds:.6e}\n".encode())
    return digest.hexdigest()
