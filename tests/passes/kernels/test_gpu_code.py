"""What kernels for NVIDIA's GPUs become: PTX with the instructions that they are about.

Where ``ptxas`` is, it assembles the PTX for each chip, and no register may be spilled.  All kernels
are compiled into one module.
"""

import dataclasses
import re

import pytest
from lowc.compiler import backend
from lowc.compiler.target import load_target
from lowc.passes.kernels import additive_tiles_gpu, few_rows_gpu, mma_tile
from lowc.passes.kernels.additive_tiles_gpu import SharedTile
from lowc.passes.kernels.dequant_threads import DequantThreads
from lowc.passes.kernels.few_rows_gpu import FewTile
from lowc.passes.kernels.mma_tile import MmaTile
from lowc.tools.tune.on_gpu import cases, prepare
from products import ptx

pytestmark = pytest.mark.slow


def few(form, m, n, k, bits, group, **rest):
    floats = form == "a16"
    whole = floats or group >= k
    tile = few_rows_gpu.choose(m, n, k, bits, group, whole=whole, floats=floats)
    return cases.few(form, m, n, k, bits, group, tile, **rest)


def tiled(m, n, k, bits, group, *, symmetric=True, **rest):
    tile = mma_tile.choose(m, n, k, bits, group, symmetric=symmetric)
    return cases.tiles(m, n, k, bits, group, tile, symmetric=symmetric, **rest)


MMA = "mma.sync.aligned.m16n8k32.row.col.s32.s8."
CASES = {
    # name: (case, what its code has, how often)
    "dp4a, signed": (few("a8", 1, 4096, 4096, 4, 128), {"dp4a.s32.s32": 8, "ld.global.nc.v4": 3}),
    "dp4a, unsigned": (few("a8", 1, 512, 512, 4, 16, symmetric=False), {"dp4a.u32.s32": 8}),
    "dp4a, 8 bits": (few("a8", 4, 96, 384, 8, 384, per_group=False), {"dp4a.s32.s32": 16}),
    "dp4a, odd": (
        cases.few("a8", 2, 301, 384, 8, 128, FewTile(2, 2, 2, 8), symmetric=False),
        {"dp4a.u32.s32": 8},
    ),
    "f32": (few("a16", 1, 4096, 4096, 4, 128), {"lop3.b32": 64, "fma.rn.f32": 64, "shfl.sync": 5}),
    "f32, zero points": (few("a16", 1, 512, 512, 4, 16, symmetric=False), {"lop3.b32": 32}),
    "f32, four rows": (few("a16", 4, 512, 8192, 4, 32), {"fma.rn.f32": 256}),
    "f32, 8 bits": (few("a16", 8, 96, 384, 8, 128, symmetric=False), {"lop3.b32": 16}),
    "f32, any rows": (cases.threads(64, 512, 512, 4, 128), {"fma.rn.f32": 2048}),
    "f32, any rows, odd": (cases.threads(33, 301, 384, 3, 64, symmetric=False), {"fma.rn.f32": 64}),
    "mma": (tiled(4096, 4096, 4096, 8, 4096), {MMA + "s8.s32": 64, "cp.async.cg": 16}),
    "mma, groups of 32": (tiled(512, 512, 512, 4, 32, per_group=True), {MMA + "s8.s32": 24}),
    "mma, groups of 128": (tiled(512, 512, 512, 4, 128, per_group=True), {MMA + "s8.s32": 24}),
    "mma, long groups": (tiled(70, 96, 512, 4, 256, per_group=True), {MMA + "s8.s32": 16}),
    "mma, zero points": (tiled(300, 300, 256, 4, 128, symmetric=False), {MMA + "s8.s32": 16}),
    "mma, unsigned": (tiled(9, 37, 200, 8, 200, symmetric=False), {MMA + "u8.s32": 4}),
    "rounding by rows": (cases.rounding(4, 4096, 4096, per_group=False), {"cvt.rni.s32.f32": 4}),
    "rounding by groups": (
        cases.rounding(4, 300, 32, per_group=True, has_sums=True),
        {"cvt.rni.s32.f32": 4, "shfl.sync.bfly": 6, "div.rn.f32": 2},
    ),
    "L-Mul": (
        cases.added(256, 256, 256, additive_tiles_gpu.choose("ptx", 256, 256, 256)),
        {"add.rn.f32": 1024, "ld.shared.v4": 64, "bar.sync": 2},
    ),
    "L-Mul, odd": (cases.added(33, 70, 37, SharedTile(8, 2, 8, 8, 8)), {"add.rn.f32": 512}),
}  # fmt: skip


