"""Measured times as tables: one for each product, of all its tiles on one machine.

Measurements of one round took turns and drift together, so rounds are brought to one level before
times of the same tile are put together (:mod:`.times`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import families, space
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Machine, Record
from ...passes.tiling.tilings import Tiling, parse
from .times import level_times

Floats = NDArray[np.float64]
NORMAL_QUARTILE = 0.674  # standard deviations
SLOW = 1.1  # times as long as in another round: the machine did something else
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
        Of a call; and how far one measurement of it may be off, as a fraction: by its blocks, and
        by how far processes differ.
    default : int
        Number of the default tile; -1 where it was not measured.
    is_pooled : bool
        Whether no two processes measured the same tiles, so that how far they differ is that of the
        machine's other products.
    k_of_weight : int
        The least K that is, or may be, of the same weights; 0 where that is this product's own.
    rounds, dropped : int
        How many rounds of measurements the times are of, and how many do not count.
    """

    problem: Problem
    machine: Machine
    tilings: tuple[Tiling, ...]
    seconds: Floats
    noise: Floats
    default: int
    is_pooled: bool = False
    k_of_weight: int = 0
    rounds: int = 1
    dropped: int = 0

    @property
    def family(self) -> str:
        """What is held out together: the weight's shape, whatever the form and the rows.

        Some forms fill K up to whole groups: all K that fill up to the same are one family, for one
        of them may be the same weight (:func:`tables`).
        """
        p = self.problem
        return f"{p.batch}x{p.n}x{self.k_of_weight or p.k}"

    @functools.cached_property
    def choosable(self) -> NDArray[np.bool_]:
        """Which tiles can be taken in fact; the others are legal, and were measured to learn."""
        known = set(space.candidates(self.problem))
        return np.array([tiling in known for tiling in self.tilings], bool)

    def only(self, mask: NDArray[np.bool_]) -> Table:
        """Return the table of some of the tiles."""
        tilings = tuple(itertools.compress(self.tilings, mask))
        has_default = self.default >= 0 and bool(mask[self.default])
        place = int(mask[: self.default].sum()) if has_default else -1
        return replace(
            self, tilings=tilings, seconds=self.seconds[mask], noise=self.noise[mask], default=place
        )

    @property
    def best(self) -> float:
        """The least time."""
        return float(self.seconds.min())


def tables(
    records: Iterable[Record], least: int = LEAST_TILES, *, all_rounds: bool = False
) -> list[Table]:
    """Return a table for each product and machine with `least` tiles or more, in a fixed order.

    Rounds that were disturbed (:func:`undisturbed`) count only with `all_rounds`.
    """
    grouped: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.is_ok and record.seconds > 0:
            grouped[record.machine.key, record.problem.key].append(record)
    every = {key: _rounds(some) for key, some in grouped.items()}
    rounds = every if all_rounds else {key: undisturbed(some) for key, some in every.items()}
    apart = {key: _apart(some) for key, some in rounds.items()}
    # Where one round is left, how far it is from those that were disturbed says more than nothing,
    # and a product of one process may have been disturbed itself.
    all_apart = {key: _apart(some) for key, some in every.items()}
    pooled: dict[str, list[Floats]] = defaultdict(list)
    for (machine, _), one in all_apart.items():
        pooled[machine].append(one)
    apart = {key: one if len(one) else all_apart[key] for key, one in apart.items()}
    found = []
    for key in sorted(grouped):
        is_pooled = not len(apart[key])
        between = _spread(np.concatenate(pooled[key[0]]) if is_pooled else apart[key])
        table = _table(grouped[key][0], rounds[key], between)
        dropped = len(every[key]) - len(rounds[key])
        found.append(replace(table, is_pooled=is_pooled, rounds=len(rounds[key]), dropped=dropped))
    return [table for table in _with_weights(found) if len(table.tilings) >= least]


def _with_weights(found: Sequence[Table]) -> list[Table]:
    """Return tables with the least K of all that may be of the same weight.

    That is what fills up to one K in a form that fills up, whatever forms it was measured in.
    """
    by_columns: dict[tuple[int | None, int | None], list[Problem]] = defaultdict(list)
    for table in found:
        by_columns[table.problem.batch, table.problem.n].append(table.problem)
    least = {columns: _least_ks(problems) for columns, problems in by_columns.items()}
    changed = []
    for table in found:
        k = table.problem.k or 0
        of_weight = least[table.problem.batch, table.problem.n][k]
        changed.append(replace(table, k_of_weight=of_weight if of_weight != k else 0))
    return changed


