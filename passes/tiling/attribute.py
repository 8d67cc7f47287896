"""The attribute ``lowc.tile``: what it asks of a kernel, or of IREE's code generation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from iree.compiler import ir

from ...errors import UserError
from .. import annotations
from ..base import Refusal
from ..contraction import indexing_maps, is_dim
from ..kernels.tiles import ISAS
from ..matrices import Matrices, as_matrices
from . import families, space, tilings
from .problem import Problem
from .tilings import STOCK, LinalgTiling, Tiling

_INFO = "compilation_info"
_CPU = """#iree_codegen.compilation_info<
    lowering_config = #iree_cpu.lowering_config<
        distribution = {0}, vector_common_parallel = {1}, vector_reduction = {2}>,
    translation_info = #iree_codegen.translation_info<
        pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>"""


def tiling_on(op: Any) -> Tiling | None:
    """Return the tile that is written on `op`; None where there is none.

    Raises
    ------
    UserError
        When what is written there is no tile.
    """
    text = annotations.text(op, annotations.TILE)
    if not text:
        return None
    try:
        return tilings.parse(text)
    except ValueError as error:
        raise _wrong(op, str(error)) from error


def with_tile_on(op: Any, plan: Any, unit: str) -> Any:
    """Return `plan` with its kernel for the tile that is written on `op`.

    Raises
    ------
    UserError
        When the product cannot have that tile.
    """
    tiling = tiling_on(op)
    if tiling is None:
        return plan
    why = space.illegal(families.problem_of(plan.kernel, unit), tiling)
    if why:
        raise _wrong(op, f"the product cannot have the tile '{tiling.text}': {why}")
    return dataclasses.replace(plan, kernel=families.with_tiling(plan.kernel, tiling))


def linalg_problem(op: Any, unit: str) -> tuple[Problem, Matrices] | Refusal:
    """Describe a contraction that stays with IREE's code generation.  Changes nothing."""
    if not op.name.startswith("linalg.") or len(op.operands) != 3:
        return Refusal("it is not one contraction of two operands")
    maps = indexing_maps(op)
    if any(not is_dim(result) for map_ in maps for result in map_.results):
        return Refusal("a convolution is not tiled")
    found = as_matrices(op, 1)
    if isinstance(found, Refusal):
        return found
    parts = (found.rows, found.columns, found.summed)
    if any(len(loops) != 1 for loops in parts) or len(found.batch_loops) > 1:
        return Refusal("it has several loops for rows, columns or sums")
    form = annotations.from_attribute(op.attributes[annotations.FORM])["form"]
    name = families.FLOAT if form == "exact" else str(form)
    sizes = (found.batch if found.batch_loops else 1, found.m, found.n, found.k)
    own = found.batch_in_columns
    return Problem(name, "linalg", unit, *sizes, own_batch=own), found


def tell_code_generation(op: Any, unit: str) -> None:
    """Write the tile on `op` as the attribute that IREE reads, if it is one for linalg.

    Raises
    ------
    UserError
        When the product cannot have that tile.
    """
    tiling = tiling_on(op)
    if tiling is None or tiling == STOCK:
        return
    found = linalg_problem(op, unit)
    if isinstance(found, Refusal):
        raise _wrong(op, f"the product cannot have the tile '{tiling.text}': {found.reason}")
    problem, matrices = found
    why = space.illegal(problem, tiling) if unit in ISAS else ""
    if why or not isinstance(tiling, LinalgTiling):
        raise _wrong(op, f"the product cannot have the tile '{tiling.text}': {why}")
    op.attributes[_INFO] = compilation_info(tiling, matrices, op.context)


def compilation_info(tiling: LinalgTiling, matrices: Matrices, context: ir.Context) -> ir.Attribute:
    """Return what IREE reads; tiles are put into the order of the contraction's loops."""
    loops = (*matrices.batch_loops, *matrices.rows, *matrices.columns, *matrices.summed)
    return ir.Attribute.parse(cpu_info(tiling, loops), context)


def cpu_info(tiling: LinalgTiling, loops: Sequence[int]) -> str:
    """Return its text; `loops` are the numbers of those that the parts of `tiling` belong to."""
    parts = []
    for sizes in (tiling.distribution, tiling.parallel, tiling.reduction):
        by_loop = dict(zip(loops, sizes, strict=True))
        parts.append(str([by_loop[loop] for loop in sorted(by_loop)]))
    return _CPU.format(*parts)


def _wrong(op: Any, what: str) -> UserError:
    return UserError(
        what,
        where=annotations.text(op, annotations.MATMUL) or str(op.location),
        hint=f"leave the attribute '{annotations.TILE}' out to get the default tile",
    )
