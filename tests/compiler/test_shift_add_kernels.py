"""Kernels of shifts and signed sums through the whole road, to the bit of their definitions."""

import lowc
import ml_dtypes
import numpy as np
import pytest
import torch
from iree.compiler import ir
from iree.compiler.dialects import arith
from lowc.compiler.frontend import open_model
from lowc.compiler.pipeline import passes_for
from lowc.compiler.recipe import Recipe
from lowc.compiler.target import load_target
from lowc.errors import InternalError
from lowc.passes.annotations import LOWERING, matmuls, operations, text
from lowc.passes.forms import Form, Rule
from lowc.passes.kernels import emit
from lowc.passes.kernels.epilogue import PLACE
from lowc.passes.runner import PassFailure, Runner
from lowc.passes.verify_no_multiplication import VerifyNoMultiplication, verify_kernels
from products import units
from products.linear import compile_linear, compile_text
from products.signs import form_of, product, rows_of, same, ternary_form

SHIFT = Form("shift")
CASES = {
    # name: (n, k, form, m at compile time, rows at run time, element)
    "shift": (70, 90, SHIFT, None, [1, 9], "f32"),
    "shift, bf16": (33, 71, SHIFT, 3, [3], "bf16"),
    "signs": (70, 300, form_of(2), None, [1, 9], "f32"),
    "signs of blocks, bf16": (24, 90, form_of(3, 32, 3), 9, [9], "bf16"),
    "short groups": (24, 90, form_of(2, 8, 0, 1), None, [1, 9], "f32"),
    "one group": (5, 45, form_of(4, 0, 1, 2), 3, [3], "f32"),
    "ternary": (70, 300, ternary_form(), None, [1, 9], "f32"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cpu(name, tmp_path):
    n, k, form, m, rows, element = CASES[name]
    generator = np.random.default_rng(n * k)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    weight[0] = 0
    artifact = compile_linear(tmp_path, weight, form, m, element=element)
    (row,) = artifact.report["matmuls"]
    assert "kernel of vectors of" in row["lowering"], row
    module = lowc.load(artifact)
    given = weight.astype(ml_dtypes.bfloat16).astype("f") if element == "bf16" else weight
    for count in rows:
        x = rows_of(generator, count, k)
        if element == "bf16":
            x = np.clip(x, -(2.0**100), 2.0**100).astype(ml_dtypes.bfloat16)
        assert same(module(x), product(x.astype(np.float32), given, form))


BATCH = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<3x8x40xf32>
func.func @main(%x: tensor<3x?x40xf32>, %init: tensor<3x?x8xf32>) -> tensor<3x?x8xf32> {
  %w = util.global.load @w : tensor<3x8x40xf32>
  %y = linalg.generic {
      indexing_maps = [affine_map<(b, m, n, k) -> (b, m, k)>, affine_map<(b, m, n, k) -> (b, n, k)>,
                       affine_map<(b, m, n, k) -> (b, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x?x40xf32>, tensor<3x8x40xf32>) outs(%init : tensor<3x?x8xf32>) {
  ^bb0(%a: f32, %b: f32, %acc: f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<3x?x8xf32>
  return %y : tensor<3x?x8xf32>
}
"""


@pytest.mark.parametrize("form", [SHIFT, form_of(2, 32)], ids=["shift", "signs"])
def test_a_batch_of_weights(form, tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((3, 8, 40)).astype(np.float32)
    artifact = compile_text(tmp_path, BATCH, weight, form)
    (row,) = artifact.report["matmuls"]
    assert "kernel of vectors of" in row["lowering"], row
    x, init = (generator.standard_normal((3, 5, size)).astype(np.float32) for size in (40, 8))
    each = [product(x[i], weight[i], form) for i in range(3)]
    assert same(lowc.load(artifact)(x, init), init + np.stack(each))


@pytest.mark.parametrize("form", [SHIFT, form_of(2, 32)], ids=["shift", "signs"])
def test_what_follows_is_done_by_the_kernel(form):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(70, 40), torch.nn.ReLU()).eval()
    x = torch.randn(5, 70)
    program = torch.export.export(model, (x,))
    recipe = Recipe("test", (Rule("*", form),))
    artifact = lowc.compile(program, recipe)
    (row,) = artifact.report["matmuls"]
    assert row["lowering"].count("+ bias, relu") == 1, row
    linear = model[0]
    wanted = product(x.numpy(), linear.weight.detach().numpy(), form)
    wanted = np.maximum(wanted + linear.bias.detach().numpy(), 0)
    assert same(lowc.load(artifact)(x.numpy()), wanted)


def test_the_archive_has_the_bits_that_the_report_says(tmp_path):
    weight = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    for form, bits in ((form_of(3), 3 * (1 + 32 / 128)), (SHIFT, 8)):
        artifact = compile_linear(tmp_path, weight, form, 1)
        (row,) = artifact.report["matmuls"]
        assert bits <= row["bits_per_weight"] <= bits + 0.01
        stored = artifact.parameters_path.stat().st_size - row["bits_per_weight"] * weight.size / 8
        assert 0 <= stored < 8192


def test_groups_that_end_within_a_byte_stay_with_stock_code(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    (row,) = compile_linear(tmp_path, weight, form_of(1, 4, 0), 3).report["matmuls"]
    assert "stock code generation (a group of 4 is no multiple of 8)" in row["lowering"]


def unary(name, operands=1):
    return lambda x: ir.Operation.create(name, results=[x.type], operands=[x] * operands)


def reduction(x):
    kind = ir.Attribute.parse("#vector.kind<mul>", x.context)
    element = ir.VectorType(x.type).element_type
    return ir.Operation.create(
        "vector.reduction", results=[element], operands=[x], attributes={"kind": kind}
    )


UNKNOWN = [
    (unary("math.rsqrt"), "math.rsqrt"),
    (unary("math.tanh"), "math.tanh"),
    (unary("math.fma", 3), "math.fma"),
    (unary("llvm.fmul", 2), "llvm.fmul"),
    (unary("llvm.intr.fmuladd", 3), "llvm.intr.fmuladd"),
    (reduction, "vector.reduction"),
    (lambda x: emit.intrinsic("llvm.x86.fma", [x], x.type).owner, "llvm.call_intrinsic"),
]


@pytest.mark.parametrize("form", [SHIFT, form_of(2, 32)], ids=["shift", "signs"])
def test_the_verifier_sees_kernels_and_what_follows_the_product(form):
    model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.SiLU()).eval()
    program = torch.export.export(model, (torch.ones(3, 64),))
    with open_model(program) as imported:
        passes = passes_for(Recipe("test", (Rule("*", form),)), load_target(units.CHIPS["avx512"]))
        last = max(i for i, one in enumerate(passes) if isinstance(one, VerifyNoMultiplication))
        Runner(passes[:last]).run(imported.module)
        assert verify_kernels(imported.module) == 1
        # What follows the product multiplies, and is taken for it elsewhere.
        followers = [op for op in operations(imported.module) if PLACE in str(op.location)]
        found = next(op for op in followers if op.name == "arith.mulf")
        x = found.operands[0]
        with ir.InsertionPoint(found), ir.Location.name("elsewhere", context=found.context):
            for make, name in UNKNOWN:
                op = make(x)
                with pytest.raises(InternalError, match=f"has {name}"):
                    verify_kernels(imported.module)
                op.erase()
            arith.mulf(*found.operands)
        with pytest.raises(
            InternalError, match="0: the kernel of a shift-add product has arith.mulf"
        ):
            verify_kernels(imported.module)
        with pytest.raises(PassFailure, match="has arith.mulf"):
            Runner([VerifyNoMultiplication()]).run(imported.module)


def test_kernels_of_look_ups_are_not_looked_at():
    program = torch.export.export(torch.nn.Linear(64, 48).eval(), (torch.ones(3, 64),))
    with open_model(program) as imported:
        form = form_of(2, 32, tables="i8", span=32)
        Runner(
            passes_for(Recipe("test", (Rule("*", form),)), load_target(units.CHIPS["avx512"]))
        ).run(imported.module)
        assert any("look-up kernel" in text(op, LOWERING) for op in matmuls(imported.module))
        assert verify_kernels(imported.module) == 0
