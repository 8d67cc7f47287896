"""The attribute: kernels are generated for it, code generation is told, and what is refused."""

import pytest
from iree.compiler import ir
from lowc.compiler.frontend import parse_module
from lowc.errors import UserError
from lowc.passes import annotations
from lowc.passes.assign_forms import AssignForms
from lowc.passes.base import Refusal
from lowc.passes.lower_shift_add import LowerShiftAdd
from lowc.passes.name_matmuls import NameMatmuls
from lowc.passes.outline_kernels import OutlineKernels
from lowc.passes.runner import PassFailure, Runner
from lowc.passes.select_tiles import SelectTiles, products
from lowc.passes.tiling import attribute, space
from lowc.passes.tiling.tilings import parse
from products.linear import linear_text

RULES = '[{"match":"*","form":"exact"}]'
BATCHED = """
func.func @main(%x: tensor<3x40x64xf32>, %w: tensor<3x64x96xf32>) -> tensor<3x40x96xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<3x40x96xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<3x40x96xf32>) -> tensor<3x40x96xf32>
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x40x64xf32>, tensor<3x64x96xf32>) outs(%f : tensor<3x40x96xf32>) -> tensor<3x40x96xf32>
  return %y : tensor<3x40x96xf32>
}
"""


def prepared(text):
    module = parse_module(text, "test")
    Runner([NameMatmuls(), AssignForms(rules=RULES)]).run(module)
    return module


def write(module, tile):
    with module.context:
        for op in annotations.matmuls(module):
            annotations.set_text(op, annotations.TILE, tile)


@pytest.mark.parametrize("unit", ["avx512vbmi", "avx2", "portable"])
def test_a_kernel_for_another_tile(unit):
    module = prepared(linear_text(40, 96, 64))
    with module.context:
        ((_, one),) = products(module, unit)
    for tiling in space.candidates(one)[1:4]:
        module = prepared(linear_text(40, 96, 64))
        write(module, tiling.text)
        Runner([OutlineKernels(unit=unit)]).run(module)
        (op,) = annotations.matmuls(module)
        assert annotations.text(op, annotations.TILE) == tiling.text
        assert op.name == "flow.dispatch"
        assert tiling.tile.name in str(op.attributes["entry_points"])


def test_what_has_a_tile_keeps_it():
    module = prepared(linear_text(40, 96, 64))
    write(module, "t6x3v16k64g1c6")
    Runner([SelectTiles(unit="avx512", cost_model="roofline")]).run(module)
    (op,) = annotations.matmuls(module)
    assert annotations.text(op, annotations.TILE) == "t6x3v16k64g1c6"
    assert annotations.WHY not in op.attributes


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        ("huge", "'huge' is no tile"),
        (
            "t41x1v16k64g1c41",
            "the product cannot have the tile 't41x1v16k64g1c41': there are only 40 rows",
        ),
        (
            "t6x3v8k64g1c6",
            "the product cannot have the tile 't6x3v8k64g1c6': vectors of avx512 have 16 lanes",
        ),
        ("l64x64x0/4x32x0/0x0x1", "it is for another kind of code"),
    ],
)
def test_tiles_that_kernels_cannot_have(tile, message):
    module = prepared(linear_text(40, 96, 64))
    write(module, tile)
    with pytest.raises(PassFailure) as error:
        Runner([OutlineKernels(unit="avx512")]).run(module)
    assert isinstance(error.value.cause, UserError)
    assert message in str(error.value.cause)
    assert "leave the attribute 'lowc.tile' out" in str(error.value.cause)


def test_code_generation_is_told_in_the_order_of_the_loops():
    module = prepared(BATCHED)
    write(module, "l1x8x32x0/1x4x16x0/0x0x0x1")
    Runner([OutlineKernels()]).run(module)
    (op,) = annotations.matmuls(module)
    said = str(op.attributes["compilation_info"])
    assert "distribution = [1, 8, 32, 0]" in said
    assert "vector_common_parallel = [1, 4, 16, 0]" in said
    assert "vector_reduction = [0, 0, 0, 1]" in said
    assert "DoubleTilingExpert" in said