def _least_ks(problems: Sequence[Problem]) -> dict[int, int]:
    """Return for each K of products of as many columns the least K that it is joined with."""
    found = {problem.k or 0: problem.k or 0 for problem in problems}
    for problem in problems:
        k, group = problem.k or 0, problem.group
        fills = families.is_dequant(problem.form) or problem.unit == "spirv"
        if not fills or not group or problem.lowering != "kernel":
            continue
        joined = {found[one] for one in found if -(-one // group) * group == k} | {found[k]}
        found = {one: min(joined) if of in joined else of for one, of in found.items()}
    return found


def _rounds(records: Sequence[Record]) -> list[dict[str, Record]]:
    """Return the records of each round by tile: of several of one tile, the least."""
    by_round: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (-record.seconds, record.round)):
        by_round[record.round][record.tiling] = record
    return [by_round[name] for name in sorted(by_round)]


def undisturbed(rounds: Sequence[dict[str, Record]]) -> list[dict[str, Record]]:
    """Return the rounds but those in which most tiles took much longer than in another one.

    What took a core, or a part of one, away was there all the time, and not seen by the process
    that measured (of what a machine's host does a guest knows little): the order of tiles is then
    another one, too.  Of 40 products that were measured in such minutes and in others tau between
    the two was 0.5, and 0.8 between two rounds of quiet minutes.
    """

    def is_slow(one: dict[str, Record]) -> bool:
        for other in rounds:
            shared = one.keys() & other.keys()
            ratios = [one[tile].seconds / other[tile].seconds for tile in shared]
            if len(ratios) >= LEAST_TILES and np.median(ratios) > SLOW:
                return True
        return False

    return [one for one in rounds if not is_slow(one)]


def _table(first: Record, rounds: Sequence[dict[str, Record]], between: float) -> Table:
    seconds = level_times([{t: r.seconds for t, r in one.items()} for one in rounds])
    errors = {t: float(np.median([one[t].error for one in rounds if t in one])) for t in seconds}
    problem, machine = first.problem, first.machine
    order = {tiling.text: place for place, tiling in enumerate(space.candidates(problem))}
    texts = sorted(seconds, key=lambda text: (order.get(text, len(order)), text))
    usual = space.default(problem).text
    return Table(
        problem, machine, tuple(parse(text) for text in texts),
        np.array([seconds[text] for text in texts]),
        np.array([max(between, errors[text]) for text in texts]),
        texts.index(usual) if usual in texts else -1,
    )  # fmt: skip


def _apart(rounds: Sequence[dict[str, Record]]) -> Floats:
    """Return how logarithms of times of two processes differ, but for their level.

    Of the two rounds that share the most tiles; nothing where that is less than a table has.
    """
    pairs = itertools.combinations(rounds, 2)
    first, second = max(
        pairs, key=lambda pair: len(pair[0].keys() & pair[1].keys()), default=({}, {})
    )
    shared = sorted(first.keys() & second.keys())
    if len(shared) < LEAST_TILES:
        return np.zeros(0)
    apart = np.log([first[text].seconds / second[text].seconds for text in shared])
    found: Floats = apart - np.median(apart)
    return found


def _spread(apart: Floats) -> float:
    """Return the standard deviation of one process's times, by quartiles; 0 where none is known."""
    if not len(apart):
        return 0.0
    low, high = np.percentile(apart, [25, 75])
    return float((high - low) / 2 / NORMAL_QUARTILE / np.sqrt(2))


def data_hash(found: Sequence[Table]) -> str:
    """Return the SHA-256 of what models are made of: products, tiles, machines, times."""
    digest = hashlib.sha256()
    for table in found:
        digest.update(f"{table.machine.key} {table.problem.to_json()}\n".encode())
        for tiling, seconds in zip(table.tilings, table.seconds, strict=True):
            digest.update(f"{tiling.text} {seconds:.6e}\n".encode())
    return digest.hexdigest()
