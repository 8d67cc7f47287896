"""What is a softmax, and what only looks like one."""

import pytest
from lowc.compiler.frontend import parse_module
from lowc.passes.outline_softmax import OutlineSoftmax
from lowc.passes.runner import Runner

MAPS = {
    "whole": "affine_map<(r, n) -> (r, n)>",
    "turned": "affine_map<(r, n) -> (n, r)>",
    "row": "affine_map<(r, n) -> (r, 0)>",
    "column": "affine_map<(r, n) -> (n, 0)>",
    "line": "affine_map<(r, n) -> (0, n)>",
    "none": "affine_map<(r, n) -> ()>",
}
KINDS = {"p": '"parallel"', "r": '"reduction"'}
PARTS = {
    # name: inputs, maps, kinds, result, body
    "x": ("%given, %mask", "whole, whole, whole", "p, p", "whole", "arith.addf %a, %b : f32"),
    "largest": ("%x", "whole, row", "p, r", "row", "arith.maximumf %a, %out : f32"),
    "difference": ("%x, %largest", "whole, row, whole", "p, p", "whole", "arith.subf %a, %b : f32"),
    "powers": ("%difference", "whole, whole", "p, p", "whole", "math.exp %a : f32"),
    "total": ("%powers", "whole, row", "p, r", "row", "arith.addf %a, %out : f32"),
    "y": ("%powers, %total", "whole, row, whole", "p, p", "whole", "arith.divf %a, %b : f32"),
}
TYPES = {
    "%given": "tensor<8x8xf32>", "%mask": "tensor<8x8xf32>", "%line": "tensor<1x8xf32>",
    "%scalar": "f32", "%x": "tensor<8x8xf32>", "%largest": "tensor<8x1xf32>",
    "%difference": "tensor<8x8xf32>", "%powers": "tensor<8x8xf32>", "%total": "tensor<8x1xf32>",
}  # fmt: skip


def text_of(**changes):
    """The IR of a softmax; `changes` replace inputs, maps or body of a part."""
    lines = [
        "func.func @f(%given: tensor<8x8xf32>, %mask: tensor<8x8xf32>, %line: tensor<1x8xf32>,",
        "             %scalar: f32) -> tensor<8x8xf32> {",
        "  %lowest = arith.constant 0xFF800000 : f32",
        "  %zero = arith.constant 0.0 : f32",
        "  %cst = arith.constant 1.0 : f32",
        "  %whole = tensor.empty() : tensor<8x8xf32>",
        "  %thin = tensor.empty() : tensor<8x1xf32>",
        "  %least = linalg.fill ins(%lowest : f32) outs(%thin : tensor<8x1xf32>) -> tensor<8x1xf32>",
        "  %zeros = linalg.fill ins(%zero : f32) outs(%thin : tensor<8x1xf32>) -> tensor<8x1xf32>",
    ]
    for name, (inputs, maps, kinds, size, body) in PARTS.items():
        given = {"inputs": inputs, "maps": maps, "body": body} | changes.get(name, {})
        values = given["inputs"].split(", ")
        result = "tensor<8x8xf32>" if size == "whole" else "tensor<8x1xf32>"
        start = {"largest": "%least", "total": "%zeros"}.get(name, "%whole")
        start = given.get("start", start)
        arguments = [f"%{letter}: f32" for letter in "abc"[: len(values)]]
        iterators = ", ".join(KINDS[kind] for kind in kinds.split(", "))
        lines += [
            f"  %{name} = linalg.generic {{indexing_maps = ["
            + ", ".join(MAPS[one] for one in given["maps"].split(", "))
            + f"], iterator_types = [{iterators}]}}",
            f"      ins({given['inputs']} : {', '.join(TYPES[value] for value in values)})"
            f" outs({start} : {result}) {{",
            f"  ^bb0({', '.join([*arguments, '%out: f32'])}):",
            f"    %z = {given['body']}",
            f"    linalg.yield {given.get('yields', '%z')} : f32",
            f"  }} -> {result}",
        ]
    return "\n".join([*lines, "  return %y : tensor<8x8xf32>", "}"])


