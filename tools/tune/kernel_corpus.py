"""Kernels of every family with tiles good and bad, drawn at random: what a text model learns from.

Each is one of ``passes/kernels``, for sizes that models have and awkward ones, on one vector unit.
Tiles go beyond what fits the registers, so that some spill.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from ...compiler.frontend import parse_module
from ...passes.additive import Addition
from ...passes.formats import panels
from ...passes.formats.floats import F32
from ...passes.formats.lmul import constant
from ...passes.formats.stored import STORED
from ...passes.formats.tables import TableFormat
from ...passes.kernels import executable, tiles
from ...passes.kernels.additive_matmul import AdditiveMatmul
from ...passes.kernels.dequant_matmul import DequantMatmul
from ...passes.kernels.epilogue import Epilogue, Input, Step
from ...passes.kernels.float_matmul import FloatMatmul
from ...passes.kernels.float_tiles import FEW_ROWS
from ...passes.kernels.integer_dot import IntegerDot
from ...passes.kernels.integer_matmul import IntegerMatmul
from ...passes.kernels.integer_rows import IntegerRows
from ...passes.kernels.packed_codes import PackedCodes
from ...passes.kernels.softmax import Softmax
from ...passes.kernels.table_matmul import TableMatmul, looks_up_four
from ...passes.kernels.table_rows import TableRows
from ...passes.kernels.tiles import Isa, Tile

ROWS = (1, 2, 4, 7, 12, 16, 33, 64, 77, 100, 128, 197, 256, 512)
COLUMNS = (64, 96, 127, 192, 255, 384, 512, 768, 1000, 1536, 2304, 3072)
DEPTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 3072)
SCRATCH_BYTES = 56 << 10  # IREE refuses more than 64 KiB of stack
BIAS = Epilogue((Input("columns", "f32"),), (Step("arith.addf", (0, 1), "f32"),), 2, ("bias",))
RESIDUAL = Epilogue(
    (Input("columns", "f32"), Input("full", "f32")),
    (Step("arith.addf", (0, 1), "f32"), Step("arith.addf", (3, 2), "f32")),
    4, ("bias", "residual"),
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A kernel, and what it is held out by.

    Attributes
    ----------
    kernel : object
        One of ``passes/kernels``; its `name` is its symbol.
    bindings, constants : int
        How many buffers it reads, and how many sizes it is given.
    family : str
        ``float``, ``additive``, ``integer``, ``table``, ``dequant``, ``rounding``, ``lookup`` (the
        tables of activations) or ``softmax``.
    shape, register_tile : str
        Its sizes, and rows x vectors of sums.
    """

    kernel: Any
    bindings: int
    constants: int
    family: str
    shape: str
    register_tile: str


def samples(unit: str, count: int, seed: int) -> list[Sample]:
    """Draw `count` different kernels for a vector unit; the same for the same `seed`."""
    rng = random.Random(f"{unit} {seed}")
    isa = tiles.ISAS[unit]
    names = list(_WEIGHTS)
    found: dict[str, Sample] = {}
    while len(found) < count:
        family = rng.choices(names, [_WEIGHTS[name] for name in names])[0]
        sample = _MAKERS[family](isa, rng)
        if sample is not None:
            found.setdefault(sample.kernel.name, sample)
    return list(found.values())


def module_of(chosen: list[Sample]) -> ir.Module:
    """Return a module with the kernels as public executables, which need no caller."""
    module = parse_module("", "kernels")
    with module.context, ir.Location.unknown():
        for sample in chosen:
            kernel = sample.kernel
            executable.declare(
                module, kernel.name, [True] * sample.bindings + [False], sample.constants,
                kernel.translation, kernel.emit,
            )  # fmt: skip
        for op in module.body.operations:
            op.operation.attributes["sym_visibility"] = ir.StringAttr.get("public")
    return module


def functions_of(module: ir.Module) -> Iterator[Any]:
    """Yield the function of every executable of a module, in order."""
    for op in module.body.operations:
        inner = op.operation.regions[0].blocks[0].operations[1].operation
        yield inner.regions[0].blocks[0].operations[0].operation


# -- sizes and tiles -------------------------------------------------------------------------------


def _sizes(rng: random.Random) -> tuple[int, int, int, int]:
    """Draw batch, M, N and K."""
    return rng.choice((1, 1, 1, 12)), rng.choice(ROWS), rng.choice(COLUMNS), rng.choice(DEPTHS)


