"""How the rows and panels of a product are cut into workgroups that threads finish together.

IREE's executor hands out workgroups, x first, one at a time only if there are fewer than eight a
thread; else eight at a time (``IREE_TASK_DISPATCH_MAX_TILES_PER_SHARD_RESERVATION`` in
``runtime/src/iree/task/tuning.h``).  So 24 workgroups on two threads are three portions, and one
thread gets twice the work of the other.  How many threads there will be is not known here: a cut
is judged by what it takes on two, four and eight.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PORTION = 8  # workgroups that a thread takes at a time
THREADS = {2: 1.0, 4: 0.5, 8: 0.25}  # how much each number of them counts
WAITING = 0.15  # of a portion, that other threads wait for the last one: cores are not equally fast
START = 1000.0  # cycles of a workgroup before it begins
UNKNOWN = (1, 2, 3, 4)  # blocks of rows that a number known only at run time may be
MOST = 1024  # workgroups; more are no better


@dataclass(frozen=True)
class Costs:
    """About how many cycles a workgroup takes: those of its parts are added.

    Attributes
    ----------
    tile : float
        For one row of one panel.
    row : float
        For one row, however many panels it meets: copying it.
    panel : float
        For one panel, however many rows it meets: reading it from afar, or making it f32.
    """

    tile: float
    row: float
    panel: float

    def of(self, rows: int, panels: int) -> float:
        """Return the cycles of a workgroup."""
        return START + rows * self.row + panels * self.panel + rows * panels * self.tile


def makespan(items: Sequence[float], threads: int) -> tuple[float, float]:
    """Return when the last thread is done with `items`, and the largest portion that one took."""
    portions = _together(items, _portion(len(items), threads))
    return _last(portions, threads), max(portions)


def _portion(count: int, threads: int) -> int:
    """Return how many of `count` workgroups a thread takes at a time."""
    return 1 if count < PORTION * threads else PORTION


def _together(items: Sequence[float], size: int) -> list[float]:
    rest = items[len(items) // size * size :]
    whole = map(sum, zip(*[iter(items)] * size, strict=False))  # leaves out the rest
    return [*whole, sum(rest)] if rest else [*whole]


def _of_lines(
    full: list[float], last: list[float], down: int, batch: int, size: int
) -> Sequence[float]:
    """Return portions of `size` workgroups of ``batch`` times ``down - 1`` lines and a last one."""
    if size == 1 or batch > 1:
        items = (full * (down - 1) + last) * batch
        return items if size == 1 else _together(items, size)
    # Those of equal lines come again when a portion begins with a line.
    alike, rest = divmod(len(full) * (down - 1), size)
    once = min(alike, len(full) // math.gcd(len(full), size))
    pattern = _together((full * -(-once * size // len(full)))[: once * size], size)
    whole, more = divmod(alike, max(once, 1))
    begun = (full * -(-rest // len(full)))[-rest:] if rest else []
    return [*pattern * whole, *pattern[:more], *_together(begun + last, size)]


def _last(portions: Sequence[float], threads: int) -> float:
    """Return when the last thread is done."""
    if threads == 2:
        first = second = 0.0  # the one that is free first, and the other
        for portion in portions:
            first += portion
            if first > second:
                first, second = second, first
        return second
    ends = [0.0] * threads
    for portion in portions:
        heapq.heapreplace(ends, ends[0] + portion)
    return max(ends)


@functools.lru_cache(maxsize=4096)
def split(
    batch: int, m: int | None, panels: int, step: int, costs: Costs, most_panels: int
) -> tuple[int, int]:
    """Return panels and rows of a workgroup.

    Rows come in blocks of `step`; if their number is not known, a workgroup has one block.  It has
    at most `most_panels` panels.
    """
    parts = [group for group in _parts(panels) if group <= most_panels]
    if not parts or m == 0:
        return min(panels, most_panels), step
    if m is None:
        return _split_unknown(batch, panels, step, costs, parts), step
    chunks = [rows * step for rows in _parts(-(-m // step))]
    count, least = _bounds(batch, m, panels, costs, chunks, parts)
    # Of a large product most cuts are too fine; the first one stands if all are.
    may_be = count <= MOST
    may_be.reshape(-1)[0] = True
    least[0, ~may_be] = math.inf

    best, found = math.inf, 0
    bounds = least.reshape(len(THREADS), -1)
    order = np.argsort(bounds[0], kind="stable")
    for place, *rest in zip(order.tolist(), *bounds[:, order].tolist(), strict=True):
        if rest[0] > best:
            break  # And so are those that follow.
        chunk, group = chunks[place // len(parts)], parts[place % len(parts)]
        ends = _ends(m, chunk), _ends(panels, group)
        score = _score_of(batch, *ends, costs, best, (*rest[1:], 0.0))
        # Of equals the first, in the order of places.
        best, found = min((best, found), (score, place))
    return parts[found % len(parts)], chunks[found // len(parts)]


def _split_unknown(batch: int, panels: int, step: int, costs: Costs, parts: Sequence[int]) -> int:
    """Return the panels of a workgroup that has one block of rows, of an unknown number."""
    best, found = math.inf, parts[0]
    for group in parts:
        score = 0.0
        for many in UNKNOWN:
            count = many * -(-panels // group) * batch
            if count > MOST and best < math.inf:
                return found  # The cuts that follow are finer.
            chunks, groups = [step] * many, _sizes(panels, group)
            score += _score(batch, chunks, groups, costs) / many
        if score < best:
            best, found = score, group
    return found


def _bounds(
    batch: int, m: int, panels: int, costs: Costs, chunks: Sequence[int], parts: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return how many workgroups, ``[chunks, parts]``, and what :func:`_score` says at least.

    That is ``[threads, chunks, parts]``: of all of :data:`THREADS`, all but the first, and so on.
    """
    chunk, group = np.array(chunks)[:, None], np.array(parts)[None, :]
    down, across = -(-m // chunk), -(-panels // group)
    count = batch * down * across
    total = count * START + batch * (
        float(m) * across * costs.row + float(panels) * down * costs.panel
        + float(m) * panels * costs.tile
    )  # fmt: skip

    def of(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            START + rows * costs.row + columns * costs.panel + rows * columns * costs.tile
        )
        return found

    rows, columns = np.minimum(chunk, m), np.minimum(group, panels)
    low, narrow = m - (down - 1) * chunk, panels - (across - 1) * group
    largest, smallest, less_wide = of(rows, columns), of(low, narrow), of(rows, narrow)
    # Lines of workgroups of full height, and those of them that are full in both ways.
    lines = batch * (down - (low < rows))
    full = lines * (across - (narrow < columns))
    # Portions without any of the low ones, which are the last line of each batch.
    ends = np.where(low < rows, batch * ((across + PORTION - 2) // PORTION + 1), 0)
    whole = np.maximum(count // PORTION - ends, 0)
    least_whole = PORTION * largest - -(-PORTION // across) * (largest - less_wide)
    least = np.zeros((len(THREADS), *count.shape))
    for place, (threads, weight) in enumerate(THREADS.items()):
        alone = count < PORTION * threads
        portions = np.where(alone, count, -(-count // PORTION))
        portion = np.maximum(largest, total / portions)
        portion = np.where(alone | (whole == 0), portion, np.maximum(portion, least_whole))
        # One thread takes so many portions, of which one may be short.
        turns = -(-portions // threads)
        last = np.where(alone, turns, PORTION * (turns - 1)) * smallest
        last = np.maximum(np.maximum(total / threads, portion), last)
        # And one so many of those that are no less than some size.
        of_full = -(-full // threads) * largest
        of_both = -(-(lines * across) // threads) * less_wide
        of_whole = -(-whole // threads) * least_whole
        last = np.maximum(last, np.where(alone, np.maximum(of_full, of_both), of_whole))
        least[: place + 1] += weight * threads * (last + WAITING * portion)
    return count, least * (1 - 1e-9)  # its sums are rounded otherwise


def _parts(count: int) -> list[int]:
    """Return the sizes of the largest part, the largest first, of all cuts into equal parts."""
    found, parts = [], 1
    while parts <= count:
        part = -(-count // parts)
        found.append(part)
        # The least number of parts that are smaller.
        parts = -(-count // (part - 1)) if part > 1 else count + 1
    return found


def _sizes(count: int, part: int) -> list[int]:
    return [min(part, count - start) for start in range(0, count, part)]


def _ends(count: int, part: int) -> tuple[int, int, int]:
    """Return how many parts there are, and the first and the last of :func:`_sizes`."""
    parts = -(-count // part)
    return parts, min(part, count), count - (parts - 1) * part


def _score(batch: int, chunks: Sequence[int], groups: Sequence[int], costs: Costs) -> float:
    return _score_of(
        batch, (len(chunks), chunks[0], chunks[-1]), (len(groups), groups[0], groups[-1]), costs
    )


def _score_of(
    batch: int,
    chunks: tuple[int, int, int],
    groups: tuple[int, int, int],
    costs: Costs,
    best: float = math.inf,
    others: Sequence[float] = (0.0,) * len(THREADS),
) -> float:
    """Return what a cut takes; of chunks and groups how many there are, the first and the last.

    Where that is more than `best`, it may be infinity: `others` are what all numbers of threads but
    the first add at least, all but the first two, and so on.
    """
    # All chunks are alike but the last one, and so are all groups: two kinds of lines.
    (down, *heights), (across, wide, narrow) = chunks, groups
    full, last = (
        [costs.of(rows, wide)] * (across - 1) + [costs.of(rows, narrow)] for rows in heights
    )
    count = across * down * batch
    score = 0.0
    portions: dict[int, tuple[Sequence[float], float]] = {}
    for (threads, weight), rest in zip(THREADS.items(), others, strict=True):
        size = _portion(count, threads)
        if size not in portions:
            taken = _of_lines(full, last, down, batch, size)
            portions[size] = taken, WAITING * max(taken)
        taken, waiting = portions[size]
        score += weight * threads * (_last(taken, threads) + waiting)
        if score + rest > best:
            return math.inf
    return score
