"""Kernels of integer products on their own, and their definition."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats import activations, panels
from lowc.passes.formats.integer import GroupedInteger, quantize
from lowc.passes.kernels import executable, tiles
from lowc.passes.kernels.integer_dot import IntegerDot
from lowc.passes.kernels.integer_matmul import IntegerMatmul
from lowc.passes.kernels.integer_rows import IntegerRows

from .modules import LoadedModule, add_function, compile_functions


def kernel(
    unit, sizes, bits, group, *, per_group=True, symmetric=True, dynamic=False, batch=1, tile=None,
    halves=False,
):  # fmt: skip
    """The kernel of ``m x n x k`` with the tile that is chosen for it, or another."""
    m, n, k = sizes
    dot = IntegerDot(tiles.ISAS[unit], bits, panels.chunk_of(group))
    rows = IntegerRows(None if dynamic else batch * m, k, group, per_group, dot)
    words = rows.chunks * dot.vectors
    known = None if dynamic else m
    rounds = tiles.rounds_rows(known, k, dot.strategy)
    tile = tile or tiles.choose_integer(
        dot.isa, (batch, known, n, k), words, dot.strategy, rows.groups, bits
    )
    return IntegerMatmul(
        batch, known, n, rows, symmetric, tile, rounds=rounds, has_halves=halves and dot.isa.halves
    )


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels`, with those that round their rows, into one module; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, one):
    i8, i32 = (ir.IntegerType.get_signless(width) for width in (8, 32))
    f32 = ir.F32Type.get()
    rows, columns = one.rows, one.tile.columns
    count = build.DYNAMIC if rows.m is None else rows.m
    head = [one.batch, one.panels]
    values = [*head, rows.groups, columns]
    words = [*head, rows.chunks * one.dot.vectors, columns]
    result = build.tensor_type([one.batch, build.DYNAMIC if one.m is None else one.m, one.n], f32)
    types = [
        build.tensor_type([count, rows.k], f32),
        build.tensor_type(words, i32),
        build.tensor_type(values, ir.F16Type.get() if one.has_halves else f32),
        *([] if one.symmetric else [build.tensor_type(values, i8)]),
        *([build.tensor_type([*head, columns], f32)] if one.has_halves else []),
    ]

    def value(x, *weight):
        total = build.dim(x, 0)
        opened = [total] if rows.m is None else []
        records = x if one.rounds else _rounded(module, rows, x, opened)
        m = total if one.m is None else build.index(one.m)
        executable.declare(
            module, one.name, [True] * one.inputs + [False], len(opened), one.translation, one.emit
        )
        call = executable.dispatch(
            one.name, one.grid(m), opened, [records, *weight], result, opened
        )
        return call.results[0]

    add_function(module, name, types, result, value)


def _rounded(module, rows, x, opened):
    executable.declare(module, rows.name, [True, False], len(opened), rows.translation, rows.emit)
    count = build.DYNAMIC if rows.m is None else rows.m
    records = build.tensor_type([count, rows.words], ir.IntegerType.get_signless(32))
    grid = rows.grid(build.dim(x, 0))
    return executable.dispatch(rows.name, grid, opened, [x], records, opened).results[0]


class Loaded(LoadedModule):
    """Compiled kernels on the CPU; ``loaded.check(i, x, weights)`` runs the i-th and compares."""

    def __call__(self, number, x, weights):
        """Return ``[batch, m, n]`` for ``x [batch, m, k]`` and ``weights [batch, n, k]``."""
        one = self.kernels[number]
        return self.run(number, x.reshape(-1, x.shape[-1]), *operands(one, weights))

    def check(self, number, x, weights):
        """Fail unless the kernel's result is what f32 may make of the definition."""
        one = self.kernels[number]
        found = self(number, x, weights)
        for rows, matrix, result in zip(x, weights, found, strict=True):
            rounded = activations.quantize(rows, one.rows.group, per_row=not one.rows.per_group)
            stored = quantize(matrix, number_format(one))
            wanted = activations.product(rounded, stored)
            differ = np.argwhere(np.isnan(wanted) != np.isnan(result))
            assert not len(differ), (one.name, "NaN", differ[0])
            far = np.abs(result - wanted) > activations.rounding(rounded, stored)
            assert not far.any(), (one.name, np.argwhere(far)[0], result[far][0], wanted[far][0])


def number_format(one):
    """The format of a kernel's weight."""
    scales = "f16" if one.has_halves else "f32"
    return GroupedInteger(one.dot.bits, one.rows.group, one.symmetric, scales)


def operands(one, weights, fmt=None):
    """Codes, scales, zeros and factors in the kernel's panels."""
    fmt, columns = fmt or number_format(one), one.tile.columns
    parts = [[], [], [], []]
    for matrix in weights:
        stored = quantize(matrix, fmt)
        codes = panels.unsigned_codes(stored, fmt)
        words = panels.pack_panels(codes, fmt.bits, columns, panels.zero_code(fmt))
        parts[0].append(words.reshape(len(words), -1, columns).view(np.int32))
        scales, factors = panels.pack_scales(stored, columns, has_halves=one.has_halves)
        parts[1].append(scales)
        if factors is not None:
            parts[3].append(factors)
        if stored.zeros is not None:
            parts[2].append(panels.pack_group_values(stored.zeros, columns, np.uint8).view(np.int8))
    return [np.stack(part) for part in parts if part]
