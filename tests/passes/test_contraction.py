"""The matcher: every contraction of linalg, and the weights in them."""

from __future__ import annotations

from typing import Any

import pytest
from iree.compiler import ir
from lowc.compiler.frontend import parse_module
from lowc.passes import annotations
from lowc.passes.base import Refusal
from lowc.passes.contraction import (
    Contraction,
    Weight,
    find_weight,
    match_contraction,
    module_path,
    simplify_layout,
)

# Keeps modules alive: an operation does not.
_ALIVE: list[ir.Module] = []


def operation(lines: str, arguments: str = "", head: str = "") -> Any:
    """Return the last linalg operation of a function with this body."""
    module = parse_module(f"{head}\nfunc.func @f({arguments}) {{\n{lines}\nreturn\n}}", "test")
    _ALIVE.append(module)
    return [op for op in annotations.operations(module) if op.name.startswith("linalg.")
            and op.name != "linalg.yield"][-1]  # fmt: skip


def binary(name: str, lhs: str, rhs: str, out: str, attributes: str = "") -> Any:
    """Return ``linalg.NAME`` of tensors with these types."""
    return operation(
        f"%r = linalg.{name} {attributes} ins(%a, %b : tensor<{lhs}>, tensor<{rhs}>) "
        f"outs(%o : tensor<{out}>) -> tensor<{out}>",
        f"%a: tensor<{lhs}>, %b: tensor<{rhs}>, %o: tensor<{out}>",
    )


MUL_ADD = """{{
^bb0(%l: {0}, %r: {0}, %acc: {0}):
  %p = {1} %l, %r : {0}
  %s = {2} %acc, %p : {0}
  linalg.yield %s : {0}
}}"""


def generic(
    maps: tuple[str, str, str], types: tuple[str, str, str], iterators: str, *, body: str = ""
) -> Any:
    listed = ", ".join(f"affine_map<{map_}>" for map_ in maps)
    kinds = ", ".join(f'"{"reduction" if c == "r" else "parallel"}"' for c in iterators)
    a, b, o = (f"tensor<{type_}>" for type_ in types)
    body = body or MUL_ADD.format("f32", "arith.mulf", "arith.addf")
    return operation(
        f"%x = linalg.generic {{indexing_maps = [{listed}], iterator_types = [{kinds}]}} "
        f"ins(%a, %b : {a}, {b}) outs(%o : {o}) {body} -> {o}",
        f"%a: {a}, %b: {b}, %o: {o}",
    )


TRANSPOSED_B = (
    "indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, "
    "affine_map<(m, n, k) -> (m, n)>]"
)
CONTRACT = (
    "indexing_maps = [affine_map<(b, m, n, k) -> (k, b, m)>, "
    "affine_map<(b, m, n, k) -> (b, n, k)>, affine_map<(b, m, n, k) -> (b, m, n)>]"
)


@pytest.mark.parametrize(
    ("name", "types", "attributes", "counts", "shape"),
    [
        ("matmul", ("2x4xf32", "4x8xf32", "2x8xf32"), "", (0, 1, 1, 1), "2x8x4"),
        ("matmul", ("2x4xf32", "8x4xf32", "2x8xf32"), TRANSPOSED_B, (0, 1, 1, 1), "2x8x4"),
        ("matmul", ("2x4xi8", "4x8xi8", "2x8xi32"), "", (0, 1, 1, 1), "2x8x4"),
        ("matmul", ("2x4xbf16", "4x8xbf16", "2x8xf32"), "", (0, 1, 1, 1), "2x8x4"),
        ("matmul", ("?x4xf32", "?x8xf32", "?x8xf32"), "", (0, 1, 1, 1), "?x8x4"),
        ("matmul", ("?x?xf32", "?x?xf32", "?x?xf32"), "", (0, 1, 1, 1), "?x?x?"),
        ("batch_matmul", ("3x2x4xf32", "3x4x8xf32", "3x2x8xf32"), "", (1, 1, 1, 1), "3x2x8x4"),
        ("batch_reduce_matmul", ("3x2x4xf32", "3x4x8xf32", "2x8xf32"), "", (0, 1, 1, 2), "2x8x3x4"),
        ("matvec", ("8x4xf32", "4xf32", "8xf32"), "", (0, 1, 0, 1), "8x4"),
        ("vecmat", ("4xf32", "4x8xf32", "8xf32"), "", (0, 0, 1, 1), "8x4"),
        ("batch_matvec", ("3x8x4xf32", "3x4xf32", "3x8xf32"), "", (1, 1, 0, 1), "3x8x4"),
        ("batch_vecmat", ("3x4xf32", "3x4x8xf32", "3x8xf32"), "", (1, 0, 1, 1), "3x8x4"),
        ("dot", ("4xf32", "4xf32", "f32"), "", (0, 0, 0, 1), "4"),
        ("mmt4d", ("2x3x8x4xf32", "5x3x16x4xf32", "2x5x8x16xf32"), "", (0, 2, 2, 2),
         "2x8x5x16x3x4"),
        ("contract", ("4x3x2xf32", "3x8x4xf32", "3x2x8xf32"), CONTRACT, (1, 1, 1, 1), "3x2x8x4"),
    ],
)  # fmt: skip
def test_named_contractions(
    name: str,
    types: tuple[str, str, str],
    attributes: str,
    counts: tuple[int, int, int, int],
    shape: str,
) -> None:
    found = match_contraction(binary(name, *types, attributes=attributes))
    assert isinstance(found, Contraction), found
    assert tuple(len(dims) for dims in (found.batch, found.m, found.n, found.k)) == counts
    assert found.shape_text() == shape


