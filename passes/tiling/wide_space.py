"""All tiles of CPU kernels on a coarse grid, bad ones too: what an exhaustive search goes through.

The spaces that tiles are chosen from leave obvious waste out.  A model that never saw it would not
know that it is waste, and a search that leaves it out is no exhaustive one: measurements are drawn
from here as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ..kernels import tiles
from ..kernels.tiles import Tile
from . import families
from .problem import Problem
from .tilings import KernelTiling

ROWS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
VECTORS = (1, 2, 3, 4)
K_BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CHUNKS = (1, 2, 4, 8, 16, 32, 64)  # blocks of rows of a workgroup, and all of them
PANELS = (1, 2, 4, 8, 16, 32, 64)  # of a workgroup, and all of them


def candidates(problem: Problem, family: Any) -> Iterator[KernelTiling]:
    """Yield the tiles of the grid that `family` finds legal; of known sizes only.

    Each is another kernel: a workgroup has no more rows, panels or K than there are.
    """
    if not problem.is_static:
        return
    lanes = tiles.ISAS[problem.unit].lanes
    m, n, k = problem.m or 1, problem.n or 1, problem.k or 1
    usual = family.default(problem)
    blocked = not (families.is_integer(problem.form) or problem.form in families.TABLES)
    k_blocks = _k_blocks(k, lanes) if blocked else {usual.tile.k_block}
    copying = (False, True) if blocked and problem.form not in families.ADDED else (usual.copies,)
    few = families.is_dequant(problem.form) and usual.tile.rows == m
    for rows, vectors in itertools.product({min(rows, m) for rows in ROWS}, VECTORS):
        panels = -(-n // (vectors * lanes))
        if (few and rows != m) or (vectors > 1 and (vectors - 1) * lanes >= n):
            continue
        blocks = -(-m // rows)
        for k_block, chunk, group, copies in itertools.product(
            sorted(k_blocks), _upto(CHUNKS, blocks), _upto(PANELS, panels), copying
        ):
            tile = Tile(lanes, rows, vectors, k_block, group, chunk * rows)
            found = KernelTiling(tile, copies)
            if not family.illegal(problem, found):
                yield found


def _upto(numbers: tuple[int, ...], most: int) -> list[int]:
    """Return those that are less than `most`, and that."""
    return [*(one for one in numbers if one < most), most]


def _k_blocks(k: int, lanes: int) -> set[int]:
    """Return blocks of whole vectors, each about equal parts of K."""
    each = {-(-k // -(-k // block)) for block in K_BLOCKS}
    return {-(-one // lanes) * lanes for one in each}
