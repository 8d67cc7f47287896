"""Kernels of f32 products on their own, and their definition."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats.panels import float_panels
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.float_matmul import PLAIN, FloatMatmul

from .modules import LoadedModule, add_matmul, compile_functions


def kernel(unit, sizes, *, own=False, packs=False, copies=None, tile=None, heads=PLAIN):
    """The kernel of ``batch, m, n, k`` with the tile that is chosen for it, or another."""
    tile = tile or float_tiles.choose(tiles.ISAS[unit], *sizes, packs=packs)
    if copies is None:
        copies = float_tiles.copies(tiles.ISAS[unit], tile, sizes[1], sizes[3])
    return FloatMatmul(*sizes, own, tile, packs=packs, copies=copies, heads=heads)


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels` into one module below `folder`; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, one):
    batch, m, _, k = (build.DYNAMIC if size is None else size for size in one.sizes)
    left = build.tensor_type(_shape(one, "a", batch, m, k), ir.F32Type.get())
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
    if not one.packs:
        return [build.tensor_type([own, panels, k, columns], f32)]
    inner = (n, k) if one.heads.turned else (k, n)
    return [build.tensor_type(_shape(one, "b", own, *inner), f32)]


def _shape(one, operand, batch, rows, columns):
    """The sizes of an operand as it lies in memory."""
    heads = getattr(one, "heads", PLAIN)
    if operand not in heads.split:
        return [batch, rows, columns]
    return [batch if batch == build.DYNAMIC else batch // heads.count, rows, heads.count, columns]


class Loaded(LoadedModule):
    """Compiled kernels on the CPU."""

    def check(self, number, a, b):
        """Compare kernel `number` on ``[batch, m, k]`` and ``[batch, k, n]`` with NumPy."""
        one = self.kernels[number]
        right = b if one.packs else np.stack([float_panels(w, one.tile.columns) for w in b])
        right = right.swapaxes(1, 2) if one.heads.turned else right
        left, right = _laid_out(one.heads, "a", a), _laid_out(one.heads, "b", right)
        found = self.matmul(number, b.shape[2], left, right)
        if "c" in one.heads.split:
            found = found.swapaxes(1, 2).reshape(a.shape[0], a.shape[1], -1)
        close_to_product(found, a, b, one.name)


def _laid_out(heads, operand, value):
    """Matrices one behind another as an operand lies in memory."""
    if operand in heads.split:
        value = value.reshape(-1, heads.count, *value.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(value)


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
