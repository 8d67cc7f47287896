"""Tiles of the CPU kernels: register tile, blocks, and how work is cut for threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .work_split import Costs, split

MAX_K_BLOCK = 512  # prepared rows lie on a worker's stack: 12 x 512 x 4 bytes
STACK_BYTES = 48 << 10  # of a worker's stack, for prepared rows and one panel that was packed
PACKED_BYTES = 32 << 10  # of it, for several panels
MAX_K = 8192  # of a single row
B_BYTES = 640 << 10  # of a block of B, which is read again for every block of rows
TALL = 768  # rows from which on B is read often enough for a tall tile
WORKGROUPS = 8  # that a matmul is cut into, where its columns allow
FAR_BYTES = 24.0  # that come from the third cache in a cycle
ROUND_CYCLES = 0.6  # for an element of an activation
TABLE_CYCLES = 1.7  # for one whose tables are made: 1.9 us for 4096 (Zen 4)
STREAMS = 16  # and one that reads each weight once, since the speed of memory varies
MOST_TABLED = 4096  # elements of an activation whose tables each workgroup makes for itself
MOST_ROUNDED = 16384  # bytes of codes of an activation that each workgroup rounds for itself
STREAMED_ROWS = 4  # up to so many rows, weights come from memory faster than they can be used
AHEAD_BYTES = 4096  # how far ahead such weights are asked for; of all panels side by side
MOST_TOGETHER = 4  # panels that one core reads side by side
MOST_TRITS = 8  # those that share sums for four ternary weights
MIN_CHUNK = 60  # rows of a workgroup, of which each prepares its own


@dataclass(frozen=True)
class Isa:
    """A vector unit.

    Attributes
    ----------
    name : str
        What it is called.
    lanes, registers : int
        f32 in a register, and how many registers there are.
    vnni, vbmi : bool
        Whether it has ``vpdpbusd``, and ``vpermb``.
    asks_ahead : bool
        Whether few rows ask for words and scales of small integers before they need them.  A Xeon
        without VNNI gains by it; Zen 4 loses: 0.060 against 0.073 ms for 1 x 4096 x 4096.
    halves : bool
        Whether it makes f32 of a vector of f16 in one instruction (``vcvtph2ps``).
    """

    name: str
    lanes: int
    registers: int
    vnni: bool = False
    vbmi: bool = False
    asks_ahead: bool = True
    halves: bool = True


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512vbmi", 16, 32, vnni=True, vbmi=True, asks_ahead=False),
        Isa("avx512vnni", 16, 32, vnni=True, asks_ahead=False),
        Isa("avx512", 16, 32),
        Isa("avx2vnni", 8, 16, vnni=True),
        Isa("avx2", 8, 16),
        Isa("portable", 4, 32, halves=False),
    )
}

# What code is generated for, as passes are told it: a unit of ISAS, a kind of GPU, or nothing.
Unit = Literal[
    "none", "portable", "avx2", "avx2vnni", "avx512", "avx512vnni", "avx512vbmi", "spirv", "ptx"
]


@dataclass(frozen=True)
class Tile:
    """How a matmul is cut.

    Attributes
    ----------
    lanes : int
        f32 in one vector register.
    rows, vectors : int
        The register tile: rows x (vectors of columns) of sums.
    k_block : int
        How much of K one pass takes; a multiple of `lanes`.
    panels, row_chunk : int
        Panels (of ``vectors * lanes`` columns) and rows of one workgroup.  Products that read each
        weight once (:attr:`.record_matmul.RecordMatmul.reads_once`) have as many workgroups as the
        device has threads, or twice as many: of them `panels` only bounds how many are read side
        by side.
    """

    lanes: int
    rows: int
    vectors: int
    k_block: int
    panels: int
    row_chunk: int

    @property
    def columns(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def name(self) -> str:
        """The tile in a symbol."""
        register_tile = f"t{self.rows}x{self.vectors}v{self.lanes}"
        return f"{register_tile}k{self.k_block}g{self.panels}c{self.row_chunk}"

    def heights(self, m: int | None) -> list[int]:
        """Return the heights of row blocks that together take every row.

        With `m` known the last one is what remains; else 4 and 1 take what full blocks leave.
        """
        if m is None:
            return [self.rows, *(rows for rows in (4, 1) if rows < self.rows)]
        rest = (m % self.row_chunk or self.row_chunk) % self.rows
        inner = self.row_chunk % self.rows if m > self.row_chunk else 0
        heights = [self.rows, *sorted({rest, inner} - {0}, reverse=True)]
        return [rows for rows in heights if rows <= m]


def choose_packing(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k: int | None
) -> Tile:
    """Return the tile for a shape whose B is packed by the kernel, on the stack."""
    rows, vectors = (8, 2) if isa.registers >= 32 else (6, 2)
    while n is not None and vectors > 1 and vectors // 2 * isa.lanes >= n:
        rows, vectors = rows * 2, vectors // 2
    rows = rows if m is None else min(rows, m)
    block = STACK_BYTES // 4 // (rows + vectors * isa.lanes) // isa.lanes * isa.lanes
    k_block = block if k is None else min(block, -(-k // isa.lanes) * isa.lanes)
    group, chunk = _cut(isa, batch, m, n, k_block, rows, vectors)
    fitting = max(1, PACKED_BYTES // (k_block * vectors * isa.lanes * 4))
    return Tile(isa.lanes, rows, vectors, k_block, min(group, fitting), chunk)


def choose(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k: int | None, ways: int
) -> Tile:
    """Return the tile for a shape; `ways` weights lie in one word, so panels hold whole words.

    The numbers were found by timing a few dozen tiles on AVX-512 with two cores.
    """
    rows, vectors = _register_tile(isa, m, n, ways)
    block = MAX_K_BLOCK if rows > 1 else MAX_K
    k_block = block if k is None else min(block, -(-k // isa.lanes) * isa.lanes)
    return Tile(isa.lanes, rows, vectors, k_block, *_cut(isa, batch, m, n, k_block, rows, vectors))


def rounds_rows(m: int | None, k: int, strategy: str) -> bool:
    """Whether each workgroup of a product of 8-bit activations rounds its rows for itself.

    A second dispatch takes as long as a small product: 1 x 1536 x 384 and 1 x 384 x 1536 took 0.074
    ms with one and 0.037 without (Zen 4, two cores), 1 x 4096 x 4096 0.106 and 0.094 (cores kept
    awake; on the calling thread alone 0.136 and 0.140).  To round 16384 elements takes 2.6
    microseconds of each workgroup, of which a thread has one for one row and two for more; the
    codes lie on its stack.
    """
    return m is not None and m <= STREAMED_ROWS and m * k * CODE_BYTES[strategy] <= MOST_ROUNDED


def has_short_tables(m: int | None, k: int) -> bool:
    """Whether tables of `m` rows of K are made as fast by each workgroup as by a dispatch."""
    return m is not None and m <= STREAMED_ROWS and m * k <= MOST_TABLED


def choose_integer(
    isa: Isa,
    sizes: tuple[int, int | None, int, int],
    words: int,
    strategy: str,
    groups: int,
    bits: int,
    scale_bytes: int = 4,
) -> Tile:
    """Return the tile for weights of small integers, `words` of 32 bits in a column.

    `sizes` are batch, M, N and K, and `groups` how many scales of `scale_bytes` a column has.
    `strategy` is that of :class:`.integer_dot.IntegerDot`: pairs of bytes are summed in 16 bits
    first and take two registers for each sum.
    """
    batch, m, n, k = sizes
    most, vectors = _INTEGER_TILES[strategy][isa.registers >= 32]
    rows = most if m is None else -(-m // -(-m // most))
    columns = vectors * isa.lanes
    panels, panel_bytes = -(-n // columns), columns * (4 * words + scale_bytes * groups)
    is_once = m is not None and m <= rows  # each weight is read once
    fitting = panels if is_once else max(1, B_BYTES // panel_bytes)
    beside = 1
    if m is not None:
        beside = panels_together(isa, strategy, rows, vectors, groups, bits)
    beside = beside if panels * batch >= 2 * WORKGROUPS else 1
    dots = -(-k // 4) * vectors * _DOT_CYCLES[strategy]
    costs = Costs(
        tile=dots * beside,
        row=k * ROUND_CYCLES if rounds_rows(m, k, strategy) else k / FAR_BYTES,
        panel=panel_bytes / FAR_BYTES * beside,
    )
    units = -(-panels // beside)
    group, chunk = split(batch, m, units, rows, costs, max(1, fitting // beside))
    if is_once:
        group = 1  # panels are shared out among the threads that there are
    return Tile(isa.lanes, rows, vectors, words, min(panels, group * beside), chunk)


def panels_together(
    isa: Isa, strategy: str, rows: int, vectors: int, groups: int, bits: int
) -> int:
    """Return how many panels a kernel of small integers reads side by side for so few `rows`.

    Caches fetch ahead within a page.  In pages of 4 KiB one core that reads in several places has
    more of memory in flight than in one (16.7 MB on two cores of Zen 4: 0.75 ms in one place, 0.67
    in two and 0.63 in four).  In huge pages, where the runtime puts weights, one place is as good;
    and scales of several `groups` are a place of their own, beside which one panel is better than
    two: 42 MB of a model of 168 MB in 0.75 instead of 0.96 ms.  Codes of 5 to 7 `bits` are put
    together from pieces, which leaves no registers for more than one panel and row: 4 x 4096 x 4096
    with 7 bits took 0.215 instead of 0.166 ms on Zen 4.
    """
    if rows > STREAMED_ROWS or (rows > 1 and 4 < bits < 8):
        return 1
    height, width = _INTEGER_TILES[strategy][isa.registers >= 32]
    beside_scales = MOST_TOGETHER // (2 if isa.asks_ahead else 4)  # with VNNI measured
    most = MOST_TOGETHER if groups == 1 else beside_scales
    return max(1, min(most, height * width // (rows * vectors)))


def choose_tables(
    isa: Isa, batch: int, m: int | None, n: int, planes: int, folded: int, words: int
) -> Tile:
    """Return the tile for binary-coded weights, `words` of 32 bits in a column.

    `folded` entries are added in bytes.  So many keys of each plane are in registers while rows
    share them, and so many tables of a row; a row has two registers of sums for each plane.  LLVM
    starts all four quads of a round early, so what is widened takes three registers for each sum.
    """
    others = folded * (1 + planes) + 3 * (4 // folded)
    most = max(1, min(STREAMED_ROWS, (isa.registers - others) // (2 * planes)))
    rows = most if m is None else -(-m // -(-m // most))
    group, chunk = _cut(isa, batch, m, n, words, rows, TABLE_VECTORS)
    panels = -(-n // (TABLE_VECTORS * isa.lanes))
    if panels * batch < 2 * WORKGROUPS:
        group = 1
    if m is not None and m <= rows:
        group = min(panels, max(1, panels * batch // STREAMS))
    return Tile(isa.lanes, rows, TABLE_VECTORS, words, group, chunk)


def choose_permuted_tables(
    isa: Isa, batch: int, m: int | None, n: int, k: int, sums: int, words: int
) -> Tile:
    """Return the tile for planes of signs that are looked up four quads at once.

    `sums` are those of a column, and `words` of 32 bits what it takes in memory.  Rows share the
    keys; two tables of each are in registers too.
    """
    most = max(1, min(STREAMED_ROWS, (isa.registers - 8) // (TABLE_VECTORS * sums + 2)))
    rows = most if m is None else -(-m // -(-m // most))
    panels = -(-n // (TABLE_VECTORS * isa.lanes))
    is_once = m is not None and m <= rows
    panel_bytes = 4 * TABLE_VECTORS * isa.lanes * words
    fitting = panels if is_once else max(1, B_BYTES // panel_bytes)
    cycles = words * TABLE_VECTORS * 3.0
    making = k * TABLE_CYCLES if has_short_tables(m, k) else 0.0
    costs = Costs(tile=cycles, row=making, panel=panel_bytes / FAR_BYTES)
    group, chunk = split(batch, m, panels, rows, costs, fitting)
    return Tile(isa.lanes, rows, TABLE_VECTORS, words, group, chunk)


def choose_fives(isa: Isa, batch: int, m: int | None, n: int, words: int) -> Tile:
    """Return the tile for ternary weights of which five are looked up at once.

    `words` of 32 bits are what a column takes in memory.  A row has two registers of sums and four
    of tables.
    """
    rows = STREAMED_ROWS if m is None else -(-m // -(-m // STREAMED_ROWS))
    panels = -(-n // (TABLE_VECTORS * isa.lanes))
    beside = max(1, STREAMED_ROWS // rows) if panels * batch >= WORKGROUPS else 1
    panel_bytes = 4 * TABLE_VECTORS * isa.lanes * words
    is_once = m is not None and m <= rows
    fitting = panels if is_once else max(1, B_BYTES // panel_bytes)
    costs = Costs(
        tile=words * 10.0 * beside, row=0.0, panel=panel_bytes / FAR_BYTES * beside
    )  # fmt: skip
    units = -(-panels // beside)
    group, chunk = split(batch, m, units, rows, costs, max(1, fitting // beside))
    return Tile(isa.lanes, rows, TABLE_VECTORS, words, min(panels, group * beside), chunk)


def choose_trits(isa: Isa, batch: int, n: int, words: int) -> Tile:
    """Return the tile for one row and ternary weights of which four are looked up at once.

    `words` of 32 bits are what a column takes in memory.  Panels side by side share the sums that
    are made of a table; two registers of sums for each of eight leave room for two tables' sums.
    1 x 4096 x 4096 took 54.6 us with eight, 57.1 with four and 62.7 with two (Zen 4, two cores,
    fastest tenths).
    """
    panels = -(-n // (TABLE_VECTORS * isa.lanes))
    beside = MOST_TRITS if panels * batch >= 2 * WORKGROUPS else MOST_TRITS // 2
    return Tile(isa.lanes, 1, TABLE_VECTORS, words, min(panels, beside), 1)


def choose_signs(isa: Isa, batch: int, m: int | None, n: int, k: int, planes: int) -> Tile:
    """Return the tile for planes of signs without tables.

    One row has a sum for each of four vectors, which hides the latency of an addition; more rows
    share the signs that were taken out.
    """
    most, vectors = (SIGN_ROWS, 4) if isa.registers >= 32 else (SIGN_ROWS // 2, 4)
    while vectors > 1 and vectors // 2 * isa.lanes >= n:
        vectors //= 2
    rows = most if m is None else -(-m // -(-m // most))
    words = planes * -(-k // 32)
    group, chunk = _cut(isa, batch, m, n, words, rows, vectors)
    panels = -(-n // (vectors * isa.lanes))
    if m is not None and m <= rows:
        group = min(panels, max(1, panels * batch // STREAMS))
    return Tile(isa.lanes, rows, vectors, k, group, chunk)


def choose_xor(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k: int, planes: int
) -> Tile:
    """Return the tile for two activations in planes of signs.

    A place has a register of counts for each level, and each workgroup codes its rows for itself.
    """
    most, vectors = _XOR_TILES[isa.registers >= 32][planes - 1]
    while n is not None and vectors > 1 and vectors // 2 * isa.lanes >= n:
        vectors //= 2
    most = max(1, min(most, STACK_BYTES // 4 // (planes * -(-k // 32))))  # coded rows lie there
    rows = most if m is None else -(-m // -(-m // most))
    panels = -(-(n or 1024) // (vectors * isa.lanes))
    counts = -(-k // 32) * planes * planes
    costs = Costs(tile=vectors * (3 * counts + XOR_STORE), row=k * XOR_CODE, panel=0.0)
    group, chunk = split(batch or 1, m, panels, rows, costs, panels)
    return Tile(isa.lanes, rows, vectors, k, group, chunk)


def tables_together(isa: Isa, rows: int, planes: int) -> int:
    """Return how many panels a kernel of look-ups reads side by side for so few `rows`."""
    if rows > 1 or isa.registers < 32:
        return 1
    return max(1, min(MOST_TOGETHER // 2, 8 // (2 * planes)))


XOR_CODE = 1.5  # cycles to code an input of a row of signs
XOR_STORE = 4.0  # and to scale and store a vector of sums
# (rows, vectors) for 1 to 4 planes of signs, of 16 registers and of 32.
_XOR_TILES = (((4, 2), (2, 2), (2, 1), (1, 1)), ((4, 4), (2, 4), (2, 2), (2, 2)))
SIGN_ROWS = 4  # of planes of signs, with 32 registers
TABLE_VECTORS = 4  # a register of bytes becomes four of f32

# Strategy → about how many cycles a vector of products of four takes.
_DOT_CYCLES = {"vnni": 1.2, "bytes": 1.5, "shorts": 2.5, "lanes": 8.0}
# Strategy → bytes that the code of an activation takes, and words that a quad of them does.
CODE_BYTES = {"vnni": 1, "bytes": 1, "shorts": 2, "lanes": 4}
# Strategy → (rows, vectors) of 16 registers and of 32.
_INTEGER_TILES = {
    "vnni": ((4, 2), (8, 2)),
    "bytes": ((3, 1), (4, 2)),
    "shorts": ((2, 2), (5, 2)),
    "lanes": ((2, 1), (4, 2)),
}


def dot_cycles(strategy: str) -> float:
    """Return about how many cycles a vector of products of four takes."""
    return _DOT_CYCLES[strategy]


def _register_tile(isa: Isa, m: int | None, n: int | None, ways: int) -> tuple[int, int]:
    """Return rows and vectors: as many sums as leave registers for operands and a product.

    A tile twice as tall reads B half as often, which pays where B no longer fits a cache; a wide
    one reads A less often, which pays where A is small.  Taking fp8 apart needs registers too.
    """
    if isa.registers >= 32:
        rows, vectors = (12, 2) if m is not None and m >= TALL else (6, 4)
    else:
        rows, vectors = 6, 2
    sums = rows * vectors
    while n is not None and vectors > 1 and vectors // 2 * isa.lanes >= n:
        vectors //= 2
    vectors = -(-vectors // ways) * ways
    rows = max(1, sums // vectors) if ways < 4 else isa.registers // 8
    return (rows if m is None else min(rows, m)), vectors


def _cut(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k_block: int, rows: int, vectors: int
) -> tuple[int, int]:
    """Return panels and rows of a workgroup.

    The panels of one fit the second cache.  A workgroup of one panel would prepare rows for itself
    alone; rows are cut where there would be too few workgroups.
    """
    columns = vectors * isa.lanes
    panels = -(-(n or 1024) // columns)
    fitting = max(1, B_BYTES // (k_block * columns * 4))
    if m is not None and m <= rows:
        group = max(1, panels * (batch or 1) // STREAMS)
    else:
        group = max(2, panels * (batch or 1) // WORKGROUPS)
    group = min(group, fitting, panels)
    if m is None:
        return group, max(1, MIN_CHUNK // rows) * rows
    few = -(-panels // group) * (batch or 1)
    chunks = min(-(-WORKGROUPS // 2 // few), max(1, m // MIN_CHUNK))
    return group, -(-m // chunks // rows) * rows
