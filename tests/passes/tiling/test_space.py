"""Spaces: the default is in each, all of it is legal and means a kernel, and how much there is."""

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.compiler.measuring.modules import module_text
from lowc.passes import gpus
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.table_matmul import Scaling
from lowc.passes.kernels.tiles import Tile
from lowc.passes.tiling import families, record_space, space
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.tilings import STOCK, KernelTiling, LinalgTiling, parse
from products import lookups
from products.problems import UNITS, every, linalg, of_two_activations, problem

SHAPES = [
    (1, 128, 384, 384), (1, 1, 4096, 4096), (1, 4, 1024, 4096), (1, 512, 512, 512),
    (12, 128, 128, 64), (1, 7, 100, 64), (1, 33, 257, 192), (1, 1, 1, 64), (1, 2000, 3, 64),
]  # fmt: skip
MOST = 400  # tiles of a product


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_every_tile_is_legal_and_means_a_kernel(unit, shape):
    for one in every(unit, shape):
        found = space.candidates(one)
        assert found[0] == space.default(one)
        assert len(set(found)) == len(found)
        assert len(found) <= MOST, (one, len(found))
        for tiling in found:
            assert not space.illegal(one, tiling), (one, tiling)
            assert parse(tiling.text) == tiling
            kernel = families.kernel_of(one, tiling)
            assert families.problem_of(kernel, unit) == one
            assert families.tiling_of(kernel) == tiling
            assert families.with_tiling(kernel, found[0]) == families.kernel_of(one, found[0])


@pytest.mark.parametrize(
    ("form", "m"), [("w4a8", 1), ("w8a8", 1), ("w8a8", 5), ("shift-add", 1), ("ternary", 2)]
)
def test_tiles_that_make_the_same_kernel_are_one(form, m):
    """Where each weight is read once, a tile's panels only say how many are read side by side."""
    one = problem(form, "avx512vbmi", 1, m, 160, 128)
    texts = {}
    for tiling in dict.fromkeys((space.default(one), *record_space.candidates(one))):
        text = re.sub(r"t\d+x\d+g\d+c\d+", "", module_text(one, [tiling]))  # a tile in the name
        texts.setdefault(record_space.alike(one, tiling), set()).add(text)
    assert all(len(same) == 1 for same in texts.values())
    every_text = [next(iter(same)) for same in texts.values()]
    assert len(set(every_text)) == len(every_text) == len(space.candidates(one))


def test_counts():
    """As they are: who changes a space says so here."""
    counts = {
        one.form: len(space.candidates(one))
        for one in [problem(form, "avx512vnni", 1, 128, 384, 384) for form in
                    ("f32", "lmul", "w4a8", "w8a8", "w4a16", "shift-add")]
    }  # fmt: skip
    assert counts == {
        "f32": 141, "lmul": 161, "w4a8": 150, "w8a8": 150, "w4a16": 144, "shift-add": 40,
    }  # fmt: skip
    assert len(space.candidates(linalg("lmul", "avx512vnni", 1, 128, 384, 384))) == 133


@pytest.mark.parametrize("shape", [(1, 128, 384, 384), (1, 3, 100, 64)], ids=str)
def test_every_legal_tile_on_the_grid(shape):
    """Bad ones too, each once, behind those that are chosen from; and each is a kernel."""
    for one in every("avx512vnni", shape):
        chosen, found = space.candidates(one), space.every(one)
        assert found[: len(chosen)] == tuple(chosen)
        assert len(set(found)) == len(found)
        for tiling in found[len(chosen) :: 50]:
            assert not space.illegal(one, tiling)
            kernel = families.kernel_of(one, tiling)
            assert families.problem_of(kernel, "avx512vnni") == one
    wide = space.every(problem("lmul", "avx512vnni", 1, 128, 384, 384))
    assert {tiling.tile.rows for tiling in wide} >= {1, 2, 4, 8}
    assert any(tiling.tile.row_chunk < 8 and tiling.tile.panels == 1 for tiling in wide)
    of_gpu = Problem("lmul", "kernel", "spirv", 1, 128, 384, 384, prepares=False)
    assert space.every(of_gpu) == space.candidates(of_gpu)


