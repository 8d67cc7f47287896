"""Rows of weights for GPUs: where each code lies, and that nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.compiler.derivations import Derivation, derive
from lowc.passes.formats import gpu_rows
from lowc.passes.formats.integer import GroupedInteger, quantize

SIZES = [
    (128, 16),
    (100, 32),
    (300, 128),
    (520, 64),
    (384, 128),
    (77, 77),
    (1000, 1000),
    (512, 256),
]


def codes_of(n, k, group, bits, symmetric, seed=0):
    """Random codes ``[n, G, g]``."""
    groups = 1 if group >= k else -(-k // group)
    fmt = GroupedInteger(bits, group, symmetric)
    generator = np.random.default_rng([seed, n, k, group, bits])
    dtype = np.int8 if symmetric else np.uint8
    shape = (n, groups, min(group, k))
    return generator.integers(fmt.lowest, fmt.highest + 1, shape, dtype)


@pytest.mark.parametrize("bits", gpu_rows.WIDTHS)
@pytest.mark.parametrize(("k", "group"), SIZES)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zeros"])
def test_integers_lie_in_quads(bits, k, group, symmetric):
    codes = codes_of(3, k, group, bits, symmetric)
    words = gpu_rows.pack_integers(codes, bits)
    length = gpu_rows.padded(k, group)
    assert words.shape == (3, length * bits // 32) and length % 128 == 0
    data, flat = words.view(np.uint8), codes.reshape(3, -1).view(np.uint8)
    for row, i in np.ndindex(flat.shape):
        if bits == 8:
            found = data[row, i]
        else:
            word, place = divmod(i, 8)
            found = data[row, 4 * word + place % 4] >> (4 * (place // 4)) & 15
        assert found == flat[row, i] & (2**bits - 1), (row, i)
    back = gpu_rows.unpack_integers(words, bits, signed=symmetric)
    assert (back[:, : flat.shape[1]] == codes.reshape(3, -1)).all()
    assert not back[:, flat.shape[1] :].any()


@pytest.mark.parametrize("bits", gpu_rows.WIDTHS)
@pytest.mark.parametrize(("k", "group"), SIZES)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zeros"])
def test_floats_lie_by_threads(bits, k, group, symmetric):
    span = gpu_rows.span_of(k, group, bits)
    assert span in (4, 8)
    codes = codes_of(2, k, group, bits, symmetric)
    words = gpu_rows.pack_floats(codes, bits, span)
    stored = codes.reshape(2, -1).astype(int) + (2 ** (bits - 1) if symmetric else 0)
    block = span * 128 // bits
    for row, at in np.ndindex(stored.shape):
        number, inside = divmod(at, block)
        quad, rest = divmod(inside, 4 * span)
        piece, element = divmod(rest, 4)
        first = 4 * (number * span + piece)
        if bits == 4:
            found = int(words[row, first + element]) >> (4 * quad) & 15
        else:
            found = int(words[row, first + quad]) >> (8 * element) & 255
        assert found == stored[row, at], (row, at)
    back = gpu_rows.unpack_floats(words, bits, span)
    assert (back[:, : stored.shape[1]] == stored).all()


@settings(max_examples=100)
@given(
    st.integers(1, 700), st.sampled_from([16, 32, 64, 128, 256, 384, 10**9]),
    st.sampled_from(gpu_rows.WIDTHS), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_nothing_is_lost(k, group, bits, symmetric, seed):
    group = min(group, k) if group > k else group
    codes = codes_of(2, k, group, bits, symmetric, seed)
    flat = codes.reshape(2, -1)
    back = gpu_rows.unpack_integers(gpu_rows.pack_integers(codes, bits), bits, signed=symmetric)
    assert (back[:, : flat.shape[1]] == flat).all()
    span = gpu_rows.span_of(k, group, bits)
    if span:
        length = span * gpu_rows.per_piece(bits)
        assert gpu_rows.padded(k, group) % length == 0
        stored = flat.astype(int) + (2 ** (bits - 1) if symmetric else 0)
        found = gpu_rows.unpack_floats(gpu_rows.pack_floats(codes, bits, span), bits, span)
        assert (found[:, : flat.shape[1]] == stored).all()


@pytest.mark.parametrize(("k", "group"), [(96, 48), (640, 160), (100, 24)])
def test_groups_that_do_not_fit_are_named(k, group):
    assert f"groups of {group}" in gpu_rows.misfit(k, group)


@pytest.mark.parametrize("order", ["integer", "float"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zeros"])
def test_a_derivation_makes_rows(order, symmetric):
    bits, group, k = 4, 64, 300
    weight = np.random.default_rng(0).standard_normal((5, k)).astype(np.float32)
    span = gpu_rows.span_of(k, group, bits)
    settings_ = {"bits": bits, "group": group, "symmetric": symmetric, "order": order, "span": span}
    derivation = Derivation("gpu-rows", "w", "[]", tuple(sorted(settings_.items())))
    parts = {}
    for part, data in derive(weight, derivation):
        parts.setdefault(part, []).append(data)
    quantized = quantize(weight, GroupedInteger(bits, group, symmetric))
    if order == "integer":
        expected = gpu_rows.pack_integers(quantized.codes, bits)
    else:
        expected = gpu_rows.pack_floats(quantized.codes, bits, span)
    assert b"".join(x.tobytes() for x in parts["codes"]) == expected.tobytes()
    scales = np.concatenate(parts["scales"]).view(np.float32).reshape(5, -1)
    assert scales.shape[1] == gpu_rows.groups_of(k, group) == 6
    assert (scales[:, :5] == quantized.scales).all() and not scales[:, 5:].any()
    assert ("zeros" in parts) == (not symmetric)
    if not symmetric:
        zeros = np.concatenate(parts["zeros"]).reshape(5, -1)
        assert (zeros[:, :5] == quantized.zeros).all() and not zeros[:, 5:].any()
