"""Products of few-bit weights and 8-bit activations as kernels for NVIDIA's GPUs.

A few rows are multiplied by ``dp4a`` and read each weight once, more by tensor cores.  Both read
the same weight, so that a number of rows that is known only at run time chooses there.
"""

from __future__ import annotations

from typing import Any

from iree.compiler import ir

from . import dispatch_records
from .base import Refusal
from .formats import gpu_rows
from .integer_products import IntegerProduct
from .kernels import mma_tile
from .kernels.few_rows_gpu import FewTile
from .kernels.gpu import MAX_WORKGROUPS
from .kernels.integer_few_gpu import IntegerFewGpu
from .kernels.integer_tiles_gpu import IntegerTilesGpu

Kernel = IntegerFewGpu | IntegerTilesGpu
TOO_MANY = f"a GPU starts at most {MAX_WORKGROUPS} workgroups along an axis"
_LONGEST = 1 << 17  # products of a group: 16 times their sum fits 32 bits


def kernel_for(product: IntegerProduct) -> Kernel | Refusal:
    """Return the kernel for a product whose weight has known sizes, or say why there is none."""
    matrices, group, bits = product.matrices, product.group, product.bits
    batch, m, n, k = matrices.batch or 1, matrices.m, matrices.n or 0, matrices.k or 0
    if bits not in gpu_rows.WIDTHS:
        return Refusal(f"kernels for GPUs read weights of 4 or 8 bits, not {bits}")
    why = gpu_rows.misfit(k, group)
    if why:
        return Refusal(why)
    if group > _LONGEST:
        return Refusal(f"a sum of {group} products may not fit 32 bits")
    if batch > MAX_WORKGROUPS:
        return Refusal(TOO_MANY)
    per_group = not product.per_row
    tile = mma_tile.few_or_many(m, n, k, bits, group, symmetric=product.symmetric)
    if tile is None:
        return Refusal(f"groups of {group} are too short for tensor cores")
    if isinstance(tile, FewTile):
        return IntegerFewGpu(batch, m or 1, n, k, bits, group, product.symmetric, tile, per_group)
    kernel = IntegerTilesGpu(batch, m, n, k, bits, group, product.symmetric, per_group, tile)
    down = kernel.known_grid[1]
    if down is not None and down > MAX_WORKGROUPS:
        return Refusal(TOO_MANY)
    return kernel


def load_weight(module: ir.Module, product: IntegerProduct, kernel: Kernel) -> list[ir.Value]:
    """Load the weight's codes, scales and zeros as the kernel reads them."""
    derivation = {
        "kind": "gpu-rows",
        "order": "integer",
        "bits": product.bits,
        "group": product.group,
        "symmetric": product.symmetric,
    }
    return dispatch_records.load_weight(
        module, product.codes, [kernel.batch, kernel.n, -1], derivation, parts_of(kernel)
    )


def parts_of(kernel: Any) -> list[tuple[str, list[int], ir.Type]]:
    """Return name, shape and element type of the parts of a weight in rows of pieces."""
    i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
    head = [kernel.batch, kernel.n]
    words = gpu_rows.padded(kernel.k, kernel.group) * kernel.bits // 32
    values = [*head, kernel.groups]
    return [
        ("codes", [*head, words], i32),
        ("scales", values, ir.F32Type.get()),
        *([] if kernel.symmetric else [("zeros", values, i8)]),
    ]
