"""Tiles of the f32 kernels: found by timing some dozens on AVX-512 with two cores."""

from __future__ import annotations

from collections.abc import Sequence

from .tiles import PACKED_BYTES, STACK_BYTES, Isa, Tile
from .work_split import Costs, split

K_BLOCK = 512  # eight rows of a block lie in half of the first cache
MAX_K = 8192  # of rows that are read where they are: sums stay in registers so long
FEW_ROWS = 4  # so few rows leave the weight's bytes as the limit
ROW_CHUNK = 64
NEAR_BYTES = 16 << 10  # half of the first cache
LOW = 8  # rows
WIDEST = 16  # f32 in the widest vectors
ANY = 1 << 40  # bytes, for what needs no room
B_BYTES = 768 << 10  # of a block of B, which is read again for every block of rows
# Cycles for a vector: one that comes from the third cache, of a row that is copied, of a panel that
# is packed, or made f32.
READ, COPY, PACK, DECODE = 2.5, 3.0, 4.0, 4.0
DEQUANT_BLOCK = 128  # of K, that is made f32 at a time: some panels fit the stack
PANEL_BYTES = 48 << 10
WAYS_VNNI = 8  # rows that share a set of the first cache and still stay: on Zen 4 no copy is faster
TALLEST = 16  # rows of a tile with fewer vectors: more copies would not fit the stack with panels
DEQUANT, DEQUANT_VNNI = (12, 2), (8, 2)  # tiles for blocks that lie in the first cache
# Register tiles that fill 32 registers and 16, and their times where N has no rest.  The VNNI ones
# were timed on Zen 4, which does half as many products a cycle as it could load vectors for.
WIDE = {(8, 3): 1.0, (6, 4): 1.05, (12, 2): 1.1}
WIDE_VNNI = {(8, 3): 1.0, (12, 2): 1.02, (6, 4): 1.04}
NARROW = {(6, 2): 1.0, (4, 3): 1.05}


