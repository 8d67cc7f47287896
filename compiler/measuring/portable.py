"""Products that stay with IREE's code generation, as functions: one for each tile."""

from collections.abc import Sequence
from typing import Any

from iree.compiler import ir

from ...passes import annotations, signed_sums
from ...passes.assign_forms import AssignForms
from ...passes.base import Refusal
from ...passes.forms import Form, Rule, rules_to_text
from ...passes.lower_shift_add import LowerShiftAdd
from ...passes.name_matmuls import NameMatmuls
from ...passes.runner import Runner
from ...passes.strip_annotations import StripAnnotations
from ...passes.tiling import attribute, families, signed_space
from ...passes.tiling.problem import Problem
from ...passes.tiling.tilings import STOCK, LinalgTiling, Tiling
from ..frontend import parse_module

TERMS = 3  # powers of two of a scale
_SUMS = ("f32", *families.ADDED)
_BODIES = {
    "f32": "%p = arith.mulf %a, %b : f32",
    "lmul": "%s = arith.addi %a, %b : i32\n    %p = arith.bitcast %s : i32 to f32",
}


def can_be_alone(problem: Problem) -> bool:
    """Whether there are functions for `problem`."""
    return problem.form in _SUMS or problem.form == "shift-add"


def shapes(problem: Problem) -> list[tuple[str, tuple[int, ...], str]]:
    """Return part, shape and element type of each operand: the left one, then the right one's."""
    batch, m, n, k = (size or 0 for size in problem.sizes)
    batches = (batch,) if problem.batch != 1 else ()
    own = batches if problem.own_batch else ()
    if problem.form in families.TABLES:
        groups, words = -(-k // problem.group), signed_space.words_of(problem)
        return [
            ("rows", (*batches, m, k), "f32"),
            ("signs", (*own, n, problem.planes, words), "i32"),
            ("terms", (*own, n, groups, problem.planes), "i32"),
        ]
    element = "i32" if problem.form in families.ADDED else "f32"
    return [("rows", (*batches, m, k), element), ("matrix", (*own, k, n), element)]


def module_text(problem: Problem, tilings: Sequence[Tiling], names: Sequence[str]) -> str:
    """Return MLIR with a function for each of `tilings`.

    Raises
    ------
    ValueError
        When the form is none of those that can be alone, or a tiling is for another kind of code.
    """
    if not can_be_alone(problem) or not all(isinstance(one, LinalgTiling) for one in tilings):
        raise ValueError(f"'{problem.form}' is not one contraction that can be measured alone")
    if problem.form in families.TABLES:
        return _signed(problem, tilings, names)
    return "\n".join(
        _contraction(problem, tiling, name) for tiling, name in zip(tilings, names, strict=True)
    )


def _contraction(problem: Problem, tiling: Any, name: str) -> str:
    """Return a function with the contraction of `problem`, tiled as `tiling` says."""
    body = _BODIES["lmul" if problem.form in families.ADDED else problem.form]
    left, right = shapes(problem)
    element = left[2]
    types = [f"tensor<{'x'.join(map(str, one[1]))}x{element}>" for one in (left, right)]
    batch = "b, " if len(left[1]) == 3 else ""
    own = batch if len(right[1]) == 3 else ""
    kinds = ", ".join(['"parallel"'] * (3 if batch else 2) + ['"reduction"'])
    shape = "x".join(map(str, (*left[1][:-1], right[1][-1])))
    loops = range(4 if batch else 3)
    info = ""
    if tiling != STOCK:
        text = attribute.compilation_info(tiling, list(loops), problem)
        info = f"compilation_info = {text}, "
    return f"""
func.func @{name}(%x: {types[0]}, %w: {types[1]}) -> tensor<{shape}xf32> {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{shape}xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<{shape}xf32>) -> tensor<{shape}xf32>
  %y = linalg.generic {{{info}indexing_maps = [affine_map<({batch}m, n, k) -> ({batch}m, k)>,
      affine_map<({batch}m, n, k) -> ({own}k, n)>, affine_map<({batch}m, n, k) -> ({batch}m, n)>],
      iterator_types = [{kinds}]}}
      ins(%x, %w : {types[0]}, {types[1]}) outs(%f : tensor<{shape}xf32>) {{
  ^bb0(%a: {element}, %b: {element}, %c: f32):
    {body}
    %t = arith.addf %c, %p : f32
    linalg.yield %t : f32
  }} -> tensor<{shape}xf32>
  return %y : tensor<{shape}xf32>
}}"""


# A weight as models have it: rows of K.
_LINEAR = """
util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<{n}x{k}xf32>
func.func @main(%x: tensor<{m}x{k}xf32>) -> tensor<{m}x{n}xf32> {{
  %w = util.global.load @w : tensor<{n}x{k}xf32>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{k}x{n}xf32>
  %t = linalg.transpose ins(%w : tensor<{n}x{k}xf32>) outs(%e : tensor<{k}x{n}xf32>)
       permutation = [1, 0]
  %i = tensor.empty() : tensor<{m}x{n}xf32>
  %f = linalg.fill ins(%zero : f32) outs(%i : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  %y = linalg.matmul ins(%x, %t : tensor<{m}x{k}xf32>, tensor<{k}x{n}xf32>)
       outs(%f : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  return %y : tensor<{m}x{n}xf32>
}}
"""


def _signed(problem: Problem, tilings: Sequence[Tiling], names: Sequence[str]) -> str:
    """Return functions of signed sums, made by the pass that makes them in models."""
    if problem.batch != 1:
        raise ValueError("sums by signs are measured without a batch")
    form = Form(
        "binary", planes=problem.planes, group=problem.group, terms=TERMS, tables="none",
        method="auto",
    )  # fmt: skip
    rules = rules_to_text([Rule("*", form)])
    found = []
    for tiling, name in zip(tilings, names, strict=True):
        text = _LINEAR.format(m=problem.m, n=problem.n, k=problem.k)
        module = parse_module(text, "signed sums")
        passes = [NameMatmuls(), AssignForms(rules=rules), LowerShiftAdd()]
        Runner([*passes, "canonicalize", "cse"]).run(module)
        with module.context, ir.Location.unknown():
            (op,) = annotations.matmuls(module)
            is_there = annotations.product_facts(op).get("kind") == signed_sums.KIND
            known = attribute.linalg_problem(op, problem.unit) if is_there else None
            if known is None or isinstance(known, Refusal) or known.problem != problem:
                raise ValueError(f"the pass makes no sums by signs of {problem}")
            if tiling != STOCK:
                annotations.set_text(op, annotations.TILE, tiling.text)
                attribute.tell_code_generation(op, problem.unit)
            function = _with_arguments(module, name)
            StripAnnotations().run(module, lambda *_: None)
            # Aliases of several modules would have the same names.
            found.append(function.get_asm(use_local_scope=True))
    return "\n".join(found)


def _with_arguments(module: ir.Module, name: str) -> Any:
    """Return the function `name` that takes signs and terms where it loaded them."""
    function = next(op for op in module.body.operations if op.operation.name == "func.func")
    function = function.operation
    block = function.regions[0].blocks[0]
    loads = [op for op in block.operations if op.operation.name == "util.global.load"]
    of = {str(op.operation.attributes["global"]).rpartition(".")[2]: op for op in loads}
    for part in ("signs", "terms"):
        load = next(op for name, op in of.items() if name.startswith(part))
        value = load.operation.results[0]
        value.replace_all_uses_with(block.add_argument(value.type, ir.Location.unknown()))
        load.operation.erase()
    results = block.operations[len(block.operations) - 1].operation.operands
    taken, given = ([one.type for one in values] for values in (block.arguments, results))
    type_ = ir.FunctionType.get(taken, given)
    function.attributes["function_type"] = ir.TypeAttr.get(type_)
    function.attributes["sym_name"] = ir.StringAttr.get(name)
    return function
