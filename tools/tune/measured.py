"""Measured times as tables: one for each product, of all its tiles on one machine.

A tile that was measured several times has the least of its times: what comes between only makes a
call longer.  Measurements of one round took turns and drift together, so a tile that was in other
rounds only is brought to the level of the largest one (of several, the fastest), by the tiles that
both have.
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
NORMAL_QUARTILE = 0.674  # standard deviations
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
        Of a call; and how far a time may be off, as a fraction: by its blocks, and by what two
        processes say where two measured it.
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
    by_round: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: -record.seconds):
        by_round[record.round][record.tiling] = record  # the least one stays
    rounds = sorted(by_round.values(), key=lambda one: (-len(one), _middle(one)))
    level = rounds[0]
    found: dict[str, tuple[float, float]] = {}
    for one in rounds:
        shared = [text for text in one if text in level]
        factor = 1.0
        if shared:
            factor = statistics.median(level[t].seconds / one[t].seconds for t in shared)
        for text, record in one.items():
            seconds = record.seconds * (1.0 if text in level else factor)
            if text not in found or seconds < found[text][0]:
                found[text] = (seconds, record.error)
    between = _between(rounds)
    problem, machine = records[0].problem, records[0].machine
    order = {tiling.text: place for place, tiling in enumerate(space.candidates(problem))}
    texts = sorted(found, key=lambda text: (order.get(text, len(order)), text))
    usual = space.default(problem).text
    return Table(
        problem, machine, tuple(parse(text) for text in texts),
        np.array([found[text][0] for text in texts]),
        np.array([max(between, found[text][1]) for text in texts]),
        texts.index(usual) if usual in texts else -1,
    )  # fmt: skip


def _between(rounds: Sequence[dict[str, Record]]) -> float:
    """Return how far times of two processes differ, but for their level; 0 for one process."""
    if len(rounds) < 2:
        return 0.0
    first, second = rounds[:2]
    shared = [text for text in first if text in second]
    if len(shared) < LEAST_TILES:
        return 0.0
    apart = np.log([first[text].seconds / second[text].seconds for text in shared])
    low, high = np.percentile(apart, [25, 75])
    return float((high - low) / 2 / NORMAL_QUARTILE / np.sqrt(2))


def _middle(one: dict[str, Record]) -> float:
    return statistics.median(record.seconds for record in one.values())


def data_hash(found: Sequence[Table]) -> str:
    """Return the SHA-256 of what models are made of: products, tiles, machines, times."""
    digest = hashlib.sha256()
    for table in found:
        digest.update(f"{table.machine.key} {table.problem.to_json()}\n".encode())
        for tiling, seconds in zip(table.tilings, table.seconds, strict=True):
            digest.update(f"{tiling.text} {seconds:.6e}\n".encode())
    return digest.hexdigest()
