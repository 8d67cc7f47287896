"""Where codes stand in the words of a panel, beside the format's own packing."""

import numpy as np
import pytest
from lowc.passes.formats import panels
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.packed_codes import MANTISSA, PackedCodes, can_look_up
from products import units
from products.floats import Loaded, close_to_product, compile_kernels

CASES = [(bits, 32) for bits in range(1, 9)] + [(bits, 16) for bits in (2, 4, 6, 8)]


@pytest.mark.parametrize(("bits", "chunk"), CASES)
def test_fields_are_where_panels_have_them(bits, chunk):
    codes = PackedCodes(bits, chunk)
    group = 32 if chunk == 32 else 48
    given = np.random.default_rng(bits).integers(0, 1 << bits, (5, 2, group), dtype=np.uint8)
    words = panels.pack_panels(given, bits, 8)
    assert words.shape == (1, 2 * group // chunk, codes.words, 8)
    flat = given.reshape(5, -1)
    for k in range(2 * group):
        found = np.zeros(8, np.uint32)
        for field in codes.fields(k % chunk):
            bits_of = (words[0, k // chunk, field.word] >> field.bit) & ((1 << field.width) - 1)
            found |= bits_of << field.shift
        assert (found[:5] == flat[:, k]).all()


@pytest.mark.parametrize(("bits", "chunk"), CASES)
def test_codes_fit_the_mantissa_where_they_are_made_floats(bits, chunk):
    """The pattern stands for ``2^(23-p) + code``, and so does its difference to a zero point."""
    codes = PackedCodes(bits, chunk)
    code = np.arange(1 << bits, dtype=np.uint32)
    for position in codes.positions():
        assert 0 <= position <= MANTISSA - bits
        exponent = np.uint32((127 + MANTISSA - position) << MANTISSA)
        raised = (code << np.uint32(position) | exponent).view(np.float32)
        zero = np.float32(2.0 ** (MANTISSA - position) + 3)
        assert (raised - zero == code.astype(np.float32) - 3).all()


def test_what_can_be_looked_up():
    """A code must be all of what a look-up reads, or what lies above it must not matter."""
    found = [bits for bits in range(1, 9) if can_look_up(bits, 16, symmetric=True)]
    assert found == [1, 2, 4]
    assert not can_look_up(4, 16, symmetric=False)
    assert not can_look_up(4, 8, symmetric=True)


LOOKED_UP = [(bits, m, chunk) for bits in (2, 4) for m in (1, 3, 13, None) for chunk in (16, 32)]
N, GROUPS = 37, 3


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory):
    """A kernel for each of :data:`LOOKED_UP`."""
    target = units.target("avx512")
    return Loaded(
        compile_kernels(
            kernels := [_kernel(*case) for case in LOOKED_UP], target,
            tmp_path_factory.mktemp("codes"),
        ),
        kernels,
    )  # fmt: skip


def _kernel(bits, m, chunk):
    group = 32 if chunk == 32 else 48
    k = GROUPS * group
    tile = float_tiles.choose_dequant(tiles.ISAS["avx512vnni"], 1, m, N, k, chunk)
    return DequantMatmul(
        1, m, N, k, False, tile, packs=True, copies=float_tiles.copies(tiles.ISAS["avx512vnni"], tile, m, k),
        codes=PackedCodes(bits, chunk, looked_up=True), group=group, symmetric=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LOOKED_UP)), ids=[str(case) for case in LOOKED_UP])
def test_codes_that_are_looked_up(looked_up, number):
    """All codes at all places of a chunk, whatever lies above them; zero weights are exactly zero."""
    bits, m, _ = LOOKED_UP[number]
    one = looked_up.kernels[number]
    rng = np.random.default_rng(number)
    x = rng.standard_normal((1, m or 5, one.k)).astype(np.float32)
    codes = rng.integers(0, 1 << bits, (N, GROUPS, one.group), dtype=np.uint8)
    codes[0] = np.arange(one.k).reshape(GROUPS, -1) % (1 << bits)
    middle = 1 << (bits - 1)
    codes[1] = middle
    scales = rng.random((N, GROUPS)).astype(np.float32)
    weight = ((codes - np.float32(middle)) * scales[..., None]).reshape(N, -1)
    words = panels.pack_panels(codes, bits, one.tile.columns)
    words = words.reshape(1, words.shape[0], -1, one.tile.columns).view(np.int32)
    found = looked_up.matmul(
        number, N, x, words, panels.pack_group_values(scales, one.tile.columns, np.float32)[None]
    )
    close_to_product(found, x, weight.T[None].astype(np.float32), one.name)
    assert (found[..., 1] == 0).all()
