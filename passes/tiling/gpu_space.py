"""Tiles of the kernels for GPUs: sums of threads, of workgroups, of tensor cores; few rows."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats import gpu_rows
from ..forms import WEIGHT_BITS
from ..kernels import (
    additive_tiles_gpu,
    dequant_few_gpu,
    dequant_threads,
    few_rows_gpu,
    integer_few_gpu,
    mma_tile,
)
from ..kernels.additive_matmul_gpu import LANES, SIDE, ThreadTile
from ..kernels.additive_tiles_gpu import SharedTile
from ..kernels.dequant_threads import DequantTile
from ..kernels.few_rows_gpu import FewTile
from ..kernels.mma_tile import MmaTile
from . import families
from .gpu_limits import MOST_SHARED, MOST_SUMS, MOST_THREADS, too_many
from .problem import Problem
from .tilings import ThreadTiling

ROWS = (1, 2, 4, 6, 8, 12, 16)
VECTORS = (1, 2, 4)
_SHARED = tuple(
    SharedTile(rows, vectors, down, across, depth)
    for rows, vectors in ((4, 1), (4, 2), (8, 1), (8, 2), (16, 1))
    for down, across in ((8, 8), (8, 16), (16, 8), (16, 16), (8, 32))
    for depth in (8, 16)
)
_THREADS = ((8, 4), (8, 8), (16, 4), (16, 8), (32, 1), (32, 2), (32, 4), (64, 1), (64, 2))
_CODES = tuple(
    DequantTile(rows, vectors, across, down)
    for rows, vectors in ((1, 1), (1, 2), (1, 4), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2))
    for across, down in _THREADS
)
_FEW = tuple(
    (rows, along, across)
    for rows in (1, 2, 4, 8)
    for along in (1, 2, 4, 8)
    for across in (1, 2, 4)
    if along * across <= 8
)
_MMA = tuple(
    MmaTile(tall, wide, down, across, depth, stages, read)
    for tall, wide in ((1, 4), (2, 4), (3, 4), (4, 4), (4, 8), (8, 4))
    for down, across in ((1, 2), (2, 2), (2, 4), (4, 2))
    for depth in (64, 128)
    for stages in (2, 3, 4)
    for read in (8, 16)
)


def default(problem: Problem) -> ThreadTiling:
    """Return the tile that lowc takes without a model."""
    if problem.form in families.ADDED:
        return ThreadTiling(
            additive_tiles_gpu.choose(problem.unit, problem.m, problem.n, problem.k)
        )
    found = _weighted(problem)
    if found is None:
        raise ValueError(f"there is no kernel of {problem} for GPUs")
    return ThreadTiling(found)


def _weighted(problem: Problem) -> DequantTile | FewTile | MmaTile | None:
    """Return the tile of a product with 4- or 8-bit weights; its kind is that of the kernel."""
    m, n, k, group = problem.m, problem.n or 0, problem.k or 0, problem.group
    if problem.unit == "spirv":
        return dequant_threads.choose_tile(m, n)
    bits = WEIGHT_BITS[problem.weight]
    if families.is_integer(problem.form):
        return mma_tile.few_or_many(m, n, k, bits, group, symmetric=problem.symmetric)
    return few_rows_gpu.choose(m or 1, n, k, bits, group, whole=True, floats=True)


def candidates(problem: Problem) -> Iterator[ThreadTiling]:
    """Yield the legal tiles."""
    tiles: Iterator[ThreadTile | SharedTile | DequantTile | FewTile | MmaTile]
    if problem.form in families.ADDED:
        tiles = iter([*(ThreadTile(r, v) for r in ROWS for v in VECTORS), *_SHARED])
    elif problem.unit == "spirv":
        tiles = iter(_CODES)
    else:
        usual = _weighted(problem)
        lanes = usual.lanes if isinstance(usual, FewTile) else 0
        tiles = (FewTile(*sizes, lanes) for sizes in _FEW) if lanes else iter(_MMA)
    for tile in tiles:
        found = ThreadTiling(tile)
        if not illegal(problem, found):
            yield found


def illegal(problem: Problem, tiling: ThreadTiling) -> str:
    """Say why the kernel of `problem` cannot have `tiling`; "" if it can."""
    tile = tiling.tile
    is_added = problem.form in families.ADDED
    if is_added != isinstance(tile, (ThreadTile, SharedTile)):
        return "it is for another kind of kernel"
    if isinstance(tile, ThreadTile):
        return _illegal_threads(problem, tile)
    if isinstance(tile, SharedTile):
        return _illegal_shared(problem, tile)
    if isinstance(tile, DequantTile):
        return _illegal_codes(problem, tile)
    if problem.unit != "ptx":
        return "it is for CUDA"
    if isinstance(tile, FewTile):
        return _illegal_few(problem, tile)
    return _illegal_mma(problem, tile)


def _illegal_threads(problem: Problem, tile: ThreadTile) -> str:
    m, n = problem.m, problem.n
    if min(tile.rows, tile.vectors) < 1:
        return "a part of it is 0"
    if tile.rows * tile.vectors * LANES > MOST_SUMS:
        return f"a thread has at most {MOST_SUMS} sums"
    if m is not None and tile.rows > 1 and SIDE * (tile.rows - 1) >= m:
        return f"there are only {m} rows"
    if n is not None and tile.vectors > 1 and SIDE * LANES * (tile.vectors - 1) >= n:
        return f"there are only {n} columns"
    return too_many(problem, SIDE * tile.rows, tile.columns)


def _illegal_shared(problem: Problem, tile: SharedTile) -> str:
    if min(tile.rows, tile.vectors, tile.down, tile.across, tile.depth) < 1:
        return "a part of it is 0"
    if tile.rows * tile.vectors * LANES > MOST_SUMS:
        return f"a thread has at most {MOST_SUMS} sums"
    most = MOST_THREADS[problem.unit]
    if tile.threads > most:
        return f"a workgroup has at most {most} threads"
    if tile.shared_bytes > MOST_SHARED[problem.unit]:
        return f"it takes {tile.shared_bytes} bytes of workgroup memory"
    if additive_tiles_gpu.misfit(problem.k, tile):
        return additive_tiles_gpu.misfit(problem.k, tile)
    if problem.m is not None and tile.height >= 2 * max(problem.m, 16):
        return f"there are only {problem.m} rows"
    if problem.n is not None and tile.columns >= 2 * max(problem.n, 32):
        return f"there are only {problem.n} columns"
    return too_many(problem, tile.height, tile.columns)


def _illegal_codes(problem: Problem, tile: DequantTile) -> str:
    if problem.unit != "spirv":
        return "it is for Vulkan"
    if min(tile.rows, tile.vectors, tile.across, tile.down) < 1:
        return "a part of it is 0"
    if tile.rows * tile.vectors * dequant_threads.LANES > MOST_SUMS:
        return f"a thread has at most {MOST_SUMS} sums"
    threads, most = tile.across * tile.down, MOST_THREADS["spirv"]
    if threads > most:
        return f"a workgroup has at most {most} threads"
    m, n, height = problem.m, problem.n, tile.rows * tile.down
    if m is not None and (tile.rows > m or height >= 2 * max(m, 4)):
        return f"there are only {m} rows"
    if n is not None and tile.columns >= 2 * max(n, 32):
        return f"there are only {n} columns"
    return too_many(problem, height, tile.columns)


def _illegal_few(problem: Problem, tile: FewTile) -> str:
    m, k, bits = problem.m, problem.k or 0, WEIGHT_BITS[problem.weight]
    is_integer = families.is_integer(problem.form)
    most = integer_few_gpu.MOST_ROWS if is_integer else dequant_few_gpu.MOST_ROWS
    if m is None or m > most:
        return f"it is for at most {most} rows"
    if min(tile.rows, tile.along, tile.across) < 1:
        return "a part of it is 0"
    if tile.along * tile.across > few_rows_gpu.MOST_WARPS:
        return f"a workgroup has at most {few_rows_gpu.MOST_WARPS} warps"
    whole = not is_integer or problem.group >= k
    pieces = gpu_rows.padded(k, problem.group) // gpu_rows.per_piece(bits)
    lanes = few_rows_gpu.lanes_for(pieces, bits, problem.group, whole=whole)
    if not lanes or tile.lanes != lanes:
        return f"{tile.lanes} threads do not share a row of {k}"
    if tile.rows * m > few_rows_gpu.MOST_SUMS:
        return f"a thread has at most {few_rows_gpu.MOST_SUMS} sums"
    if tile.along > max(1, pieces // tile.lanes):
        return f"{tile.along} warps have no share of {k} each"
    return too_many(problem, m, tile.columns)


def _illegal_mma(problem: Problem, tile: MmaTile) -> str:
    if not families.is_integer(problem.form):
        return "it is for 8-bit activations"
    if isinstance(_weighted(problem), FewTile):
        return f"there are only {problem.m} rows"
    if min(tile.tall, tile.wide, tile.down, tile.across, tile.depth) < 1 or tile.stages < 2:
        return "a part of it is too small"
    k, bits = problem.k or 0, WEIGHT_BITS[problem.weight]
    sums = tile.tall * tile.wide * 4 * (1 if problem.group >= k else 2)
    if sums > mma_tile.MOST_SUMS:
        return f"a thread has at most {mma_tile.MOST_SUMS} sums"
    why = mma_tile.misfit(k, bits, problem.group, tile)
    return why or too_many(problem, tile.rows, tile.columns)
