"""Kernels of added products against the definition, bit for bit, on every vector unit and on GPUs.

All kernels of a vector unit are compiled into one module, which its tests share.
"""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import lmul
from lowc.passes.formats.stored import STORED, channel_scales
from lowc.passes.kernels import additive_matmul_gpu, tiles
from lowc.passes.kernels.additive_matmul import AdditiveMatmul
from lowc.passes.kernels.additive_matmul_gpu import AdditiveMatmulGpu, ThreadTile
from lowc.passes.kernels.additive_tiles_gpu import AdditiveTilesGpu, SharedTile
from lowc.passes.kernels.tiles import Tile
from products import units
from products.kernels import Loaded, addition, compile_kernels, expected, same_bits

# (kept mantissa bits, with L-Mul's offset)
PRODUCTS = [(0, True), (4, True), (1, True), (0, False), (3, False), (2, True)]
EXTREMES = np.array(
    [
        0,
        -0.0,
        1,
        -1,
        2.0**-63,
        2.0**-64,
        -(2.0**-126),
        1e-45,
        2.0**63,
        -(2.0**62),
        3e38,
        -3e38,
        1.5,
    ],
    np.float32,
)
BEYOND = np.array([np.inf, -np.inf, np.nan, -np.nan], np.float32)


def cpu(unit, sizes, storage="f32", product=(0, True), *, own=False, raw=True, packs=False, **tile):
    """A kernel with the tile that is chosen for it, changed by `tile`."""
    stored, isa = STORED[storage], tiles.ISAS[unit]
    chosen = tiles.choose(isa, *sizes, 32 // stored.width)
    if packs:
        chosen = tiles.choose_packing(isa, *sizes)
    kept, offset = product
    tile = dataclasses.replace(chosen, **tile)
    product = addition(kept, offset=offset)
    return AdditiveMatmul(*sizes, own, tile, product, stored, raw, packs)


def matrices(sizes, seed=0, *, own=False, strange=False, storage="f32"):
    """Random operands; `strange` ones hold every special value that their storage can."""
    batch, m, n, k = sizes
    rng = np.random.default_rng([seed, *sizes])
    a = rng.standard_normal((batch, m, k)).astype(np.float32)
    b = (rng.standard_normal((batch if own else 1, k, n)) * 4).astype(np.float32)
    if strange:
        _strew(rng, a, np.concatenate([EXTREMES, BEYOND]))
        _strew(rng, b, np.concatenate([EXTREMES, BEYOND]) if storage == "f32" else EXTREMES)
    return a, b


def _strew(rng, values, specials):
    flat = values.reshape(-1)
    chosen = rng.random(flat.size) < 0.5
    flat[chosen] = rng.choice(specials, int(chosen.sum()))


# -- shapes ----------------------------------------------------------------------------------------


def shapes_of(unit):
    """Static kernels by name: sizes, storage, product and flags vary together."""
    lanes = tiles.ISAS[unit].lanes
    rng = np.random.default_rng(7)
    found = {
        "one of all": cpu(unit, (1, 1, 1, 1)),
        "one row, bf16": cpu(unit, (1, 1, 70, 33), "bf16"),
        "one row, one column": cpu(unit, (1, 1, 1, 70), "f8E4M3FN", (3, True)),
        "whole tiles": cpu(unit, (1, 12, 8 * lanes, 4 * lanes), raw=False),
        # Rows in chunks that are no multiple of the tile's, K in blocks, the last one short.
        "chunks": cpu(unit, (1, 23, 3 * lanes + 1, 20), row_chunk=10),
        "blocks": cpu(unit, (2, 7, 2 * lanes + 3, 5 * lanes + 1), "bf16", k_block=2 * lanes),
        "blocks of fp8": cpu(unit, (1, 3, 70, 4 * lanes + 3), "f8E5M2", raw=False, k_block=lanes),
        "whole blocks": cpu(unit, (1, 2, 5, 3 * lanes), k_block=lanes, panels=1),
        "chunks of blocks, own batch": cpu(
            unit, (3, 19, 2 * lanes - 1, 40), own=True, row_chunk=8, k_block=lanes, panels=1
        ),
        "groups of panels": cpu(unit, (1, 9, 20 * lanes + 5, 11), panels=2),
        "packs": cpu(unit, (2, 9, 5 * lanes + 3, 17), product=(4, True), own=True, packs=True),
        "packs blocks": cpu(
            unit, (1, 13, 3 * lanes, 2 * lanes + 5), packs=True, k_block=lanes, panels=2
        ),
        "packs for prepared rows": cpu(
            unit, (3, 5, 7, 30), product=(3, False), own=True, raw=False, packs=True
        ),
    }
    for number, storage in enumerate(STORED):
        for turn in range(3):
            product = PRODUCTS[(3 * number + turn) % len(PRODUCTS)]
            sizes = (int(rng.integers(1, 4)), *(int(s) for s in rng.integers(1, 71, 3)))
            raw = bool(turn % 2 == number % 2)
            name = f"{storage} {product[0]} {'lmul' if product[1] else 'pam'} {raw} {sizes}"
            found[name] = cpu(unit, sizes, storage, product, own=turn == 1, raw=raw)
    return found


def dynamic_of(unit):
    """Kernels with sizes that are only known at run time."""
    lanes = tiles.ISAS[unit].lanes
    small, wide = Tile(lanes, 5, 2, lanes, 2, 15), Tile(lanes, 5, 4, lanes, 2, 15)

    def cut(kernel, tile):
        return dataclasses.replace(kernel, tile=tile)

    return {
        "rows": cpu(unit, (1, None, 37, 29), product=(4, True)),
        "all": cpu(unit, (None,) * 4, own=True),
        "all, prepared": cpu(unit, (None,) * 4, own=True, raw=False),
        "all, packed": cpu(unit, (None,) * 4, own=True, packs=True),
        "all, small tile": cut(cpu(unit, (None,) * 4, product=(0, False)), small),
        "bf16, small tile": cut(cpu(unit, (None, None, 43, None), "bf16"), small),
        "fp8, small tile": cut(cpu(unit, (1, None, 43, 40), "f8E4M3FN"), wide),
    }


NAMES, DYNAMIC = list(shapes_of("portable")), list(dynamic_of("portable"))


@functools.cache
def _kernels(unit):
    return {**shapes_of(unit), **dynamic_of(unit)}


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    """Every kernel of a vector unit: its name and what it is loaded as."""
    unit = request.param
    target = units.target(unit)
    kernels = list(_kernels(unit).values())
    path = compile_kernels(kernels, target, tmp_path_factory.mktemp(unit))
    return unit, Loaded(path, kernels)


def check(compiled, name, sizes, **how):
    unit, loaded = compiled
    names = list(_kernels(unit))
    kernel = _kernels(unit)[name]
    a, b = matrices(sizes, own=kernel.b_batch, storage=kernel.stored.name, **how)
    loaded.check(names.index(name), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(NAMES)))
