"""Kernels of products by look-up on their own, and their definition."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats import key_panels, powers, tables
from lowc.passes.formats.binary_codes import Coded
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels import executable, tiles
from lowc.passes.kernels.table_matmul import TableMatmul
from lowc.passes.kernels.table_rows import TableRows

from .modules import LoadedModule, add_function, compile_functions

BYTES = TableFormat(8, 64)


def kernel(unit, sizes, planes, group, fmt=BYTES, *, dynamic=False, batch=1, tile=None):
    """The kernel of ``m x n x k`` with the tile that is chosen for it, or another."""
    m, n, k = sizes
    isa = tiles.ISAS[unit]
    rows = TableRows(None if dynamic else batch * m, k, fmt, isa)
    known = None if dynamic else m
    words = planes * rows.spans * fmt.span // 32
    tile = tile or tiles.choose_tables(isa, batch, known, n, planes, rows.folded, words)
    return TableMatmul(batch, known, n, rows, planes, group, tile)


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels`, with those that make their tables, into one module; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, one):
    i32, f32, rows = ir.IntegerType.get_signless(32), ir.F32Type.get(), one.rows
    count = build.DYNAMIC if rows.m is None else rows.m
    result = build.tensor_type([one.batch, build.DYNAMIC if one.m is None else one.m, one.n], f32)
    types = [
        build.tensor_type([count, rows.k], f32),
        *(build.tensor_type([one.batch, one.panels, *shape], i32) for shape, _ in one.weights),
    ]

    def value(x, *weight):
        total = build.dim(x, 0)
        opened = [total] if rows.m is None else []
        executable.declare(
            module, rows.name, [True, False], len(opened), rows.translation, rows.emit
        )
        records = executable.dispatch(
            rows.name, rows.grid(total), opened, [x],
            build.tensor_type([count, rows.words], i32), opened,
        ).results[0]  # fmt: skip
        m = total if one.m is None else build.index(one.m)
        executable.declare(
            module, one.name, [True] * one.inputs + [False], len(opened), one.translation, one.emit
        )
        call = executable.dispatch(
            one.name, one.grid(m), opened, [records, *weight], result, opened
        )
        return call.results[0]

    add_function(module, name, types, result, value)


def compile_rows(kernels, target, folder):
    """Compile the kernels that make tables alone; their functions return records as f32."""

    def add(module, name, one):
        f32 = ir.F32Type.get()
        count = build.DYNAMIC if one.m is None else one.m
        result = build.tensor_type([count, one.words], f32)

        def value(x):
            total = build.dim(x, 0)
            opened = [total] if one.m is None else []
            executable.declare(
                module, one.name, [True, False], len(opened), one.translation, one.emit
            )
            call = executable.dispatch(one.name, one.grid(total), opened, [x], result, opened)
            return call.results[0]

        add_function(module, name, [build.tensor_type([count, one.k], f32)], result, value)

    return compile_functions(kernels, add, target, folder)


class Loaded(LoadedModule):
    """Compiled kernels on the CPU; ``loaded.check(i, x, coded)`` runs the i-th and compares."""

    def __call__(self, number, x, coded):
        """Return ``[batch, m, n]`` for ``x [batch, m, k]`` and a coded weight for each batch."""
        one = self.kernels[number]
        return self.run(number, x.reshape(-1, x.shape[-1]), *operands(one, coded))

    def check(self, number, x, coded):
        """Fail unless the kernel's result is what f32 may make of the definition."""
        one = self.kernels[number]
        found = self(number, x, coded)
        for rows, weight, result in zip(x, coded, found, strict=True):
            close(result, *expected(one, rows, weight), one.name)


def expected(one, x, coded):
    """The exact result ``[m, n]`` of the integer sums, and what f32 may differ from it."""
    fmt = one.rows.format
    built = tables.quantize(x, fmt)
    found = tables.sums(built, coded).astype(np.float64)
    group = np.arange(one.rows.spans) * fmt.span // one.group
    scales = powers.values(coded.terms)[:, group]
    with np.errstate(over="ignore"):
        scaled = np.ldexp(found, built.exponents[:, None, :, None]) * scales
    scaled = np.where(built.broken[:, None, :, None], np.nan, scaled)
    count = one.planes * one.rows.spans + 2
    return scaled.sum(axis=(-2, -1)), np.abs(scaled).sum(axis=(-2, -1)) * count * 2.0**-24 + 1e-37


def close(found, wanted, bound, what=""):
    assert found.shape == wanted.shape and found.dtype == np.float32
    assert np.array_equal(np.isnan(found), np.isnan(wanted)), (what, "NaN")
    with np.errstate(invalid="ignore"):
        far = np.abs(found - wanted) > bound
    far &= np.abs(wanted) < 2.0**127
    assert not far.any(), (what, np.argwhere(far)[0], found[far][0], wanted[far][0])


def operands(one, coded):
    """Keys and scales in the kernel's panels."""
    columns = one.tile.columns
    keys = [key_panels.pack_keys(tables.keys(c), columns, 2 * one.pairs) for c in coded]
    scales = [key_panels.pack_scales(powers.values(c.terms), columns) for c in coded]
    return [
        np.stack(keys).view(np.int32),
        np.stack(scales).view(np.int32),
    ]


def coded_weight(one, rng):
    """A weight of any signs and scales that falls off from plane to plane, for each batch."""
    found = []
    for _ in range(one.batch):
        signs = rng.random((one.n, one.planes, one.groups * one.group)) < 0.5
        scales = rng.random((one.n, one.groups, one.planes)) * 2.0 ** -np.arange(one.planes)
        found.append(Coded(signs, powers.project(scales, 3)))
    return found
