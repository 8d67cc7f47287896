"""Kernels of products by look-up on their own, and their definition."""

import numpy as np
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats import (
    bit_planes,
    integer,
    key_panels,
    panels,
    powers,
    sign_panels,
    tables,
    ternary,
    trit_quads,
    trits,
)
from lowc.passes.formats.binary_codes import BinaryCodes, Coded
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels import executable, tiles
from lowc.passes.kernels.table_matmul import (
    Scaling,
    TableMatmul,
    looks_up_four,
    looks_up_trits,
    makes_tables,
)
from lowc.passes.kernels.table_rows import TableRows
from lowc.passes.kernels.trit_rows import TritRows

from .modules import LoadedModule, add_function, compile_functions

BYTES = TableFormat(8, 64)
PLANES = Scaling()


def kernel(
    unit,
    sizes,
    planes,
    group,
    fmt=BYTES,
    *,
    dynamic=False,
    batch=1,
    tile=None,
    scaling=PLANES,
    rounds=None,
):
    """The kernel of ``m x n x k`` with the tile that is chosen for it, or another.

    Whether it makes its tables itself is as lowc decides, unless `rounds` says it.
    """
    m, n, k = sizes
    isa, has_sums = tiles.ISAS[unit], scaling.kind == "bits"
    count = None if dynamic else batch * m
    known = None if dynamic else m
    if scaling.kind == "trits":
        rows = TritRows(count, k, fmt, isa)
        tile = tile or tiles.choose_fives(isa, batch, known, n, -(-rows.spans * rows.quads // 4))
        return TableMatmul(batch, known, n, rows, 1, group, tile, None, scaling)
    if scaling.kind == "quads":
        assert looks_up_trits(isa, fmt, known)
        rows = TableRows(count, k, fmt, isa, for_trits=True)
        tile = tile or tiles.choose_trits(isa, batch, n, rows.spans * rows.quads // 4)
        rounds = makes_tables(rows, known) if rounds is None else rounds
        return TableMatmul(batch, known, n, rows, 1, group, tile, None, scaling, rounds)
    rows = TableRows(count, k, fmt, isa, looks_up_four(isa, fmt), has_sums)
    words = planes * rows.spans * fmt.span // 32
    if tile is None and rows.by_four:
        sums = planes if scaling.kind == "planes" else 1
        tile = tiles.choose_permuted_tables(isa, batch, known, n, k, sums, words)
    tile = tile or tiles.choose_tables(isa, batch, known, n, planes, rows.folded, words)
    rounds = makes_tables(rows, known) if rounds is None else rounds
    return TableMatmul(batch, known, n, rows, planes, group, tile, None, scaling, rounds)


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels`, with those that make their tables, into one module; return its path."""
    return compile_functions(kernels, _add, target, folder, flags)


def _add(module, name, one):
    i32, f32, rows = ir.IntegerType.get_signless(32), ir.F32Type.get(), one.rows
    count = build.DYNAMIC if rows.m is None else rows.m
    result = build.tensor_type([one.batch, build.DYNAMIC if one.m is None else one.m, one.n], f32)
    types = [
        build.tensor_type([count, rows.k], f32),
        *(
            build.tensor_type(
                [one.batch, one.panels, *shape],
                ir.IntegerType.get_signless(width) if width else f32,
            )
            for shape, width in one.weights
        ),
    ]

    def value(x, *weight):
        total = build.dim(x, 0)
        opened = [total] if rows.m is None else []
        records = x
        if not one.rounds:
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
    """Compiled kernels on the CPU; ``loaded.check(i, x, weights)`` runs the i-th and compares.

    A weight is a :class:`Coded`, a :class:`Quantized` where planes are those of integers, or an
    array of ternary codes where five are looked up at once.
    """

    def __call__(self, number, x, weights):
        """Return ``[batch, m, n]`` for ``x [batch, m, k]`` and a weight for each batch."""
        one = self.kernels[number]
        return self.run(number, x.reshape(-1, x.shape[-1]), *operands(one, weights))

    def check(self, number, x, weights):
        """Fail unless the kernel's result is what f32 may make of the definition."""
        one = self.kernels[number]
        found = self(number, x, weights)
        wanted = of_integers if one.scaling.kind == "bits" else expected
        for rows, weight, result in zip(x, weights, found, strict=True):
            close(result, *wanted(one, rows, weight), one.name)


def expected(one, x, coded):
    """The exact result ``[m, n]`` of the integer sums, and what f32 may differ from it."""
    fmt = one.rows.format
    if one.scaling.kind == "trits":
        return trits.product(x, coded, fmt), 0.0
    built = tables.quantize(x, fmt)
    found = tables.sums(built, coded).astype(np.float64)
    group = np.arange(one.rows.spans) * fmt.span // one.group
    scales = powers.values(coded.terms)[:, group]
    with np.errstate(over="ignore"):
        scaled = np.ldexp(found, built.exponents[:, None, :, None]) * scales
    scaled = np.where(built.broken[:, None, :, None], np.nan, scaled)
    count = one.planes * one.rows.spans + 2
    return scaled.sum(axis=(-2, -1)), np.abs(scaled).sum(axis=(-2, -1)) * count * 2.0**-24 + 1e-37


def of_integers(one, x, weight):
    """The result ``[m, n]`` by the definition, scales and additions rounded together: no bound."""
    group = one.group if one.group < one.rows.k else one.rows.spans * one.rows.format.span
    return bit_planes.product(x, weight, integers(one, group), one.rows.format, fused=True), 0.0


def integers(one, group):
    """The format of integers whose planes a kernel reads."""
    return integer.GroupedInteger(one.planes, group, one.scaling.symmetric)


def close(found, wanted, bound, what=""):
    assert found.shape == wanted.shape and found.dtype == np.float32
    assert np.array_equal(np.isnan(found), np.isnan(wanted)), (what, "NaN")
    with np.errstate(invalid="ignore"):
        far = np.abs(found - wanted) > bound
    far &= np.abs(wanted) < 2.0**127
    assert not far.any(), (what, np.argwhere(far)[0], found[far][0], wanted[far][0])


def operands(one, weights):
    """Signs and scales in the kernel's panels."""
    columns, kind = one.tile.columns, one.scaling.kind
    if kind == "bits":
        fmt = integers(one, one.group)
        no_terms = np.zeros((one.n, one.groups, one.planes, 0), np.uint8)
        coded = [Coded(bit_planes.signs(w, fmt), no_terms) for w in weights]
        rest = [
            [panels.pack_group_values(bit_planes.halves(w), columns, np.float32) for w in weights]
        ]
        if not one.scaling.symmetric:
            rest.append([panels.pack_group_values(w.zeros, columns, np.uint8) for w in weights])
    elif kind == "trits":
        fives = one.rows.spans * one.rows.quads
        packed = [trits.pack(w, columns, fives).view(np.int32) for w in weights]
        return [np.stack(packed)]
    elif kind == "quads":
        quads = one.rows.spans * one.rows.quads
        codes = [(w.signs.sum(axis=1) - 1).astype(np.int8)[:, : one.rows.k] for w in weights]
        return [np.stack([trit_quads.pack(w, columns, quads).view(np.int32) for w in codes])]
    else:
        coded, rest = weights, []
        scales = [powers.values(w.terms) for w in weights]
        if kind == "planes" and one.scaling.shared:
            rest = [[np.float32(s[::columns, ..., None]) for s in scales]]
        elif kind == "planes":
            rest = [[key_panels.pack_scales(s, columns).view(np.int32) for s in scales]]
    if one.rows.by_four:
        signs = [sign_panels.pack_words(c.signs, columns, one.words) for c in coded]
    else:
        signs = [key_panels.pack_keys(tables.keys(c), columns, 2 * one.pairs) for c in coded]
    return [np.stack(signs).view(np.int32), *map(np.stack, rest)]


def random_weight(one, rng):
    """A weight of any signs, and of scales as they are for this kernel, for each batch."""
    return [_random(one, rng) for _ in range(one.batch)]


def _random(one, rng):
    shape, k = (one.n, one.groups), one.groups * one.group
    if one.scaling.kind == "bits":
        half = 1 << (one.planes - 1) if one.scaling.symmetric else 0
        codes = rng.integers(0, 1 << one.planes, (*shape, one.group)) - half
        zeros = None if half else rng.integers(0, 1 << one.planes, shape).astype(np.uint8)
        scales = (rng.random(shape) + 0.1).astype(np.float32)
        return integer.Quantized(codes.astype(np.int8), scales, zeros)
    if one.scaling.kind == "trits":
        return rng.integers(-1, 2, (one.n, one.rows.k)).astype(np.int8)
    if one.scaling.kind in ("ternary", "quads"):
        codes = rng.integers(-1, 2, (one.n, one.rows.k)).astype(np.int8)
        return ternary.as_planes(codes, BinaryCodes(2, one.group, 1, 1))
    signs = rng.random((one.n, one.planes, k)) < 0.5
    scales = rng.random((*shape, one.planes)) * 2.0 ** -np.arange(one.planes)
    if one.scaling.shared:
        scales[:] = scales[:1]
    return Coded(signs, powers.project(scales, 3))