@pytest.mark.parametrize("strange", [False, True], ids=["random", "extremes"])
def test_static_sizes(compiled, number, strange):
    unit, _ = compiled
    name = list(_kernels(unit))[number]
    check(compiled, name, _kernels(unit)[name].sizes, strange=strange)


SIZES = st.tuples(
    st.integers(1, 3), st.one_of(st.integers(1, 40), st.integers(300, 420)), st.integers(1, 70),
    st.integers(1, 70),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
@settings(
    max_examples=40, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)  # fmt: skip
@given(sizes=SIZES, seed=st.integers(0, 1 << 20), strange=st.booleans())
@example(sizes=(1, 1, 1, 1), seed=0, strange=False)
@example(sizes=(2, 403, 64, 600), seed=0, strange=False)
@example(sizes=(1, 1, 65, 1025), seed=0, strange=True)
def test_dynamic_sizes(compiled, name, sizes, seed, strange):
    unit, _ = compiled
    known = _kernels(unit)[name].sizes
    sizes = tuple(
        size if fixed is None else fixed for size, fixed in zip(sizes, known, strict=True)
    )
    check(compiled, name, sizes, seed=seed, strange=strange)


@pytest.mark.slow
def test_every_number_of_rows(compiled):
    for m in range(1, 30):
        check(compiled, "rows", (1, m, 37, 29), seed=m)
        check(compiled, "fp8, small tile", (1, m, 43, 40), seed=m)


# -- the reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_reference_is_the_definition_of_the_format(product):
    """What kernels are compared with above is :func:`lmul.matmul`."""
    kernel = cpu("portable", (2, 5, 7, 9), product=product, own=True)
    a, b = matrices(kernel.sizes, own=True, strange=True)
    kept, offset = product
    same_bits(expected(kernel, a, b), lmul.matmul(a, b, kept, offset=offset))


def test_storages_agree_where_weights_are_exact_in_all():
    """The reference of narrow weights is that of the values that they hold."""
    a, b = matrices((1, 3, 5, 4))
    b = np.sign(b) * np.exp2(np.round(b / 4))
    for name in STORED:
        kernel = cpu("portable", (1, 3, 5, 4), name)
        found = expected(kernel, a, b.astype(np.float32))
        scale = np.float32(1)
        if kernel.stored.is_scaled:
            scale = channel_scales(np.abs(b[0]).max(axis=0).astype(np.float32), kernel.stored)
        same_bits(found * scale, lmul.matmul(a, b.astype(np.float32)), name)


def test_kernels_that_differ_have_different_names():
    kernels = [k for unit in units.FLOAT_UNITS for k in _kernels(unit).values()]
    names = {kernel.name: kernel for kernel in kernels}
    assert all(names[kernel.name] == kernel for kernel in kernels)


# -- elsewhere -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_portable_kernel_compiles_for_arm(tmp_path):
    kernels = [
        cpu("portable", (1, None, 37, 29)),
        cpu("portable", (1, 5, 37, 29), "bf16"),
        cpu("portable", (2, 5, 64, 64), "f8E4M3FN", own=True, raw=False),
    ]
    arm = ("--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf",)
    path = compile_kernels(kernels, "cpu:generic", tmp_path, arm)
    assert b"embedded-elf-arm_64" in path.read_bytes()


def gpu(dialect, sizes, tile=None, *, own=False):
    tile = tile or additive_matmul_gpu.choose_tile(sizes[1], sizes[2])
    kind = AdditiveTilesGpu if isinstance(tile, SharedTile) else AdditiveMatmulGpu
    return kind(*sizes, own, addition(), dialect, tile)


def gpu_kernels(dialect):
    """Sizes that are whole vectors of four or not, and tiles that are full or not."""
    return {
        "whole": gpu(dialect, (1, 16, 64, 32)),
        "odd": gpu(dialect, (1, 5, 33, 21)),
        "odd K": gpu(dialect, (1, 9, 36, 7), own=True),
        "odd N": gpu(dialect, (2, 3, 30, 8), own=True),
        "one row": gpu(dialect, (1, 1, 100, 12)),
        "one of all": gpu(dialect, (1, 1, 1, 1)),
        "two panels, two blocks of rows": gpu(dialect, (2, 70, 70, 24)),
        "small tile": gpu(dialect, (1, 21, 40, 5), ThreadTile(2, 1)),
        "rows": gpu(dialect, (1, None, 36, 16)),
        "all": gpu(dialect, (None,) * 4, own=True),
        "in memory": gpu(dialect, (1, 70, 100, 40), SharedTile(8, 2, 8, 8, 8)),
        "in memory, odd": gpu(dialect, (2, 37, 33, 21), SharedTile(4, 1, 8, 8, 8), own=True),
        "in memory, short": gpu(dialect, (1, 9, 36, 7), SharedTile(4, 1, 8, 8, 8)),
        "in memory, all": gpu(dialect, (None,) * 4, SharedTile(2, 1, 8, 8, 16), own=True),
    }


@pytest.fixture(scope="module")
def on_vulkan(tmp_path_factory):
    kernels = list(gpu_kernels("spirv").values())
    path = compile_kernels(kernels, "vulkan", tmp_path_factory.mktemp("vulkan"))
    return Loaded(path, kernels, "vulkan")


@pytest.mark.vulkan
@pytest.mark.parametrize("name", gpu_kernels("spirv"))
@pytest.mark.parametrize("strange", [False, True], ids=["random", "extremes"])
def test_vulkan(on_vulkan, name, strange):
    kernels = gpu_kernels("spirv")
    kernel = kernels[name]
    more = (
        [(1, 1, 1, 1), (2, 66, 31, 13), (1, 8, 64, 16)] if None in kernel.sizes else [kernel.sizes]
    )
    for wanted in more:
        sizes = tuple(w if s is None else s for w, s in zip(wanted, kernel.sizes, strict=True))
        a, b = matrices(sizes, own=kernel.b_batch, strange=strange)
        on_vulkan.check(list(kernels).index(name), a, b)


@pytest.mark.slow
def test_cuda_compiles(tmp_path):
    kernels = list(gpu_kernels("ptx").values())
    path = compile_kernels(kernels, "cuda", tmp_path)
    assert b"cuda-nvptx-fb" in path.read_bytes()