def ptx_of(names, target_name, folder):
    """Compile kernels for a target; return their PTX, which is one text."""
    source = folder / "kernels.mlir"
    source.write_text(prepare.checks_text([CASES[name][0] for name in names]))
    target = load_target(target_name)
    flags = (*target.flags, f"--iree-hal-dump-executable-binaries-to={folder}")
    backend.compile_module(source, folder / "kernels.vmfb", target.with_flags(flags))
    (path,) = folder.glob("*.ptx")
    return path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The PTX of all kernels."""
    return ptx_of(CASES, "cuda:sm_80", tmp_path_factory.mktemp("ptx"))


@pytest.fixture(scope="module")
def entries(compiled):
    """The PTX of each kernel, by its symbol."""
    parts = re.split(r"^\.visible \.entry (\w+)\(", compiled.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_code_has_its_instructions(entries, name):
    case, wanted = CASES[name]
    text = entries[case.kernel.name]
    for instruction, least in wanted.items():
        assert text.count(instruction) >= least, (instruction, text.count(instruction))
    assert ".local" not in text


def test_sums_of_added_products_are_not_fused(entries):
    added = [text for name, text in entries.items() if name.startswith("add_")]
    fused = re.compile(r"\b(fma|mul|mad)\.(\w+\.)*f32\b")
    assert added and not any(fused.search(text) for text in added)
    assert any(fused.search(text) for name, text in entries.items() if "add_" not in name)


@pytest.mark.parametrize("chip", ["sm_80", "sm_86", "sm_89", "sm_90"])
def test_ptxas_takes_it_and_spills_nothing(compiled, chip):
    said = ptx.assemble(compiled.read_bytes(), chip)
    spilled = re.findall(r"properties for (\w+)\n.* (\d+) bytes spill stores, (\d+) bytes", said)
    assert len(spilled) >= len(CASES)
    # Codes of 3 bits lie across words, which takes registers: docs/kernels.md says so.
    assert {name for name, *sizes in spilled if sizes != ["0", "0"]} <= {
        "dequant_ptx_i3g64z_none_1x33x301x384_d8x8w16x4"
    }
    assert all(int(size) <= 32 for _, *sizes in spilled for size in sizes)


@pytest.mark.parametrize("chip", ["sm_86", "sm_89", "sm_90"])
def test_other_targets(chip, tmp_path):
    path = ptx_of(["dp4a, signed", "f32, zero points", "mma"], f"cuda:{chip}", tmp_path)
    known = "sm_89" if chip == "sm_90" else chip
    assert f".target {known}" in path.read_text()
    ptx.assemble(path.read_bytes(), chip)


def test_kernels_that_differ_have_different_names():
    kernels = [case.kernel for case, _ in CASES.values()]
    kernels += [case.rows for case, _ in CASES.values() if case.rows is not None]
    for kernel in list(kernels):
        for field in dataclasses.fields(kernel):
            value = getattr(kernel, field.name)
            if isinstance(value, bool) and field.name != "b_batch":
                kernels.append(dataclasses.replace(kernel, **{field.name: not value}))
            elif field.name in ("n", "k", "bits", "group") and isinstance(value, int):
                kernels.append(dataclasses.replace(kernel, **{field.name: value * 2}))
    names = {kernel.name: kernel for kernel in kernels}
    assert all(names[kernel.name] == kernel for kernel in kernels)


def test_tiles_that_spill_nothing_read_themselves():
    from lowc.passes.tiling import families, tilings

    for case, _ in CASES.values():
        if hasattr(case.kernel, "tile") and not isinstance(case.kernel, DequantThreads):
            tiling = families.tiling_of(case.kernel)
            assert tilings.parse(tiling.text) == tiling
            problem = families.problem_of(case.kernel, "ptx")
            assert families.kernel_of(problem, tiling) == case.kernel
            assert families.with_tiling(case.kernel, tiling) == case.kernel
            assert not isinstance(tiling.tile, MmaTile) or "r" in tiling.text