@pytest.mark.parametrize(
    ("maps", "types", "iterators", "shape"),
    [
        # einsum("mk,hnk->mhn"), einsum("bmk,nk->bmn"), einsum("ij,ij->"), an outer sum first
        (("(m,h,n,k)->(m,k)", "(m,h,n,k)->(h,n,k)", "(m,h,n,k)->(m,h,n)"),
         ("2x4xf32", "6x5x4xf32", "2x6x5xf32"), "pppr", "2x6x5x4"),
        (("(b,m,n,k)->(b,m,k)", "(b,m,n,k)->(n,k)", "(b,m,n,k)->(b,m,n)"),
         ("3x2x4xf32", "8x4xf32", "3x2x8xf32"), "pppr", "3x2x8x4"),
        (("(i,j)->(i,j)", "(i,j)->(j,i)", "(i,j)->()"), ("2x4xf32", "4x2xf32", "f32"), "rr", "2x4"),
        (("(k,m,n)->(m,k)", "(k,m,n)->(k,n)", "(k,m,n)->(n,m)"),
         ("2x4xf32", "4x8xf32", "8x2xf32"), "rpp", "2x8x4"),
    ],
)  # fmt: skip
def test_generic_contractions(
    maps: tuple[str, str, str], types: tuple[str, str, str], iterators: str, shape: str
) -> None:
    found = match_contraction(generic(maps, types, iterators))
    assert isinstance(found, Contraction), found
    assert found.shape_text() == shape


MATMUL_MAPS = ("(m,n,k)->(m,k)", "(m,n,k)->(k,n)", "(m,n,k)->(m,n)")
MATMUL_TYPES = ("2x4xf32", "4x8xf32", "2x8xf32")


@pytest.mark.parametrize(
    ("product", "total"), [("arith.addf", "arith.addf"), ("arith.mulf", "arith.maximumf")]
)
def test_another_body_is_no_contraction(product: str, total: str) -> None:
    body = MUL_ADD.format("f32", product, total)
    found = match_contraction(generic(MATMUL_MAPS, MATMUL_TYPES, "ppr", body=body))
    assert found == Refusal("linalg.generic is no contraction")


