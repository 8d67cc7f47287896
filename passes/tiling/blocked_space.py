"""Tiles of the kernels with blocked loops: f32, added products, f32 with weights in few bits.

What limits them: sums, a row's value and a panel's vectors are in registers; copied rows and packed
panels are on the stack; a block of panels is read again for every block of rows and shall lie in
the second cache.  A register tile that would multiply much more than there is, because rows or
columns end within it, is no candidate.
"""

from __future__ import annotations

from ..formats.stored import STORED
from ..kernels import float_tiles, tiles
from ..kernels.float_matmul import ROW_PADDING
from ..kernels.tiles import Isa, Tile
from . import families
from .cuts import cuts
from .legality import fault
from .problem import Problem
from .tilings import KernelTiling, KernelTilings, numbers_of

STACK_BYTES = 60 << 10  # targets.toml allows 64 KiB
ROOM_BYTES = 1 << 20  # of a block of panels: the second cache, and not more
K_BLOCKS = (2048, 1024, 512, 256)
MOST_COPIED = 512  # of K: a block of rows that lies in the first cache
MOST_VECTORS = 4
WASTE = 1.3  # products that a tile calculates beside those of the best
FULL = 0.7  # of the registers that sums could have


def default(problem: Problem) -> KernelTiling:
    """Return the tile that lowc takes without a model."""
    isa, (batch, m, n, k) = tiles.ISAS[problem.unit], problem.sizes
    if problem.form == families.FLOAT:
        tile = float_tiles.choose(isa, batch, m, n, k, packs=problem.packs)
        return KernelTiling(tile, float_tiles.copies(isa, tile, m, k))
    if families.is_dequant(problem.form):
        chunk = families.codes_of(problem).chunk
        tile = float_tiles.choose_dequant(isa, batch, m, n or 0, k or 0, chunk)
        return KernelTiling(tile, float_tiles.copies(isa, tile, m, k))
    if problem.packs:
        return KernelTiling(tiles.choose_packing(isa, batch, m, n, k))
    return KernelTiling(tiles.choose(isa, batch, m, n, k, 32 // STORED[problem.weight].width))


def candidates(problem: Problem) -> KernelTilings:
    """Return legal tiles that are no obvious waste, each once, the default first."""
    isa, (batch, m, n, _) = tiles.ISAS[problem.unit], problem.sizes
    usual, free = default(problem), _room(problem)
    found = []
    for rows, vectors in _register_tiles(problem, isa, usual.tile):
        columns = vectors * isa.lanes
        panels = -(-(n or 1024) // columns)
        for k_block in _k_blocks(problem, isa, usual.tile):
            room = max(1, free // (4 * columns * k_block))
            # What the smallest workgroup may, all may: only their panels take room on the stack.
            least = Tile(isa.lanes, rows, vectors, k_block, 1, rows)
            ways = [KernelTiling(least, way) for way in _copying(problem, k_block, usual.copies)]
            ways = [one for one in ways if not illegal(problem, one)]
            most = [(one.copies, _most_panels(problem, least, one.copies)) for one in ways]
            found += [
                (rows, vectors, k_block, group, chunk, copies)
                for group, chunk in cuts(batch, m, panels, rows, min(panels, room))
                for copies, fitting in most
                if group <= fitting
            ]
    first = numbers_of(usual)
    return KernelTilings(isa.lanes, (first, *(one for one in found if one != first)))


def illegal(problem: Problem, tiling: KernelTiling) -> str:
    """Say why the kernel of `problem` cannot have `tiling`; "" if it can."""
    tile, isa = tiling.tile, tiles.ISAS[problem.unit]
    why = fault(problem, tile) or _wrong_blocks(problem, tile)
    if why:
        return why
    if tile.rows * tile.vectors > _most_sums(problem, isa, tile.vectors):
        return f"its sums do not fit {isa.registers} registers"
    if problem.form in families.ADDED and tiling.copies:
        return "rows of added products are always copied"
    needed = stack_bytes(problem, tile, tile.panels, tiling.copies)
    return f"it needs {needed} bytes of stack" if needed > STACK_BYTES else ""


def _wrong_blocks(problem: Problem, tile: Tile) -> str:
    """Say why blocks of K or of columns cannot be so long; "" if they can."""
    if families.is_dequant(problem.form):
        chunk = families.codes_of(problem).chunk
        if _few(problem):
            return "" if tile.k_block == problem.k else "few rows take all of K at once"
        return "a block of K has no whole chunks" if tile.k_block % chunk else ""
    if tile.k_block % tile.lanes:
        return "a block of K has no whole vectors"
    if problem.form in families.ADDED and tile.vectors % _ways(problem):
        return f"words hold {_ways(problem)} weights"
    return ""


def stack_bytes(problem: Problem, tile: Tile, panels: int, copies: bool) -> int:
    """Return how many bytes copied rows and so many packed panels of a tile take."""
    packed = panels * tile.k_block * tile.columns * _is_packed(problem)
    if problem.form in families.ADDED:
        return 4 * (tile.rows * tile.k_block + packed)
    return 4 * (tile.rows * (tile.k_block + ROW_PADDING) * copies + packed)


def _most_panels(problem: Problem, tile: Tile, copies: bool) -> int:
    """Return how many panels of a tile fit the stack."""
    if not _is_packed(problem):
        return float_tiles.ANY
    free = STACK_BYTES - stack_bytes(problem, tile, 0, copies)
    return free // (4 * tile.k_block * tile.columns)


def _is_packed(problem: Problem) -> bool:
    """Whether panels are on the stack."""
    return problem.packs or (families.is_dequant(problem.form) and not _few(problem))


def _few(problem: Problem) -> bool:
    """Whether rows are so few that weights are taken apart in registers, and panels stream."""
    return problem.m is not None and problem.m <= float_tiles.FEW_ROWS


def _ways(problem: Problem) -> int:
    return 32 // STORED[problem.weight].width


def _room(problem: Problem) -> int:
    if _few(problem) and not problem.packs:
        return float_tiles.ANY
    return STACK_BYTES if _is_packed(problem) else ROOM_BYTES


def _most_sums(problem: Problem, isa: Isa, vectors: int) -> int:
    """Return how many registers are left for sums."""
    if problem.form in families.ADDED and _ways(problem) == 4:
        return max(vectors, isa.registers // 2)  # taking fp8 apart needs the others
    others = vectors + 1
    if problem.form in families.ADDED:
        others += 1  # a product, before it is added
    if families.is_dequant(problem.form) and _few(problem):
        others += 3
    return max(vectors, isa.registers - others)


def _register_tiles(problem: Problem, isa: Isa, usual: Tile) -> list[tuple[int, int]]:
    """Return rows and vectors that leave few registers and few products unused."""
    m, n = problem.m, problem.n
    ways = _ways(problem) if problem.form in families.ADDED else 1
    found = {(usual.rows, usual.vectors)}
    for vectors in range(ways, max(MOST_VECTORS, ways) + 1, ways):
        if n is not None and vectors > ways and (vectors - ways) * isa.lanes >= n:
            continue
        most = max(1, _most_sums(problem, isa, vectors) // vectors)
        for rows in {most - most % 2, most * 3 // 4} - {0}:
            fitting = rows if m is None else min(rows, m)
            found.add((fitting, vectors))
            if m is not None:  # and one that leaves no short block
                found.add((-(-m // -(-m // fitting)), vectors))
    if _few(problem):
        return sorted((rows, vectors) for rows, vectors in found if rows == m)
    work = {tile: _padded(problem.n, tile[1] * isa.lanes) for tile in found}
    least = min(work.values())
    largest = max(rows * vectors for rows, vectors in found)
    return sorted(
        tile
        for tile in found
        if tile == (usual.rows, usual.vectors)
        or (work[tile] <= WASTE * least and tile[0] * tile[1] >= FULL * largest)
    )


def _padded(n: int | None, columns: int) -> int:
    """Return the columns of all panels, those counted that are not there."""
    return columns if n is None else -(-n // columns) * columns


def _k_blocks(problem: Problem, isa: Isa, usual: Tile) -> list[int]:
    k = problem.k
    if families.is_dequant(problem.form):
        if _few(problem):
            return [usual.k_block]
        chunk = families.codes_of(problem).chunk
        blocks = {min(k or most, most) // chunk * chunk for most in (64, 128, 256)}
        return sorted((blocks | {usual.k_block}) - {0})
    most = (float_tiles.MAX_K, *K_BLOCKS) if _few(problem) else K_BLOCKS
    found = {usual.k_block}
    for block in most:
        each = block if k is None else -(-k // -(-k // block))
        found.add(-(-each // isa.lanes) * isa.lanes)
    return sorted(found)


def _copying(problem: Problem, k_block: int, usual: bool) -> tuple[bool, ...]:
    """Return whether rows may be copied, or not: where they are a power of two apart, both."""
    is_apart = problem.k is None or problem.k % 256 == 0
    if problem.form in families.ADDED or _few(problem) or not is_apart:
        return (usual,)
    return (False, True) if k_block <= MOST_COPIED else (False,)
