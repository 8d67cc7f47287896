"""Tiles of sums by signs (``binary`` without tables) that stay with IREE's code generator.

Such a product is several operations (:mod:`..signed_sums`), of which the first takes nearly all
the time: the sums of words, ``[rows, columns, words, planes]``, each over the 32 inputs of a word.
It is the one that is tiled, and its loops are what a tiling has entries for, a batch before them.
IREE's own choice is the default: on CPUs vectors along the planes, of which there are three.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..formats.binary_codes import WORD
from ..kernels import tiles
from .gpu_limits import MOST_THREADS, too_many
from .problem import Problem
from .tilings import STOCK, LinalgTiling

ROWS, VECTORS = (1, 2, 4, 8), (1, 2)
DISTRIBUTED = (16, 32, 64)
MOST_WORDS = 16  # of a workgroup
MOST_SUMS = 8  # vectors of sums: a plane and a word at a time
VECTOR = 4  # columns of a thread of a GPU
THREADS, WORDS, STEPS = (8, 16, 32), (1, 4), (2, 4, 8)
# Loops behind the batch: rows, columns, words, planes, inputs of a word.
LOOPS = 5


def default(_problem: Problem) -> LinalgTiling:
    """Return IREE's own choice: no attribute."""
    return STOCK


def candidates(problem: Problem) -> Iterator[LinalgTiling]:
    """Yield the legal tiles."""
    yield STOCK
    found = _of_threads(problem) if problem.unit == "spirv" else _of_vectors(problem)
    yield from (one for one in found if not illegal(problem, one))


def _of_vectors(problem: Problem) -> Iterator[LinalgTiling]:
    if problem.unit not in tiles.ISAS:
        return
    words, batch, none = words_of(problem), *_batch(problem)
    most = max(part for part in range(1, min(words, MOST_WORDS) + 1) if words % part == 0)
    for rows in ROWS:
        for vectors in VECTORS:
            columns = vectors * tiles.ISAS[problem.unit].lanes
            for down in (max(rows, 16), max(rows, 4)):
                for across in DISTRIBUTED:
                    yield LinalgTiling(
                        (*batch, down, max(across, columns), most, problem.planes, 0),
                        (*batch, rows, columns, 1, 1, 0),
                        (*none, 0, 0, 0, 0, 1),
                    )


def _of_threads(problem: Problem) -> Iterator[LinalgTiling]:
    batch, none = _batch(problem)
    for threads in THREADS:
        for words in WORDS:
            for step in STEPS:
                yield LinalgTiling(
                    (*batch, 1, VECTOR * threads, words, problem.planes, 0),
                    (*batch, 1, VECTOR, 1, 1, 0),
                    (*none, 0, 0, 0, 0, step),
                )


def _batch(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return ((1,), (0,)) if problem.batch != 1 else ((), ())


def words_of(problem: Problem) -> int:
    """Return the words of signs in a row of a plane; K that is not known counts as one."""
    k = problem.k or WORD
    return -(-(-(-k // problem.group) * problem.group) // WORD)


def illegal(problem: Problem, tiling: LinalgTiling) -> str:
    """Say why code generation cannot have `tiling`; "" if it can."""
    if tiling == STOCK:
        return ""
    loops = LOOPS + (problem.batch != 1)
    if len(tiling.distribution) != loops:
        return f"the sums of words have {loops} loops"
    outer, inner = tiling.distribution[-LOOPS:-1], tiling.parallel[-LOOPS:-1]
    step = tiling.reduction[-1]
    if min(*outer, *inner, step) < 1:
        return "a part of it is 0"
    if any(whole % part for whole, part in zip(outer, inner, strict=True)):
        return "workgroups have no whole tiles"
    words = words_of(problem)
    if outer[2] > words or outer[3] > problem.planes or step > WORD:
        return f"there are only {words} words and {problem.planes} planes"
    for size, part, what in ((problem.m, inner[0], "rows"), (problem.n, inner[1], "columns")):
        if size is not None and part > 1 and part >= 2 * size:
            return f"there are only {size} {what}"
    if problem.unit in tiles.ISAS:
        sums = math.prod(inner) / tiles.ISAS[problem.unit].lanes
        return f"a tile has at most {MOST_SUMS} vectors of sums" if sums > MOST_SUMS else ""
    return _illegal_threads(problem, outer, inner)


def _illegal_threads(problem: Problem, outer: Sequence[int], inner: Sequence[int]) -> str:
    if problem.unit != "spirv":
        return "it is for CPUs and Vulkan"
    if tuple(inner) != (1, VECTOR, 1, 1) or outer[0] > 1:
        return f"a thread for Vulkan has {VECTOR} columns of one row, word and plane"
    threads, most = math.prod(outer) // math.prod(inner), MOST_THREADS["spirv"]
    if threads > most:
        return f"a workgroup has at most {most} threads"
    return too_many(problem, outer[0], outer[1])


def workgroup(tiling: LinalgTiling) -> tuple[int, int, int]:
    """Return the threads of a workgroup along x, y and z."""
    _, across, words, planes = tiling.distribution[-LOOPS:-1]
    _, columns, word, plane = tiling.parallel[-LOOPS:-1]
    return (planes // plane, words // word, across // columns)
