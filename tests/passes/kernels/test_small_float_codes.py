"""Codes of small floats as the kernels decode them: every code of a format, on every vector unit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lowc.passes.formats import panels
from lowc.passes.formats.small_floats import SMALL_FLOATS, Minifloat, dequantize, quantize
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.small_float_codes import SmallFloatCodes
from products import units
from products.floats import Loaded, close_to_product, compile_kernels

N, K, GROUP = 261, 64, 32
# Format, batch, m, n, k, group, whether each batch has a weight of its own.  M None is dynamic.
SHAPES = [
    ("nf4", 1, None, 37, 96, 48, False),
    ("nf4", 3, 2, 33, 64, 16, True),
    ("nf4", 2, 13, 65, 256, 64, False),
    ("f4E2M1", 1, None, 3, 192, 192, False),
    ("f4E2M1", 2, 21, 70, 32, 16, True),
    ("f8E4M3FN", 1, None, 50, 80, 16, False),
    ("f8E4M3FN", 2, 3, 17, 256, 128, True),
    ("f8E5M2", 1, 1, 97, 320, 320, False),
    ("f8E5M2", 1, None, 64, 144, 48, False),
]


def kernel(unit, name, batch, m, n, k, group, own):
    codes = SmallFloatCodes.of(name, tiles.ISAS[unit].lanes)
    tile = float_tiles.choose_dequant(tiles.ISAS[unit], batch, m, n, k, codes.chunk)
    return DequantMatmul(
        batch, m, n, k, own, tile, packs=True, copies=float_tiles.copies(tiles.ISAS[unit], tile, m, k),
        codes=codes, group=group, symmetric=True,
    )  # fmt: skip


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    """A kernel for each format, and then those of :data:`SHAPES`."""
    target = units.target(request.param)
    cases = [(name, 1, None, N, K, GROUP, False) for name in SMALL_FLOATS] + SHAPES
    kernels = [kernel(request.param, *case) for case in cases]
    return Loaded(compile_kernels(kernels, target, tmp_path_factory.mktemp("small")), kernels)


def call(compiled, number, x, codes, scales):
    """Run a kernel on ``x [batch, m, k]``, codes ``[batch, n, G, g]``, scales ``[batch, n, G]``."""
    one = compiled.kernels[number]
    columns = one.tile.columns
    words = np.stack([panels.pack_panels(each, one.codes.bits, columns) for each in codes])
    words = words.reshape(*words.shape[:2], -1, columns).view(np.int32)
    packed = np.stack([panels.pack_group_values(each, columns, np.float32) for each in scales])
    return compiled.matmul(number, one.n, x, words, packed)


def finite_codes(fmt):
    """Every pattern that stands for a number."""
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    return codes[np.isfinite(fmt.decode(codes))]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_FLOATS)
@pytest.mark.parametrize("rows", [1, 4, K], ids=["row", "rows", "blocks"])
def test_every_code_has_its_value(compiled, name, rows):
    """Rows with a single 1 in them: each result is one weight, ``value[code] * scale``."""
    number = list(SMALL_FLOATS).index(name)
    fmt = SMALL_FLOATS[name]
    known = finite_codes(fmt)
    codes = known[np.add.outer(np.arange(N), np.arange(K)) % len(known)]
    assert set(codes[:, 0]) == set(known)  # at each place of a chunk
    scales = np.random.default_rng(1).standard_normal((N, K // GROUP)).astype(np.float32)
    scales[:8] *= np.float32(2.0) ** np.array([[100], [-60], [20], [-20], [1], [8], [-90], [60]])
    grouped = codes.reshape(N, -1, GROUP)
    wanted = (fmt.decode(grouped) * scales[..., None]).reshape(N, K)
    assert np.isfinite(wanted).all()
    for start in range(0, K, rows):
        x = np.eye(K, dtype=np.float32)[None, start : start + rows]
        found = call(compiled, number, x, grouped[None], scales[None])[0]
        assert np.array_equal(found, wanted[:, start : start + rows].T), (name, start)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SHAPES)))
@settings(
    max_examples=15, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)  # fmt: skip
@given(rows=st.integers(1, 160), seed=st.integers(0, 1 << 20))
@example(rows=1, seed=0)
@example(rows=4, seed=0)
@example(rows=5, seed=0)
def test_products(compiled, number, rows, seed):
    """Groups of zeros, of one large number and of many magnitudes, in every kind of shape."""
    number += len(SMALL_FLOATS)
    one = compiled.kernels[number]
    m, rng = one.m or rows, np.random.default_rng(seed)
    weight = rng.standard_normal((one.batch if one.b_batch else 1, one.n, one.k))
    weight = (weight * 2.0 ** rng.integers(-20, 20, (one.n, 1))).astype(np.float32)
    weight[:, 0, : one.group] = 0
    weight[:, -1, one.k // 2] = 1e20
    stored = quantize(weight, one.codes.small, one.group)
    value = dequantize(stored, one.codes.small, one.k)
    x = rng.standard_normal((one.batch, m, one.k)).astype(np.float32)
    found = call(compiled, number, x, stored.codes, stored.scales)
    # A scale that is applied to a sum, and not to each weight, saves a rounding; it costs none.
    close_to_product(found, x, value.transpose(0, 2, 1), one.name)


@pytest.mark.parametrize("name", SMALL_FLOATS)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_short_chunks_follow_the_order_of_panels(name, lanes):
    codes = SmallFloatCodes.of(name, lanes)
    given = np.random.default_rng(lanes).integers(0, 1 << codes.bits, (3, 2, 48), dtype=np.uint8)
    words = panels.pack_panels(given, codes.bits, lanes).reshape(-1, codes.words, lanes)
    for k in range(96):
        (field,) = codes.fields(k % codes.chunk)
        found = words[k // codes.chunk, field.word] >> field.bit & ((1 << codes.bits) - 1)
        assert (found[:3] == given.reshape(3, -1)[:, k]).all()


@pytest.mark.parametrize("name", SMALL_FLOATS)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_scale_keeps_its_bits_under_the_power(name, lanes):
    """What goes into the scale makes it no subnormal number, and infinite only at the very top."""
    codes = SmallFloatCodes.of(name, lanes)
    power = codes.power(lanes)
    assert power >= 0
    if not isinstance(SMALL_FLOATS[name], Minifloat):
        assert power == 0
    largest = np.float32(2.0) ** 127 / np.float32(SMALL_FLOATS[name].top)
    assert np.isfinite(largest * np.float32(2.0**power))


@pytest.mark.slow
def test_the_portable_kernels_compile_for_arm(tmp_path):
    kernels = [kernel("portable", name, 1, None, 37, 48, 48, False) for name in SMALL_FLOATS]
    arm = ("--iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf",)
    path = compile_kernels(kernels, "cpu:generic", tmp_path, arm)
    assert b"embedded-elf-arm_64" in path.read_bytes()