def test_the_other_operand_order_in_the_body_is_one() -> None:
    body = """{
    ^bb0(%l: f32, %r: f32, %acc: f32):
      %p = arith.mulf %r, %l : f32
      %s = arith.addf %p, %acc : f32
      linalg.yield %s : f32
    }"""
    found = match_contraction(generic(MATMUL_MAPS, MATMUL_TYPES, "ppr", body=body))
    assert isinstance(found, Contraction)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (lambda: binary("conv_2d_nchw_fchw", "1x3x6x6xf32", "8x3x3x3xf32", "1x8x4x4xf32"),
         "is no contraction"),
        (lambda: binary("conv_1d_nwc_wcf", "1x6x3xf32", "3x3x8xf32", "1x4x8xf32"),
         "is no contraction"),
        (lambda: binary("depthwise_conv_2d_nhwc_hwc", "1x6x6x3xf32", "3x3x3xf32", "1x4x4x3xf32"),
         "is no contraction"),
        (lambda: binary("pooling_nchw_sum", "1x3x6x6xf32", "3x3xf32", "1x3x4x4xf32"),
         "is no contraction"),
        (lambda: operation("linalg.fill ins(%c : f32) outs(%a : tensor<4xf32>) -> tensor<4xf32>",
                           "%a: tensor<4xf32>, %c: f32"), "is no contraction"),
        (lambda: operation("%r = linalg.transpose ins(%a : tensor<4x2xf32>) "
                           "outs(%b : tensor<2x4xf32>) permutation = [1, 0]",
                           "%a: tensor<4x2xf32>, %b: tensor<2x4xf32>"), "is no contraction"),
        (lambda: operation("linalg.matmul ins(%a, %a : memref<4x4xf32>, memref<4x4xf32>) "
                           "outs(%a : memref<4x4xf32>)", "%a: memref<4x4xf32>"),
         "is no linalg op on tensors"),
        (lambda: operation("%r = linalg.quantized_matmul ins(%a, %a, %z, %z : tensor<4x4xi8>, "
                           "tensor<4x4xi8>, i32, i32) "
                           "outs(%o : tensor<4x4xi32>) -> tensor<4x4xi32>",
                           "%a: tensor<4x4xi8>, %z: i32, %o: tensor<4x4xi32>"),
         "is no contraction"),
    ],
)  # fmt: skip
def test_refusals_say_why(op: Any, reason: str) -> None:
    found = match_contraction(op())
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_a_unit_dimension_as_a_constant_index_is_refused() -> None:
    """torch-mlir indexes broadcast dimensions of size 1 with the constant 0."""
    found = match_contraction(
        generic(("(m,n,k)->(0,k)", "(m,n,k)->(k,n)", "(m,n,k)->(m,n)"),
                ("1x4xf32", "4x8xf32", "2x8xf32"), "ppr")
    )  # fmt: skip
    assert isinstance(found, Refusal)


def test_what_is_no_linalg_op_is_refused() -> None:
    module = parse_module("func.func @f() { return }", "test")
    for op in annotations.operations(module):
        assert isinstance(match_contraction(op), Refusal)


# -- weights ---------------------------------------------------------------------------------------


def weight_of(lines: str, stored: str, product: str = "matmul") -> Weight | Refusal:
    """Trace the right operand ``%b`` (4x8, or with a batch of 3), made of the parameter ``%w``."""
    batch = "3x" if product == "batch_matmul" else ""
    a, b, o = f"tensor<{batch}2x4xf32>", f"tensor<{batch}4x8xf32>", f"tensor<{batch}2x8xf32>"
    head = f'util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<{stored}>'
    op = operation(
        f"%w = util.global.load @w : tensor<{stored}>\n{lines}\n"
        f"%y = linalg.{product} ins(%a, %b : {a}, {b}) outs(%o : {o}) -> {o}",
        f"%a: {a}, %o: {o}, %i: index",
        head,
    )
    found = match_contraction(op)
    assert isinstance(found, Contraction)
    return find_weight(found)


def moved(source: str, target: str, source_map: str, rank: int, cast: str = "") -> str:
    """Return a generic that carries ``%w`` to ``%b`` by `source_map`, perhaps through a cast."""
    dims = ", ".join(f"d{i}" for i in range(rank))
    kinds = ", ".join(['"parallel"'] * rank)
    element = source.rpartition("x")[2]
    out = target.rpartition("x")[2]
    body = f"%c = {cast}\nlinalg.yield %c : {out}" if cast else f"linalg.yield %in : {out}"
    return (
        f"%e = tensor.empty() : tensor<{target}>\n"
        f"%b = linalg.generic {{indexing_maps = [affine_map<({dims}) -> ({source_map})>, "
        f"affine_map<({dims}) -> ({dims})>], iterator_types = [{kinds}]}} "
        f"ins(%w : tensor<{source}>) outs(%e : tensor<{target}>) {{\n"
        f"^bb0(%in: {element}, %out: {out}):\n{body}\n}} -> tensor<{target}>"
    )


@pytest.mark.parametrize(
    ("lines", "stored", "layout"),
    [
        (moved("8x4xf32", "4x8xf32", "d1, d0", 2), "8x4xf32", [["transpose", [1, 0]]]),
        (moved("4x8xbf16", "4x8xf32", "d0, d1", 2, "arith.extf %in : bf16 to f32"), "4x8xbf16",
         [["cast", "f32"]]),
        ("%b = tensor.collapse_shape %w [[0, 1], [2]] : tensor<2x2x8xf32> into tensor<4x8xf32>",
         "2x2x8xf32", [["reshape", [4, 8]]]),
        ("%b = tensor.expand_shape %w [[0, 1]] output_shape [4, 8] : tensor<32xf32> into "
         "tensor<4x8xf32>", "32xf32", [["reshape", [4, 8]]]),
        ("%b = tensor.extract_slice %w[1, 2] [4, 8] [1, 3] : tensor<9x40xf32> to tensor<4x8xf32>",
         "9x40xf32", [["slice", [1, 2], [4, 8], [1, 3]]]),
        ("%s = tensor.extract_slice %w[8, 0] [8, 4] [1, 1] : tensor<24x4xf32> to tensor<8x4xf32>\n"
         + moved("8x4xf32", "4x8xf32", "d1, d0", 2).replace("%w", "%s"), "24x4xf32",
         [["slice", [8, 0], [8, 4], [1, 1]], ["transpose", [1, 0]]]),
    ],
)  # fmt: skip
def test_layouts_from_the_stored_tensor_to_the_operand(
    lines: str, stored: str, layout: list[Any]
) -> None:
    found = weight_of(lines, stored)
    assert isinstance(found, Weight), found
    assert (found.symbol, found.position) == ("w", 1)
    assert list(found.layout) == layout
    assert found.shape == (4, 8)
    assert found.dims == (2, 1)
    assert str(found.element) == "f32"


