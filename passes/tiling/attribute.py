"""The attribute ``lowc.tile``: what it asks of a kernel, or of IREE's code generation."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from ...errors import UserError
from .. import annotations, shared_panels, signed_sums
from ..base import Refusal
from ..contraction import indexing_maps, is_dim
from ..formats.binary_codes import WORD
from ..kernels.tiles import ISAS
from ..matrices import as_matrices
from . import families, linalg_gpu_space, signed_space, space, tilings
from .problem import BACKENDS, Problem
from .tilings import STOCK, KernelTiling, LinalgTiling, Tiling

_INFO = "compilation_info"
_CPU = """#iree_codegen.compilation_info<
    lowering_config = #iree_cpu.lowering_config<
        distribution = {0}, vector_common_parallel = {1}, vector_reduction = {2}>,
    translation_info = #iree_codegen.translation_info<
        pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>"""
_GPU = {
    "spirv": """#iree_codegen.compilation_info<
    lowering_config = #iree_codegen.lowering_config<tile_sizes = [{0}, {1}, {2}]>,
    translation_info = #iree_codegen.translation_info<
        pipeline = #iree_gpu.spirv_pipeline<BaseVectorize> workgroup_size = {3}>>""",
    "ptx": """#iree_codegen.compilation_info<
    lowering_config = #iree_gpu.lowering_config<
        {{workgroup = {0}, thread = {1}, reduction = {2}}}>,
    translation_info = #iree_codegen.translation_info<
        pipeline = #iree_gpu.pipeline<TileAndFuse> workgroup_size = {3} subgroup_size = 32>>""",
}


@dataclass(frozen=True)
class Contraction:
    """A product that stays with IREE's code generation.

    ``op`` is the operation that is tiled, ``loops`` the numbers of its loops that the parts of a
    tiling belong to, in their order.
    """

    problem: Problem
    op: Any
    loops: tuple[int, ...]


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
    why = "its kernel has one tile"
    if families.has_space(plan.kernel):
        why = space.illegal(families.problem_of(plan.kernel, unit), tiling)
        why = why or _other_panels(op, tiling)
    if why:
        raise _wrong(op, f"the product cannot have the tile '{tiling.text}': {why}")
    return dataclasses.replace(plan, kernel=families.with_tiling(plan.kernel, tiling))


def columns_asked(op: Any) -> int | None:
    """Return the columns of the panels of the tile that is written on `op`, if it has panels."""
    tiling = tiling_on(op)
    return tiling.tile.columns if isinstance(tiling, KernelTiling) else None


def _other_panels(op: Any, tiling: Tiling) -> str:
    """Say why a tile does not fit the panels of a weight that `op` shares; "" if it does."""
    panels = shared_panels.panels_on(op)
    if panels is None or not isinstance(tiling, KernelTiling):
        return ""
    has = tiling.tile.columns
    return "" if has == panels.columns else f"it has {has} columns, and there are {panels.reason}"


def linalg_problem(op: Any, unit: str) -> Contraction | Refusal:
    """Describe a product that stays with IREE's code generation.  Changes nothing."""
    if not op.name.startswith("linalg.") or len(op.operands) != 3:
        return Refusal("it is not one contraction of two operands")
    kind = annotations.product_facts(op).get("kind")
    if kind == signed_sums.KIND:
        return _signed_problem(op, unit)
    if kind is not None:
        return Refusal("it is more than one contraction")
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
    problem = Problem(name, "linalg", unit, *sizes, own_batch=own)
    loops = (*found.batch_loops, *found.rows, *found.columns, *found.summed)
    return Contraction(problem, op, loops)


def _signed_problem(op: Any, unit: str) -> Contraction | Refusal:
    """Describe a product by signed sums; its loops are those of the sums of words."""
    found = signed_sums.match(op)
    matrices, group = found.matrices, found.group
    if group % WORD:
        return Refusal(f"groups of {group} have no whole words")
    parts = (matrices.rows, matrices.columns)
    if any(len(loops) != 1 for loops in parts) or len(matrices.batch_loops) > 1:
        return Refusal("it has several loops for rows or columns")
    words = len(matrices.sizes) - 1  # the loop behind those of the result
    sizes = (matrices.batch if matrices.batch_loops else 1, matrices.m, matrices.n, matrices.k)
    problem = Problem(
        "shift-add", "linalg", unit, *sizes, own_batch=matrices.batch_in_columns,
        weight="signs", group=group, planes=found.planes,
    )  # fmt: skip
    leading = (*matrices.batch_loops, *matrices.rows, *matrices.columns)
    return Contraction(problem, signed_sums.of_words(op), (*leading, *range(words, words + 3)))


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
    is_known = unit in ISAS or unit in BACKENDS
    why = space.illegal(found.problem, tiling) if is_known else ""
    if why or not isinstance(tiling, LinalgTiling):
        raise _wrong(op, f"the product cannot have the tile '{tiling.text}': {why}")
    text = compilation_info(tiling, found.loops, found.problem)
    found.op.attributes[_INFO] = ir.Attribute.parse(text, op.context)


def told(module: ir.Module) -> dict[str, str]:
    """Return the tiles that IREE's code generation was told, by the names of the products."""
    found = {}
    for op in annotations.matmuls(module):
        tiling = tiling_on(op)
        if isinstance(tiling, LinalgTiling) and tiling != STOCK:
            found[annotations.text(op, annotations.MATMUL)] = tiling.text
    return found


def chosen(module: ir.Module) -> dict[str, list[Any]]:
    """Return those of :func:`told` whose tile nobody wrote, and the operations that say it."""
    found: dict[str, list[Any]] = {}
    names = told(module)
    for op in annotations.matmuls(module):
        name = annotations.text(op, annotations.MATMUL)
        if name in names and annotations.text(op, annotations.WHY):
            says = op if _INFO in op.attributes else signed_sums.of_words(op)
            found.setdefault(name, []).append(says)
    return found


def take_back(operations: Iterable[Any]) -> None:
    """Leave the tiles of operations of :func:`chosen` to code generation."""
    for op in operations:
        if _INFO in op.attributes:
            del op.attributes[_INFO]


def compilation_info(tiling: LinalgTiling, loops: Sequence[int], problem: Problem) -> str:
    """Return what IREE reads, as text.

    `loops` are the numbers of those that the parts of `tiling` belong to: these are put into the
    order of the operation's loops.
    """
    parts = []
    for sizes in (tiling.distribution, tiling.parallel, tiling.reduction):
        by_loop = dict(zip(loops, sizes, strict=True))
        parts.append(str([by_loop[loop] for loop in sorted(by_loop)]))
    if problem.unit not in _GPU:
        return _CPU.format(*parts)
    of_form: Any = signed_space if problem.form in families.TABLES else linalg_gpu_space
    return _GPU[problem.unit].format(*parts, list(of_form.workgroup(tiling)))


def _wrong(op: Any, what: str) -> UserError:
    return UserError(
        what,
        where=annotations.text(op, annotations.MATMUL) or str(op.location),
        hint=f"leave the attribute '{annotations.TILE}' out to get the default tile",
    )
