"""What a bundle measures: kernels in several tiles, on shapes of language models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ....passes.additive import Addition
from ....passes.formats import gpu_rows
from ....passes.formats.floats import F32
from ....passes.formats.lmul import constant
from ....passes.kernels import dequant_threads, few_rows_gpu
from ....passes.kernels.additive_matmul_gpu import AdditiveMatmulGpu, ThreadTile
from ....passes.kernels.additive_tiles_gpu import AdditiveTilesGpu, SharedTile
from ....passes.kernels.dequant_few_gpu import DequantFewGpu
from ....passes.kernels.dequant_threads import DequantThreads
from ....passes.kernels.few_rows_gpu import FewTile
from ....passes.kernels.integer_few_gpu import IntegerFewGpu
from ....passes.kernels.integer_rows_gpu import IntegerRowsGpu
from ....passes.kernels.integer_tiles_gpu import IntegerTilesGpu
from ....passes.kernels.mma_tile import MmaTile

ROTATED = 400 << 20  # bytes of weights: several times the L2 cache
MOST_COPIES = 64
ROWS = [(4096, 4096), (11008, 4096), (8192, 8192), (28672, 8192), (8192, 28672)]


@dataclass(frozen=True)
class Operand:
    """An argument of a kernel: shape, element type in MLIR, and how its values are drawn."""

    shape: tuple[int, ...]
    element: str
    kind: str
    size: float = 1.0
    less: int = 0

    @property
    def spec(self) -> dict[str, Any]:
        """What ``collect.make`` makes the array from."""
        dtype = {"i32": "int32", "i8": "uint8", "f32": "float32"}[self.element]
        return {
            "shape": list(self.shape), "kind": self.kind, "dtype": dtype,
            "width": 8 if self.element == "i8" else 32, "size": self.size, "less": self.less,
            "seed": len(self.kind) + sum(self.shape),
        }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One kernel to time: what all its dispatches share, and what each has of its own.

    ``kind`` names how the expected result is found (``prepare.REFERENCES``); ``rows`` makes the
    records that the kernel reads, where it does, for a check.
    """

    group: str
    kernel: Any
    shared: tuple[Operand, ...]
    own: tuple[Operand, ...]
    result: tuple[int, ...]
    kind: str
    bytes: int
    operations: int
    element: str = "f32"
    copies: int = 1
    dispatches: int = 32
    rows: IntegerRowsGpu | None = None
    checked: bool = True

    @property
    def name(self) -> str:
        """A name for tables."""
        name: str = self.kernel.name
        return name

    @property
    def place(self) -> Operand:
        """Where a result goes, full of something else."""
        return Operand(self.result, "i32", "bits")

    @property
    def grid(self) -> tuple[int, ...]:
        """Workgroups along x, y and z."""
        return grid_of(self.kernel)


def _weight(n: int, k: int, bits: int, group: int, symmetric: bool) -> tuple[Operand, ...]:
    groups = gpu_rows.groups_of(k, group)
    words = gpu_rows.padded(k, group) * bits // 32
    zeros = () if symmetric else (Operand((1, n, groups), "i8", "bits", 1 << bits),)
    return (
        Operand((1, n, words), "i32", "bits"),
        Operand((1, n, groups), "f32", "scales", 0.01),
        *zeros,
    )


def _size(operands: tuple[Operand, ...]) -> int:
    total = 0
    for one in operands:
        count = 1
        for size in one.shape:
            count *= size
        total += count * (1 if one.element == "i8" else 4)
    return total