def choose(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k: int | None, *,
    packs: bool = False, stored: int | None = None,
) -> Tile:  # fmt: skip
    """Return the tile for a shape; with `packs` B is packed by the kernel, on the stack.

    `stored` are the columns of the panels that B is stored in already, if it is.
    """
    rows, vectors = _register_tile(isa, m, n)
    if stored is not None:
        rows, vectors = _of_width(isa, m, stored // isa.lanes)
    is_near = packs and n is not None and k is not None and stays_near(n, k)
    if is_near and m is not None and rows > LOW and m % rows and m % LOW == 0:
        rows = LOW  # B is near enough to be read more often
    columns = vectors * isa.lanes
    k_block = _k_block(isa, m, k, rows, columns, packs=packs)
    row = COPY if _copies(isa, rows, m, k) else 0.0
    panel, room = (PACK, PACKED_BYTES) if packs else (0.0, B_BYTES)
    if not packs and m is not None and m <= FEW_ROWS:
        room = k_block * ANY  # each weight is read once
    panels, chunk = _cut(isa, (batch, m, n, k), rows, columns, room // k_block, row, panel)
    return Tile(isa.lanes, rows, vectors, k_block, panels, chunk)


def stays_near(n: int, k: int) -> bool:
    """Whether a B of ``[K, N]`` stays in half of the first cache, in whatever order it is read.

    There it is not packed, and blocks of rows may be lower if that leaves no rest: 12 x 128 x 128 x
    32 took 0.072 instead of 0.074 ms by both (Zen 4, two cores).
    """
    return 4 * n * k <= NEAR_BYTES


def copies(isa: Isa, tile: Tile, m: int | None, k: int | None) -> bool:
    """Whether rows are better copied: those a power of two apart share few sets of a cache."""
    return _copies(isa, tile.rows, m, k)


def _copies(isa: Isa, rows: int, m: int | None, k: int | None) -> bool:
    is_few = m is not None and m <= FEW_ROWS
    return not is_few and rows > (WAYS_VNNI if isa.vnni else 1) and (k is None or k % 256 == 0)


def _register_tile(isa: Isa, m: int | None, n: int | None) -> tuple[int, int]:
    """Return rows and vectors: all registers, and the least work on columns that are not there."""
    tiles = (WIDE_VNNI if isa.vnni else WIDE) if isa.registers >= 32 else NARROW
    if m is not None and m <= FEW_ROWS:
        vectors = max(vectors for _, vectors in tiles)
        # Both cores shall have a panel.
        while n is not None and vectors > 1 and n <= vectors * isa.lanes:
            vectors -= 1
        return m, vectors

    def work(tile: tuple[int, int]) -> float:
        columns = tile[1] * isa.lanes
        return tiles[tile] * (1 if n is None else -(-n // columns) * columns)

    rows, vectors = min(tiles, key=work)
    while n is not None and vectors > 1 and (vectors - 1) * isa.lanes >= n:
        rows, vectors = rows * vectors // (vectors - 1), vectors - 1
    return (rows if m is None else min(rows, m)), vectors


def _of_width(isa: Isa, m: int | None, vectors: int) -> tuple[int, int]:
    """Return rows and vectors of a tile with so many vectors."""
    if m is not None and m <= FEW_ROWS:
        return m, vectors
    tiles = (WIDE_VNNI if isa.vnni else WIDE) if isa.registers >= 32 else NARROW
    sums = max(rows * width for rows, width in tiles)
    rows = next((rows for rows, width in tiles if width == vectors), sums // vectors)
    return (rows if m is None else min(rows, m)), vectors


def _k_block(
    isa: Isa, m: int | None, k: int | None, rows: int, columns: int, *, packs: bool
) -> int:
    """Return how much of K one pass takes, in equal blocks if K is known."""
    most = MAX_K if m is not None and m <= FEW_ROWS else K_BLOCK
    if packs:
        most = min(K_BLOCK, STACK_BYTES // 4 // (rows + columns))
    most = most // isa.lanes * isa.lanes
    if k is None:
        return most
    each = -(-k // -(-k // most))
    return -(-each // isa.lanes) * isa.lanes


def _cut(
    isa: Isa, sizes: Sequence[int | None], rows: int, columns: int, room: int, row: float,
    panel: float,
) -> tuple[int, int]:  # fmt: skip
    """Return panels and rows of a workgroup; `sizes` are batch, M, N and K.

    There is `room` in bytes for each row of a block of panels.  `row` and `panel` are what the
    kernel does to a vector of a row and to one of a panel before it multiplies, in cycles.
    """
    batch, m, n, k = sizes
    panels, summed = -(-(n or 1024) // columns), k or 1024
    vectors = columns // isa.lanes
    costs = Costs(
        summed * vectors, (READ + row) * summed / isa.lanes, (READ + panel) * summed * vectors
    )
    step = -(-ROW_CHUNK // rows) * rows if m is None else rows
    return split(batch or 1, m, panels, step, costs, max(1, room // (4 * columns)))


def choose_dequant(
    isa: Isa, batch: int | None, m: int | None, n: int, k: int, chunk: int,
    stored: int | None = None,
) -> Tile:  # fmt: skip
    """Return the tile for weights in few bits, in chunks of so many weights along K.

    The panels that are made f32 lie on the stack; `stored` are their columns if those are given.
    """
    rows, vectors = (DEQUANT_VNNI if isa.vnni else DEQUANT) if isa.registers >= 32 else (6, 2)
    while vectors > 1 and (vectors - 1) * isa.lanes >= n:
        vectors -= 1
    if m == 1 and isa.vnni and isa.lanes == WIDEST:
        vectors = 1  # on Zen 4: 0.52 ms on one core, 0.60 with two vectors
    if stored is not None and vectors != stored // isa.lanes:
        sums, vectors = rows * vectors, stored // isa.lanes
        # All sums, a value of a row, and the vectors of a panel are in registers.
        rows = max(1, min(TALLEST, min(sums, isa.registers - vectors - 1) // vectors))
    columns = vectors * isa.lanes
    if m is not None and m <= FEW_ROWS:
        panels, chunk_rows = _cut(isa, (batch, m, n, k), m, columns, ANY, 0.0, 0.0)
        return Tile(isa.lanes, m, vectors, k, panels, chunk_rows)
    rows = rows if m is None else -(-m // -(-m // rows))
    k_block = min(k, DEQUANT_BLOCK // chunk * chunk)
    room = PANEL_BYTES // k_block
    row = COPY if _copies(isa, rows, m, k) else 0.0
    panels, chunk_rows = _cut(isa, (batch, m, n, k), rows, columns, room, row, DECODE)
    return Tile(isa.lanes, rows, vectors, k_block, panels, chunk_rows)
