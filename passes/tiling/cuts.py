"""Ways to cut rows and panels into workgroups, for spaces of tiles.

All cuts into equal parts would be thousands.  These aim at some numbers of workgroups, each reached
by columns alone, by rows alone, and by both.
"""

from __future__ import annotations

import functools
import math

WORKGROUPS = (2, 4, 8, 16, 32)  # that are aimed at


def cuts(
    batch: int | None, m: int | None, panels: int, rows: int, most_panels: int
) -> list[tuple[int, int]]:
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
        return sorted(found)
    blocks = -(-m // rows)
    found = set()
    for target in WORKGROUPS:
        each = max(1, target // (batch or 1))
        for chunks in _down(each):
            groups = max(-(-each // chunks), -(-panels // most_panels))
            if chunks > blocks or groups > panels:
                continue
            found.add((-(-panels // groups), -(-blocks // chunks) * rows))
    if not found:
        groups = -(-panels // most_panels)
        found.add((-(-panels // groups), blocks * rows))
    return sorted(found)


@functools.cache
def _down(each: int) -> frozenset[int]:
    """Return how many of `each` workgroups, one of a few numbers, may be one below the other."""
    return frozenset((1, 1 << round(math.log2(each) / 2), each))
