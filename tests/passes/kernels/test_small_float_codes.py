"""Codes of small floats as the kernels decode them: every code of a format, on every vector unit."""

import numpy as np
import pytest
from iree import runtime as rt
from lowc.passes.formats import panels
from lowc.passes.formats.small_floats import SMALL_FLOATS, Minifloat
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.small_float_codes import SmallFloatCodes
from lowc.runtime.buffers import download
from products import units
from products.floats import Loaded, compile_kernels

N, K, GROUP = 261, 64, 32


def kernel(unit, name):
    codes = SmallFloatCodes(SMALL_FLOATS[name].bits, panels.chunk_of(GROUP), format=name)
    tile = float_tiles.choose_dequant(tiles.ISAS[unit], 1, None, N, K, codes.chunk)
    return DequantMatmul(
        1, None, N, K, False, tile, packs=True, codes=codes, group=GROUP, symmetric=True
    )


@pytest.fixture(scope="module", params=units.FLOAT_UNITS)
def compiled(request, tmp_path_factory):
    target = units.target(request.param)
    if target is None:
        pytest.skip(f"this machine has {units.here()}, not {request.param}")
    kernels = [kernel(request.param, name) for name in SMALL_FLOATS]
    return Loaded(compile_kernels(kernels, target, tmp_path_factory.mktemp("small")), kernels)


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
    one, fmt = compiled.kernels[number], SMALL_FLOATS[name]
    known = finite_codes(fmt)
    codes = known[np.add.outer(np.arange(N), np.arange(K)) % len(known)]
    assert set(codes[:, 0]) == set(known)  # at each place of a chunk
    scales = np.random.default_rng(1).standard_normal((N, K // GROUP)).astype(np.float32)
    scales[:8] *= np.float32(2.0) ** np.array([[100], [-60], [20], [-20], [1], [8], [-90], [60]])
    grouped = codes.reshape(N, -1, GROUP)
    columns = one.tile.columns
    words = panels.pack_panels(grouped, fmt.bits, columns)
    words = words.reshape(1, len(words), -1, columns).view(np.int32)
    packed = panels.pack_group_values(scales, columns, np.float32)[None]
    wanted = (fmt.decode(grouped) * scales[..., None]).reshape(N, K)
    assert np.isfinite(wanted).all()
    function = compiled.module.lookup_function(f"f{number}")
    invoker = rt.FunctionInvoker(compiled.context, compiled.hal, function)
    for start in range(0, K, rows):
        x = np.eye(K, dtype=np.float32)[None, start : start + rows]
        result = invoker(np.ascontiguousarray(x), words, packed, np.zeros(N, np.float32))
        found = download(result._buffer_view, "float32", compiled.device)[0]
        assert np.array_equal(found, wanted[:, start : start + rows].T), (name, start)


@pytest.mark.parametrize("name", SMALL_FLOATS)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_scale_keeps_its_bits_under_the_power(name, lanes):
    """What goes into the scale makes it no subnormal number, and infinite only at the very top."""
    codes = SmallFloatCodes(SMALL_FLOATS[name].bits, 32, format=name)
    power = codes.power(lanes)
    assert power >= 0
    if not isinstance(SMALL_FLOATS[name], Minifloat):
        assert power == 0
    largest = np.float32(2.0) ** 127 / np.float32(SMALL_FLOATS[name].top)
    assert np.isfinite(largest * np.float32(2.0**power))
