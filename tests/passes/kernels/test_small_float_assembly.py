"""The inner loops of weights in small floats, as assembly: look-ups in registers, nothing on the stack.

LLVM generates code for chips that this machine is not.
"""

import re
from collections import Counter

import pytest
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.small_float_codes import SmallFloatCodes
from lowc.passes.kernels.tiles import Tile
from products.assembly import compile_assembly, inner_loops
from products.floats import compile_kernels

K = 512


def kernel(lanes, rows, name):
    """A kernel of `rows`; a group is several chunks."""
    tile = Tile(lanes, rows, 2, K, panels=2, row_chunk=2 * rows)
    return DequantMatmul(
        1, rows, 4 * tile.columns, K, False, tile, packs=True,
        codes=SmallFloatCodes.of(name, lanes), group=128, symmetric=True,
    )  # fmt: skip


CHIPS = {
    "skylake-avx512": [
        kernel(16, rows, name) for rows in (1, 4) for name in ("nf4", "f4E2M1", "f8E4M3FN")
    ],
    "haswell": [kernel(8, 1, name) for name in ("nf4", "f8E4M3FN")],
}
CASES = [
    pytest.param(chip, number, id=f"{chip}-{one.name}")
    for chip, kernels in CHIPS.items()
    for number, one in enumerate(kernels)
]


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Chip → function → its instructions and labels."""
    return {
        chip: compile_assembly(
            compile_kernels, kernels, f"cpu:{chip}", tmp_path_factory.mktemp(chip)
        )
        for chip, kernels in CHIPS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "number"), CASES)
def test_inner_loop(assembly, chip, number):
    one = CHIPS[chip][number]
    looked_up = one.codes.is_looked_up(one.tile.lanes)
    # LLVM calls the same look-up by its name for integers where its operands came from some.
    mark = "vpermd" if looked_up else "vminps"
    (loop,) = inner_loops(assembly[chip][one.name], mark)
    counts = Counter("vfmadd" if name.startswith("vfmadd") else name for name, *_ in loop)
    weights = one.codes.chunk * one.tile.vectors
    tables = 16 // one.tile.lanes if looked_up else 0
    assert counts["vpermps"] + counts["vpermd"] == tables * weights, counts
    assert counts["vminps"] == (0 if looked_up else weights), counts
    # A code that was moved bit by bit costs a multiply-add of its own.
    assert counts["vfmadd"] == weights * one.tile.rows + (0 if looked_up else weights), counts
    assert not [name for name in counts if name.startswith(("call", "vmul", "vgather"))], counts
    on_stack = [part for part in loop if len(part) > 1 and re.search(r"\(%(rsp|rbp)\b", part[1])]
    assert not on_stack
