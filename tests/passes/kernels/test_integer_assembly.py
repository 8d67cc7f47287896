"""The inner loops of the integer kernels: the instruction that each vector unit is about.

LLVM generates code for chips that this machine is not, so VNNI is looked at everywhere.
"""

import re
from collections import Counter

import pytest
from products import units
from products.assembly import compile_assembly, inner_loops
from products.integers import compile_kernels, kernel

# What multiplies, how often for each quad and vector of columns.
DOTS = {
    ("avx512vnni", 4): ("vpdpbusd", 1), ("avx512vnni", 8): ("vpdpbusd", 1),
    ("avx2vnni", 4): ("vpdpbusd", 1), ("avx2vnni", 8): ("vpdpbusd", 1),
    ("avx512", 4): ("vpmaddubsw", 1), ("avx512", 8): ("vpmaddwd", 2),
    ("avx2", 4): ("vpmaddubsw", 1), ("avx2", 8): ("vpmaddwd", 2),
}  # fmt: skip
GROUP = 128
QUADS = 8  # of a chunk, the body of the inner loop


@pytest.fixture(scope="module")
def assembly(request, tmp_path_factory):
    """The kernels of a vector unit by their bits, and the functions of their assembly."""
    unit = request.param
    folder = tmp_path_factory.mktemp(unit)
    made = {bits: kernel(unit, (120, 128, 256), bits, GROUP) for bits in (4, 8)}
    kernels = list(made.values())
    return unit, made, compile_assembly(compile_kernels, kernels, units.CHIPS[unit], folder)


@pytest.mark.slow
@pytest.mark.parametrize("assembly", ["avx512vnni", "avx512", "avx2vnni", "avx2"], indirect=True)
@pytest.mark.parametrize("bits", [4, 8])
def test_inner_loop(assembly, bits):
    unit, made, found = assembly
    one = made[bits]
    instruction, times = DOTS[unit, bits]
    (loop,) = inner_loops(found[one.name], instruction)
    counts = Counter(part[0] for part in loop)
    rounds = counts[instruction] // (one.tile.rows * one.tile.vectors * QUADS * times)
    # 16-bit sums of pairs are widened by the instruction that multiplies shorts.
    assert (
        rounds and counts[instruction] == rounds * one.tile.rows * one.tile.vectors * QUADS * times
    )
    register = "%zmm" if one.tile.lanes == 16 else "%ymm"
    for name, *rest in loop:
        if name == instruction:
            assert rest[0].split(",")[-1].strip().startswith(register), (name, rest)
    assert not [name for name in counts if name.startswith("call") or re.match("v?pmulld", name)]
    # Sums stay in registers: nothing of the stack is read or written.
    assert not [part for part in loop if len(part) > 1 and re.search(r"\(%(rsp|rbp)\b", part[1])]


# Bits → instructions for a chunk and vector of columns of one row, beside its 8 vpdpbusd: masks
# (whole codes and the first of several pieces), shifts, and pieces that are masked and joined.
ONE_ROW = {2: (8, 0, 0), 3: (8, 2, 2), 4: (8, 0, 0), 5: (8, 4, 4), 6: (8, 4, 4), 7: (8, 6, 6)}


@pytest.fixture(scope="module")
def one_row(tmp_path_factory):
    """Kernels of one row with VNNI by their bits, and their assembly."""
    made = {bits: kernel("avx512vnni", (1, 256, 256), bits, GROUP) for bits in ONE_ROW}
    folder = tmp_path_factory.mktemp("one_row")
    kernels, chip = list(made.values()), units.CHIPS["avx512vnni"]
    return made, compile_assembly(compile_kernels, kernels, chip, folder)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ONE_ROW)
def test_codes_of_one_row_are_taken_apart_where_they_stand(one_row, bits):
    made, found = one_row
    (loop,) = inner_loops(found[made[bits].name], "vpdpbusd")
    counts = Counter(part[0] for part in loop)
    vectors = counts["vpdpbusd"] // QUADS
    assert vectors
    masks = sum(counts[name] for name in ("vpandd", "vpandq"))
    found_counts = (masks, counts["vpsrld"], counts["vpternlogd"] + counts["vpternlogq"])
    assert found_counts == tuple(count * vectors for count in ONE_ROW[bits])
    assert not [part for part in loop if len(part) > 1 and re.search(r"\(%(rsp|rbp)\b", part[1])]


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "m"), [("avx512vnni", 1), ("avx512vnni", 4), ("avx2", 1)])
def test_scales_of_f16_are_converted_by_one_instruction(unit, m, tmp_path):
    one = kernel(unit, (m, 256, 1024), 4, 32, halves=True)
    found = compile_assembly(compile_kernels, [one], units.CHIPS[unit], tmp_path)[one.name]
    dot = DOTS[unit, 4][0]
    loops = inner_loops(found, dot)
    assert loops
    for loop in loops:
        counts = Counter(part[0] for part in loop)
        vectors = counts[dot] // (m * QUADS)
        assert counts["vcvtph2ps"] == vectors
        # By the scales of activations alone: factors come after the loop.
        assert counts["vmulps"] == m * vectors
        assert not [name for name in counts if name.startswith(("call", "vpextr", "vpinsr"))]
