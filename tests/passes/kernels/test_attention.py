"""Kernels of attention over a cache against NumPy, on every vector unit that can be run."""

import math

import numpy as np
import pytest
from iree.compiler import ir
from lowc.passes import build
from lowc.passes.formats import activations, caches
from lowc.passes.kernels import executable, tiles
from lowc.passes.kernels.attention import BLOCK, Attention
from products import units
from products.modules import LoadedModule, add_function, compile_functions

INF, NAN = math.inf, math.nan
# Heads, rows, width, scale, and formats of keys and values where they are not f32.
SHAPES = {
    "one of all": (1, 1, 16, 1.0),
    "as a Llama has it": (2, 4, 64, 0.125),
    "rows that are many": (1, 15, 32, -0.3),
    "f16": (2, 4, 64, 0.125, "f16", "f16"),
    "i8": (2, 4, 64, 0.125, "i8", "i8"),
    "i4": (2, 3, 64, 0.125, "i4", "i4"),
    "a query of f16 and i8": (3, 1, 32, 0.3, "f16", "i8"),
    "many queries of i8 and i4": (1, 15, 32, 0.3, "i8", "i4"),
}


def kernels_of(unit):
    isa = tiles.ISAS[unit]
    return [
        Attention(*shape[:4], isa.lanes, isa.registers // 2, *shape[4:])
        for shape in SHAPES.values()
    ]


def tensors_of(name, heads, width, is_key):
    """Types of the tensors that a cache in a format is stored in, as the kernel takes them."""
    f32, f16, i8 = ir.F32Type.get(), ir.F16Type.get(), ir.IntegerType.get_signless(8)
    rows = [build.DYNAMIC, heads]
    if name == "i4" and is_key:
        of_channels = ([build.DYNAMIC, heads, width], f32)
        return [
            ([build.DYNAMIC, caches.BLOCK, heads, width // 2], i8), of_channels, of_channels,
            ([caches.BLOCK, heads, width], f32), ([1], ir.IntegerType.get_signless(32)),
        ]  # fmt: skip
    return {
        "f32": [([*rows, width], f32)],
        "f16": [([*rows, width], f16)],
        "i8": [([*rows, width], i8), (rows, f32)],
        "i4": [([*rows, width // 2], i8), (rows, f32), (rows, f32)],
    }[name]


def add(module, name, kernel):
    f32 = ir.F32Type.get()
    own = build.tensor_type([kernel.heads, kernel.rows, kernel.width], f32)
    filled = build.tensor_type([build.DYNAMIC], f32)
    stored = [
        build.tensor_type(*one)
        for format_, is_key in ((kernel.keys, True), (kernel.values, False))
        for one in tensors_of(format_, kernel.heads, kernel.width, is_key)
    ]
    assert kernel.inputs == 1 + len(stored)

    def value(*given):
        *inputs, filled = given
        executable.declare(
            module, kernel.name, [*[True] * kernel.inputs, False], 1, kernel.translation,
            kernel.emit,
        )  # fmt: skip
        sizes = [build.dim(filled, 0)]
        return executable.dispatch(kernel.name, kernel.grid(), sizes, inputs, own, []).results[0]

    add_function(module, name, [own, *stored, filled], own, value)


def stored_as(name, rows, is_key):
    """The tensors of a cache that `rows` were written to, and what they are read as."""
    if name == "f32":
        return [rows], rows
    if name == "f16":
        return [rows.astype(np.float16)], caches.rounded(rows, name)
    if name == "i8":
        found = activations.quantize(rows, rows.shape[-1], per_row=True)
        return [found.codes[..., 0, :], found.scales], caches.rounded(rows, name)
    if not is_key:
        found = caches.to_i4(rows, -1)
        codes = caches.pack(found.codes).view(np.int8)
        return [codes, found.scales, found.least], found.values(-1)
    blocks = caches.KeyBlocks(*rows.shape)
    blocks.write(0, rows)
    number = np.array([blocks.number], np.int32)
    parts = [blocks.codes.view(np.int8), blocks.scales, blocks.least, blocks.newest, number]
    return parts, blocks.read(len(rows))


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    unit = request.param
    kernels = kernels_of(unit)
    path = compile_functions(kernels, add, units.target(unit), tmp_path_factory.mktemp(unit))
    return LoadedModule(path, kernels)


def reference(q, keys, values, scale):
    """Attention in f64, by the definition."""
    with np.errstate(invalid="ignore"):
        scores = np.einsum("hrw,nhw->hrn", q.astype(np.float64), keys) * scale
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        weights = powers / powers.sum(-1, keepdims=True)
    return np.einsum("hrn,nhw->hrw", weights, values)


def run(compiled, name, n, spread=1.0, change=lambda q, keys: None):
    """Return what the kernel called `name` and NumPy make of random numbers that `change` changes.

    The cache has room for more than is filled, where NaN must not matter.
    """
    heads, rows, width, scale, *formats = SHAPES[name]
    random = np.random.default_rng(n)
    q = random.normal(0, spread, (heads, rows, width)).astype(np.float32)
    keys, values = random.normal(0, 1, (2, n + 3, heads, width)).astype(np.float32)
    change(q, keys)
    # Where keys share scales with what follows, it is what was written there before.
    keys[n:] = NAN if formats[:1] != ["i4"] else keys[n:]
    values[n:] = NAN
    keys_format, values_format = formats or ("f32", "f32")
    stored, keys = stored_as(keys_format, keys, is_key=True)
    more, values = stored_as(values_format, values, is_key=False)
    number = list(SHAPES).index(name)
    found = compiled.run(number, q, *stored, *more, np.zeros(n, np.float32))
    return found, reference(q, keys[:n], values[:n], scale)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("n", [1, 15, 16, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 21])
def test_any_number_of_positions(compiled, name, n):
    found, expected = run(compiled, name, n)
    # Roundings of scores, which the exponential enlarges, and of the sums.
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_scores_that_are_far_apart(compiled):
    """Most exponentials are zero, and each block may have the new largest score."""
    found, expected = run(compiled, "one of all", 2000, spread=30.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_at_all_gives_zeros(compiled):
    heads, rows, width, _ = SHAPES["one of all"]
    empty = np.zeros((0, heads, width), np.float32)
    found = compiled.run(
        0, np.ones((heads, rows, width), np.float32), empty, empty, np.zeros(0, np.float32)
    )
    np.testing.assert_array_equal(found, 0)


def test_keys_that_are_not_plain_numbers(compiled):
    """An infinite score of a block counts nothing; where none is finite, or one is NaN, it is NaN."""

    def some(q, keys):
        q[:], keys[:] = 1.0, 0.0
        keys[:BLOCK, 0, 3] = -INF

    found, expected = run(compiled, "one of all", 2 * BLOCK + 5, change=some)
    np.testing.assert_allclose(found, expected, atol=1e-6)

    def all_of_them(q, keys):
        some(q, keys)
        keys[:, 0, 3] = -INF

    def one(_q, keys):
        keys[3, 0, 5] = NAN

    for change in (all_of_them, one):
        found, _ = run(compiled, "one of all", 2 * BLOCK + 5, change=change)
        assert np.isnan(found).all()


def test_names_tell_kernels_apart():
    kernels = [kernel for unit in units.FLOAT_UNITS for kernel in kernels_of(unit)]
    kernels += [Attention(1, 1, 16, scale, 16, 16) for scale in (1.5, -1.0, 0.0, 1e-40, 1e30)]
    assert len({kernel.name for kernel in kernels}) == len(set(kernels))
