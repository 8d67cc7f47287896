"""The inner loops of the CPU kernels, as assembly: two additions a product, and nothing on the stack.

LLVM generates code for chips that this machine is not.
"""

import re
from collections import Counter

import pytest
from lowc.passes.formats.stored import STORED
from lowc.passes.kernels.additive_matmul import AdditiveMatmul
from lowc.passes.kernels.tiles import Tile
from products.assembly import compile_assembly, functions, inner_loops
from products.kernels import addition, compile_kernels

K = 128
MULTIPLIES = re.compile(r"v?p?i?mul|v?fn?m(add|sub)|v?pmadd|vpdp")


def kernel(lanes, rows, vectors, storage="f32"):
    """A kernel of a register tile; its sizes are whole numbers of tiles."""
    tile = Tile(lanes=lanes, rows=rows, vectors=vectors, k_block=64, panels=2, row_chunk=2 * rows)
    sizes = (1, rows if rows == 1 else 4 * rows, 4 * tile.columns, K)
    return AdditiveMatmul(*sizes, False, tile, addition(), STORED[storage], True)


CHIPS = {
    "skylake-avx512": [
        kernel(16, 6, 4), kernel(16, 12, 2), kernel(16, 1, 4, "bf16"), kernel(16, 1, 4, "f8E4M3FN"),
        kernel(16, 1, 4, "f8E5M2"),
    ],
    "haswell": [
        kernel(8, 6, 2), kernel(8, 1, 4, "bf16"), kernel(8, 1, 4, "f8E4M3FN"),
        kernel(8, 1, 4, "f8E5M2"),
    ],
}  # fmt: skip
REGISTERS = {16: "%zmm", 8: "%ymm"}
CASES = [
    pytest.param(chip, number, id=f"{chip}-{kernel.tile.rows}x{kernel.tile.columns}-{kernel.stored.name}")
    for chip, kernels in CHIPS.items()
    for number, kernel in enumerate(kernels)
]  # fmt: skip


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Chip → function → its instructions and labels."""
    return {
        chip: compile_assembly(
            compile_kernels, kernels, f"cpu:{chip}", tmp_path_factory.mktemp(chip)
        )
        for chip, kernels in CHIPS.items()
    }


def spills(loop):
    """Return the instructions that write memory, or read the stack other than prepared patterns.

    Prepared rows lie on the stack too; they are read by broadcasts only.
    """
    bad = []
    for instruction in loop:
        name, rest = (*instruction, "")[:2]
        stores = name.startswith(("mov", "vmov", "vext", "push")) and rest.endswith(")")
        broadcast = name.startswith("vpbroadcast") or "{1to" in rest
        reads = re.search(r"\(%(rsp|rbp)\b", rest) and not broadcast
        if stores or reads:
            bad.append(f"{name} {rest}")
    return bad


@pytest.mark.slow
@pytest.mark.parametrize(("chip", "number"), CASES)
def test_inner_loop(assembly, chip, number):
    wanted = CHIPS[chip][number]
    tile = wanted.tile
    (loop,) = inner_loops(assembly[chip][wanted.name], "vaddps")
    counts = Counter(instruction[0] for instruction in loop)
    steps = counts["vpbroadcastd"] // tile.rows  # of K in one round, should LLVM unroll it
    products = steps * tile.rows * tile.vectors
    assert steps and counts["vpbroadcastd"] == steps * tile.rows
    assert (counts["vpaddd"], counts["vaddps"]) == (products, products), counts
    assert not [name for name in counts if name.startswith("call")]
    assert not [name for name in counts if MULTIPLIES.match(name)]
    assert not spills(loop)
    register = REGISTERS[tile.lanes]
    for name, *rest in loop:
        if name in ("vpaddd", "vaddps"):
            assert rest[0].split(",")[-1].strip().startswith(register), (name, rest)
    if wanted.stored.name == "f32":  # each product reads a weight that a register holds
        loads = [rest for name, *rest in loop if name.startswith("vmov") and "(" in rest[0]]
        assert len(loads) == steps * tile.vectors


SAMPLE = """
f:
.LBB0_1:
	vmovups	%zmm1, 64(%rsp)
.LBB0_2:                                # inner
	vpbroadcastd	(%rsp,%rdi,4), %zmm1
	vpaddd	(%rax), %zmm1, %zmm2
	{}
	vaddps	%zmm2, %zmm0, %zmm0
	jne	.LBB0_2
	jne	.LBB0_1
"""


@pytest.mark.parametrize(
    ("line", "is_spill"),
    [
        ("vmovups\t%zmm3, 128(%rsp)", True),
        ("vmovups\t128(%rsp), %zmm3", True),
        ("vaddps\t128(%rsp), %zmm3, %zmm3", True),
        ("movq\t%rax, 8(%rsp)", True),
        ("vmovups\t%zmm3, (%rcx)", True),
        ("vpaddd\t64(%rsp,%rbx){1to16}, %zmm7, %zmm3", False),
        ("vmovups\t(%rcx), %zmm3", False),
        ("cmpq\t$3, (%rcx)", False),
    ],
)
def test_spills_are_found(line, is_spill):
    (loop,) = inner_loops(functions(SAMPLE.replace("{}", line))["f"], "vaddps")
    assert len(loop) == 5
    assert bool(spills(loop)) == is_spill


@pytest.mark.parametrize(
    ("name", "multiplies"),
    [("vmulps", True), ("vpmulld", True), ("vfmadd231ps", True), ("imulq", True), ("vpaddd", False),
     ("vmovups", False), ("vpbroadcastd", False), ("vfnmadd213ss", True), ("vpmaddwd", True)],
)  # fmt: skip
def test_multiplications_are_found(name, multiplies):
    assert bool(MULTIPLIES.match(name)) == multiplies
