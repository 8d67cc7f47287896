"""Counting: what each kind of operation gives, what is per call, and what is not counted."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from lowc.compiler.energy import load_table, price, saving
from lowc.compiler.frontend import parse_module
from lowc.compiler.globals import add_reset
from lowc.compiler.program import Tensor
from lowc.passes import annotations
from lowc.passes.count_operations import CountOperations, Tally, count, tally_of
from lowc.passes.forms import Form, Rule, rules_to_text
from lowc.passes.runner import Runner, parse_pipeline
from products.linear import linear_text

MATMUL_MAPS = "affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>"
EXACT = "%p = arith.mulf %a, %b : f32\n%s = arith.addf %acc, %p : f32"
LMUL = """
%i = arith.bitcast %a : f32 to i32
%j = arith.bitcast %b : f32 to i32
%t = arith.addi %i, %j : i32
%p = arith.bitcast %t : i32 to f32
%s = arith.addf %acc, %p : f32
"""


def product(body: str, m: int = 3, n: int = 5, k: int = 7) -> str:
    return f"""
func.func @main(%x: tensor<{m}x{k}xf32>, %w: tensor<{n}x{k}xf32>, %o: tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32> {{
  %y = linalg.generic {{indexing_maps = [{MATMUL_MAPS}],
    iterator_types = ["parallel", "parallel", "reduction"]}}
    ins(%x, %w : tensor<{m}x{k}xf32>, tensor<{n}x{k}xf32>) outs(%o : tensor<{m}x{n}xf32>) {{
  ^bb0(%a: f32, %b: f32, %acc: f32):
    {body}
    linalg.yield %s : f32
  }} -> tensor<{m}x{n}xf32>
  return %y : tensor<{m}x{n}xf32>
}}"""


def counted(text: str) -> Tally:
    return count(parse_module(text, "test"))


def named(operation: str, arguments: str, result: str) -> Tally:
    return counted(
        f"func.func @main({arguments}) -> {result} {{\n%y = {operation}\nreturn %y : {result}\n}}"
    )


def test_a_dot_product_of_lmul_saves_what_the_paper_says() -> None:
    exact, cheap = counted(product(EXACT)), counted(product(LMUL))
    assert exact.operations == {"mulf.f32": 105, "addf.f32": 105}
    assert cheap.operations == {"addi.i32": 105, "addf.f32": 105}
    table = load_table()
    cost = [price(one.operations, table).compute_pj for one in (cheap, exact)]
    assert saving(cost[0], cost[1]) == pytest.approx(1 - 1.0 / 4.6)
    assert round(100 * saving(*cost), 1) == 78.3


@pytest.mark.parametrize(
    ("operation", "types", "expected"),
    [
        ("linalg.matmul ins(%a, %b : A, B) outs(%o : O) -> O",
         ("2x4xbf16", "4x8xbf16", "2x8xf32"), {"extf.bf16": 128, "mulf.f32": 64, "addf.f32": 64}),
        ("linalg.matmul ins(%a, %b : A, B) outs(%o : O) -> O",
         ("2x4xi8", "4x8xi8", "2x8xi32"), {"extsi.i8": 128, "muli.i8": 64, "addi.i32": 64}),
        ("linalg.dot ins(%a, %b : A, B) outs(%o : O) -> O",
         ("9xf32", "9xf32", "f32"), {"mulf.f32": 9, "addf.f32": 9}),
        # 36 positions, 9 of the window, 3 and 4 channels.  The image has sums of loops as indices.
        ("linalg.conv_2d_nhwc_hwcf ins(%a, %b : A, B) outs(%o : O) -> O",
         ("1x8x8x3xf32", "3x3x3x4xf32", "1x6x6x4xf32"), {"mulf.f32": 3888, "addf.f32": 3888}),
        # The window has a shape and no values.
        ("linalg.pooling_nhwc_max ins(%a, %b : A, B) outs(%o : O) -> O",
         ("1x8x8x3xf32", "2x2xf32", "1x7x7x3xf32"), {"maximumf.f32": 588}),
        ("linalg.matmul ins(%a, %b : A, B) outs(%o : O) -> O",
         ("0x4xf32", "4x8xf32", "0x8xf32"), {"mulf.f32": 0, "addf.f32": 0}),
    ],
)  # fmt: skip
def test_named_operations(operation: str, types: tuple[str, ...], expected: dict[str, int]) -> None:
    a, b, o = (f"tensor<{one}>" for one in types)
    text = (
        operation.replace("A, B", f"{a}, {b}").replace(": O", f": {o}").replace("-> O", f"-> {o}")
    )
    tally = named(text, f"%a: {a}, %b: {b}, %o: {o}", o)
    assert tally.operations == Counter(expected)
    assert not tally.dynamic
    assert not tally.uncounted


def test_bits_are_sizes_of_what_is_read_and_written() -> None:
    types = "%a: tensor<1x8x8x3xf32>, %b: tensor<2x2xf32>, %o: tensor<1x7x7x3xf32>"
    tally = named(
        "linalg.pooling_nhwc_max ins(%a, %b : tensor<1x8x8x3xf32>, tensor<2x2xf32>) "
        "outs(%o : tensor<1x7x7x3xf32>) -> tensor<1x7x7x3xf32>", types, "tensor<1x7x7x3xf32>",
    )  # fmt: skip
    # The window is not read, the maximum so far is.
    assert tally.read_bits == 32 * (192 + 147)
    assert tally.written_bits == 32 * 147
    assert tally.bits == tally.read_bits + tally.written_bits


@pytest.mark.parametrize(
    ("operation", "types", "expected", "bits"),
    [
        ("arith.addf %a, %a : {0}", ("6xf32", "6xf32"), {"addf.f32": 6}, (384, 192)),
        ("arith.cmpf olt, %a, %a : {0}", ("6xf32", "6xi1"), {"cmp.f32": 6}, (384, 48)),
        ("arith.truncf %a : {0} to {1}", ("6xf32", "6xbf16"), {"truncf.f32": 6}, (192, 96)),
        ("math.exp %a : {0}", ("2x3xf16", "2x3xf16"), {"math.exp.f16": 6}, (96, 96)),
        ("arith.index_cast %a : {0} to {1}", ("6xi32", "6xindex"), {}, (192, 384)),
        ("arith.bitcast %a : {0} to {1}", ("6xf32", "6xi32"), {}, (0, 0)),
    ],
)
def test_elementwise_operations_on_tensors(
    operation: str, types: tuple[str, str], expected: dict[str, int], bits: tuple[int, int]
) -> None:
    given, result = (f"tensor<{one}>" for one in types)
    tally = named(operation.format(given, result), f"%a: {given}", result)
    assert tally.operations == expected
    assert (tally.read_bits, tally.written_bits) == bits


def test_an_unknown_operation_in_a_body_counts_under_its_own_name() -> None:
    body = "%h, %l = arith.mulsi_extended %i, %i : i32\n%s = arith.sitofp %h : i32 to f32"
    tally = counted(product(f"%i = arith.fptosi %a : f32 to i32\n{body}"))
    assert tally.operations == dict.fromkeys(
        ("fptosi.f32", "mulsi_extended.i32", "sitofp.i32"), 105
    )
    estimate = price(tally.operations, load_table())
    assert estimate.compute_pj == 0
    assert estimate.unpriced == tally.operations


def test_reading_a_table_in_a_body_is_traffic() -> None:
    tally = counted("""
util.global private @t = #flow.parameter.named<"model"::"t"> : tensor<100xf32>
func.func @main(%i: tensor<6xi32>, %u: tensor<100xf16>) -> tensor<6xf32> {
  %t = util.global.load @t : tensor<100xf32>
  %e = tensor.empty() : tensor<6xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> (d)>],
    iterator_types = ["parallel"]} ins(%i : tensor<6xi32>) outs(%e : tensor<6xf32>) {
  ^bb0(%a: i32, %out: f32):
    %p = arith.index_cast %a : i32 to index
    %v = tensor.extract %t[%p] : tensor<100xf32>
    %h = tensor.extract %u[%p] : tensor<100xf16>
    linalg.yield %v : f32
  } -> tensor<6xf32>
  return %y : tensor<6xf32>
}""")
    assert not tally.operations
    assert (tally.weight_bits, tally.read_bits) == (6 * 32, 6 * 32 + 6 * 16)


STATE = """
util.global private {mutable} @s = #flow.parameter.named<"model"::"s"> : tensor<6xf32>
util.global private mutable @made : tensor<6xf32>
func.func @main() -> tensor<6xf32> {{
  %s = util.global.load @s : tensor<6xf32>
  %y = math.exp %s : tensor<6xf32>
  return %y : tensor<6xf32>
}}
util.initializer {{
  %s = util.global.load @s : tensor<6xf32>
  %y = math.tanh %s : tensor<6xf32>
  util.global.store %y, @made : tensor<6xf32>
  util.return
}}"""


def test_state_is_not_a_parameter_and_initializers_are_no_call() -> None:
    fixed, state = (counted(STATE.format(mutable=word)) for word in ("", "mutable"))
    assert fixed == Tally()
    assert state.operations == {"math.exp.f32": 6}
    assert (state.weight_bits, state.read_bits) == (0, 192)


def test_what_puts_state_back_is_no_call() -> None:
    module = parse_module("""