def test_a_transposition_of_three_dimensions_is_numpys() -> None:
    """out[i, j, k] = stored[k, i, j] is stored.transpose(1, 2, 0)."""
    found = weight_of(moved("8x3x4xf32", "3x4x8xf32", "d2, d0, d1", 3), "8x3x4xf32", "batch_matmul")
    assert isinstance(found, Weight), found
    assert list(found.layout) == [["transpose", [1, 2, 0]]]
    assert found.dims == (0, 3, 2)


@pytest.mark.parametrize(
    "lines",
    [
        moved("4x8xf32", "3x4x8xf32", "d1, d2", 3),
        "%e = tensor.empty() : tensor<3x4x8xf32>\n"
        "%b = linalg.broadcast ins(%w : tensor<4x8xf32>) outs(%e : tensor<3x4x8xf32>) "
        "dimensions = [0]",
    ],
)
def test_a_repeated_weight_is_found_without_its_batch(lines: str) -> None:
    found = weight_of(lines, "4x8xf32", "batch_matmul")
    assert isinstance(found, Weight), found
    assert list(found.layout) == []
    assert (found.shape, found.dims) == ((4, 8), (3, 2))


@pytest.mark.parametrize(
    ("lines", "stored"),
    [
        ("%b = math.exp %w : tensor<4x8xf32>", "4x8xf32"),
        ("%b = tensor.extract_slice %w[0, %i] [4, 8] [1, 1] : tensor<4x24xf32> to tensor<4x8xf32>",
         "4x24xf32"),
        ("%b = tensor.extract_slice %w[1, 0, 0] [1, 4, 8] [1, 1, 1] : tensor<3x4x8xf32> to "
         "tensor<4x8xf32>", "3x4x8xf32"),
        (moved("4x8xi8", "4x8xf32", "d0, d1", 2, "arith.sitofp %in : i8 to f32"), "4x8xi8"),
    ],
)  # fmt: skip
def test_what_is_more_than_a_layout_is_no_weight(lines: str, stored: str) -> None:
    assert weight_of(lines, stored) == Refusal("a product of two activations has no weight")


@pytest.mark.parametrize(
    ("steps", "simple"),
    [
        ([], []),
        ([["transpose", [0, 1]]], []),
        ([["transpose", [1, 0]], ["transpose", [1, 0]]], []),
        ([["transpose", [1, 2, 0]], ["transpose", [1, 2, 0]]], [["transpose", [2, 0, 1]]]),
        ([["reshape", [2, 2]], ["reshape", [4]]], [["reshape", [4]]]),
        ([["reshape", [4]], ["transpose", [0]], ["reshape", [2, 2]]], [["reshape", [2, 2]]]),
        ([["cast", "f32"], ["transpose", [1, 0]]], [["cast", "f32"], ["transpose", [1, 0]]]),
    ],
)
def test_simplify_layout(steps: list[Any], simple: list[Any]) -> None:
    assert list(simplify_layout(steps)) == simple


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ('loc("encoder.fc")', "encoder.fc"),
        ('loc("encoder.fc"("model.py":3:4))', "encoder.fc"),
        ('loc(fused["a.py":1:1, "encoder.fc"])', "encoder.fc"),
        ('loc(callsite("encoder.fc" at "model.py":1:1))', "encoder.fc"),
        ('loc("model.py":3:4)', ""),
        ("loc(unknown)", ""),
    ],
)
def test_module_path(location: str, path: str) -> None:
    assert module_path(_location(location)) == path


def _location(text: str) -> ir.Location:
    module = parse_module(f"module {{ func.func private @f() {text} }}", "test")
    _ALIVE.append(module)
    return module.body.operations[0].location
