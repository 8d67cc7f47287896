"""What is known of a product and its tiles before anything runs, as numbers for a model.

One row a tile, all tiles of a product at once, in NumPy: some microseconds each.  Times among the
features are estimates in seconds from what the machine was measured to reach; they need not be
right, a model learns how far they are off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..kernels import tiles
from ..kernels.additive_matmul_gpu import SIDE, ThreadTile
from ..kernels.additive_tiles_gpu import SharedTile
from ..kernels.dequant_threads import DequantTile
from ..kernels.few_rows_gpu import FewTile
from ..kernels.float_tiles import stays_near
from ..kernels.mma_tile import MmaTile
from ..kernels.table_matmul import makes_tables
from . import families, work
from .problem import Problem
from .record import Machine
from .tilings import (
    KernelTiling,
    KernelTilings,
    LinalgTiling,
    ThreadTiling,
    Tiling,
    numbers_of,
)

Floats = NDArray[np.float64]

VERSION = 3  # changes with the meaning of any feature
# Where nothing was measured: bytes and multiply-adds per second, and caches, of a usual core.
BANDWIDTH, MULTIPLY_RATE, CACHES = 15e9, 60e9, (32 << 10, 1 << 20, 16 << 20)
# Multiply-adds that a product costs, by form: two additions, a quarter of a dot product …
_COSTS = {"f32": 1.0, "lmul": 1.7, "pam": 1.7}
_INTEGER_COSTS = {"vnni": 0.27, "bytes": 0.4, "shorts": 0.65, "lanes": 2.0}
# Registers of a vector of sums, and of a vector of codes with the words they come from.
_INTEGER_REGISTERS = {"vnni": (1, 2), "bytes": (2, 3), "shorts": (1, 4), "lanes": (1, 4)}
_TABLE_COST = 0.16  # of one plane
_DEQUANT_COST = 1.1

NAMES = (
    "log_m", "log_n", "log_k", "log_batch", "log_products", "is_added", "is_integer", "is_table",
    "is_dequant", "is_linalg", "is_stock", "is_gpu", "weight_bits", "log_group", "planes",
    "table_bits", "packs", "prepares", "symmetric", "per_group", "own_batch",
    "lanes", "registers", "threads", "log_bandwidth", "log_rate", "log_l1", "log_l2", "log_l3",
    "rows", "vectors", "sums", "pressure", "log_k_block", "k_blocks", "panels", "log_panels",
    "row_blocks_of_chunk", "log_row_chunk", "copies",
    "loads_per_product", "in_flight", "column_waste", "column_tail", "row_tail", "height_share",
    "log_workgroups", "waves", "share", "column_groups", "row_chunks", "conflicts",
    "together", "shares", "in_place",
    "log_item_products", "panel_in_l1", "group_in_l1", "group_in_l2", "group_in_l3", "rows_in_l1",
    "chunk_in_l2", "result_in_l1", "result_in_l2", "weight_in_l2", "weight_in_l3", "all_in_l3",
    "log_reads_of_left", "log_reads_of_right", "log_reads_of_result", "intensity", "k_modulo_page",
    "log_memory", "bound", "log_alpha_flops", *(f"part_{name}" for name in work.NAMES),
    "log_estimate",
)  # fmt: skip
ESTIMATE = NAMES.index("log_estimate")
# Logarithms (base 2) of seconds that the formula of a form adds up, each times a number of its own.
PARTS = tuple(NAMES.index(f"part_{name}") for name in work.NAMES)
COMPONENTS = len(PARTS)
LEAST_PART = 1e-12  # seconds: a part that there is not


def matrix(problem: Problem, tilings: Sequence[Tiling], machine: Machine) -> Floats:
    """Return ``[tiles, features]``, in the order of :data:`NAMES`.

    Sizes that are not known count as one row of blocks: rows 1, columns 1024, K 1024.
    """
    numbers = _numbers(problem, tilings)
    columns = _columns(problem, numbers, machine)
    return _stacked([columns[name] for name in NAMES], len(tilings)).T  # a feature side by side


def components(rows: Floats) -> Floats:
    """Return ``[tiles, COMPONENTS]``, seconds of :data:`PARTS`."""
    found: Floats = np.exp2(rows[:, PARTS])
    return found


def _numbers(problem: Problem, tilings: Sequence[Tiling]) -> Floats:
    """Return rows, vectors, block of K, panels, row chunk, copies and stock of each tile."""
    k = problem.k or 1024
    lanes = _lanes(problem)
    found = np.zeros((len(tilings), 7))
    # NumPy takes long with rows, and Python with names.
    if isinstance(tilings, KernelTilings):
        found[:, :6] = np.array([*chain.from_iterable(tilings.numbers)], float).reshape(-1, 6)
        np.minimum(found[:, 2], k, out=found[:, 2])
    else:
        flat = chain.from_iterable(_number(one, lanes, k) for one in tilings)
        found[:] = np.array([*flat], float).reshape(-1, 7)
    if is_record(problem):
        found[:, 2] = k  # their tiles have the words of a column there
    return found


def _number(one: Tiling, lanes: int, k: int) -> tuple[float, ...]:
    if isinstance(one, KernelTiling):
        rows, vectors, k_block, *others = numbers_of(one)
        return (rows, vectors, min(k_block, k), *others, 0)
    return _of_threads(one.tile, k) if isinstance(one, ThreadTiling) else _of_linalg(one, lanes, k)


def _of_threads(
    tile: ThreadTile | SharedTile | DequantTile | FewTile | MmaTile, k: int
) -> tuple[float, ...]:
    """Return rows and vectors of a thread, its share of K, panels, rows of a workgroup."""
    if isinstance(tile, DequantTile):
        return (tile.rows, tile.vectors, k, tile.across, tile.rows * tile.down, 0, 0)
    if isinstance(tile, SharedTile):
        return (tile.rows, tile.vectors, tile.depth, tile.across, tile.height, 0, 0)
    if isinstance(tile, FewTile):
        return (1, tile.rows, max(1, k // tile.along), tile.across, 1, 0, 0)
    if isinstance(tile, MmaTile):
        shape = (2 * tile.tall, tile.wide, tile.depth * tile.stages, tile.across)
        return (*shape, tile.rows, 0, 0)
    return (tile.rows, tile.vectors, k, SIDE, SIDE * tile.rows, 0, 0)


def _of_linalg(one: LinalgTiling, lanes: int, k: int) -> tuple[float, ...]:
    if not one.parallel:
        return (1, 1, k, 1, 1, 0, 1)
    first = 1 if len(one.parallel) in (4, 6) else 0  # behind a batch
    down, across = one.distribution[first : first + 2]
    rows, columns = one.parallel[first : first + 2]
    vectors = max(1, columns // lanes)
    return (rows, vectors, k, max(1, across // (vectors * lanes)), down, 0, 0)


def is_record(problem: Problem) -> bool:
    """Whether its kernel reads prepared rows."""
    return (problem.lowering, problem.backend) == ("kernel", "cpu") and (
        problem.form in families.TABLES or families.is_integer(problem.form)
    )


def rounds_itself(problem: Problem, k: int) -> bool:
    """Whether workgroups make the records of their rows, each for itself."""
    if problem.form in families.TABLES:
        return makes_tables(families.table_rows(problem), problem.m)
    return tiles.rounds_rows(problem.m, k, _strategy(problem))


def row_bytes(problem: Problem) -> float:
    """Return about how many bytes a kernel reads of an element of a row."""
    is_bytes = problem.unit not in ("", "spirv") and problem.lowering == "kernel"
    is_bytes = is_bytes and families.is_integer(problem.form)
    return 1.1 if is_bytes else 4.0


def weight_bits(problem: Problem) -> float:
    """Return about how many bits an element of the right operand takes.

    Scales of f32 are not counted, and models were fitted so: those of f16 are what they save.
    """
    if problem.form in families.TABLES:
        return float(problem.planes)
    digits = "".join(c for c in problem.weight.partition("E")[0] if c.isdigit())
    saved = 16 / problem.group if problem.scales == "f16" else 0.0
    return float(digits or 32) - saved


def cost(problem: Problem) -> float:
    """Return about how many f32 multiply-adds of a vector unit one product costs."""
    if problem.form in families.TABLES:
        return _TABLE_COST * max(problem.planes, 1)
    if families.is_integer(problem.form):
        return _INTEGER_COSTS[_strategy(problem)]
    if families.is_dequant(problem.form):
        return _DEQUANT_COST
    return _COSTS.get(problem.form, 1.0)


def pressure(problem: Problem, rows: Floats, vectors: Floats) -> Floats:
    """Return about how many vector registers the inner loop of a tile needs."""
    if problem.lowering == "kernel" and problem.form in families.TABLES:
        return rows * (vectors * max(problem.planes, 1) + 2) + 8
    if problem.lowering == "kernel" and families.is_integer(problem.form):
        of_sum, of_codes = _INTEGER_REGISTERS[_strategy(problem)]
        return of_sum * rows * vectors + of_codes * vectors + 1
    others = 2.0 if problem.form in families.ADDED else 1.0
    return rows * vectors + vectors + others


def _strategy(problem: Problem) -> str:
    """Return how small integers are multiplied (:class:`..kernels.integer_dot.IntegerDot`)."""
    unit = problem.unit if problem.unit in tiles.ISAS else "portable"
    strategy = "vnni" if tiles.ISAS[unit].vnni else "lanes" if unit == "portable" else "bytes"
    return "shorts" if strategy == "bytes" and problem.weight == "i8" else strategy


def _lanes(problem: Problem) -> int:
    return tiles.ISAS[problem.unit].lanes if problem.unit in tiles.ISAS else 4


def _columns(problem: Problem, numbers: Floats, machine: Machine) -> dict[str, Floats | float]:
    """Return each feature as a column, or one number where all tiles share it."""
    rows, vectors, k_block, panels, chunk, copies, stock = numbers.T
    batch, m, n, k = (problem.batch or 1, problem.m or 1, problem.n or 1024, problem.k or 1024)
    isa = tiles.ISAS.get(problem.unit)
    lanes, registers = _lanes(problem), isa.registers if isa else 32
    threads = machine.threads
    l1, l2, l3 = (have or usual for have, usual in zip(machine.caches, CACHES, strict=True))
    bandwidth = machine.bandwidth or BANDWIDTH
    rate = machine.multiply_rate or MULTIPLY_RATE
    bits = weight_bits(problem)
    chunk = np.minimum(chunk, np.ceil(m / rows) * rows)
    width = vectors * lanes
    count = np.ceil(n / width)
    heights = _row_blocks(m, rows, chunk)
    k_blocks = np.ceil(k / k_block)
    panel_bytes = k_block * width * bits / 8
    shares, together = _sharing(problem, rows, vectors)
    in_place = _in_place(problem, width)
    beside = np.minimum(panels, together)
    # Where panels are shared out by threads, a tile says only how many are read side by side.
    panels = np.minimum(np.where(shares > 0, beside, panels), count)
    group_bytes = panel_bytes * panels
    left, right, result = row_bytes(problem) * m * k * batch, n * k * bits / 8, 4.0 * m * n * batch
    right *= batch if problem.own_batch else 1
    products = float(m) * n * k * batch
    in_flight = rows * vectors
    # Vectors that are loaded, or broadcast, for one product of vectors.
    loads = (rows + vectors) / in_flight
    rounds = is_record(problem) and rounds_itself(problem, k)
    always = rounds or (problem.form in families.ADDED and problem.prepares)
    prepares = np.ones_like(rows) if always else np.zeros_like(rows) + copies
    cut = work.Cut(
        batch, m, n, k, rows, vectors, k_block, panels, chunk, lanes, threads,
        right, left, result, is_record(problem) and not rounds, prepares, problem.own_batch,
        (l1, l2, l3), not is_record(problem),
        pressure(problem, rows, vectors) / registers, shares, 1.0 - in_place,
    )  # fmt: skip
    share = work.share(cut)
    groups, chunks = cut.groups, cut.chunks
    items = groups * chunks * batch
    seconds = work.parts(cut, share)
    lines = _stacked([seconds[name] for name in work.NAMES], len(rows))
    np.log2(np.maximum(lines, LEAST_PART, out=lines), out=lines)
    parts = {f"part_{name}": line for name, line in zip(work.NAMES, lines, strict=True)}
    padded = heights * rows * count * width * float(k) * batch
    compute = padded * cost(problem) / rate * share * threads
    stepped = compute * np.maximum(np.maximum(1.0, loads), 8.0 / in_flight)
    memory = (left + right + result) / bandwidth
    estimate = work.CALL + work.WORKGROUP * items / threads + np.maximum(stepped, memory)
    log2 = np.log2

    chunk_result = 4 * chunk * panels * width
    inside = {
        "panel_in_l1": (panel_bytes, l1), "group_in_l1": (group_bytes, l1),
        "group_in_l2": (group_bytes, l2), "group_in_l3": (group_bytes, l3),
        "rows_in_l1": (4 * rows * k_block, l1), "chunk_in_l2": (4 * chunk * k, l2),
        "result_in_l1": (chunk_result, l1), "result_in_l2": (chunk_result, l2),
        "weight_in_l2": (right, l2), "weight_in_l3": (right, l3),
        "all_in_l3": (left + right + result, l3),
    }  # fmt: skip
    sizes = _stacked([size for size, _ in inside.values()], len(rows))
    ratios = np.maximum(sizes, 1.0) / np.array([[room] for _, room in inside.values()])
    lines = np.minimum(np.maximum(log2(ratios), -8), 8)
    return {
        "log_m": log2(m), "log_n": log2(n), "log_k": log2(k), "log_batch": log2(batch),
        "log_products": log2(products), "is_added": problem.form in families.ADDED,
        "is_integer": families.is_integer(problem.form),
        "is_table": problem.form in families.TABLES,
        "is_dequant": families.is_dequant(problem.form), "is_linalg": problem.lowering == "linalg",
        "is_stock": stock, "is_gpu": problem.backend != "cpu", "weight_bits": bits,
        "log_group": math.log2(problem.group or k), "planes": problem.planes,
        "table_bits": problem.table_bits, "packs": problem.packs, "prepares": problem.prepares,
        "symmetric": problem.symmetric, "per_group": problem.per_group,
        "own_batch": problem.own_batch, "lanes": lanes, "registers": registers, "threads": threads,
        "log_bandwidth": math.log2(bandwidth), "log_rate": math.log2(rate),
        "log_l1": math.log2(l1), "log_l2": math.log2(l2), "log_l3": math.log2(l3),
        "rows": rows, "vectors": vectors, "sums": in_flight,
        "pressure": cut.pressure * 32,
        "log_k_block": log2(k_block), "k_blocks": k_blocks, "panels": panels,
        "log_panels": log2(panels), "row_blocks_of_chunk": chunk / rows,
        "log_row_chunk": log2(chunk),
        "copies": copies, "loads_per_product": loads, "in_flight": np.minimum(in_flight, 16),
        "column_waste": count * width / n, "column_tail": (n % width) / width,
        "row_tail": (np.minimum(m, chunk) % rows) / rows, "height_share": heights * rows / m,
        "log_workgroups": log2(items), "waves": items / threads, "share": share * threads,
        "column_groups": groups, "row_chunks": chunks,
        "conflicts": np.minimum(work.conflicts(cut), 4.0),
        "together": beside, "shares": shares, "in_place": in_place,
        "log_item_products": log2(products / items), **dict(zip(inside, lines, strict=True)),
        "log_reads_of_left": log2(groups),
        "log_reads_of_right": log2(np.maximum(heights, 1)), "log_reads_of_result": log2(k_blocks),
        "intensity": products / (left + right + result), "k_modulo_page": float(k % 1024 == 0),
        "log_memory": math.log2(memory), "bound": log2(stepped / memory),
        "log_alpha_flops": math.log2(alpha_flops(m * batch, n, k)), **parts,
        "log_estimate": np.log(estimate),
    }  # fmt: skip


def _stacked(columns: Sequence[Floats | float], count: int) -> Floats:
    """Return ``[columns, count]``: NumPy begins once, not once for each."""
    found = np.empty((len(columns), count))
    for place, column in enumerate(columns):
        found[place] = column
    return found


def _sharing(problem: Problem, rows: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Return for each tile the workgroups of a thread, and the panels that are read side by side.

    As :func:`.families.sharing` says; 0 and 1 of kernels of other kinds.
    """
    if not is_record(problem) or problem.backend != "cpu":
        return np.zeros_like(rows), np.ones_like(rows)
    pairs = zip(rows.tolist(), vectors.tolist(), strict=True)
    found = [families.sharing(problem, int(row), int(vector)) for row, vector in pairs]
    shares, together = np.array(found, float).reshape(-1, 2).T
    return shares, together