@pytest.mark.parametrize("unit", UNITS)
def test_defaults_of_few_rows_are_legal(unit):
    for m in range(1, 5):
        for n, k in [(64, 64), (64, 1024), (64, 2048), (544, 4096)]:
            for one in every(unit, (1, m, n, k)):
                assert not space.illegal(one, space.default(one)), one


@pytest.mark.parametrize(
    "one",
    [
        problem("shift-add", "avx512vbmi", 1, 4, 64, 1024, planes=4),
        problem("w8a8", "avx2", 1, 4, 64, 2048),
    ],
    ids=str,
)
def test_workgroups_may_prepare_some_of_the_rows(one):
    usual = space.default(one)
    assert usual.tile.row_chunk < 4
    assert families.kernel_of(one, usual).rounds
    assert usual in space.candidates(one)


def test_defaults_are_those_of_the_kernels():
    isa = tiles.ISAS["avx512vnni"]
    one = problem("f32", "avx512vnni", 1, 128, 384, 1536)
    tile = float_tiles.choose(isa, 1, 128, 384, 1536)
    assert space.default(one) == KernelTiling(tile, float_tiles.copies(isa, tile, 128, 1536))
    added = problem("lmul", "avx512vnni", 1, 128, 384, 1536)
    assert space.default(added) == KernelTiling(tiles.choose(isa, 1, 128, 384, 1536, 1))
    packed = of_two_activations("lmul", "avx512vnni", 2, 128, 384, 64)
    assert space.default(packed) == KernelTiling(tiles.choose_packing(isa, 2, 128, 384, 64))
    assert space.default(linalg("f32", "avx2", 1, 9, 9, 9)) == STOCK


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 700), st.integers(1, 3000), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, unit=st.sampled_from(UNITS), form=st.integers(0, 20))
def test_odd_sizes(sizes, unit, form):
    batch, m, n, k = sizes
    some = every(unit, (batch, m, n, 64 * k))
    one = some[form % len(some)]
    found = space.candidates(one)
    assert found[0] == space.default(one)
    assert not [tiling for tiling in found[1:] if space.illegal(one, tiling)]


def test_sizes_known_at_run_time_only():
    for form in ("f32", "lmul", "w4a8", "shift-add"):
        one = dataclasses.replace(problem(form, "avx512vnni", 1, 128, 384, 384), m=None)
        found = space.candidates(one)
        assert len(found) > 1
        assert families.problem_of(families.kernel_of(one, found[-1]), one.unit) == one


@pytest.mark.parametrize(
    ("form", "changes", "why"),
    [
        ("f32", {"lanes": 8}, "vectors of avx512vnni have 16 lanes"),
        ("f32", {"rows": 0}, "a part of it is 0"),
        ("f32", {"row_chunk": 63}, "workgroups have no whole blocks of rows"),
        ("f32", {"rows": 16, "row_chunk": 64, "vectors": 4}, "its sums do not fit 32 registers"),
        ("f32", {"rows": 129, "row_chunk": 129}, "there are only 128 rows"),
        ("f32", {"k_block": 100}, "a block of K has no whole vectors"),
        ("w4a16", {"k_block": 100}, "a block of K has no whole chunks"),
        ("w4a16", {"panels": 100}, "it needs 1638400 bytes of stack"),
        ("pam", {"vectors": 3}, "words hold 2 weights"),
        ("w4a8", {"k_block": 96}, "a column has 48 words"),
        ("shift-add", {"vectors": 2}, "panels of look-ups have 4 vectors"),
        ("shift-add", {"rows": 8, "row_chunk": 64}, "its sums do not fit 32 registers"),
    ],
)
def test_why_not(form, changes, why):
    one = problem(form, "avx512vnni", 1, 128, 384, 384)
    usual = space.default(one)
    tiling = KernelTiling(dataclasses.replace(usual.tile, **changes))
    assert space.illegal(one, tiling) == why


