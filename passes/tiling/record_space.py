"""Tiles of the kernels that read prepared rows: products of small integers, and by look-up.

What limits them: sums, codes and the words that codes come from are in registers.  Look-ups have
two registers of sums for each row and plane, and panels of one width.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import tiles
from ..kernels.tiles import TABLE_VECTORS, Isa, Tile
from . import families
from .cuts import cuts
from .legality import fault
from .problem import Problem
from .tilings import KernelTiling

MOST_VECTORS = 4
ROOM_BYTES = 1 << 20  # of a block of panels that several blocks of rows read
# Strategy → registers that a sum takes, and those that a vector of codes takes, with its words.
_REGISTERS = {"vnni": (1, 2), "bytes": (2, 3), "shorts": (1, 4), "lanes": (1, 4)}


def default(problem: Problem) -> KernelTiling:
    """Return the tile that lowc takes without a model."""
    isa, batch, m = tiles.ISAS[problem.unit], problem.batch or 1, problem.m
    n, k = problem.n or 0, problem.k or 0
    if problem.form in families.TABLES:
        rows, words = families.table_rows(problem), _words(problem)
        if rows.by_four:
            sums = _sums(problem)
            return KernelTiling(tiles.choose_permuted_tables(isa, batch, m, n, k, sums, words))
        return KernelTiling(
            tiles.choose_tables(isa, batch, m, n, problem.planes, rows.folded, words)
        )
    records = families.integer_rows(problem)
    return KernelTiling(
        tiles.choose_integer(
            isa,
            (batch, m, n, k),
            _words(problem),
            records.dot.strategy,
            records.groups,
            records.dot.bits,
            2 if families.has_halves(problem) else 4,
        )
    )


def candidates(problem: Problem) -> Iterator[KernelTiling]:
    """Yield the legal tiles; some may come twice."""
    isa, (batch, m, n, _) = tiles.ISAS[problem.unit], problem.sizes
    usual = default(problem)
    words = _words(problem)
    for rows, vectors in _register_tiles(problem, isa, usual.tile):
        columns = vectors * isa.lanes
        panels = -(-(n or 1) // columns)
        room = panels
        if m is None or m > rows:
            room = min(panels, max(1, ROOM_BYTES // (4 * columns * words)))
        for group, chunk in cuts(batch, m, panels, rows, room):
            for beside in sorted({group, -(-group // tiles.MOST_TOGETHER) * tiles.MOST_TOGETHER}):
                tile = Tile(isa.lanes, rows, vectors, words, min(panels, beside), chunk)
                found = KernelTiling(tile)
                if not illegal(problem, found):
                    yield found


def illegal(problem: Problem, tiling: KernelTiling) -> str:
    """Say why the kernel of `problem` cannot have `tiling`; "" if it can."""
    tile, isa = tiling.tile, tiles.ISAS[problem.unit]
    why = fault(problem, tile)
    if why:
        return why
    if tile.k_block != _words(problem):
        return f"a column has {_words(problem)} words"
    if tiling.copies:
        return "prepared rows are not copied"
    is_table = problem.form in families.TABLES
    if is_table and tile.vectors != TABLE_VECTORS:
        return f"panels of look-ups have {TABLE_VECTORS} vectors"
    if tile.rows > _most_rows(problem, isa, tile.vectors):
        return f"its sums do not fit {isa.registers} registers"
    return ""


def alike(problem: Problem, tiling: KernelTiling) -> tuple[int, ...] | KernelTiling:
    """Return what is equal for tiles that make the same kernel.

    Where weights are read once, workgroups are as many as threads ask for, and of the panels only
    how many are read side by side counts.
    """
    tile = tiling.tile
    shares, together = families.sharing(problem, tile.rows, tile.vectors)
    return (tile.rows, tile.vectors, min(tile.panels, together)) if shares else tiling


def _words(problem: Problem) -> int:
    """Return the words of 32 bits of a column."""
    if problem.form in families.TABLES:
        rows = families.table_rows(problem)
        return problem.planes * rows.spans * rows.format.span // 32
    records = families.integer_rows(problem)
    return records.chunks * records.dot.vectors


def _sums(problem: Problem) -> int:
    """Return how many sums of a column are apart."""
    return problem.planes if families.TABLES[problem.form] == "planes" else 1


def _most_rows(problem: Problem, isa: Isa, vectors: int) -> int:
    if problem.form in families.TABLES:
        rows = families.table_rows(problem)
        if rows.by_four:
            each = TABLE_VECTORS * _sums(problem) + 2
            return min(tiles.STREAMED_ROWS, max(1, (isa.registers - 8) // each))
        others = rows.folded * (1 + problem.planes) + 3 * (4 // rows.folded)
        most = max(1, (isa.registers - others) // (2 * problem.planes))
        return min(tiles.STREAMED_ROWS, most)
    of_sum, of_codes = _REGISTERS[families.integer_rows(problem).dot.strategy]
    return max(1, (isa.registers - 1 - of_codes * vectors) // (of_sum * vectors))


def _register_tiles(problem: Problem, isa: Isa, usual: Tile) -> list[tuple[int, int]]:
    m, n = problem.m, problem.n or 1
    found = {(usual.rows, usual.vectors)}
    is_table = problem.form in families.TABLES
    for vectors in (TABLE_VECTORS,) if is_table else range(1, MOST_VECTORS + 1):
        if not is_table and vectors > 1 and (vectors - 1) * isa.lanes >= n:
            continue
        most = _most_rows(problem, isa, vectors)
        for rows in (
            range(1, most + 1) if is_table else {most, most - most % 2, most * 3 // 4} - {0}
        ):
            least = rows if m is None else min(rows, m)
            even = least if m is None else -(-m // -(-m // least))
            found |= {(even, vectors)}
    return sorted(found)
