"""How a product of 8-bit activations is cut for tensor cores, and when it is one of few rows.

The kernels are :mod:`.integer_tiles_gpu` and :mod:`.integer_few_gpu`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import gpus
from ..formats import gpu_rows
from . import few_rows_gpu, gpu, integer_few_gpu
from .few_rows_gpu import FewTile

MOST_SUMS = 128  # of a thread, in registers
READS = (8, 16)  # codes that a thread can read at once
SHARING = 4  # threads that share a row of an operand


@dataclass(frozen=True)
class MmaTile:
    """How a product is cut.

    Attributes
    ----------
    tall, wide : int
        Sums of a warp: blocks of 16 rows, of 8 columns.
    down, across : int
        Warps of a workgroup.
    depth, stages : int
        Values of K in a block, and how many blocks stand in workgroup memory.
    read : int
        Neighbouring codes of a row that a thread reads at once: 8 or 16.
    """

    tall: int
    wide: int
    down: int
    across: int
    depth: int
    stages: int
    read: int = 16

    @property
    def part(self) -> int:
        """Values of K that threads sharing a row read at once."""
        return SHARING * self.read

    @property
    def rows(self) -> int:
        """Rows of a workgroup."""
        return 16 * self.tall * self.down

    @property
    def columns(self) -> int:
        """Columns of a workgroup."""
        return 8 * self.wide * self.across

    @property
    def warps(self) -> int:
        """Warps of a workgroup."""
        return self.down * self.across

    def shared_bytes(self, bits: int) -> int:
        """Bytes of workgroup memory, for weights of so many bits."""
        return self.stages * self.depth * (self.rows + self.columns * bits // 8)

    @property
    def name(self) -> str:
        """The tile in a symbol, and in the attribute ``lowc.tile``."""
        sums = f"m{self.tall}x{self.wide}w{self.down}x{self.across}"
        return f"{sums}k{self.depth}s{self.stages}r{self.read}"


def misfit(k: int, bits: int, group: int, tile: MmaTile) -> str:
    """Say why a weight in such groups cannot have `tile`; "" if it can."""
    most_threads, most_shared = gpus.least("cuda")
    if tile.read not in READS:
        return f"a thread reads {' or '.join(map(str, READS))} codes at once, not {tile.read}"
    if tile.warps * gpu.WARP > most_threads:
        return f"a workgroup has at most {most_threads} threads"
    whole = group >= k
    if not whole and group % tile.part:
        return f"groups of {group} are no whole parts of {tile.part}"
    if tile.depth % tile.part or gpu_rows.padded(k, group) % tile.depth:
        return f"K is no whole number of blocks of {tile.depth}"
    if not whole and group % tile.depth and tile.depth % group:
        return f"neither groups of {group} nor blocks of {tile.depth} hold whole ones of the other"
    threads = tile.warps * gpu.WARP
    for rows, length in ((tile.rows, tile.depth), (tile.columns, tile.depth * bits // 8)):
        if rows * length // gpu_rows.PIECE % threads:
            return "its threads cannot share the copies"
    if tile.shared_bytes(bits) > most_shared:
        return f"it takes {tile.shared_bytes(bits)} bytes of workgroup memory"
    return ""


def choose(
    m: int | None, n: int, k: int, bits: int, group: int, *, symmetric: bool = True
) -> MmaTile | None:
    """Return the tile that lowc takes without a model; None where groups do not fit.

    Where groups are scaled, sums and totals are in registers, and what zero points need besides.
    """
    whole = group >= k
    read = 8 if not whole and group % 64 else 16
    tries = [MmaTile(2, 4, 2, 2, 128, 3, read), MmaTile(2, 4, 2, 2, 64, 3, read)]
    if m is not None and (m <= 64 or n <= 64):
        tries = [MmaTile(1, 4, 2, 2, 128, 3, read), MmaTile(1, 4, 2, 2, 64, 3, read), *tries]
    elif whole:
        tries.insert(0, MmaTile(4, 8, 2, 2, 64, 4))
    elif symmetric and group <= gpu_rows.MULTIPLE:
        tries.insert(0, MmaTile(3, 4, 2, 2, 128, 3, read))
    return next((tile for tile in tries if not misfit(k, bits, group, tile)), None)


def few_or_many(
    m: int | None, n: int, k: int, bits: int, group: int, *, symmetric: bool = True
) -> FewTile | MmaTile | None:
    """Return the tile of a product with 8-bit activations; its kind says which kernel it gets.

    Few rows are multiplied by tensor cores too where threads cannot share a row of the weight.
    None where neither fits.
    """
    if m is not None and m <= integer_few_gpu.MOST_ROWS:
        few = few_rows_gpu.choose(m, n, k, bits, group, whole=group >= k)
        if few is not None:
            return few
    return choose(m, n, k, bits, group, symmetric=symmetric)
