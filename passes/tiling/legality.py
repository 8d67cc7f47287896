"""What no tile of a CPU kernel may be, whatever it calculates."""

from __future__ import annotations

from ..kernels import tiles
from ..kernels.tiles import Tile
from .problem import Problem


def fault(problem: Problem, tile: Tile) -> str:
    """Say what is wrong with `tile` for `problem`; "" if nothing is."""
    isa = tiles.ISAS[problem.unit]
    if tile.lanes != isa.lanes:
        return f"vectors of {problem.unit} have {isa.lanes} lanes"
    if min(tile.rows, tile.vectors, tile.k_block, tile.panels, tile.row_chunk) < 1:
        return "a part of it is 0"
    if tile.row_chunk % tile.rows:
        return "workgroups have no whole blocks of rows"
    if problem.m is not None and tile.rows > problem.m:
        return f"there are only {problem.m} rows"
    return ""
