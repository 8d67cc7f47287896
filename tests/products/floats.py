"""Kernels of f32 products on their own, and their definition."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats.panels import float_panels
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.float_matmul import FloatMatmul

from .modules import LoadedModule, add_matmul, compile_functions


def kernel(unit, sizes, *, own=False, packs=False, copies=None, tile=None):
    """The kernel of ``batch, m, n, k`` with the tile that is chosen for it, or another."""
    tile = tile or float_tiles.choose(tiles.ISAS[unit], *sizes, packs=packs)
    if copies is None:
        copies = float_tiles.copies(tiles.ISAS[unit], tile, sizes[1], sizes[3])
    return FloatMatmul(*sizes, own, tile, packs=packs, copies=copies)


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels` into one module below `folder`; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, one):
    batch, m, _, k = (build.DYNAMIC if size is None else size for size in one.sizes)
    left = build.tensor_type([batch, m, k], ir.F32Type.get())
    add_matmul(module, name, one, [left, *_right(one)])


def _right(one):
    """The types of what holds B."""
    _, _, n, k = (build.DYNAMIC if size is None else size for size in one.sizes)
    f32, columns = ir.F32Type.get(), one.tile.columns
    own = (build.DYNAMIC if one.batch is None else one.batch) if one.b_batch else 1
    panels = build.DYNAMIC if one.n is None else -(-one.n // columns)
    if isinstance(one, DequantMatmul):
        words = one.k // one.codes.chunk * one.codes.words
        groups = [own, panels, one.k // one.group, columns]
        i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
        found = [build.tensor_type([own, panels, words, columns], i32)]
        found.append(build.tensor_type(groups, f32))
        return found if one.symmetric else [*found, build.tensor_type(groups, i8)]
    return [build.tensor_type([own, k, n] if one.packs else [own, panels, k, columns], f32)]


class Loaded(LoadedModule):
    """Compiled kernels on the CPU."""

    def check(self, number, a, b):
        """Compare kernel `number` on ``[batch, m, k]`` and ``[batch, k, n]`` with NumPy."""
        one = self.kernels[number]
        right = b if one.packs else np.stack([float_panels(w, one.tile.columns) for w in b])
        close_to_product(self.matmul(number, b.shape[2], a, right), a, b, one.name)


def close_to_product(found, a, b, what=""):
    """Fail unless `found` is the product within what rounding an f32 sum in any order may do."""
    with np.errstate(invalid="ignore", over="ignore"):
        exact = a.astype(np.float64) @ b.astype(np.float64)
        bound = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    bound = bound * (a.shape[2] + 2) * 2.0**-24 + 1e-37
    assert found.shape == exact.shape and found.dtype == np.float32
    beyond = np.isnan(exact) | np.isinf(exact)
    assert np.array_equal(found[beyond], exact[beyond].astype(np.float32), equal_nan=True), what
    with np.errstate(invalid="ignore"):
        wrong = ~beyond & ~(np.abs(found - exact) <= bound)
    assert not wrong.any(), (what, int(wrong.sum()), found[wrong][:3], exact[wrong][:3])
