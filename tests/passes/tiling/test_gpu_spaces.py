"""Spaces of GPUs, and of code generation for them: legal, each a kernel or an attribute."""

import numpy as np
import pytest
from lowc.passes.forms import cut_binary
from lowc.passes.tiling import attribute, families, features, signed_space, space
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine
from lowc.passes.tiling.tilings import STOCK, LinalgTiling, parse

SHAPES = [(128, 384, 384), (1, 4096, 4096), (7, 100, 64), (33, 257, 192), (1, 1, 64), (2000, 3, 64)]


def coded(form, m, n, k, **facts):
    """A product with a weight in few bits, as models have it on Vulkan."""
    usual = {"weight": f"i{form[1]}", "group": 32}
    if form == "w8a8":
        usual |= {"group": k, "per_group": False}
    return Problem(form, "kernel", "spirv", 1, m, n, k, **{**usual, **facts})


def portable(form, unit, batch, m, n, k):
    facts = {"own_batch": batch > 1}
    if form == "shift-add":
        facts |= {"weight": "signs", "planes": 3, "group": cut_binary(k, 128, None)[0]}
    return Problem(form, "linalg", unit, batch, m, n, k, **facts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["w4a16", "w4a8", "w8a8", "w8a16"])
def test_weights_in_few_bits_on_vulkan(form, shape):
    for one in (coded(form, *shape), coded(form, *shape, symmetric=False)):
        found = space.candidates(one)
        assert found[0] == space.default(one)
        assert len(set(found)) == len(found)
        for tiling in found:
            assert not space.illegal(one, tiling), tiling
            assert parse(tiling.text) == tiling
            kernel = families.kernel_of(one, tiling)
            assert families.problem_of(kernel, "spirv") == one
            assert families.tiling_of(kernel) == tiling
            assert families.with_tiling(kernel, found[0]) == families.kernel_of(one, found[0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("d8x4w0x4", "a part of it is 0"),
        ("d8x16w8x8", "a thread has at most 64 sums"),
        ("d1x4w64x4", "a workgroup has at most 128 threads"),
        ("d8x4w8x8", "there are only 20 rows"),
        ("d1x16w64x1", "there are only 100 columns"),
        ("t8x8", "it is for another kind of kernel"),
        ("f2a1w2l32", "it is for CUDA"),
        ("stock", "it is for another kind of code"),
    ],
)
def test_why_codes_cannot_have_it(text, why):
    assert space.illegal(coded("w4a8", 20, 100, 64), parse(text)) == why


def test_codes_in_threads_are_for_vulkan():
    of_cuda = Problem(
        "w4a8", "kernel", "ptx", 1, 20, 100, 64, own_batch=True, weight="i4", group=64
    )
    assert space.illegal(of_cuda, parse("d8x4w8x2")) == "it is for Vulkan"


@pytest.mark.parametrize("unit", ["spirv", "ptx", "avx512vbmi", "avx2"])
@pytest.mark.parametrize("form", ["f32", "lmul", "shift-add"])
def test_code_generation(form, unit):
    for batch, m, n, k in [(1, *shape) for shape in SHAPES] + [(12, 128, 128, 32)]:
        one = portable(form, unit, batch, m, n, k)
        found = space.candidates(one)
        assert found[0] == STOCK
        assert len(set(found)) == len(found)
        loops = range((5 if form == "shift-add" else 3) + (batch > 1))
        for tiling in found[1:]:
            assert not space.illegal(one, tiling)
            assert parse(tiling.text) == tiling
            text = attribute.compilation_info(tiling, list(loops), one)
            for part in (tiling.distribution, tiling.parallel, tiling.reduction):
                assert str(list(part)) in text
        assert len(found) > 1 or (form, unit) == ("shift-add", "ptx") or n < 4


@pytest.mark.parametrize(
    ("form", "unit", "text", "why"),
    [
        ("lmul", "spirv", "l8x64x0/2x4x0/0x0x4", "a thread for Vulkan has one row of 4 columns"),
        ("lmul", "spirv", "l16x64x0/1x4x0/0x0x4", "a workgroup has at most 128 threads"),
        ("lmul", "spirv", "l7x66x0/1x4x0/0x0x4", "workgroups have no whole threads"),
        ("lmul", "ptx", "l64x128x0/16x8x0/0x0x4", "a thread has at most 64 sums"),
        ("lmul", "ptx", "l1x64x64x0/1x4x4x0/0x0x0x4", "the product has 3 loops"),
        ("shift-add", "spirv", "l1x64x1x3x0/1x1x1x3x0/0x0x0x0x4",
         "a thread for Vulkan has 4 columns of one row, word and plane"),
        ("shift-add", "avx2", "l16x64x8x3x0/1x16x1x1x0/0x0x0x0x1",
         "there are only 4 words and 3 planes"),
        ("shift-add", "avx2", "l16x64x4x3x0/16x16x1x1x0/0x0x0x0x1",
         "a tile has at most 8 vectors of sums"),
        ("shift-add", "avx2", "l16x64x0/1x16x0/0x0x1", "the sums of words have 5 loops"),
    ],
)  # fmt: skip
def test_why_code_generation_cannot_have_it(form, unit, text, why):
    assert space.illegal(portable(form, unit, 1, 20, 100, 100), parse(text)) == why


def test_words_fill_groups_up():
    assert signed_space.words_of(portable("shift-add", "avx2", 1, 5, 8, 100)) == 4
    assert signed_space.words_of(portable("shift-add", "avx2", 1, 5, 8, 300)) == 12


@pytest.mark.parametrize("unit", ["spirv", "ptx"])
def test_threads_of_a_workgroup(unit):
    one = portable("lmul", unit, 1, 128, 384, 384)
    text = attribute.compilation_info(
        LinalgTiling((8, 64, 0), (1, 4, 0), (0, 0, 4)), [0, 1, 2], one
    )
    assert "workgroup_size = [16, 8, 1]" in text


def test_features_tell_tiles_apart():
    machine = Machine("vulkan:llvmpipe", "spirv", (), 2, (32 << 10, 1 << 20, 32 << 20))
    for one in (coded("w4a8", 33, 257, 192), portable("shift-add", "spirv", 1, 33, 257, 192),
                portable("lmul", "spirv", 12, 33, 257, 192)):  # fmt: skip
        rows = features.matrix(one, space.candidates(one), machine)
        assert np.isfinite(rows).all() and abs(rows).max() < 1e6
        assert len({tuple(row) for row in rows}) > len(rows) // 4
