"""The inner loops of the kernels of look-ups: byte shuffles, and nothing on the stack."""

import re
from collections import Counter

import pytest
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels.table_matmul import Scaling
from lowc.passes.kernels.table_shuffles import STEP
from products import units
from products.assembly import compile_assembly, inner_loops
from products.lookups import compile_kernels, kernel

# Bits of an entry → instructions for `STEP` look-ups: additions of bytes, and of shorts.
ADDITIONS = {6: (3, 2), 7: (2, 4), 8: (0, 8)}


@pytest.fixture(scope="module")
def assembly(request, tmp_path_factory):
    """The kernels of a vector unit by bits, planes and rows, and the functions of their assembly."""
    unit = request.param
    folder = tmp_path_factory.mktemp(unit)
    made = {
        (bits, planes, m): kernel(unit, (m, 256, 256), planes, 128, TableFormat(bits, 128))
        for bits in ADDITIONS
        for planes in (1, 2, 3)
        for m in (1, 60)
    }
    kernels = list(made.values())
    return unit, made, compile_assembly(compile_kernels, kernels, units.CHIPS[unit], folder)


@pytest.mark.slow
@pytest.mark.parametrize("assembly", ["avx512", "avx2"], indirect=True)
@pytest.mark.parametrize("m", [1, 60])
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("bits", ADDITIONS)
def test_inner_loop(assembly, bits, planes, m):
    _unit, made, found = assembly
    one = made[bits, planes, m]
    rows, together = (one.tile.rows, 1) if m > 1 else (1, one.together(1))
    loop = max(inner_loops(found[one.name], "vpshufb"), key=len)
    counts = Counter(part[0] for part in loop)
    bytes_, shorts = ADDITIONS[bits]
    sites = rows * together * one.planes
    rounds = counts["vpshufb"] // (sites * STEP)
    assert rounds and counts["vpshufb"] == rounds * sites * STEP
    assert counts["vpaddb"] == rounds * sites * bytes_
    assert counts["vpaddw"] == rounds * sites * shorts
    # Rows share the keys that were taken apart.
    masks = sum(count for name, count in counts.items() if re.match("vpandd?q?$|vandps", name))
    assert masks == rounds * together * one.planes * STEP
    register = "%zmm" if one.tile.lanes == 16 else "%ymm"
    for name, *rest in loop:
        if name == "vpshufb":
            assert rest[0].split(",")[-1].strip().startswith(register), (name, rest)
    # A table comes into all parts of a register by a load alone.
    spread = [part for part in loop if re.match(r"vbroadcast[if](32x4|128|64x2)", part[0])]
    assert len(spread) == rounds * rows * STEP
    assert all("(" in part[1] for part in spread)
    assert not [name for name in counts if name.startswith("call")]
    # Sums stay in registers: nothing of the stack is read or written.
    assert not [part for part in loop if len(part) > 1 and re.search(r"\(%(rsp|rbp)\b", part[1])]


@pytest.mark.slow
def test_inner_loop_of_four_quads_at_once(tmp_path):
    scalings = {"planes": Scaling(), "bits": Scaling("bits", symmetric=False)}
    made = {
        (kind, planes, m): kernel(
            "avx512vbmi", (m, 256, 256), planes, 128, TableFormat(8, 128), scaling=scaling
        )
        for kind, scaling in scalings.items()
        for planes in (1, 2, 3)
        for m in (1, 60)
    }
    found = compile_assembly(
        compile_kernels, list(made.values()), units.CHIPS["avx512vbmi"], tmp_path
    )
    for (_, planes, _), one in made.items():
        loop = max(inner_loops(found[one.name], "vpermb"), key=len)
        counts = Counter(part[0] for part in loop)
        rows, words = one.tile.rows, planes * one.tile.vectors
        rounds = counts["vpermb"] // (2 * rows * words)
        assert rounds and counts["vpermb"] == counts["vpdpbusd"] == 2 * rounds * rows * words
        # A shift for every second key, one logic instruction for each, whatever rows there are.
        assert counts["vpsrld"] + counts["vpsrlw"] == rounds * words
        logic = sum(count for name, count in counts.items() if name.startswith("vptern"))
        assert logic == 2 * rounds * words
        assert not [name for name in counts if name.startswith(("call", "vpand", "vpor"))]
        assert not [p for p in loop if len(p) > 1 and re.search(r"\(%(rsp|rbp)\b", p[1])]
