"""Tiles of the f32 kernels: found by timing some dozens on AVX-512 with two cores."""

from __future__ import annotations

from .tiles import PACKED_BYTES, STACK_BYTES, STREAMS, Isa, Tile

K_BLOCK = 512  # eight rows of a block lie in half of the first cache
MAX_K = 8192  # of rows that are read where they are: sums stay in registers so long
FEW_ROWS = 4  # so few rows leave the weight's bytes as the limit
ROW_CHUNK = 64
TALL_CHUNK = 128
TALL = 768  # rows from which on the larger chunk still leaves enough workgroups
B_BYTES = 768 << 10  # of a block of B, which is read again for every block of rows
MIN_PANELS = 3  # that copied rows shall meet
ITEMS = 16  # workgroups: cores that slow down for a while get fewer of them
ITEM_PRODUCTS = 4 << 20  # less work than that is not worth a workgroup
DEQUANT_BLOCK = 128  # of K, that is made f32 at a time: some panels fit the stack
PANEL_BYTES = 48 << 10
# Register tiles that fill 32 registers and 16, in the order of their speed where N has no rest.
WIDE = ((8, 3), (6, 4), (12, 2))
NARROW = ((6, 2), (4, 3))


def choose(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k: int | None, *, packs: bool = False
) -> Tile:
    """Return the tile for a shape; with `packs` B is packed by the kernel, on the stack."""
    rows, vectors = _register_tile(isa, m, n)
    columns = vectors * isa.lanes
    k_block = _k_block(isa, m, k, rows, columns, packs=packs)
    panels, chunk = _cut(batch, m, n, k, rows, columns, k_block)
    if packs:
        panels = min(panels, max(1, PACKED_BYTES // (k_block * columns * 4)))
    return Tile(isa.lanes, rows, vectors, k_block, panels, chunk)


def copies(tile: Tile, m: int | None, k: int | None) -> bool:
    """Whether rows are better copied: those a power of two apart share few sets of a cache."""
    is_few = m is not None and m <= FEW_ROWS
    return not is_few and tile.rows > 1 and (k is None or k % 256 == 0)


def _register_tile(isa: Isa, m: int | None, n: int | None) -> tuple[int, int]:
    """Return rows and vectors: all registers, and the least work on columns that are not there."""
    tiles = WIDE if isa.registers >= 32 else NARROW
    if m is not None and m <= FEW_ROWS:
        vectors = max(vectors for _, vectors in tiles)
        # Both cores shall have a panel.
        while n is not None and vectors > 1 and n <= vectors * isa.lanes:
            vectors -= 1
        return m, vectors

    def work(tile: tuple[int, int]) -> float:
        order = 1 + 0.05 * tiles.index(tile)
        columns = tile[1] * isa.lanes
        return order if n is None else order * -(-n // columns) * columns

    rows, vectors = min(tiles, key=work)
    while n is not None and vectors > 1 and (vectors - 1) * isa.lanes >= n:
        rows, vectors = rows * vectors // (vectors - 1), vectors - 1
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
    batch: int | None, m: int | None, n: int | None, k: int | None, rows: int, columns: int,
    k_block: int,
) -> tuple[int, int]:  # fmt: skip
    """Return panels and rows of a workgroup.

    Rows are cut first: what copies a block of rows shall use it for many panels.
    """
    panels = -(-(n or 1024) // columns)
    if m is not None and m <= min(rows, FEW_ROWS):
        return min(max(1, panels * (batch or 1) // STREAMS), panels), rows
    fitting = max(1, B_BYTES // (k_block * columns * 4))
    wanted = TALL_CHUNK if m is not None and m >= TALL else ROW_CHUNK
    chunk = -(-min(wanted, m or wanted) // rows) * rows
    chunks = (1 if m is None else -(-m // chunk)) * (batch or 1)
    products = (batch or 1) * (m or ROW_CHUNK) * (n or 1024) * (k or 1024)
    items = min(ITEMS, max(2, products // ITEM_PRODUCTS))
    groups = min(-(-items // chunks), max(1, panels // MIN_PANELS))
    return min(-(-panels // groups), fitting), chunk


def choose_dequant(isa: Isa, batch: int | None, m: int | None, n: int, k: int, chunk: int) -> Tile:
    """Return the tile for weights in few bits, in chunks of so many weights along K.

    The panels that are made f32 lie on the stack.
    """
    rows, vectors = (12, 2) if isa.registers >= 32 else (6, 2)
    while vectors > 1 and (vectors - 1) * isa.lanes >= n:
        vectors -= 1
    columns = vectors * isa.lanes
    if m is not None and m <= FEW_ROWS:
        panels, chunk_rows = _cut(batch, m, n, k, m, columns, 0)
        return Tile(isa.lanes, m, vectors, k, panels, chunk_rows)
    rows = rows if m is None else -(-m // -(-m // rows))
    k_block = min(k, DEQUANT_BLOCK // chunk * chunk)
    panels, chunk_rows = _cut(batch, m, n, k, rows, columns, k_block)
    fitting = max(1, PANEL_BYTES // (k_block * columns * 4))
    return Tile(isa.lanes, rows, vectors, k_block, min(panels, fitting), chunk_rows)
