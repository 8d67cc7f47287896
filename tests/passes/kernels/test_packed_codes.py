"""Where codes stand in the words of a panel, beside the format's own packing."""

import numpy as np
import pytest
from lowc.passes.formats import panels
from lowc.passes.kernels.packed_codes import MANTISSA, PackedCodes

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