def _tile(
    isa: Isa, rng: random.Random, m: int | None, n: int | None, *, most: int = 0, ways: int = 1
) -> Tile:
    """Draw a tile of at most `most` sums, which may be some more than there are registers."""
    most = most or isa.registers * 5 // 4
    vectors = rng.choice([v for v in (1, 2, 3, 4, 6) if v % ways == 0])
    rows = rng.randint(1, max(1, most // vectors))
    rows = rows if m is None else min(rows, m)
    k_block = rng.choice((64, 128, 256, 384, 512))
    panels_of_all = -(-(n or 1024) // (vectors * isa.lanes))
    group = min(panels_of_all, rng.choice((1, 2, 3, 4, 8, 16)))
    blocks = rng.choice((1, 2, 4, 8, 16))
    return Tile(isa.lanes, rows, vectors, k_block, group, rows * blocks)


def _sample(kernel: Any, bindings: int, constants: int, family: str) -> Sample:
    tile = kernel.tile
    extra = len(kernel.epilogue.inputs) if kernel.epilogue is not None else 0
    shape = "x".join("d" if size is None else str(size) for size in _shape_of(kernel))
    return Sample(
        kernel, bindings + extra, constants, family, shape, f"{tile.rows}x{tile.vectors}"
    )  # fmt: skip


def _shape_of(kernel: Any) -> tuple[int | None, ...]:
    if hasattr(kernel, "sizes"):
        return tuple(kernel.sizes)
    return (kernel.batch, kernel.m, kernel.n, kernel.rows.k)


def _epilogue(rng: random.Random) -> Epilogue | None:
    return rng.choice((None, None, BIAS, RESIDUAL))


def _opened(rng: random.Random, sizes: tuple[int, int, int, int]) -> tuple[int | None, ...]:
    """Leave the number of rows open now and then."""
    batch, m, n, k = sizes
    return (batch, None if rng.random() < 0.2 else m, n, k)


# -- families --------------------------------------------------------------------------------------


def _float(isa: Isa, rng: random.Random) -> Sample | None:
    batch, m, n, k = _opened(rng, _sizes(rng))
    packs, copies = rng.random() < 0.3, rng.random() < 0.3
    tile = _tile(isa, rng, m, n)
    room = (
        tile.rows * (tile.k_block + 16) * copies + tile.panels * tile.k_block * tile.columns * packs
    )
    if 4 * room > SCRATCH_BYTES:
        return None
    kernel = FloatMatmul(
        batch, m, n, k, packs, tile, packs=packs, copies=copies, epilogue=_epilogue(rng)
    )
    return _sample(kernel, 2, int(m is None), "float")


def _additive(isa: Isa, rng: random.Random) -> Sample | None:
    batch, m, n, k = _opened(rng, _sizes(rng))
    stored = STORED[rng.choice(("f32", "f32", "bf16", "f8E4M3FN", "f8E5M2"))]
    packs = stored.name == "f32" and rng.random() < 0.3
    prepares = packs or rng.random() < 0.8
    tile = _tile(isa, rng, m, n, ways=32 // stored.width if stored.width > 8 else 4)
    room = tile.rows * tile.k_block + tile.panels * tile.k_block * tile.columns * packs
    if 4 * room > SCRATCH_BYTES:
        return None
    bits = rng.choice((0, 3, 4))
    product = Addition(F32, bits or 23, constant(F32, bits, offset=rng.random() < 0.7))
    kernel = AdditiveMatmul(
        batch, m, n, k, packs, tile, product, stored, prepares, packs, epilogue=_epilogue(rng)
    )
    return _sample(kernel, 2, int(m is None), "additive")


def _integer(isa: Isa, rng: random.Random) -> Sample | None:
    batch, m, n, k = _sizes(rng)
    bits = rng.choice((2, 3, 4, 4, 5, 6, 8, 8))
    group = rng.choice([g for g in (32, 64, 128) if k % g == 0] + ([k] if bits == 8 else []))
    dot = IntegerDot(isa, bits, panels.chunk_of(group))
    known = None if rng.random() < 0.2 else m
    rows = IntegerRows(None if known is None else batch * m, k, group, group < k, dot)
    most = {"vnni": 20, "bytes": 10, "shorts": 14, "lanes": 10}[dot.strategy]
    tile = _tile(isa, rng, known, n, most=most * isa.registers // 32 + 2)
    if 4 * tile.rows * tile.columns * 4 > SCRATCH_BYTES:
        return None
    symmetric = rng.random() < 0.6
    kernel = IntegerMatmul(batch, known, n, rows, symmetric, tile, _epilogue(rng))
    return _sample(kernel, 3 if symmetric else 4, int(known is None), "integer")


def _rounding(isa: Isa, rng: random.Random) -> Sample | None:
    batch, m, _, k = _sizes(rng)
    group = rng.choice([g for g in (32, 64, 128) if k % g == 0] + [k])
    dot = IntegerDot(isa, rng.choice((4, 8)), panels.chunk_of(group))
    known = None if rng.random() < 0.3 else batch * m
    kernel = IntegerRows(known, k, group, group < k, dot)
    return Sample(kernel, 1, int(known is None), "rounding", f"{known or 'd'}x{k}", "rows")


def _table_rows(isa: Isa, rng: random.Random, m: int | None, k: int) -> TableRows:
    bits, span = rng.choice(((6, 128), (7, 64), (8, 64)))
    fmt = TableFormat(bits, span)
    return TableRows(m, k, fmt, isa, looks_up_four(isa, fmt))


def _table(isa: Isa, rng: random.Random) -> Sample | None:
    if isa.name == "portable":
        return None
    batch, m, n, k = _sizes(rng)
    known = None if rng.random() < 0.2 else m
    rows = _table_rows(isa, rng, None if known is None else batch * m, k)
    group = k if k % 128 else rng.choice((128, k))
    planes = rng.randint(1, 4)
    tile = _tile(isa, rng, known, n, most=24)
    tile = dataclasses.replace(tile, vectors=tiles.TABLE_VECTORS, rows=min(tile.rows, 6))
    tile = dataclasses.replace(tile, row_chunk=tile.rows * 4)
    kernel = TableMatmul(batch, known, n, rows, planes, group, tile, _epilogue(rng))
    return _sample(kernel, 3, int(known is None), "table")


def _lookup(isa: Isa, rng: random.Random) -> Sample | None:
    batch, m, _, k = _sizes(rng)
    known = None if rng.random() < 0.3 else batch * m
    kernel = _table_rows(isa, rng, known, k)
    if isa.name == "portable":
        return None
    return Sample(kernel, 1, int(known is None), "lookup", f"{known or 'd'}x{k}", "rows")


def _dequant(isa: Isa, rng: random.Random) -> Sample | None:
    _, m, n, k = _sizes(rng)
    known = None if rng.random() < 0.2 else m
    group = rng.choice([g for g in (32, 64, 128) if k % g == 0])
    bits = rng.choice((2, 3, 4, 4, 8))
    chunk = panels.chunk_of(group)
    symmetric = rng.random() < 0.5
    looked_up = symmetric and bits == 4 and isa.lanes == 16 and rng.random() < 0.5
    tile = _tile(isa, rng, known, n)
    few = known is not None and known <= FEW_ROWS
    tile = dataclasses.replace(tile, k_block=k if few else min(k, 128 // chunk * chunk))
    if known is not None and few:
        tile = dataclasses.replace(tile, rows=known, row_chunk=known)
    if 4 * tile.k_block * tile.columns * tile.panels > SCRATCH_BYTES and not few:
        return None
    kernel = DequantMatmul(
        1, known, n, k, False, tile, packs=True,
        codes=PackedCodes(bits, chunk, looked_up=looked_up),
        group=group, symmetric=symmetric, epilogue=_epilogue(rng),
    )  # fmt: skip
    return _sample(kernel, 3 if symmetric else 4, int(known is None), "dequant")


def _softmax(isa: Isa, rng: random.Random) -> Sample | None:
    shape = (rng.choice((1, 12)), rng.choice(ROWS), rng.choice((16, 64, 77, 128, 197, 512)))
    addend = rng.choice((None, (True, True, True), (False, False, True)))
    kernel = Softmax(shape, addend, rng.random() < 0.5, isa.lanes)
    text = "x".join(map(str, shape))
    return Sample(kernel, 1 if addend is None else 2, 0, "softmax", text, "rows")


_MAKERS: dict[str, Callable[[Isa, random.Random], Sample | None]] = {
    "float": _float,
    "additive": _additive,
    "integer": _integer,
    "table": _table,
    "dequant": _dequant,
    "rounding": _rounding,
    "lookup": _lookup,
    "softmax": _softmax,
}
_WEIGHTS = {
    "float": 30, "additive": 28, "integer": 22, "table": 10, "dequant": 10, "rounding": 3,
    "lookup": 2, "softmax": 2,
}  # fmt: skip
