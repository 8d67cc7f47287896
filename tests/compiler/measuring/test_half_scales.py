"""Products with scales of f16, alone: what is drawn for them is what their kernels take."""

import pytest
from lowc.compiler.measuring.data import data_of
from lowc.compiler.measuring.modules import module_text, operands
from lowc.passes.tiling import families, features, roofline, space
from lowc.passes.tiling.problem import Problem

BYTES = {"i32": 4, "f32": 4, "i16": 2, "i8": 1}


def problem(form, symmetric, scales, unit="avx512vnni"):
    return Problem(
        form, "kernel", unit, 1, 4, 100, 96, own_batch=form == "w4a8", weight="i4", group=32,
        symmetric=symmetric, scales=scales,
    )  # fmt: skip


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", ["w4a8", "w4a16"])
def test_operands_are_those_of_the_kernel(form, symmetric):
    one, wide = (problem(form, symmetric, scales) for scales in ("f16", "f32"))
    tiling = space.default(one)
    told, drawn = operands(one, tiling), data_of(one).operands(tiling)
    assert [part.part for part in told][-1] == "factors"
    assert [part.shape for part in told] == [array.shape for array in drawn]
    assert [BYTES[part.element] for part in told] == [array.dtype.itemsize for array in drawn]
    kernel = families.kernel_of(one, tiling)
    assert families.problem_of(kernel, one.unit) == one
    assert kernel.name in module_text(one, [tiling])
    # Times of the one are none of the other.
    assert one.key != wide.key and "scales" not in wide.to_dict()
    assert features.weight_bits(one) == features.weight_bits(wide) - 16 / 32
    assert roofline.panel_bytes(one, 32) == roofline.panel_bytes(wide, 32) - 32 * 3 * 2


def test_where_no_instruction_reads_them_they_are_f32():
    one = problem("w4a8", True, "f16", "portable")
    kernel = families.kernel_of(one, space.default(one))
    assert families.problem_of(kernel, "portable") == problem("w4a8", True, "f32", "portable")
