"""The inner loops of the f32 kernels, as assembly: fused multiply-adds, and no sum on the stack.

LLVM generates code for chips that this machine is not.
"""

import re
from collections import Counter

import pytest
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.float_matmul import FloatMatmul
from lowc.passes.kernels.packed_codes import PackedCodes
from lowc.passes.kernels.tiles import Tile
from products.assembly import compile_assembly, inner_loops
from products.floats import compile_kernels

K = 512
REGISTERS = {16: "%zmm", 8: "%ymm"}


def tile_of(lanes, rows, vectors, k_block):
    return Tile(lanes, rows, vectors, k_block, panels=2, row_chunk=2 * rows)


def exact(lanes, rows, vectors):
    """A kernel of a register tile; its sizes are whole numbers of tiles."""
    tile = tile_of(lanes, rows, vectors, K // 2)
    sizes = (1, rows if rows == 1 else 4 * rows, 4 * tile.columns, K)
    return FloatMatmul(*sizes, False, tile, copies=rows > 4)


def packed(lanes, rows, bits, symmetric, looked_up=False, vectors=2):
    """A kernel that takes codes apart in registers; a group is several chunks."""
    tile = tile_of(lanes, rows, vectors, K)
    return DequantMatmul(
        1, rows, 4 * tile.columns, K, False, tile, packs=True,
        codes=PackedCodes(bits, 32, looked_up=looked_up), group=128, symmetric=symmetric,
    )  # fmt: skip


CHIPS = {
    "skylake-avx512": [
        exact(16, 8, 3), exact(16, 6, 4), exact(16, 12, 2), exact(16, 1, 4),
        packed(16, 1, 4, symmetric=False), packed(16, 1, 4, symmetric=True),
        packed(16, 4, 4, symmetric=False), packed(16, 1, 8, symmetric=False),
    ],
    "znver4": [
        packed(16, 1, 4, symmetric=True, looked_up=True, vectors=1),
        packed(16, 4, 4, symmetric=True, looked_up=True),
        packed(16, 1, 2, symmetric=True, looked_up=True, vectors=1),
        packed(16, 1, 8, symmetric=True, vectors=1),
    ],
    "haswell": [exact(8, 6, 2), exact(8, 4, 3), exact(8, 1, 4)],
}  # fmt: skip
CASES = [
    pytest.param(chip, number, id=f"{chip}-{kernel.name}")
    for chip, kernels in CHIPS.items()
    for number, kernel in enumerate(kernels)
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


def stores(loop):
    """Return the instructions that write memory: sums stay in registers."""
    return [
        one for one in loop if one[0].startswith(("mov", "vmov", "push")) and one[1].endswith(")")
    ]


def stack_reads(loop):
    """Return the instructions that read the stack, other than copied rows."""
    reads = [one for one in loop if re.search(r"\(%(rsp|rbp)\b", one[1])]
    return [one for one in reads if not one[0].startswith("vbroadcast") and "{1to" not in one[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "number"), CASES)
def test_inner_loop(assembly, chip, number):
    kernel = CHIPS[chip][number]
    tile, taken_apart = kernel.tile, isinstance(kernel, DequantMatmul)
    looked_up = taken_apart and kernel.codes.looked_up
    mark = "vpermd" if looked_up else "vpternlogd" if taken_apart else "vfmadd231ps"
    (loop,) = inner_loops(assembly[chip][kernel.name], mark)
    loop = [(*instruction, "")[:2] for instruction in loop]
    counts = Counter("vfmadd" if name.startswith("vfmadd") else name for name, _ in loop)
    products = tile.rows * tile.vectors * (kernel.codes.chunk if taken_apart else 1)
    assert counts["vfmadd"] % products == 0, counts  # LLVM may unroll
    assert not [name for name in counts if name.startswith(("call", "vmul"))], counts
    # Of a chunk's words LLVM may keep one on the stack; zero points, in as many forms as codes have
    # positions, it reads from there too.  A sum it would store once for every product.
    assert len(stores(loop)) <= (1 if taken_apart else 0)
    assert len(stack_reads(loop)) <= (0.05 * len(loop) if taken_apart else 0)
    for name, rest in loop:
        if name.startswith("vfmadd"):
            assert rest.split(",")[-1].strip().startswith(REGISTERS[tile.lanes]), (name, rest)
    if looked_up:  # a shift but for the lowest code of each word; LLVM names look-ups by type
        codes = kernel.codes.chunk * tile.vectors
        shifts = codes - kernel.codes.words * tile.vectors
        assert (counts["vpermps"] + counts["vpermd"], counts["vpsrld"]) == (codes, shifts), counts
        assert not [name for name in counts if name.startswith(("vpternlog", "vsub", "vpand"))], (
            counts
        )
    elif taken_apart:  # one logic instruction and one subtraction make a float of a code
        codes = kernel.codes.chunk * tile.vectors
        assert (counts["vpternlogd"], counts["vsubps"] + counts["vaddps"]) == (codes, codes), counts
