"""Sums of added products (L-Mul, PAM) as kernels: what ``lowc-outline-kernels`` does for them."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import add_operands, annotations, build, dispatch_matmul, epilogues
from .additive import Addition
from .base import Refusal
from .contraction import defining, dims_of, indexing_maps, is_dim, is_zero_fill
from .epilogues import Chain
from .formats.floats import F32
from .formats.stored import STORED, StoredFloat
from .kernels import additive_tiles_gpu, tiles
from .kernels.additive_matmul import AdditiveMatmul
from .kernels.additive_matmul_gpu import AdditiveMatmulGpu
from .kernels.additive_tiles_gpu import AdditiveTilesGpu, SharedTile
from .kernels.gpu import MAX_WORKGROUPS
from .matrices import Matrices, as_matrices, to_matrices

KernelGpu = AdditiveMatmulGpu | AdditiveTilesGpu
Kernel = AdditiveMatmul | KernelGpu


@dataclass(frozen=True)
class Plan:
    """A sum of added products as matrices, its kernel, and what the kernel does with the sums."""

    op: Any
    matrices: Matrices
    columns: int
    kernel: Kernel
    chain: Chain | Refusal


def takes(op: Any) -> bool:
    """Whether `op` is a sum of added products."""
    return "constant" in json.loads(annotations.text(op, annotations.PRODUCT) or "{}")


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernel for `op`, or say why there is none.  Changes nothing."""
    facts = json.loads(annotations.text(op, annotations.PRODUCT))
    why = _outside_kernels(op, facts)
    if why:
        return Refusal(why)
    weight = next((i for i in (1, 0) if add_operands.is_stored(op.operands[i])), None)
    columns = 1 if weight is None else weight
    matrices = as_matrices(op, columns)
    if isinstance(matrices, Refusal):
        return matrices
    if 0 in (matrices.batch, matrices.m, matrices.n, matrices.k):
        return Refusal("one of its sizes is 0")
    stored = STORED["f32"]
    if weight is not None:
        order = (*matrices.batch_loops, *matrices.summed, *matrices.columns)
        if dims_of(matrices.maps["columns"]) != order:
            return Refusal("its weight is stored in another order than that of the result")
        stored = STORED[add_operands.derivation_of(op.operands[weight])["storage"]]
    product = Addition(F32, facts["mantissa-bits"], facts["constant"])
    reads_f32 = facts["carrier"] == "f32"
    prepares = reads_f32 and _raw(op.operands[1 - columns]) is not None
    packs = reads_f32 and weight is None and _raw(op.operands[columns]) is not None
    if unit in ("spirv", "ptx"):
        gpu = _gpu_kernel(matrices, product, stored, unit)
        if isinstance(gpu, Refusal):
            return gpu
        return Plan(op, matrices, columns, *epilogues.on_gpu(op, matrices, gpu))
    kernel = _cpu_kernel(matrices, product, stored, tiles.ISAS[unit], prepares, packs)
    chain = epilogues.match(op, matrices)
    if isinstance(chain, Chain):
        kernel = dataclasses.replace(kernel, epilogue=chain.epilogue)
    return Plan(op, matrices, columns, kernel, chain)


def _outside_kernels(op: Any, facts: dict[str, Any]) -> str:
    """Say why no kernel does what `op` does, or nothing."""
    if facts["specials"] != "finite":
        return "kernels have finite specials only"
    if facts["accumulate"] != "f32":
        return "kernels add in f32 only"
    if any(not is_dim(result) for map_ in indexing_maps(op) for result in map_.results):
        return "a convolution is contracted directly"
    if not is_zero_fill(op.operands[2]):
        return "the sums do not start at zero"
    return ""


def _cpu_kernel(
    matrices: Matrices,
    product: Addition,
    stored: StoredFloat,
    isa: tiles.Isa,
    prepares: bool,
    packs: bool,
) -> AdditiveMatmul:
    sizes = (matrices.batch, matrices.m, matrices.n, matrices.k)
    if packs:
        tile = tiles.choose_packing(isa, *sizes)
    else:
        tile = tiles.choose(isa, *sizes, 32 // stored.width)
    has_batch = matrices.batch_in_columns
    return AdditiveMatmul(*sizes, has_batch, tile, product, stored, prepares, packs)


def _gpu_kernel(
    matrices: Matrices, product: Addition, stored: StoredFloat, unit: str
) -> KernelGpu | Refusal:
    if stored.width != 32:
        return Refusal(f"kernels for GPUs read weights in f32, not {stored.name}")
    sizes = (matrices.batch, matrices.m, matrices.n, matrices.k)
    tile = additive_tiles_gpu.choose(unit, *sizes[1:])
    facts = (*sizes, matrices.batch_in_columns, product, unit)
    kernel: KernelGpu
    if isinstance(tile, SharedTile):
        kernel = AdditiveTilesGpu(*facts, tile)
    else:
        kernel = AdditiveMatmulGpu(*facts, tile)
    most = MAX_WORKGROUPS
    if any(count is not None and count > most for count in kernel.known_grid):
        return Refusal(f"a GPU starts at most {most} workgroups along one axis")
    return kernel


def _raw(value: ir.Value) -> ir.Value | None:
    """Return the f32 tensor that `value` was prepared from."""
    op = defining(value)
    if op is None or annotations.PREPARED not in op.attributes:
        return None
    source: ir.Value = op.operands[0]
    return source if build.element_of(source) == ir.F32Type.get() else None


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, with the operands laid out for it."""
    op, kernel, matrices = plan.op, plan.kernel, plan.matrices
    tile = kernel.tile

    def operands() -> list[ir.Value]:
        rows, right = op.operands[1 - plan.columns], op.operands[plan.columns]
        if kernel.prepares:
            rows = _raw(rows) or rows
        left = to_matrices(rows, matrices, "rows")
        if kernel.packs:
            return [left, to_matrices(_raw(right) or right, matrices, "columns")]
        if add_operands.is_stored(right):
            return [left, add_operands.load_panels(module, right, tile.columns, tile.lanes)]
        return [left, _packed(to_matrices(right, matrices, "columns"), tile.columns)]

    chain = plan.chain if isinstance(plan.chain, Chain) else None
    dispatch_matmul.replace(module, op, matrices, kernel, operands, chain)


def _packed(matrix: ir.Value, columns: int) -> ir.Value:
    """Return prepared ``[batch, K, N]`` as panels ``[batch, N/columns, K, columns]``."""
    matrix = build.pad_to_multiple(matrix, 2, columns)
    split = build.split_last(matrix, columns)
    source = build.dims_map(4, [0, 2, 1, 3])
    batch, k, panels, _ = build.shape_of(split)
    sizes = [build.dim(split, axis) for axis in (0, 2, 1)]
    opened = [s for s, n in zip(sizes, (batch, panels, k), strict=True) if n == build.DYNAMIC]
    init = build.empty([batch, panels, k, columns], build.element_of(matrix), opened)
    maps = [source, build.identity_map(4)]
    return build.generic([split], init, maps, ["parallel"] * 4, lambda x, _: x).operation.results[0]