def few(
    form: str, m: int, n: int, k: int, bits: int, group: int, tile: FewTile, *,
    symmetric: bool = True, per_group: bool = True, checked: bool = True,
) -> Case:  # fmt: skip
    """Return a product of few rows: ``a8`` or ``a16``."""
    own = _weight(n, k, bits, group, symmetric)
    size = _size(own)
    copies = max(2, min(MOST_COPIES, -(-ROTATED // size)))
    facts: dict[str, Any] = {
        "group": f"{form} {bits} {n}x{k} g{group}",
        "bytes": size,
        "operations": 2 * m * n * k,
    }
    if form == "a16":
        kernel: Any = DequantFewGpu(1, m, n, k, bits, group, symmetric, tile)
        x = Operand((1, m, gpu_rows.padded(k, group)), "f32", "activations")
        return Case(kernel=kernel, shared=(x,), own=own, result=(1, m, n), kind=f"w{bits}a16",
                    copies=copies, checked=checked, **facts)  # fmt: skip
    kernel = IntegerFewGpu(1, m, n, k, bits, group, symmetric, tile, per_group)
    records = Operand((m, kernel.rows.words), "i32", "bits")
    return Case(kernel=kernel, shared=(records,), own=own, result=(1, m, n), kind=f"w{bits}a8",
                copies=copies, rows=kernel.rows, checked=checked, **facts)  # fmt: skip


def tiles(
    m: int, n: int, k: int, bits: int, group: int, tile: MmaTile, *,
    symmetric: bool = True, per_group: bool = False, checked: bool = True,
) -> Case:  # fmt: skip
    """Return a product of many rows on tensor cores."""
    kernel = IntegerTilesGpu(1, m, n, k, bits, group, symmetric, per_group, tile)
    own = _weight(n, k, bits, group, symmetric)
    records = Operand((m, kernel.rows.words), "i32", "bits")
    return Case(
        f"mma {bits} {m}x{n}x{k} g{group}", kernel, (records,), own, (1, m, n), f"w{bits}a8",
        _size((records, *own)) + 4 * m * n, 2 * m * n * k, copies=2, rows=kernel.rows,
        checked=checked, dispatches=8,
    )  # fmt: skip


def threads(
    m: int, n: int, k: int, bits: int, group: int, *, symmetric: bool = True, dialect: str = "ptx"
) -> Case:
    """Return a product of many rows of f32 activations, with the only tile that lowc takes."""
    tile = dequant_threads.choose_tile(m, n)
    kernel = DequantThreads(1, m, n, k, False, bits, group, symmetric, "none", tile, dialect)
    head = (1, kernel.panels)
    values = (*head, kernel.groups, tile.columns)
    zeros = () if symmetric else (Operand(values, "i8", "bits", 1 << bits),)
    own = (
        Operand((*head, kernel.words, tile.columns), "i32", "bits"),
        Operand(values, "f32", "scales", 0.01),
        *zeros,
    )
    return Case(
        f"threads {bits} {m}x{n}x{k} g{group}", kernel, (Operand((1, m, k), "f32", "activations"),),
        own, (1, m, n), f"w{bits}a16", _size(own) + 4 * m * (n + k), 2 * m * n * k, copies=2,
        dispatches=8,
    )  # fmt: skip


def rounding(m: int, k: int, group: int, *, per_group: bool, has_sums: bool = False) -> Case:
    """Return the rounding of activations."""
    kernel = IntegerRowsGpu(m, k, group, per_group, has_sums)
    x = Operand((m, k), "f32", "activations")
    return Case(
        f"round {m}x{k}", kernel, (), (x,), (m, kernel.words), "round",
        4 * m * (k + kernel.words), m * k, element="i32", copies=16,
    )  # fmt: skip


def added(m: int, n: int, k: int, tile: SharedTile | ThreadTile, dialect: str = "ptx") -> Case:
    """Return an L-Mul product."""
    product = Addition(F32, 23, constant(F32, 0, offset=True))
    kind = AdditiveTilesGpu if isinstance(tile, SharedTile) else AdditiveMatmulGpu
    kernel = kind(1, m, n, k, False, product, dialect, tile)  # type: ignore[arg-type]
    panels = -(-n // tile.columns)
    a = Operand((1, m, k), "i32", "patterns", less=product.constant)
    b = Operand((1, panels, k, tile.columns), "i32", "patterns")
    return Case(
        f"lmul {m}x{n}x{k} {tile.columns}", kernel, (a,), (b,), (1, m, n), "lmul",
        4 * (m * k + n * k + m * n), 2 * m * n * k, copies=2, dispatches=2,
    )  # fmt: skip


def grid_of(kernel: Any) -> tuple[int, ...]:
    """Return the workgroups of a kernel of known sizes."""
    if isinstance(kernel, IntegerRowsGpu):
        return (kernel.m or 1, kernel.parts, 1)
    known: tuple[int, ...] = kernel.known_grid
    return known


def few_tiles(k: int, bits: int) -> Iterator[FewTile]:
    """Tiles of few rows that are worth a try."""
    pieces = gpu_rows.padded(k, k) // gpu_rows.per_piece(bits)
    lanes = few_rows_gpu.lanes_for(pieces, bits, k, whole=True)
    for rows in (1, 2, 4):
        for along, across in ((1, 4), (2, 2), (4, 1), (4, 2), (8, 1)):
            if along <= max(1, pieces // lanes):
                yield FewTile(rows, along, across, lanes)