def _in_place(problem: Problem, columns: Floats) -> Floats:
    """Return whether each tile's kernel reads a right operand that is an activation where it is."""
    n, k = problem.n, problem.k
    if problem.form != families.FLOAT or not problem.packs or n is None or k is None:
        return np.zeros_like(columns)
    return (n % columns == 0) * float(stays_near(n, k))


def _row_blocks(m: int, rows: Floats, chunk: Floats) -> Floats:
    """Return how many blocks of rows are walked, in all chunks; the last one of each may be lower.

    Low blocks count by how much of a full block's time they take, not by their rows: the vectors of
    the right operand are loaded for them all the same.
    """
    whole = np.floor(m / chunk)
    rest = m - whole * chunk

    def blocks(count: Floats) -> Floats:
        low = count % rows
        return np.floor(count / rows) + np.where(low > 0, np.maximum(low / rows, 0.4), 0.0)

    return whole * blocks(chunk) + blocks(rest)


def alpha_flops(
    spatial: float, outputs: float, inputs: float, beta: float = 0.02, gamma: float = 0.99
) -> float:
    """Return alpha-FLOPs of a product as a 1 x 1 convolution over `spatial` places (2107.11949)."""
    return outputs * inputs * spatial * ((1 + beta * (spatial - 1)) / spatial) ** gamma
