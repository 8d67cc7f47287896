"""Small products with a weight, compiled through the whole road, and their NumPy reference."""

import math

import lowc
import ml_dtypes
import numpy as np
from lowc.compiler.frontend import Model, model_of_module, parse_module
from lowc.compiler.program import Tensor
from lowc.compiler.recipe import Recipe
from lowc.passes.formats import activations, weights
from lowc.passes.forms import Form, Rule, round_up_group

TEMPLATE = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<{n}x{k}x{element}>
func.func @main(%x: tensor<{m}x{k}x{element}>) -> tensor<{m}x{n}xf32> {{
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %w = util.global.load @w : tensor<{n}x{k}x{element}>
  {sizes}
  %empty = tensor.empty({dynamic}) : tensor<{m}x{n}xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%empty : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  %y = linalg.generic {{
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>,
                     affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%x, %w : tensor<{m}x{k}x{element}>, tensor<{n}x{k}x{element}>)
    outs(%fill : tensor<{m}x{n}xf32>) {{
  ^bb0(%a: {element}, %b: {element}, %acc: f32):
    {cast}
    %product = arith.mulf {left}, {right} : f32
    %sum = arith.addf %acc, %product : f32
    linalg.yield %sum : f32
  }} -> tensor<{m}x{n}xf32>
  return %y : tensor<{m}x{n}xf32>
}}
"""
ELEMENTS = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def linear_text(m, n, k, element="f32"):
    """``x[m, k] . w[n, k]^T`` with a parameter ``w``; m None is dynamic."""
    widened = f"%a1 = arith.extf %a : {element} to f32\n%b1 = arith.extf %b : {element} to f32"
    return TEMPLATE.format(
        m="?" if m is None else m, n=n, k=k, element=element,
        sizes="" if m is not None else f"%rows = tensor.dim %x, %c0 : tensor<?x{k}x{element}>",
        dynamic="" if m is not None else "%rows",
        cast="" if element == "f32" else widened,
        left="%a" if element == "f32" else "%a1", right="%b" if element == "f32" else "%b1",
    )  # fmt: skip


def compile_linear(folder, weight, form, m, target="cpu", element="f32", compiler=None, **options):
    """Compile ``x . weight^T`` with every matmul in `form`; return the artifact."""
    text = linear_text(m, *weight.shape, element)
    return compile_text(folder, text, weight, form, target, element, compiler, **options)


def compile_text(folder, text, weight, form, target="cpu", element="f32", compiler=None, **options):
    """Compile a module with the parameter ``w`` and every matmul in `form`; return the artifact."""
    compiler = compiler or lowc.compile
    source = folder / "weights.bin"
    source.write_bytes(weight.astype(ELEMENTS[element]).tobytes())
    imported = model_of_module(parse_module(text, "test"))
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[element]
    size = source.stat().st_size
    strides = tuple(math.prod(weight.shape[axis + 1 :]) for axis in range(weight.ndim))
    tensor = Tensor("w", dtype, weight.shape, strides, 0, 0, size, is_parameter=True)
    model = Model(imported.module, imported.interface, {"w": tensor}, source, [])
    recipe = Recipe("test", (Rule("*", form),))
    return compiler(model, recipe, target, output=folder / "linear.vmfb", **options)


def stored_weight(weight, form, element="f32"):
    """What the codes of `weight` stand for."""
    given = weight.astype(ELEMENTS[element]).astype(np.float32)
    value = weights.rounded(
        given, form.weights, form.group, symmetric=form.symmetric, scales=form.scales
    )
    return value.astype(np.float64)


def integer_product(x, weight, form):
    """``x . weight^T`` with rounded activations, and the bound on what f32 makes of it."""
    whole = round_up_group(weight.shape[1])
    group = min(form.group or whole, whole)
    rounded = activations.quantize(x, group, per_row=form.activation_scale == "row")
    stored = weights.quantize(
        weight, form.weights, group, symmetric=form.symmetric, scales=form.scales
    )
    return activations.product(rounded, stored), activations.rounding(rounded, stored)


def tolerance(x, weight):
    """A bound on the rounding of an f32 dot product summed in any order."""
    k = weight.shape[1]
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weight).T
    return magnitude * (k + 2) * 2.0**-24 + 1e-30


def shape_bytes(shape, bits):
    """Bytes of a packed tensor."""
    return math.prod(shape) * bits // 8


__all__ = [
    "Form",
    "compile_linear",
    "compile_text",
    "integer_product",
    "linear_text",
    "shape_bytes",
    "stored_weight",
    "tolerance",
]
