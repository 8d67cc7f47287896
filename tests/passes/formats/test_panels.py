"""Panels of integer weights: where each bit of a code lies, and that nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.compiler.derivations import Derivation, derive
from lowc.passes.formats import panels, small_floats
from lowc.passes.formats.integer import GroupedInteger, quantize
from lowc.passes.formats.small_floats import SMALL_FLOATS

# Where the quads of a chunk of 32 are that are no whole codes: vector and bit of each bit of a
# code, the highest first.
IN_PIECES = {
    3: {6: [(0, 7), (0, 6), (2, 7)], 7: [(1, 7), (1, 6), (2, 6)]},
    5: {
        5: [(0, 7), (0, 6), (0, 5), (3, 7), (3, 6)],
        6: [(1, 7), (1, 6), (1, 5), (4, 7), (4, 6)],
        7: [(2, 7), (2, 6), (2, 5), (3, 5), (4, 5)],
    },
    6: {
        6: [(0, 7), (0, 6), (2, 7), (2, 6), (3, 7), (3, 6)],
        7: [(1, 7), (1, 6), (4, 7), (4, 6), (5, 7), (5, 6)],
    },
    7: {7: [(vector, 7) for vector in range(7)]},
}
# Of a chunk of 16.
IN_PIECES_OF_16 = {6: {3: [(0, 7), (0, 6), (1, 7), (1, 6), (2, 7), (2, 6)]}}


def places(bits, chunk, quad):
    """Where each bit of a quad's codes is, the highest first: vector and bit of the byte."""
    in_pieces = IN_PIECES_OF_16 if chunk == 16 else IN_PIECES
    if quad in in_pieces.get(bits, {}):
        return in_pieces[bits][quad]
    vector, number = divmod(quad, 8 // bits)
    return [(vector, bits * number + bit) for bit in reversed(range(bits))]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [16, 32, 48, 64])
