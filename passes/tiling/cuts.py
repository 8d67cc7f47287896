"""Ways to cut rows and panels into workgroups, for spaces of tiles.

All cuts into equal parts would be thousands.  These aim at some numbers of workgroups, each reached
by columns alone, by rows alone, and by both.
"""

from __future__ import annotations

import functools
import math

WORKGROUPS = (2, 4, 8, 16, 32)  # that are aimed at


@functools.lru_cache(maxsize=1024)
def cuts(
    batch: int | None, m: int | None, panels: int, rows: int, most_panels: int
) -> tuple[tuple[int, int], ...]:
    """Return (panels, rows) of a workgroup, in order; rows come in blocks of `rows`.

    A workgroup has at most `most_panels` panels.  Where the number of rows is not known it has so
    many blocks as fill two or four or eight of the :data:`WORKGROUPS`.
    """
    if m is None:
        found = {
            (min(most_panels, -(-panels // groups)), blocks * rows)
            for groups in WORKGROUPS
            for blocks in (1, 2, 4, 8)
        }
        return tuple(sorted(found))
    blocks, least = -(-m // rows), -(-panels // most_panels)
    found = {
        (-(-panels // groups), height * rows)
        for height, across in _heights(batch or 1, blocks)
        if (groups := max(across, least)) <= panels
    }
    if not found:
        found.add((-(-panels // least), blocks * rows))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=1024)
def _heights(batch: int, blocks: int) -> frozenset[tuple[int, int]]:
    """Return how many blocks of rows a workgroup has, and how many workgroups are side by side."""
    return frozenset(
        (-(-blocks // chunks), across) for chunks, across in _aims(batch) if chunks <= blocks
    )


@functools.cache
def _aims(batch: int) -> frozenset[tuple[int, int]]:
    """Return how many workgroups of a batch may be one below the other, and side by side."""
    aims = (max(1, target // batch) for target in WORKGROUPS)
    return frozenset(
        (chunks, -(-each // chunks))
        for each in aims
        for chunks in (1, 1 << round(math.log2(each) / 2), each)
    )