util.global private mutable @s = dense<0.0> : tensor<6xf32>
util.global private mutable @t = dense<1.0> : tensor<6xf32>
func.func @main(%x: tensor<6xf32>) -> tensor<6xf32> {
  %y = math.exp %x : tensor<6xf32>
  util.global.store %y, @s : tensor<6xf32>
  return %y : tensor<6xf32>
}""", "test")  # fmt: skip
    before = count(module)
    zero = Tensor("s", "float32", (6,), (1,), 0, 0, 24, is_parameter=False, is_zero=True)
    add_reset(module, {"s": zero})
    assert "@reset" in str(module) and "linalg.generic" in str(module)
    assert count(module) == before


def test_a_loop_counts_once_and_says_so() -> None:
    tally = counted("""
func.func @main(%x: tensor<6xf32>, %n: index) -> tensor<6xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%v = %x) -> tensor<6xf32> {
    %w = math.exp %v : tensor<6xf32>
    scf.yield %w : tensor<6xf32>
  }
  return %y : tensor<6xf32>
}""")
    assert tally.operations == {"math.exp.f32": 6}
    assert tally.dynamic


def test_dead_operations_are_seen_through_their_dead_readers() -> None:
    text = product(EXACT).replace(
        "  return",
        "  %d = math.exp %y : tensor<3x5xf32>\n  %e = math.tanh %d : tensor<3x5xf32>\n  return",
    )
    assert counted(text).operations == counted(product(EXACT)).operations


def run(text: str, rules: str) -> Any:
    module = parse_module(text, "test")
    elements = parse_pipeline(
        f"builtin.module(lowc-name-matmuls,lowc-assign-forms{{rules={rules!r}}},"
        "lowc-quantize-weights,lowc-fuse-dequant)"
    )
    Runner([*elements, CountOperations()]).run(module)
    return module


@pytest.mark.parametrize(("m", "fused"), [(1, True), (2, True), (5, False), (None, True)])
def test_dequantisation_is_counted_where_it_happens(m: int | None, fused: bool) -> None:
    rules = rules_to_text([Rule("*", Form("dequant", weights="i4", group=32))])
    n, k, rows = 8, 64, m or 1
    module = run(linear_text(m, n, k), rules)
    total, weights, products = tally_of(module.operation), n * k, rows * n * k
    assert total is not None
    conversions = products if fused else weights
    assert total.operations == {
        "sitofp.i4": conversions,
        "mulf.f32": conversions + products,
        "addf.f32": products,
    }
    # Codes, and a float scale for each group: the parameters that a call reads.
    assert total.weight_bits == weights * 4 + n * k // 32 * 32
    assert total.dynamic == (m is None)
    if m is not None:  # the annotations make up the sum, which has one branch of an scf.if only
        parts = [tally_of(op) for op in annotations.operations(module)][1:]
        counts = [part.operations.total() for part in parts if part is not None and not part.once]
        assert sum(counts) == total.operations.total()


def test_counting_changes_nothing_else() -> None:
    module = parse_module(product(LMUL), "test")
    before = str(module)
    Runner(parse_pipeline("lowc-count-operations,lowc-strip-annotations")).run(module)
    assert str(module) == before


def test_a_tally_survives_json() -> None:
    tally = Tally(Counter({"addf.f32": 2}), 1, 2, 3, Counter(["x.y"]), dynamic=True, once=True)
    assert Tally.from_dict(tally.to_dict()) == tally
    assert math.isclose(tally.bits, 6)
    with pytest.raises(KeyError):
        Tally.from_dict({"operations": {}})


def test_reading_a_table_that_was_made_is_a_look_up() -> None:
    tally = counted("""
func.func @main(%i: tensor<6xi32>, %u: tensor<100xf16>) -> tensor<6xf16> {
  %e = tensor.empty() : tensor<100xf16>
  %t = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"], lowc.prepared = "tables"}
      ins(%u : tensor<100xf16>) outs(%e : tensor<100xf16>) {
  ^bb0(%a: f16, %b: f16):
    %n = arith.negf %a : f16
    linalg.yield %n : f16
  } -> tensor<100xf16>
  %o = tensor.empty() : tensor<6xf16>
  %y = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"]}
      ins(%i : tensor<6xi32>) outs(%o : tensor<6xf16>) {
  ^bb0(%a: i32, %b: f16):
    %j = arith.index_cast %a : i32 to index
    %v = tensor.extract %t[%j] : tensor<100xf16>
    linalg.yield %v : f16
  } -> tensor<6xf16>
  return %y : tensor<6xf16>
}""")
    assert tally.operations == {"negf.f16": 100, "lookup.f16": 6}
    # The table is made and read once, whatever is looked up in it.
    assert tally.read_bits == 16 * 100 + 32 * 6 + 16 * 100
