"""Kernels of shifts and of signed sums on their own, and their definitions."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats import binary_codes, powers, shift_panels, signed_panels
from lowc.passes.formats.binary_codes import BinaryCodes, Coded
from lowc.passes.kernels import tiles
from lowc.passes.kernels.shift_matmul import ShiftMatmul
from lowc.passes.kernels.signed_matmul import SignedMatmul

from .kernels import same_bits
from .modules import LoadedModule, add_matmul, compile_functions


def shift_kernel(unit, sizes, *, own=False, tile=None):
    """The kernel of shifts for ``batch, m, n, k`` with the tile that is chosen, or another."""
    tile = tile or tiles.choose(tiles.ISAS[unit], *sizes, shift_panels.WAYS)
    return ShiftMatmul(*sizes, own, tile)


def signed_kernel(unit, sizes, planes, group, terms=3, *, own=False, tile=None):
    """The kernel of signed sums for ``batch, m, n, k``."""
    tile = tile or tiles.choose_signs(tiles.ISAS[unit], *sizes, planes)
    return SignedMatmul(*sizes, own, tile, planes=planes, group=group, terms=terms)


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels` into one module below `folder`; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, kernel):
    batch, m, _, k = (build.DYNAMIC if size is None else size for size in kernel.sizes)
    head = [kernel.batch if kernel.b_batch else 1, -(-kernel.n // kernel.tile.columns)]
    if isinstance(kernel, ShiftMatmul):
        parts = [[k, kernel.words], [1, 2]]
    else:
        columns = kernel.tile.columns
        parts = [[kernel.words * kernel.planes, columns], [kernel.groups * kernel.planes, columns]]
    i32 = ir.IntegerType.get_signless(32)
    weights = [build.tensor_type([*head, *part], i32) for part in parts]
    add_matmul(module, name, kernel, [build.tensor_type([batch, m, k], ir.F32Type.get()), *weights])


class Loaded(LoadedModule):
    """Compiled kernels on the CPU; ``check(i, x, weights)`` runs the i-th on a weight per batch.

    A weight is terms ``[N, K]`` of shifts, or a coded one of signed sums.
    """

    def __call__(self, number, x, weights):
        kernel = self.kernels[number]
        return self.matmul(number, kernel.n, x, *operands(kernel, weights))

    def check(self, number, x, weights):
        kernel = self.kernels[number]
        each = weights if kernel.b_batch else [weights[0]] * len(x)
        wanted = np.stack([expected(kernel, a, w) for a, w in zip(x, each, strict=True)])
        found = self(number, x, weights)
        # The sign of a zero is nobody's business.
        same_bits(np.where(found == 0, np.float32(0), found), wanted, kernel.name)


def expected(kernel, x, weight):
    """The definition, zeros without a sign."""
    if isinstance(kernel, ShiftMatmul):
        found = powers.product(x, weight)
    else:
        fmt = BinaryCodes(kernel.planes, kernel.group, 1, kernel.terms)
        found = binary_codes.product(x, weight, fmt)
    return np.where(found == 0, np.float32(0), found)


def operands(kernel, weights):
    """Weights as the kernel reads them."""
    columns = kernel.tile.columns
    if isinstance(kernel, ShiftMatmul):
        words = [shift_panels.pack_terms(w, columns, kernel.tile.lanes) for w in weights]
        ranges = [shift_panels.ranges(w, columns)[:, None] for w in weights]
        return np.stack(words).view(np.int32), np.stack(ranges)
    head = -(-kernel.n // columns)
    signs = [signed_panels.pack_signs(w.signs, kernel.k, columns) for w in weights]
    terms = [signed_panels.pack_terms(w.terms, columns) for w in weights]
    return tuple(
        np.stack([part.reshape(head, -1, columns) for part in parts]).view(np.int32)
        for parts in (signs, terms)
    )


def shift_weight(kernel, rng):
    """Terms of any sign, and some zeros, for each batch of B."""
    found = []
    for _ in range(kernel.batch if kernel.b_batch else 1):
        numbers = rng.standard_normal((kernel.n, kernel.k)) * 0.05
        numbers[rng.random(numbers.shape) < 0.05] = 0
        found.append(powers.project(numbers, 1)[..., 0])
    return found


def coded_weight(kernel, rng):
    """Any signs, and scales that fall off from plane to plane, for each batch of B."""
    found = []
    for _ in range(kernel.batch if kernel.b_batch else 1):
        signs = rng.random((kernel.n, kernel.planes, kernel.groups * kernel.group)) < 0.5
        scales = rng.random((kernel.n, kernel.groups, kernel.planes)) * 2.0 ** -np.arange(
            kernel.planes
        )
        scales[rng.random(scales.shape) < 0.1] = 0
        found.append(Coded(signs, powers.project(scales, kernel.terms)))
    return found
