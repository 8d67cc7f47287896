"""Kernels and problems: what a kernel calculates, and the kernel that calculates a problem.

``kernel_of(problem_of(kernel, unit), tiling_of(kernel))`` runs as `kernel` does, but for two things
that change no time: which addition stands for a product, and what follows it element by element.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from ..additive import Addition
from ..formats.floats import F32
from ..formats.lmul import constant
from ..formats.panels import chunk_of
from ..formats.stored import STORED
from ..formats.tables import TableFormat
from ..forms import INTEGER_BITS, WEIGHT_BITS
from ..kernels import tiles
from ..kernels.additive_matmul import AdditiveMatmul
from ..kernels.additive_matmul_gpu import AdditiveMatmulGpu
from ..kernels.additive_tiles_gpu import AdditiveTilesGpu, SharedTile
from ..kernels.dequant_few_gpu import DequantFewGpu
from ..kernels.dequant_matmul import DequantMatmul
from ..kernels.dequant_threads import DequantThreads, DequantTile
from ..kernels.few_rows_gpu import FewRowsGpu, FewTile
from ..kernels.float_matmul import FloatMatmul
from ..kernels.integer_dot import IntegerDot
from ..kernels.integer_few_gpu import IntegerFewGpu
from ..kernels.integer_matmul import IntegerMatmul
from ..kernels.integer_rows import IntegerRows
from ..kernels.integer_tiles_gpu import IntegerTilesGpu
from ..kernels.mma_tile import MmaTile
from ..kernels.packed_codes import PackedCodes, can_look_up
from ..kernels.small_float_codes import SmallFloatCodes
from ..kernels.table_matmul import Scaling, TableMatmul, looks_up_four, makes_tables
from ..kernels.table_rows import TableRows
from ..kernels.tiles import Tile
from .problem import Problem
from .tilings import KernelTiling, ThreadTiling, Tiling

FLOAT, ADDED = "f32", ("lmul", "pam")
# Forms that look up signs → what the kernel does with the sums of planes.
TABLES: dict[str, Literal["planes", "bits", "ternary"]] = {
    "shift-add": "planes",
    "lut": "bits",
    "ternary": "ternary",
}

_OF_CPUS = (AdditiveMatmul, DequantMatmul, FloatMatmul, IntegerMatmul, TableMatmul)
_OF_THREADS = (AdditiveMatmulGpu, AdditiveTilesGpu, DequantThreads, FewRowsGpu, IntegerTilesGpu)


def is_integer(form: str) -> bool:
    """Whether `form` multiplies 8-bit activations and integer weights."""
    return form.startswith("w") and form.endswith("a8")


def is_dequant(form: str) -> bool:
    """Whether `form` multiplies f32 activations and weights in few bits."""
    return form.startswith("w") and form.endswith("a16")


def has_halves(problem: Problem) -> bool:
    """Whether the kernel of `problem` reads scales of groups in f16."""
    return problem.scales == "f16" and tiles.ISAS[problem.unit].halves


def has_space(kernel: Any) -> bool:
    """Whether `kernel` is one that :func:`problem_of` describes: others have one tile."""
    if isinstance(kernel, DequantThreads) and kernel.dialect != "spirv":
        return False
    if isinstance(kernel, TableMatmul) and kernel.scaling.kind not in TABLES.values():
        return False  # of several ternary weights in a byte
    return isinstance(kernel, (*_OF_CPUS, *_OF_THREADS))


def problem_of(kernel: Any, unit: str) -> Problem:
    """Return what `kernel` calculates, on `unit`."""
    if isinstance(kernel, (IntegerMatmul, TableMatmul)):
        return _problem_of_records(kernel, unit)
    if isinstance(kernel, (FewRowsGpu, IntegerTilesGpu)):
        return _problem_of_rows(kernel, unit)
    if isinstance(kernel, DequantThreads):
        form = f"w{kernel.bits}a{16 if kernel.scaled == 'none' else 8}"
        return Problem(
            form, "kernel", unit, kernel.batch, kernel.m, kernel.n, kernel.k,
            own_batch=kernel.b_batch, weight=f"i{kernel.bits}", group=kernel.group,
            symmetric=kernel.symmetric, per_group=kernel.scaled != "row",
        )  # fmt: skip
    facts: dict[str, Any] = {"own_batch": kernel.b_batch, "packs": kernel.packs}
    if isinstance(kernel, (AdditiveMatmul, AdditiveMatmulGpu, AdditiveTilesGpu)):
        product = kernel.product
        offset = product.constant != constant(F32, product.mantissa_bits, offset=False)
        form = "lmul" if offset else "pam"
        facts |= {"weight": kernel.stored.name, "prepares": kernel.prepares}
    elif isinstance(kernel, DequantMatmul):
        codes = kernel.codes
        name = codes.format if isinstance(codes, SmallFloatCodes) else f"i{codes.bits}"
        form = f"w{codes.bits}a16"
        facts |= {"weight": name, "group": kernel.group, "symmetric": kernel.symmetric}
        facts["scales"] = "f16" if kernel.has_halves else "f32"
        facts["packs"] = False  # panels of codes; what is packed is on the stack
    else:
        form = FLOAT
    return Problem(form, "kernel", unit, *kernel.sizes, **facts)


def _problem_of_records(kernel: IntegerMatmul | TableMatmul, unit: str) -> Problem:
    rows = kernel.rows
    sizes = (kernel.batch, kernel.m, kernel.n, rows.k)
    if isinstance(kernel, TableMatmul):
        fmt, scaling = kernel.rows.format, kernel.scaling
        form = next(form for form, kind in TABLES.items() if kind == scaling.kind)
        return Problem(
            form, "kernel", unit, *sizes, own_batch=True, weight="signs", group=kernel.group,
            planes=kernel.planes, table_bits=fmt.bits, span=fmt.span,
            symmetric=scaling.symmetric, shared=scaling.shared,
        )  # fmt: skip
    return Problem(
        f"w{kernel.dot.bits}a8", "kernel", unit, *sizes, own_batch=True,
        weight=f"i{kernel.dot.bits}", group=kernel.rows.group, symmetric=kernel.symmetric,
        per_group=kernel.rows.per_group, scales="f16" if kernel.has_halves else "f32",
    )  # fmt: skip


def _problem_of_rows(kernel: FewRowsGpu | IntegerTilesGpu, unit: str) -> Problem:
    """Return what a kernel for GPUs calculates, whose weight is in rows of pieces."""
    form = f"w{kernel.bits}a16" if isinstance(kernel, DequantFewGpu) else f"w{kernel.bits}a8"
    return Problem(
        form, "kernel", unit, kernel.batch, kernel.m, kernel.n, kernel.k, own_batch=True,
        weight=f"i{kernel.bits}", group=kernel.group, symmetric=kernel.symmetric,
        per_group=getattr(kernel, "per_group", True),
    )  # fmt: skip


def _kernel_of_rows(problem: Problem, tile: FewTile | MmaTile) -> FewRowsGpu | IntegerTilesGpu:
    batch, n, k, bits = (
        problem.batch or 1,
        problem.n or 0,
        problem.k or 0,
        WEIGHT_BITS[problem.weight],
    )
    if isinstance(tile, MmaTile):
        return IntegerTilesGpu(
            batch, problem.m, n, k, bits, problem.group, problem.symmetric, problem.per_group, tile
        )
    sizes = (batch, problem.m or 1, n, k)
    if is_integer(problem.form):
        return IntegerFewGpu(
            *sizes, bits, problem.group, problem.symmetric, tile, per_group=problem.per_group
        )
    return DequantFewGpu(*sizes, bits, problem.group, problem.symmetric, tile)


def _kernel_of_threads(problem: Problem, tile: DequantTile) -> DequantThreads:
    scaled: Literal["none", "group", "row"] = "group" if problem.per_group else "row"
    return DequantThreads(
        problem.batch, problem.m, problem.n or 0, problem.k or 0, problem.own_batch,
        WEIGHT_BITS[problem.weight], problem.group, problem.symmetric,
        scaled if is_integer(problem.form) else "none", tile,
    )  # fmt: skip


def tiling_of(kernel: Any) -> Tiling:
    """Return the tiling that `kernel` was made for."""
    if isinstance(kernel, _OF_THREADS):
        return ThreadTiling(kernel.tile)
    return KernelTiling(kernel.tile, getattr(kernel, "copies", False))


def with_tiling(kernel: Any, tiling: Tiling) -> Any:
    """Return `kernel` for another tiling of its kind."""
    if isinstance(tiling, KernelTiling) and isinstance(kernel, FloatMatmul):
        return dataclasses.replace(kernel, tile=tiling.tile, copies=tiling.copies)
    if isinstance(kernel, (AdditiveMatmulGpu, AdditiveTilesGpu)):
        given: Any = tiling
        kind: Any = AdditiveTilesGpu if isinstance(given.tile, SharedTile) else AdditiveMatmulGpu
        facts = (kernel.b_batch, kernel.product, kernel.dialect)
        return kind(*kernel.sizes, *facts, given.tile, kernel.epilogue)
    if isinstance(kernel, (FewRowsGpu, IntegerTilesGpu)):
        found = kernel_of(problem_of(kernel, "ptx"), tiling)
        return dataclasses.replace(found, epilogue=kernel.epilogue)
    return dataclasses.replace(kernel, tile=tiling.tile)  # type: ignore[union-attr]


def kernel_of(problem: Problem, tiling: Tiling) -> Any:
    """Return a kernel that calculates `problem`.

    Raises
    ------
    ValueError
        When there is no kernel of its form.
    """
    sizes = problem.sizes
    if isinstance(tiling, ThreadTiling):
        if isinstance(tiling.tile, DequantTile):
            return _kernel_of_threads(problem, tiling.tile)
        if isinstance(tiling.tile, (FewTile, MmaTile)):
            return _kernel_of_rows(problem, tiling.tile)
        kind: Any = AdditiveTilesGpu if isinstance(tiling.tile, SharedTile) else AdditiveMatmulGpu
        return kind(*sizes, problem.own_batch, _addition(problem), problem.unit, tiling.tile)
    if not isinstance(tiling, KernelTiling):
        raise ValueError(f"'{tiling.text}' is no tile of a kernel")
    tile = tiling.tile
    if problem.form == FLOAT:
        return FloatMatmul(
            *sizes, problem.own_batch, tile, packs=problem.packs, copies=tiling.copies
        )
    if problem.form in ADDED:
        return AdditiveMatmul(
            *sizes, problem.own_batch, tile, _addition(problem), STORED[problem.weight],
            problem.prepares, problem.packs,
        )  # fmt: skip
    if is_dequant(problem.form):
        return DequantMatmul(
            *sizes, problem.own_batch, tile, packs=True, copies=tiling.copies,
            codes=codes_of(problem), group=problem.group, symmetric=problem.symmetric,
            has_halves=has_halves(problem),
        )  # fmt: skip
    if is_integer(problem.form):
        rows = integer_rows(problem)
        return IntegerMatmul(
            problem.batch or 1, problem.m, problem.n or 0, rows, problem.symmetric, tile,
            rounds=tiles.rounds_rows(problem.m, rows.k, rows.dot.strategy),
            has_halves=has_halves(problem),
        )  # fmt: skip
    if problem.form in TABLES:
        return TableMatmul(
            problem.batch or 1, problem.m, problem.n or 0, table_rows(problem), problem.planes,
            problem.group, tile, None, scaling_of(problem),
            makes_tables(table_rows(problem), problem.m),
        )  # fmt: skip
    raise ValueError(f"there is no kernel of the form '{problem.form}'")


@functools.lru_cache(maxsize=4096)
def sharing(problem: Problem, rows: int, vectors: int) -> tuple[int, int]:
    """Return how panels of a kernel that reads prepared rows are shared, by its register tile.

    Workgroups of each thread, 0 where a tile says how many there are; and how many panels are read
    side by side at most.
    """
    lanes = tiles.ISAS[problem.unit].lanes
    tile = Tile(lanes, rows, vectors, 1, tiles.MOST_TOGETHER, rows)
    kernel = kernel_of(problem, KernelTiling(tile))
    return kernel.shares if kernel.reads_once else 0, kernel.together(rows)


def _addition(problem: Problem) -> Addition:
    return Addition(F32, F32.mantissa_bits, constant(F32, 0, offset=problem.form == "lmul"))


@functools.lru_cache(maxsize=64)
def codes_of(problem: Problem) -> PackedCodes:
    """Return the codes of a weight in few bits."""
    isa = tiles.ISAS[problem.unit]
    if problem.weight not in INTEGER_BITS:
        return SmallFloatCodes.of(problem.weight, isa.lanes)
    bits = WEIGHT_BITS[problem.weight]
    can = can_look_up(bits, isa.lanes, symmetric=problem.symmetric)
    return PackedCodes(bits, chunk_of(problem.group), looked_up=can and isa.vnni)


@functools.lru_cache(maxsize=64)
def integer_rows(problem: Problem) -> IntegerRows:
    """Return what prepares the rows of a product of 8-bit activations."""
    dot = IntegerDot(tiles.ISAS[problem.unit], WEIGHT_BITS[problem.weight], chunk_of(problem.group))
    return IntegerRows(_count(problem), problem.k or 0, problem.group, problem.per_group, dot)


@functools.lru_cache(maxsize=64)
def table_rows(problem: Problem) -> TableRows:
    """Return what makes the tables of a product by look-up."""
    fmt, isa = TableFormat(problem.table_bits, problem.span), tiles.ISAS[problem.unit]
    has_sums = TABLES[problem.form] == "bits"
    return TableRows(_count(problem), problem.k or 0, fmt, isa, looks_up_four(isa, fmt), has_sums)


def scaling_of(problem: Problem) -> Scaling:
    """Return how sums of planes are scaled."""
    return Scaling(TABLES[problem.form], problem.symmetric, problem.shared)


def _count(problem: Problem) -> int | None:
    return None if problem.m is None else (problem.batch or 1) * problem.m
