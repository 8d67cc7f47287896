"""The tiles that a product can have, whatever its form, lowering and target.

The default is what lowc, or for ``linalg`` IREE, takes without a model; it is always a candidate.
Each family of kernels has a file of its own, with ``default``, ``candidates`` and ``illegal``.

Tiles are chosen from ``candidates``, where obvious waste is left out; ``every`` has that too, and
is what measurements are drawn from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from . import (
    blocked_space,
    families,
    gpu_space,
    linalg_gpu_space,
    linalg_space,
    record_space,
    signed_space,
    wide_space,
)
from .problem import Problem
from .tilings import KernelTiling, LinalgTiling, ThreadTiling, Tiling

_OF_KERNELS = (blocked_space, record_space)
_OF_LINALG = (linalg_space, linalg_gpu_space, signed_space)


def _family(problem: Problem) -> Any:
    if problem.lowering == "linalg":
        if problem.form in families.TABLES:
            return signed_space
        return linalg_space if problem.backend == "cpu" else linalg_gpu_space
    if problem.backend != "cpu":
        return gpu_space
    is_record = problem.form in families.TABLES or families.is_integer(problem.form)
    return record_space if is_record else blocked_space


@functools.lru_cache(maxsize=1024)
def candidates(problem: Problem) -> Sequence[Tiling]:
    """Return every tile that `problem` can have, each once: the default, then the others."""
    family = _family(problem)
    if family is blocked_space:  # Some hundreds, the default among them.
        return blocked_space.candidates(problem)
    return _different(problem, (family.default(problem), *family.candidates(problem)))


@functools.lru_cache(maxsize=64)
def every(problem: Problem) -> tuple[Tiling, ...]:
    """Return the candidates, and behind them the rest of the grid of legal tiles, each once."""
    family = _family(problem)
    rest = wide_space.candidates(problem, family) if family in _OF_KERNELS else ()
    return _different(problem, (*candidates(problem), *rest))


def _different(problem: Problem, tilings: Iterable[Tiling]) -> tuple[Tiling, ...]:
    """Return the first of those that make the same kernel."""
    if _family(problem) is not record_space:
        return tuple(dict.fromkeys(tilings))
    found: dict[Any, Tiling] = {}
    for tiling in tilings:
        if isinstance(tiling, KernelTiling):
            found.setdefault(record_space.alike(problem, tiling), tiling)
    return tuple(found.values())


def default(problem: Problem) -> Tiling:
    """Return the tile that is taken without a model."""
    found: Tiling = _family(problem).default(problem)
    return found


def illegal(problem: Problem, tiling: Tiling) -> str:
    """Say why `problem` cannot have `tiling`; "" if it can."""
    family = _family(problem)
    kind: type = ThreadTiling if family is gpu_space else KernelTiling
    if not isinstance(tiling, LinalgTiling if family in _OF_LINALG else kind):
        return "it is for another kind of code"
    why: str = family.illegal(problem, tiling)
    return why
