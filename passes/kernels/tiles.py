"""Tiles of the CPU kernels: register tile, blocks, and how work is cut for threads."""

from __future__ import annotations

from dataclasses import dataclass

SCRATCH_BYTES = 32 << 10  # of a worker's stack, for prepared rows


@dataclass(frozen=True)
class Isa:
    """A vector unit: `lanes` f32 in a register, and how many registers there are."""

    name: str
    lanes: int
    registers: int


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 16, 32),
        Isa("avx2", 8, 16),
        Isa("portable", 4, 32),
    )
}


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
        Panels (of ``vectors * lanes`` columns) and rows of one workgroup.
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


def choose(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k: int | None, ways: int
) -> Tile:
    """Return the tile for a shape; `ways` weights lie in one word, so panels hold whole words.

    Narrow and tall tiles need fewer columns, wide ones read A less often; 24 sums leave registers
    for the operands on AVX-512, 12 on AVX2.
    """
    rows, vectors = (6, 4) if isa.registers >= 32 else (6, 2)
    if m is not None and m < rows:
        rows = m
    vectors = max(vectors, ways)
    if n is not None:  # no wider than there are columns
        while vectors > ways and (vectors // 2) * isa.lanes >= n and (vectors // 2) % ways == 0:
            vectors //= 2
    if m is not None and m > rows and vectors * 2 <= 4:
        rows = min(m, rows * 2)
    block = min(512, SCRATCH_BYTES // 4 // rows // isa.lanes * isa.lanes)
    if m == 1:
        block = 8192
    k_block = block if k is None else min(block, -(-k // isa.lanes) * isa.lanes)
    return Tile(isa.lanes, rows, vectors, k_block, *_cut(isa, batch, m, n, k_block, rows, vectors))


def _cut(
    isa: Isa, batch: int | None, m: int | None, n: int | None, k_block: int, rows: int, vectors: int
) -> tuple[int, int]:
    """Return panels and rows of a workgroup: enough workgroups, each with a block of B in L2."""
    columns = vectors * isa.lanes
    panels = -(-(n or 1024) // columns)
    fitting = max(1, (384 << 10) // (k_block * columns * 4))
    group = min(panels, fitting)
    chunk = m or 1 << 20
    wanted = 8
    while group > 1 and -(-panels // group) * (batch or 1) < wanted:
        group = -(-group // 2)
    if m is None:
        chunk = 32 * rows
    elif -(-panels // group) * (batch or 1) < wanted and m > 2 * rows:
        parts = min(-(-wanted // (-(-panels // group) * (batch or 1))), m // rows)
        chunk = -(-m // parts // rows) * rows
    return group, chunk
