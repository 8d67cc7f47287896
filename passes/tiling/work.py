"""What a tile makes a product do: how often each kind of step is on the way that takes longest.

Seconds by parts, each what it would take alone on a usual core: the numbers that make them right
for a form are fitted (``tools/tune/formulas.py``), so that only what grows with what matters here.
Parts that a core does side by side, such as multiplying and reading, count almost as the longest of
them, others are added (:func:`total`).

All threads but the last one to finish wait, so that the work of workgroups counts by the share of
it that one thread gets; how many it takes at a time is :mod:`..kernels.work_split`'s.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.work_split import PORTION, makespan

Floats = NDArray[np.float64]

CYCLE = 1 / 3.5e9  # seconds
WORKGROUP = 1e-7  # seconds of a workgroup, before it begins
CALL = 1e-5  # and of a call
NEAR, FAR, MEMORY = 32.0, 16.0, 5.0  # bytes a cycle from the second cache, the third, beyond
LINE, WAYS = 64, 8  # of the first cache: bytes of a line, and lines of a set

# What is done side by side, then what is added.
BESIDE = (
    ("multiply",), ("broadcast", "load"), ("step",), ("panels_near", "rows_near"),
    ("panels_far", "rows_far"), ("memory",),
)  # fmt: skip
ADDED = (
    "start", "store", "again", "again_far", "prepare", "pack", "workgroups", "call", "rows_all",
    "all", "conflicts", "spills", "records", "each_row", "shared_rows",
    "shared_lines",
)  # fmt: skip
NAMES = (*(name for group in BESIDE for name in group), *ADDED)
POWER = 4.0  # of a norm: the larger, the more only the longest counts
MOST_PORTIONS = 32  # that threads are watched taking, one after the other


@dataclass(frozen=True)
class Cut:
    """A product of known sizes, and its tiles: an array where each has its own.

    Attributes
    ----------
    batch, m, n, k : int
        Sizes of the product.
    rows, vectors, k_block, panels, chunk : array
        Of each tile: rows and vectors of sums, K of a pass, panels and rows of a workgroup.
    lanes, threads : int
        f32 of a vector; workers.
    right, left, result : float
        Bytes of the operands, as they are read, and of the result.
    prepared : bool
        Whether rows are prepared by a call before.
    prepares : array
        Whether each workgroup prepares or copies its rows.
    own : bool
        Whether each batch has a right operand of its own.
    caches : tuple of int
        Bytes of the first, second and third cache.
    apart : bool
        Whether rows are read where they are, unless they are prepared: so far apart as K says.
    pressure : array
        Vector registers that the sums and what they are made of need, by those there are.
    shares : array
        Workgroups of each thread of products that read each weight once, which share single panels
        (:attr:`..kernels.record_matmul.RecordMatmul.reads_once`); 0 of others.
    packed : array
        0 where a right operand that is an activation is read where it is, 1 elsewhere.
    """

    batch: int
    m: int
    n: int
    k: int
    rows: Floats
    vectors: Floats
    k_block: Floats
    panels: Floats
    chunk: Floats
    lanes: int
    threads: int
    right: float
    left: float
    result: float
    prepared: bool
    prepares: Floats
    own: bool
    caches: tuple[float, float, float]
    apart: bool
    pressure: Floats
    shares: Floats
    packed: Floats

    @functools.cached_property
    def count(self) -> Floats:
        """Panels, the last one with columns that are not there."""
        return np.ceil(self.n / (self.vectors * self.lanes))

    @functools.cached_property
    def groups(self) -> Floats:
        """Workgroups across."""
        wanted = np.ceil(self.shares * self.threads / self.batch)
        cut = np.ceil(self.count / self.panels)
        return np.where(self.shares > 0, np.minimum(self.count, wanted), cut)

    @functools.cached_property
    def chunks(self) -> Floats:
        """Workgroups down."""
        return np.ceil(self.m / self.chunk)

    @functools.cached_property
    def portion(self) -> Floats:
        """Workgroups that a thread takes at a time."""
        items = self.groups * self.chunks * self.batch
        return np.where(items < PORTION * self.threads, 1.0, float(PORTION))

    @functools.cached_property
    def blocks(self) -> Floats:
        """Blocks of rows of all chunks, low ones among them."""
        whole = np.floor(self.m / self.chunk)
        rest = self.m - whole * self.chunk
        return whole * np.ceil(self.chunk / self.rows) + np.ceil(rest / self.rows)


def share(cut: Cut) -> Floats:
    """Return which part of the work the thread has that ends last.

    Workgroups are counted across first; the last one across and the last one down may be smaller.
    """
    if (cut.shares > 0).any():
        return _shared(cut)
    groups, chunks = cut.groups, cut.chunks
    items, portion = groups * chunks * cut.batch, cut.portion
    count = np.ceil(items / portion)
    last_group = (cut.count - (groups - 1) * cut.panels) / cut.panels
    last_chunk = (cut.m - (chunks - 1) * cut.chunk) / cut.chunk
    row = groups - 1 + last_group  # workgroups across, in full ones
    batch = row * (chunks - 1 + last_chunk)

    def before(item: Floats) -> Floats:
        """Return the work of all workgroups before one, in full ones."""
        if cut.batch == 1:
            down = np.floor(item / groups)
            height = np.where(down >= chunks - 1, last_chunk, 1.0)
            begun = down * row + (item - down * groups) * height
            return np.where(item >= items, batch, begun)
        item = np.minimum(item, items)
        whole = np.floor(item / (groups * chunks))
        rest = item - whole * groups * chunks
        down = np.floor(rest / groups)
        height = np.where(down >= chunks - 1, last_chunk, 1.0)
        return whole * batch + down * row + (rest - down * groups) * height

    total = batch * cut.batch
    shown = np.minimum(count, MOST_PORTIONS)
    # Of many portions all but the last are shared fairly.
    first = np.where(count > MOST_PORTIONS, count - MOST_PORTIONS, 0.0)
    turns = np.arange(int(shown.max()) + 1.0)
    done = before((first + turns[:, None]) * portion)
    taken = np.where(turns[:-1, None] < shown, done[1:] - done[:-1], 0.0)
    if cut.threads == 2:
        first, second = done[0] / 2, done[0] / 2  # the thread that is free first, and the other
        room = np.empty_like(first)
        for more in taken:
            np.add(first, more, out=first)
            np.minimum(first, second, out=room)
            np.maximum(first, second, out=second)
            first, room = room, first
        return second / total
    ends = np.repeat((done[0] / cut.threads)[:, None], cut.threads, axis=1)
    places = np.arange(len(ends)) * cut.threads
    flat = ends.reshape(-1)
    for more in taken:
        flat[ends.argmin(axis=1) + places] += more
    found: Floats = ends.max(axis=1) / total
    return found


def _shared(cut: Cut) -> Floats:
    """Return :func:`share` where some tiles read each weight once: their workgroups differ by 1."""
    once = cut.shares > 0
    if not once.all():
        found = np.empty(len(once))
        for mask in (once, ~once):
            found[mask] = share(_some(cut, mask))
        return found
    pairs = zip(cut.count.tolist(), cut.groups.tolist(), strict=True)
    return np.array([_of_panels(*pair, cut.batch, cut.threads) for pair in pairs])


def _some(cut: Cut, mask: NDArray[np.bool_]) -> Cut:
    """Return the cut of some of the tiles."""
    arrays: dict[str, Any] = {
        field.name: value[mask]
        for field in fields(cut)
        if isinstance(value := getattr(cut, field.name), np.ndarray)
    }
    return replace(cut, **arrays)


@functools.lru_cache(maxsize=4096)
def _of_panels(count: float, groups: float, batch: int, threads: int) -> float:
    """Return the share of the thread that ends last, of `count` panels in `groups` workgroups."""
    each, over = divmod(int(count), int(groups))
    sizes = [float(each + (place < over)) for place in range(int(groups))]
    last, _ = makespan(sizes * batch, threads)
    return last / (count * batch)


def conflicts(cut: Cut) -> Floats:
    """Return how many lines of rows side by side want one set of the first cache, by its ways.

    Rows lie a multiple of K apart: of 1536 f32 every second row begins in the same set.
    """
    period = cut.caches[0] / WAYS
    apart = period / math.gcd(4 * cut.k, int(period)) if period >= 1 else 1.0
    found: Floats = np.where(cut.prepares > 0, 0.0, cut.rows / (WAYS * apart)) * cut.apart
    return found


def parts(cut: Cut, most: Floats | None = None) -> dict[str, Any]:
    """Return seconds by :data:`NAMES`; `most` is :func:`share`, for who knows it already."""
    first, second, third = cut.caches
    batch, k = cut.batch, cut.k
    count, groups, chunks, blocks = cut.count, cut.groups, cut.chunks, cut.blocks
    turn = (share(cut) if most is None else most) * CYCLE
    tiles = blocks * count * batch
    k_blocks = np.ceil(k / cut.k_block)
    real = float(cut.m) * count * batch  # rows of panels
    group_bytes = cut.right / cut.n / k * cut.k_block * cut.vectors * cut.lanes * cut.panels
    if cut.own:
        group_bytes = group_bytes / batch
    weight = cut.right * (1 if cut.own else batch)
    again = real * cut.vectors * 2 * (k_blocks - 1)
    held = 4.0 * cut.chunk * cut.panels * cut.vectors * cut.lanes
    read = cut.left * groups
    shared = cut.m * batch * (groups - 1) / cut.portion
    row_bytes = cut.left / cut.m / batch / k
    moved = cut.left + cut.right + cut.result
    wide = row_bytes * cut.chunk * cut.k_block > second / 2
    crowded = _within(conflicts(cut) - 1.0, 2.0)
    held_rows = _within(row_bytes * cut.rows * cut.k_block / first - 0.6, 1.0)
    spilt = _within((cut.pressure - 0.9) * 10, 2.0)
    return {
        "multiply": real * k * cut.vectors * turn,
        "broadcast": real * k * turn,
        "load": tiles * k * cut.vectors * turn,
        "step": tiles * k * turn,
        "start": tiles * k_blocks * turn,
        "store": real * cut.vectors * turn,
        "again": again * turn,
        "again_far": np.where(held > first / 2, again, 0.0) * turn,
        "prepare": cut.prepares * cut.m * k * groups * batch / cut.lanes * turn,
        "pack": cut.packed * k * count * cut.vectors * chunks * batch * turn,
        "workgroups": groups * chunks * batch / cut.threads * WORKGROUP,
        "call": CALL,
        "panels_near": np.where(group_bytes > first / 2, weight * blocks, 0.0) * turn / NEAR,
        "panels_far": weight * np.where(group_bytes > 0.8 * second, blocks, chunks) * turn / FAR,
        "rows_far": np.where(wide, read, 0.0) * turn / FAR,
        "rows_all": read * turn / FAR,
        "memory": max(moved - 0.5 * third, 0.0) * CYCLE / MEMORY,
        "all": moved * CYCLE / FAR,
        "rows_near": real * k * held_rows * turn,
        "conflicts": real * k * crowded * turn,
        "records": cut.prepared * cut.m * k * batch / cut.lanes / cut.threads * CYCLE,
        "each_row": cut.m * batch / cut.threads * CYCLE,
        # Rows of the result that two threads write side by side, and a line of them if they begin
        # within one.
        "shared_rows": shared * turn,
        "shared_lines": (cut.n % cut.lanes > 0) * shared * turn,
        "spills": real * k * cut.vectors * spilt * turn,
    }


def _within(values: Floats, most: float) -> Floats:
    """Return values from 0 to `most`; of few, NumPy's own function takes three times as long."""
    found: Floats = np.minimum(np.maximum(values, 0.0), most)
    return found


def total(parts: Floats, counts: Sequence[float] | Floats) -> Floats:
    """Return seconds of ``[tiles, NAMES]``, with what each part counts for."""
    counted = parts * np.asarray(counts)
    beside: Floats = np.zeros(len(parts))
    place = 0
    for group in BESIDE:
        beside = beside + counted[:, place : place + len(group)].sum(axis=1) ** POWER
        place += len(group)
    found: Floats = beside ** (1 / POWER) + counted[:, place:].sum(axis=1)
    return found