def test_why_no_copies_and_no_other_kind():
    one = problem("lmul", "avx512vnni", 1, 128, 384, 384)
    usual = space.default(one)
    assert space.illegal(one, dataclasses.replace(usual, copies=True)) == (
        "rows of added products are always copied"
    )
    assert space.illegal(one, STOCK) == "it is for another kind of code"
    gpu = Problem("lmul", "kernel", "spirv", 1, 128, 384, 384, prepares=False)
    assert space.illegal(gpu, usual) == "it is for another kind of code"
    few = problem("w4a16", "avx512vnni", 1, 3, 384, 384)
    tile = dataclasses.replace(space.default(few).tile, k_block=128)
    assert space.illegal(few, KernelTiling(tile)) == "few rows take all of K at once"


@pytest.mark.parametrize(("unit", "usual"), [("spirv", "t8x8"), ("ptx", "b8x8w8x16k16")])
def test_gpus(unit, usual):
    one = Problem("lmul", "kernel", unit, 1, 128, 384, 384, prepares=False)
    found = space.candidates(one)
    assert found[0].text == usual
    assert len(found) > 10
    for tiling in found:
        kernel = families.kernel_of(one, tiling)
        assert families.problem_of(kernel, unit) == one
        assert parse(tiling.text) == tiling
    many = dataclasses.replace(one, m=600_000)
    assert {tiling.tile.rows for tiling in space.candidates(many)} - {1}
    assert all(tiling.tile.rows > 1 for tiling in space.candidates(many))


def on_gpu(form, m, group, **facts):
    weight = f"i{form[1]}"
    return Problem(
        form, "kernel", "ptx", 1, m, 384, 512, own_batch=True, weight=weight, group=group, **facts
    )


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (on_gpu("w4a8", 1, 32), "f"),
        (on_gpu("w4a8", 4, 16, symmetric=False), "f"),
        (on_gpu("w8a8", 2, 512, per_group=False), "f"),
        (on_gpu("w4a16", 8, 128), "f"),
        (on_gpu("w8a16", 1, 512, symmetric=False), "f"),
        (on_gpu("w4a8", 70, 32), "m"),
        (on_gpu("w4a8", None, 128, symmetric=False), "m"),
        (on_gpu("w8a8", 300, 512, per_group=False), "m"),
    ],
    ids=str,
)
def test_weights_in_few_bits_on_gpus(one, kind):
    found = space.candidates(one)
    assert len(found) > 5
    for tiling in found:
        assert tiling.text.startswith(kind) and parse(tiling.text) == tiling
        kernel = families.kernel_of(one, tiling)
        assert families.problem_of(kernel, "ptx") == one
        assert families.tiling_of(kernel) == tiling
        assert not space.illegal(one, tiling)


def test_few_rows_whose_groups_no_threads_share_have_tiles_of_many():
    one = dataclasses.replace(on_gpu("w8a8", 1, 1152, per_group=False), n=16, k=2304)
    found = space.candidates(one)
    assert len(found) > 5 and all(tiling.text.startswith("m") for tiling in found)
    assert not any(space.illegal(one, tiling) for tiling in found)
    assert space.illegal(one, parse("f1a1w1l0")) == "0 threads do not share a row of 2304"


@pytest.mark.parametrize("bits", [4, 8])
def test_every_gpu_has_the_workgroups_of_tiles(bits):
    one = dataclasses.replace(on_gpu(f"w{bits}a8", 256, 4096, per_group=False), n=1024, k=4096)
    for tiling in space.candidates(one):
        kernel = families.kernel_of(one, tiling)
        for gpu in gpus.families("cuda").values():
            assert kernel.shared_bytes <= gpu.memory and math.prod(kernel.threads) <= gpu.threads


