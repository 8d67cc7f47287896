"""Tilings: what the attribute ``lowc.tile`` of a product says, as values and as text.

=================================== ===========================================================
text                                meaning
=================================== ===========================================================
``t8x3v16k512g4c64``, ``…c64s``     a CPU kernel's (:class:`..kernels.tiles.Tile`); s: copies rows
``t8x8``                            a GPU kernel's: rows and columns of one thread
``b8x8w16x16k8``                    the same, threads down and across, K in workgroup memory
``d8x8w16x4``                       weights in few bits on Vulkan: as ``t``, threads across and down
``f2a4w1l32``                       few rows on a GPU: pieces, warps along K and across, lanes
``m4x8w2x4k64s3r8``                 tensor cores: blocks of a warp, warps, K, blocks, codes
``l64x64x0/4x32x0/0x0x1``           linalg for CPUs: workgroups, vectors, reduction
``l8x64x0/1x4x0/0x0x4``             linalg for GPUs: workgroups, threads, reduction
``stock``                           linalg, as IREE tiles it by itself
=================================== ===========================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from ..kernels.additive_matmul_gpu import LANES, ThreadTile
from ..kernels.additive_tiles_gpu import SharedTile
from ..kernels.dequant_threads import LANES as CODE_LANES
from ..kernels.dequant_threads import DequantTile
from ..kernels.few_rows_gpu import FewTile
from ..kernels.mma_tile import MmaTile
from ..kernels.tiles import Tile

_KERNEL = re.compile(r"t(\d+)x(\d+)v(\d+)k(\d+)g(\d+)c(\d+)(s?)")
_THREAD = re.compile(r"t(\d+)x(\d+)")
_SHARED = re.compile(r"b(\d+)x(\d+)w(\d+)x(\d+)k(\d+)")
_CODES = re.compile(r"d(\d+)x(\d+)w(\d+)x(\d+)")
_FEW = re.compile(r"f(\d+)a(\d+)w(\d+)l(\d+)")
_MMA = re.compile(r"m(\d+)x(\d+)w(\d+)x(\d+)k(\d+)s(\d+)r(\d+)")
_LINALG = re.compile(r"l([\dx]+)/([\dx]+)/([\dx]+)")
STOCK_TEXT = "stock"


@dataclass(frozen=True)
class KernelTiling:
    """The tile of a CPU kernel, and whether it copies rows of the left operand."""

    tile: Tile
    copies: bool = False

    @property
    def text(self) -> str:
        """How the attribute says it."""
        return self.tile.name + "s" * self.copies


@dataclass(frozen=True)
class ThreadTiling:
    """The tile of a GPU kernel."""

    tile: ThreadTile | SharedTile | DequantTile | FewTile | MmaTile

    @property
    def text(self) -> str:
        """How the attribute says it."""
        return self.tile.name


@dataclass(frozen=True)
class LinalgTiling:
    """What IREE's code generator is told, an entry for each loop; nothing if empty.

    Attributes
    ----------
    distribution, parallel, reduction : tuple of int
        Tiles of a workgroup, and of the inner parallel and reduction loops, which become vectors or
        on a GPU what one thread does; 0 does not tile a loop.
    """

    distribution: tuple[int, ...] = ()
    parallel: tuple[int, ...] = ()
    reduction: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """How the attribute says it."""
        parts = (self.distribution, self.parallel, self.reduction)
        if not any(parts):
            return STOCK_TEXT
        return "l" + "/".join("x".join(map(str, part)) for part in parts)


class KernelTilings(Sequence[KernelTiling]):
    """Different tiles of CPU kernels, each made when it is asked for: most never are.

    Attributes
    ----------
    numbers : list of tuple
        Of each rows, vectors, block of K, panels, rows of a workgroup, and whether it copies rows.
    """

    def __init__(self, lanes: int, numbers: Iterable[tuple[int, int, int, int, int, bool]]) -> None:
        self._lanes, self.numbers = lanes, list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> KernelTiling: ...

    @overload
    def __getitem__(self, place: slice) -> KernelTilings: ...

    def __getitem__(self, place: int | slice) -> KernelTiling | KernelTilings:
        if isinstance(place, slice):
            return KernelTilings(self._lanes, self.numbers[place])
        *cut, copies = self.numbers[place]
        return KernelTiling(Tile(self._lanes, *cut), copies)

    def __iter__(self) -> Iterator[KernelTiling]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KernelTilings):
            return NotImplemented
        return (self._lanes, self.numbers) == (other._lanes, other.numbers)

    __hash__ = None  # type: ignore[assignment]

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the place of a tile.

        Raises
        ------
        ValueError
            When it is not there.
        """
        if not isinstance(value, KernelTiling) or value.tile.lanes != self._lanes:
            raise ValueError(f"{value} is not among them")
        return self.numbers.index(numbers_of(value), start, len(self) if stop is None else stop)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, KernelTiling) or value.tile.lanes != self._lanes:
            return False
        return numbers_of(value) in self.numbers


def numbers_of(tiling: KernelTiling) -> tuple[int, int, int, int, int, bool]:
    """Return a tile as :class:`KernelTilings` has it."""
    tile = tiling.tile
    cut = (tile.rows, tile.vectors, tile.k_block, tile.panels, tile.row_chunk)
    return (*cut, tiling.copies)


Tiling = KernelTiling | ThreadTiling | LinalgTiling
STOCK = LinalgTiling()


def parse(text: str) -> Tiling:
    """Return the tiling that `text` means; ``parse(tiling.text) == tiling``.

    Raises
    ------
    ValueError
        When it means none.
    """
    if text == STOCK_TEXT:
        return STOCK
    if found := _KERNEL.fullmatch(text):
        rows, vectors, lanes, k_block, panels, chunk = map(int, found.groups()[:-1])
        return KernelTiling(Tile(lanes, rows, vectors, k_block, panels, chunk), bool(found[7]))
    if (found := _THREAD.fullmatch(text)) and int(found[2]) % LANES == 0:
        return ThreadTiling(ThreadTile(int(found[1]), int(found[2]) // LANES))
    if (found := _SHARED.fullmatch(text)) and int(found[2]) % LANES == 0:
        rows, columns, down, across, depth = map(int, found.groups())
        return ThreadTiling(SharedTile(rows, columns // LANES, down, across, depth))
    if (found := _CODES.fullmatch(text)) and int(found[2]) % CODE_LANES == 0:
        rows, columns, across, down = map(int, found.groups())
        return ThreadTiling(DequantTile(rows, columns // CODE_LANES, across, down))
    if found := _FEW.fullmatch(text):
        return ThreadTiling(FewTile(*map(int, found.groups())))
    if found := _MMA.fullmatch(text):
        return ThreadTiling(MmaTile(*map(int, found.groups())))
    if found := _LINALG.fullmatch(text):
        parts = [part.split("x") for part in found.groups()]
        if all(len(part) == len(parts[0]) and all(part) for part in parts):
            return LinalgTiling(*(tuple(map(int, part)) for part in parts))
    raise ValueError(f"'{text}' is no tile")