def outlined(**changes):
    """Whether the pass takes it, the names of the dispatches, and what it says."""
    module = parse_module(text_of(**changes), "softmax")
    runner = Runner([OutlineSoftmax(unit="avx512")])
    runner.run(module)
    lines = [line for line in str(module).splitlines() if "flow.dispatch" in line]
    return lines, [remark.message for remark in runner.remarks]


def test_a_softmax_of_a_sum_is_taken_whole():
    (line,), (said,) = outlined()
    assert "@softmax_8x8_a11_v16" in line and "(%arg0, %arg1)" in line
    assert said.startswith("softmax of a masked product")


@pytest.mark.parametrize(
    ("change", "name", "operands"),
    [
        # The mask comes first, is a line for all rows, or there is none.
        ({"body": "arith.addf %b, %a : f32"}, "a11", "(%arg0, %arg1)"),
        ({"inputs": "%line, %given", "maps": "line, whole, whole"}, "a01", "(%arg0, %arg2)"),
        ({"inputs": "%given, %line", "maps": "whole, line, whole"}, "a01", "(%arg0, %arg2)"),
        # What is added is no tensor of its own, so it is added ahead of the softmax.
        ({"inputs": "%given", "maps": "whole, whole", "body": "arith.addf %a, %cst : f32"}, "", ""),
        ({"inputs": "%given, %scalar", "maps": "whole, none, whole"}, "", ""),
        ({"maps": "whole, turned, whole"}, "", ""),
        ({"body": "arith.addf %a, %a : f32"}, "", ""),
        ({"body": "arith.addf %a, %b : f32", "yields": "%a"}, "", ""),
        ({"body": "arith.mulf %a, %b : f32"}, "", ""),
    ],
)  # fmt: skip
def test_what_is_added(change, name, operands):
    (line,), _ = outlined(x=change)
    if name:
        assert f"@softmax_8x8_{name}_v16" in line and operands in line
    else:
        assert "@softmax_8x8_v16" in line and "(%arg" not in line.partition("](")[2][:5]


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("difference", {"body": "arith.subf %b, %a : f32"}, "nothing is taken from its exponents"),
        ("difference", {"maps": "turned, row, whole"}, "nothing is taken from its exponents"),
        ("difference", {"maps": "whole, column, whole"}, "nothing is taken from its exponents"),
        ("largest", {"inputs": "%given"}, "not shifted by their maximum"),
        ("largest", {"maps": "turned, row"}, "not shifted by their maximum"),
        ("largest", {"body": "arith.minimumf %a, %out : f32"}, "not shifted by their maximum"),
        ("largest", {"start": "%zeros"}, "not shifted by their maximum"),
        ("largest", {"body": "arith.maximumf %a, %a : f32"}, "not shifted by their maximum"),
        ("total", {"inputs": "%x"}, "something else than their sum"),
        ("total", {"maps": "turned, row"}, "something else than their sum"),
        ("total", {"body": "arith.mulf %a, %out : f32"}, "something else than their sum"),
        ("total", {"start": "%least"}, "something else than their sum"),
        ("y", {"maps": "whole, column, whole"}, "not over the last dimension"),
        ("y", {"maps": "turned, row, whole"}, "not over the last dimension"),
    ],
)
def test_what_only_looks_like_a_softmax_stays(part, change, reason):
    lines, (said,) = outlined(**{part: change})
    assert not lines
    assert reason in said


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("y", {"body": "arith.divf %b, %a : f32"}),
        ("y", {"body": "arith.mulf %a, %b : f32"}),
        ("y", {"yields": "%a"}),
        ("powers", {"maps": "turned, whole"}),
        ("powers", {"body": "math.exp2 %a : f32"}),
        ("powers", {"yields": "%a"}),
    ],
)
def test_other_quotients_are_none_of_its_business(part, change):
    assert outlined(**{part: change}) == ([], [])