@pytest.mark.parametrize(
    ("one", "text", "why"),
    [
        (on_gpu("w4a8", 1, 32), "m2x4w2x2k128s3r8", "there are only 1 rows"),
        (on_gpu("w4a8", 70, 32), "f2a2w1l16", "it is for at most 4 rows"),
        (on_gpu("w4a16", 1, 32), "m2x4w2x2k128s3r8", "it is for 8-bit activations"),
        (on_gpu("w4a16", 1, 32), "f2a2w1l32", "32 threads do not share a row of 512"),
        (on_gpu("w4a8", 1, 32), "f2a8w2l16", "a workgroup has at most 8 warps"),
        (on_gpu("w4a8", 4, 32), "f8a1w1l16", "a thread has at most 16 sums"),
        (on_gpu("w4a8", 1, 32), "f1a4w1l16", "4 warps have no share of 512 each"),
        (on_gpu("w4a8", 70, 32), "m2x4w2x2k128s3r16", "groups of 32 are no whole parts of 64"),
        (on_gpu("w4a8", 70, 32), "m4x8w2x2k128s3r8", "a thread has at most 128 sums"),
        (on_gpu("w4a8", 70, 32), "t8x8", "it is for another kind of kernel"),
        (on_gpu("w8a8", 70, 512), "m1x4w2x2k64s3r4", "a thread reads 8 or 16 codes at once, not 4"),
        (on_gpu("w8a8", 70, 512), "m2x4w2x2k64s3r0", "a thread reads 8 or 16 codes at once, not 0"),
        (on_gpu("w8a8", 70, 512), "m2x4w8x8k128s2r16", "a workgroup has at most 1024 threads"),
        # 99 KiB is what the least of the chips has; sm_80 alone would have them.
        (on_gpu("w8a8", 70, 512), "m4x8w2x2k128s4r16", "it takes 131072 bytes of workgroup memory"),
        (on_gpu("w8a8", 70, 512), "m1x4w1x2k96s3r8", "K is no whole number of blocks of 96"),
    ],
)
def test_why_not_on_gpus(one, text, why):
    assert space.illegal(one, parse(text)) == why


def test_linalg():
    one = linalg("lmul", "avx512vnni", 3, 128, 384, 384)
    found = space.candidates(one)
    assert found[0] == STOCK
    assert found[0].text == "stock"
    assert all(tiling.distribution[0] == 1 and len(tiling.parallel) == 4 for tiling in found[1:])
    tiling = LinalgTiling((1, 60, 64, 0), (1, 8, 16, 0), (0, 0, 0, 1))
    assert space.illegal(one, tiling) == "workgroups have no whole vector tiles"
    assert space.illegal(one, LinalgTiling((64, 64, 0), (8, 16, 0), (0, 0, 1))) == (
        "the product has 4 loops"
    )


@pytest.mark.parametrize(
    "text",
    ["", "t8x3", "t8x3v16", "t8x3v16k512g4c64x", "l1x2/3x4/5", "l1x/1x2/1x2", "t8x7", "stocks"],
)
def test_what_is_no_tile(text):
    with pytest.raises(ValueError, match="is no tile"):
        parse(text)


def test_tiles_that_differ_have_different_texts():
    one = KernelTiling(Tile(16, 8, 3, 512, 4, 64))
    assert one.text == "t8x3v16k512g4c64"
    assert KernelTiling(one.tile, copies=True).text == "t8x3v16k512g4c64s"
    linalg_one = LinalgTiling((64, 64, 0), (4, 32, 0), (0, 0, 1))
    assert linalg_one.text == "l64x64x0/4x32x0/0x0x1"
    assert parse(linalg_one.text) == linalg_one


@pytest.mark.parametrize(("kind", "has"), [("trits", False), ("quads", False), ("ternary", True)])
def test_kernels_of_several_ternary_weights_in_a_byte_have_one_tile(kind, has):
    span = 130 if kind == "trits" else 128
    one = lookups.kernel(
        "avx512vbmi", (1, 64, 260), 2, 512, TableFormat(7, span), scaling=Scaling(kind)
    )
    assert families.has_space(one) is has