def test_loops_in_another_order():
    """The result is transposed: its rows are the second loop."""
    text = """
func.func @main(%x: tensor<40x64xf32>, %w: tensor<96x64xf32>) -> tensor<96x40xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<96x40xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<96x40xf32>) -> tensor<96x40xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(n, k, m) -> (m, k)>, affine_map<(n, k, m) -> (n, k)>,
    affine_map<(n, k, m) -> (n, m)>], iterator_types = ["parallel", "reduction", "parallel"]}
    ins(%x, %w : tensor<40x64xf32>, tensor<96x64xf32>) outs(%f : tensor<96x40xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %c, %p : f32
    linalg.yield %s : f32
  } -> tensor<96x40xf32>
  return %y : tensor<96x40xf32>
}
"""
    module = prepared(text)
    with module.context, ir.Location.unknown():
        (op,) = annotations.matmuls(module)
        found = attribute.linalg_problem(op, "avx512")
        assert found.problem.sizes == (1, 40, 96, 64)
        tiling = parse("l8x32x0/4x16x0/0x0x1")
        info = attribute.compilation_info(tiling, found.loops, found.problem)
    assert "distribution = [32, 0, 8]" in info
    assert "vector_common_parallel = [16, 0, 4]" in info
    assert "vector_reduction = [0, 1, 0]" in info


SIGNS = '[{"match":"*","form":"binary","planes":3,"group":64,"terms":3,"tables":"none","method":"auto"}]'


def signed(m, n, k):
    module = parse_module(linear_text(m, n, k), "test")
    Runner([NameMatmuls(), AssignForms(rules=SIGNS), LowerShiftAdd()]).run(module)
    return module


def test_sums_by_signs_are_tiled_where_they_take_their_time():
    module = signed(40, 96, 200)
    with module.context:
        (op,) = annotations.matmuls(module)
        found = attribute.linalg_problem(op, "avx512")
    assert found.problem.sizes == (1, 40, 96, 200) and found.problem.form == "shift-add"
    assert (found.problem.planes, found.problem.group) == (3, 64)
    tiling = space.candidates(found.problem)[1]
    write(module, tiling.text)
    Runner([OutlineKernels(unit="avx512", kernels=False)]).run(module)
    told = [op for op in annotations.operations(module) if "compilation_info" in op.attributes]
    (one,) = told
    assert f"distribution = {list(tiling.distribution)}" in str(one.attributes["compilation_info"])
    assert "linalg.index" in str(one) and "lowc.matmul" not in one.attributes


def test_kernels_of_one_tile_have_none_to_choose():
    """Signed sums on a CPU have a kernel, but no space of tiles."""
    module = signed(40, 96, 200)
    with module.context:
        assert not list(products(module, "avx512"))
        ((_, one),) = products(module, "spirv")  # there they stay with code generation
    assert (one.form, one.lowering) == ("shift-add", "linalg")
    Runner([SelectTiles(unit="avx512", cost_model="roofline")]).run(module)
    write(module, "t8x3v16k64g1c8")
    with pytest.raises(PassFailure) as error:
        Runner([OutlineKernels(unit="avx512")]).run(module)
    assert "cannot have the tile 't8x3v16k64g1c8': its kernel has one tile" in str(
        error.value.cause
    )


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("spirv", "#iree_codegen.lowering_config<tile_sizes = [[1, 8, 64, 0], [1, 1, 4, 0], [0, 0, 0, 4]]>"),
        ("ptx", "workgroup = [1, 8, 64, 0]"),
    ],
)  # fmt: skip
def test_code_generation_for_gpus_is_told(unit, words):
    module = prepared(BATCHED)
    write(module, "l1x8x64x0/1x1x4x0/0x0x0x4")
    Runner([OutlineKernels(unit=unit)]).run(module)
    (op,) = annotations.matmuls(module)
    said = str(op.attributes["compilation_info"])
    assert words in said and "workgroup_size = [16, 8, 1]" in said


def test_what_is_no_contraction_is_not_tiled():
    module = prepared(BATCHED)
    with module.context:
        (op,) = annotations.matmuls(module)
        fill = next(one for one in annotations.operations(module) if one.name == "linalg.fill")
        assert isinstance(attribute.linalg_problem(fill, "avx512"), Refusal)
        assert not isinstance(attribute.linalg_problem(op, "avx512"), Refusal)
