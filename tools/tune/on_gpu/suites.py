"""Which cases there are: those whose figures are kept, and tiles to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ....passes.kernels import additive_tiles_gpu, few_rows_gpu, mma_tile
from ....passes.kernels.additive_matmul_gpu import ThreadTile
from ....passes.kernels.additive_tiles_gpu import SharedTile
from ....passes.kernels.few_rows_gpu import FewTile
from ....passes.kernels.mma_tile import MmaTile
from .cases import ROWS, Case, added, few, few_tiles, rounding, threads, tiles

SQUARE = 4096
MOST_CHECKED = 1 << 24  # weights: larger ones have the same code


def figures() -> Iterator[Case]:
    """Yield what docs/kernels.md has figures of, each with the tile that lowc takes."""
    for n, k in ROWS:
        for form in ("a8", "a16"):
            checked = n * k <= MOST_CHECKED
            yield few(form, 1, n, k, 4, 128, _few(form, n, k, 4, 128), checked=checked)
    for k in sorted({k for _, k in ROWS}):
        yield rounding(1, k, 128, per_group=True)
    for n, k in (ROWS[0], ROWS[3]):
        checked = n * k <= MOST_CHECKED
        yield few("a8", 1, n, k, 4, 32, _few("a8", n, k, 4, 32), checked=checked)
        yield few("a16", 1, n, k, 4, 16, _few("a16", n, k, 4, 16), symmetric=False, checked=checked)
        yield few("a8", 1, n, k, 8, k, _few("a8", n, k, 8, k), per_group=False, checked=checked)
        for form in ("a8", "a16"):
            yield few(form, 4, n, k, 4, 128, _few(form, n, k, 4, 128, m=4), checked=checked)
    yield rounding(SQUARE, SQUARE, SQUARE, per_group=False)
    for bits, group, per_group in ((8, SQUARE, False), (4, 128, True), (4, 32, True)):
        tile = mma_tile.choose(SQUARE, SQUARE, SQUARE, bits, group)
        if tile is not None:
            yield tiles(SQUARE, SQUARE, SQUARE, bits, group, tile, per_group=per_group)
    for m in (16, 256):
        yield threads(m, SQUARE, SQUARE, 4, 128)
    yield added(SQUARE, SQUARE, SQUARE, additive_tiles_gpu.choose("ptx", SQUARE, SQUARE, SQUARE))
    yield added(SQUARE, SQUARE, SQUARE, ThreadTile(8, 2))
    # Sizes that are odd, and forms that nothing above has: for their results.
    yield few("a8", 2, 301, 384, 8, 128, FewTile(2, 2, 2, 8), symmetric=False)
    yield few("a8", 3, 300, 1000, 4, 1000, FewTile(2, 1, 2, 32), symmetric=False)
    yield few("a8", 4, 300, 512, 4, 16, FewTile(2, 1, 2, 16), symmetric=False)
    yield few("a16", 8, 300, 384, 8, 128, FewTile(2, 2, 2, 8), symmetric=False)
    yield few("a16", 3, 301, 1000, 4, 1000, FewTile(2, 1, 2, 32), symmetric=False)
    yield threads(33, 301, 384, 3, 64, symmetric=False)
    yield rounding(5, 300, 300, per_group=True, has_sums=True)
    yield rounding(5, 320, 64, per_group=False, has_sums=True)
    yield rounding(5, 8192, 1024, per_group=True, has_sums=True)
    yield tiles(100, 38, 200, 8, 200, MmaTile(2, 4, 2, 2, 64, 3), symmetric=False, per_group=True)
    yield tiles(100, 37, 512, 4, 64, MmaTile(2, 4, 2, 2, 64, 3), symmetric=False, per_group=True)
    yield tiles(100, 37, 512, 4, 256, MmaTile(2, 4, 2, 2, 128, 3))
    yield added(130, 100, 70, SharedTile(8, 2, 16, 16, 16))
    yield added(130, 101, 71, SharedTile(4, 2, 16, 16, 8))


def _few(form: str, n: int, k: int, bits: int, group: int, m: int = 1) -> FewTile:
    whole = form == "a16" or group >= k
    found = few_rows_gpu.choose(m, n, k, bits, group, whole=whole, floats=form == "a16")
    if found is None:
        raise ValueError(f"groups of {group} do not fit rows of {k}")
    return found


def sweep() -> Iterator[Case]:
    """Yield many tiles of few shapes."""
    for n, k in (ROWS[0], ROWS[1], ROWS[3], ROWS[4]):
        for form in ("a8", "a16"):
            for number, own in enumerate(few_tiles(k, 4)):
                yield few(form, 1, n, k, 4, 128, own, checked=number == 0)
    for rows, vectors, down, across, depth in (
        (8, 2, 8, 16, 16), (8, 2, 16, 16, 8), (8, 2, 8, 8, 8), (8, 2, 8, 16, 8), (8, 1, 16, 16, 16),
        (4, 4, 16, 8, 16), (16, 1, 8, 16, 16),
    ):  # fmt: skip
        yield added(SQUARE, SQUARE, SQUARE, SharedTile(rows, vectors, down, across, depth))
    for sizes in (
        (4, 8, 2, 2, 64, 3), (4, 8, 2, 2, 64, 4), (4, 8, 2, 2, 64, 3, 8), (4, 8, 2, 4, 64, 4, 8),
        (4, 8, 1, 4, 64, 3), (8, 4, 1, 4, 64, 3), (4, 8, 2, 1, 64, 3), (4, 4, 2, 2, 64, 4),
    ):  # fmt: skip
        yield tiles(SQUARE, SQUARE, SQUARE, 8, SQUARE, MmaTile(*sizes), checked=False)
    for group in (32, 128):
        for sizes in ((4, 4, 2, 2, 128, 3, 8), (4, 4, 2, 2, 128, 2, 8), (2, 4, 2, 4, 128, 3, 8)):
            tile = MmaTile(*sizes)
            yield tiles(SQUARE, SQUARE, SQUARE, 4, group, tile, per_group=True, checked=False)


SUITES: dict[str, Callable[[], Iterator[Case]]] = {"figures": figures, "sweep": sweep}
