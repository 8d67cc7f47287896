"""Kernels of added products on their own, and their definition."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.additive import Addition
from lowc.passes.formats.floats import F32
from lowc.passes.formats.lmul import constant, finite_product, prepare
from lowc.passes.formats.stored import decode, encode, pack_panels

from .modules import LoadedModule, add_matmul, compile_functions


def addition(mantissa_bits=0, *, offset=True):
    """The product of `mantissa_bits` kept bits (0: all), L-Mul's or the piecewise affine one."""
    return Addition(F32, mantissa_bits or 23, constant(F32, mantissa_bits, offset=offset))


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels` into one module below `folder`; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, kernel):
    batch, m, n, k = (build.DYNAMIC if size is None else size for size in kernel.sizes)
    panels = n if n == build.DYNAMIC else -(-n // kernel.tile.columns)
    words = kernel.tile.columns * kernel.stored.width // 32
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    own = batch if kernel.b_batch else 1
    right = build.tensor_type([own, panels, k, words], i32)
    if kernel.packs:
        right = build.tensor_type([own, k, n], f32)
    shapes = {"batch": batch, "m": m, "n": n, "one": 1}
    epilogue = getattr(kernel, "epilogue", None)  # kernels for GPUs have none
    extras = [
        build.tensor_type([shapes[size] for size in given.sizes], ir.Type.parse(given.element))
        for given in (epilogue.inputs if epilogue else ())
    ]
    left = build.tensor_type([batch, m, k], f32 if kernel.prepares else i32)
    add_matmul(module, name, kernel, [left, right, *extras])


class Loaded(LoadedModule):
    """Compiled kernels on a device; ``loaded(i, a, panels, n)`` runs the i-th.

    What its epilogue reads comes behind the number of columns.
    """

    def __call__(self, number, a, panels, n, *extras):
        return self.matmul(number, n, a, panels, *extras)

    def check(self, number, a, b):
        """Compare kernel `number` on ``[batch, m, k]`` and ``[batch, k, n]`` with the definition."""
        kernel = self.kernels[number]
        left, panels = operands(kernel, a, b)
        found = self(number, left, panels, b.shape[2])
        same_bits(found, expected(kernel, a, b), kernel.name)


def operands(kernel, a, b):
    """``a`` and ``b`` as the kernel reads them."""
    stored, tile, product = kernel.stored, kernel.tile, kernel.product
    left = a
    if not kernel.prepares:
        left = prepare(a, product.mantissa_bits) - np.uint32(product.constant)
        left = left.view(np.int32)
    if kernel.packs:
        return left, b
    panels = [pack_panels(bits, stored, tile.columns, tile.lanes) for bits in _coded(kernel, b)]
    return left, np.stack(panels).view(np.int32)


def _coded(kernel, b):
    """The bits of ``b`` as the kernel's panels hold them; an activation may have NaN and infinity."""
    kept = kernel.product.mantissa_bits
    if kernel.stored.name == "f32":
        return prepare(b, kept)
    return np.stack([encode(matrix, kernel.stored, kept)[0] for matrix in b])


def expected(kernel, a, b):
    """The definition: products of the stored weights, added in f32 in the order of k."""
    stored, product = kernel.stored, kernel.product
    weights = decode(_coded(kernel, b), None, stored)
    first = prepare(a, product.mantissa_bits)
    second = prepare(weights, product.mantissa_bits)
    total = np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.float32)
    for k in range(a.shape[2]):
        left, right = first[:, :, k, None], second[:, None, k, :]
        terms = finite_product(left, right, F32, product.constant).view(np.float32)
        if stored.is_scaled:  # a stored zero gives a zero
            terms = np.where(weights[:, None, k, :] == 0, np.float32(0), terms)
        with np.errstate(over="ignore", invalid="ignore"):
            total += terms
    return total


def same_bits(found, wanted, what=""):
    """Fail unless all bits are the same; the payload of a NaN is nobody's business."""
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    assert found.dtype == wanted.dtype == np.float32
    same = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))
    where = np.argwhere(~same)
    assert same.all(), f"{what}: {len(where)} of {same.size} differ, first at {where[0]}: " + (
        f"{found[tuple(where[0])]!r} instead of {wanted[tuple(where[0])]!r}"
    )
