"""Kernels of products of bipolar integers on their own: with what codes the right operand."""

import numpy as np
from iree.compiler import ir
from iree.compiler.dialects import arith
from lowc.passes import build
from lowc.passes.formats import bipolar_products
from lowc.passes.kernels import executable, tiles
from lowc.passes.kernels.bipolar_codes import BipolarCodes
from lowc.passes.kernels.bipolar_columns import BipolarColumns
from lowc.passes.kernels.bipolar_matmul import BipolarMatmul

from .kernels import same_bits
from .modules import LoadedModule, add_function, compile_functions


def kernel(unit, sizes, planes, scales="f32", *, tile=None):
    """The kernel of ``batch, m, n, k`` (k is known) with the tile that is chosen, or another."""
    isa, (batch, m, n, k) = tiles.ISAS[unit], sizes
    tile = tile or tiles.choose_xor(isa, batch, m, n, k, planes)
    return BipolarMatmul(*sizes, True, tile, codes=BipolarCodes(planes, k, scales), isa=isa)


def columns_of(one):
    """The kernel that codes the right operand of `one`."""
    return BipolarColumns(one.batch, one.n, one.codes, one.tile)


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels`, with those that code, into one module; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, one):
    batch, m, n, k = (build.DYNAMIC if size is None else size for size in one.sizes)
    f32, i32, coder = ir.F32Type.get(), ir.IntegerType.get_signless(32), columns_of(one)
    types = [build.tensor_type(shape, f32) for shape in ([batch, m, k], [batch, k, n])]

    def value(x, y):
        found = {"batch": build.dim(x, 0), "m": build.dim(x, 1), "n": build.dim(y, 2)}
        sizes = {**found, "k": build.index(k)}
        opened = [sizes[name] for name, size in zip(sizes, one.sizes, strict=True) if size is None]
        right = [sizes[name] for name in ("batch", "n") if getattr(one, name) is None]
        executable.declare(
            module, coder.name, [True, False], len(right), coder.translation, coder.emit
        )
        columns = one.tile.columns
        panels = build.DYNAMIC if one.n is None else -(-one.n // columns)
        counts = [sizes["batch"]] if one.batch is None else []
        counts += [arith.ceildivui(sizes["n"], build.index(columns))] if one.n is None else []
        coded = executable.dispatch(
            coder.name, coder.grid(sizes["batch"], sizes["n"]), right, [y],
            build.tensor_type([batch, panels, coder.rows, columns], i32), counts,
        ).results[0]  # fmt: skip
        executable.declare(
            module, one.name, [True, True, False], len(opened), one.translation, one.emit
        )
        return executable.dispatch(
            one.name, one.grid(sizes), opened, [x, coded],
            build.tensor_type([batch, m, n], f32), opened,
        ).results[0]  # fmt: skip

    add_function(module, name, types, build.tensor_type([batch, m, n], f32), value)


class Loaded(LoadedModule):
    """Compiled kernels on the CPU; ``check(i, x, y)`` runs the i-th and compares."""

    def check(self, number, x, y):
        """Compare the product of ``[batch, m, k]`` and ``[batch, k, n]`` with the definition."""
        one = self.kernels[number]
        planes, scales = one.codes.planes, one.codes.scales
        coded = [bipolar_products.encode(rows, planes) for rows in (x, y.swapaxes(-1, -2))]
        wanted = bipolar_products.product(*coded, planes, scales)
        found = self.run(number, x, np.ascontiguousarray(y))
        # The sign of a zero is nobody's business.
        same_bits(*(np.where(v == 0, np.float32(0), v) for v in (found, wanted)), one.name)