def test_each_bit_lies_where_it_is_said_to(bits, group):
    if bits % 2 and group % 32:
        with pytest.raises(ValueError, match="half a vector"):
            panels.vectors_per_chunk(bits, group)
        return
    generator = np.random.default_rng(bits * group)
    n, groups, columns = 3, 2, 2
    codes = generator.integers(0, 2**bits, (n, groups, group), np.uint8)
    words = panels.pack_panels(codes, bits, columns, fill=1)
    chunk = 32 if group % 32 == 0 else 16
    assert words.shape == (2, groups * group // chunk, bits * chunk // 32, columns)
    data = words[..., None].view(np.uint8)
    flat = np.vstack([codes.reshape(n, -1), np.ones((1, groups * group), np.uint8)])
    for column, k in np.ndindex(flat.shape):
        found = 0
        for vector, bit in places(bits, chunk, k % chunk // 4):
            value = data[column // columns, k // chunk, vector, column % columns, k % 4]
            found = found << 1 | (int(value) >> bit & 1)
        assert found == flat[column, k], (column, k)


@given(
    bits=st.integers(2, 8), group=st.sampled_from([16, 32, 48, 64, 192]),
    groups=st.integers(1, 3), n=st.integers(1, 20), columns=st.sampled_from([1, 8, 16]),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_round_trip(bits, group, groups, n, columns, seed):
    bits += bits % 2 if group % 32 else 0
    codes = np.random.default_rng(seed).integers(0, 2**bits, (n, groups, group), np.uint8)
    words = panels.pack_panels(codes, bits, columns)
    assert words.nbytes * 8 == -(-n // columns) * columns * groups * group * bits
    assert (panels.unpack_panels(words, bits, n, group) == codes).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_derivation_is_the_rounded_weight_panel_by_panel(bits, symmetric):
    batch, n, k, columns = 2, 21, 70, 8
    fmt = GroupedInteger(bits, 32, symmetric)
    weight = np.random.default_rng(bits).standard_normal((batch, n, k)).astype(np.float32)
    weight[0, 3] = 0
    settings = {"bits": bits, "group": 32, "symmetric": symmetric, "columns": columns}
    derivation = Derivation("integer-panels", "w", "[]", tuple(sorted(settings.items())))
    parts = {"codes": [], "scales": [], "zeros": []}
    for part, data in derive(weight, derivation):
        parts[part].append(data)
    assert len(parts["codes"]) == batch * 3  # a panel at a time
    words = np.concatenate(parts["codes"]).view(np.uint32).reshape(batch, 3, 3, bits, columns)
    scales = np.concatenate(parts["scales"]).view(np.float32).reshape(batch, 3, 3, columns)
    wanted = quantize(weight, fmt)
    codes = np.stack([panels.unpack_panels(one, bits, 24, 32) for one in words]).astype(np.int32)
    offset = 2 ** (bits - 1) if symmetric else 0
    assert (codes[:, :n] - offset == wanted.codes).all()
    assert (codes[:, n:] == offset).all()
    by_column = scales.transpose(0, 1, 3, 2).reshape(batch, 24, 3)
    assert (by_column[:, :n] == wanted.scales).all() and not by_column[:, n:].any()
    if symmetric:
        assert not parts["zeros"]
        return
    zeros = np.concatenate(parts["zeros"]).reshape(batch, 3, 3, columns)
    by_column = zeros.transpose(0, 1, 3, 2).reshape(batch, 24, 3)
    assert (by_column[:, :n] == wanted.zeros).all() and not by_column[:, n:].any()


@pytest.mark.parametrize("kind", ["integer-panels", "small-float-panels"])
def test_halves_and_factors_are_the_scales(kind):
    batch, n, k, columns = 2, 21, 70, 8
    weight = np.random.default_rng(3).standard_normal((batch, n, k)).astype(np.float32)
    weight *= 10.0 ** np.arange(-10, 11, dtype=np.float32)[:, None]
    own = {"bits": 4, "symmetric": True} if kind == "integer-panels" else {"format": "nf4"}
    settings = {**own, "group": 32, "columns": columns, "scales": "f16", "halves": True}
    parts = {"codes": [], "scales": [], "factors": []}
    for part, data in derive(weight, Derivation(kind, "w", "[]", tuple(sorted(settings.items())))):
        parts[part].append(data)
    scales = np.concatenate(parts["scales"]).view(np.float16).reshape(batch, 3, 3, columns)
    factors = np.concatenate(parts["factors"]).view(np.float32).reshape(batch, 3, 1, columns)
    if kind == "integer-panels":
        wanted = quantize(weight, GroupedInteger(4, 32, True, "f16"))
    else:
        wanted = small_floats.quantize(weight, SMALL_FLOATS["nf4"], 32, "f16")
    found = (scales.astype(np.float32) * factors).transpose(0, 1, 3, 2).reshape(batch, 24, 3)
    assert (found[:, :n] == wanted.scales).all() and not found[:, n:].any()
    assert (factors.reshape(batch, 24)[:, :n] == wanted.factors).all()
    words = np.concatenate(parts["codes"]).view(np.uint32).reshape(batch, 3, 3, 4, columns)
    codes = np.stack([panels.unpack_panels(one, 4, n, 32) for one in words]).astype(np.int32)
    assert (codes - (8 if kind == "integer-panels" else 0) == wanted.codes).all()


def test_scales_of_f32_are_no_halves():
    weight = np.ones((3, 32), np.float32)
    with pytest.raises(ValueError, match="no halves"):
        panels.pack_scales(quantize(weight, GroupedInteger(4, 32, True)), 8, has_halves=True)


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_derivation_of_small_floats(name):
    batch, n, k, columns, small = 2, 21, 70, 8, SMALL_FLOATS[name]
    weight = np.random.default_rng(5).standard_normal((batch, n, k)).astype(np.float32)
    weight[0, 3] = 0
    settings = {"format": name, "group": 16, "columns": columns}
    derivation = Derivation("small-float-panels", "w", "[]", tuple(sorted(settings.items())))
    parts = {"codes": [], "scales": []}
    for part, data in derive(weight, derivation):
        parts[part].append(data)
    assert len(parts["codes"]) == batch * 3  # a panel at a time
    words = np.concatenate(parts["codes"]).view(np.uint32)
    words = words.reshape(batch, 3, 5, small.bits // 2, columns)
    scales = np.concatenate(parts["scales"]).view(np.float32).reshape(batch, 3, 5, columns)
    wanted = small_floats.quantize(weight, small, 16)
    codes = np.stack([panels.unpack_panels(one, small.bits, n, 16) for one in words])
    assert (codes == wanted.codes).all()
    by_column = scales.transpose(0, 1, 3, 2).reshape(batch, 24, 5)
    assert (by_column[:, :n] == wanted.scales).all() and not by_column[:, n:].any()
