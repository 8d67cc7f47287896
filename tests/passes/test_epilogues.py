"""What is found behind a matmul: bias, activations, residuals; and what is left alone, and why."""

import pytest
from iree.compiler import ir
from lowc.compiler.frontend import parse_module
from lowc.passes import annotations, epilogues
from lowc.passes.base import Refusal
from lowc.passes.kernels.epilogue import Input, Step
from lowc.passes.matrices import as_matrices

ROW, COLUMN, BOTH = "(i, j) -> (i, 0)", "(i, j) -> (j)", "(i, j) -> (i, j)"


def function(body, result, arguments="", rows="5"):
    """A product ``%y`` of 40 columns, what follows it, and the value that is returned."""
    matrix = f"tensor<{rows}x40xf32>"
    kind = result.partition(":")[2].strip()
    return f"""
    func.func @f(%x: tensor<{rows}x32xf32>, %w: tensor<32x40xf32>, %o: {matrix}{arguments})
        -> ({kind}) {{
      %one = arith.constant 1.0 : f32
      %two = arith.constant 2.0 : f64
      %zero = arith.constant 0.0 : f32
      %fill = linalg.fill ins(%zero : f32) outs(%o : {matrix}) -> {matrix}
      %y = linalg.matmul {{lowc.matmul = "fc"}}
          ins(%x, %w : tensor<{rows}x32xf32>, tensor<32x40xf32>) outs(%fill : {matrix}) -> {matrix}
      {body}
      return {result}
    }}"""


def each(name, inputs, body, types, *, maps=(), out="%o : tensor<5x40xf32>", loops=2):
    """A parallel ``linalg.generic``; `body` makes ``%r`` of ``%a``, ``%b`` …; `maps` default to all."""
    listed = [f"affine_map<{map_}>" for map_ in maps] or [f"affine_map<{BOTH}>"] * len(types)
    if loops != 2:
        all_ = ", ".join(f"d{i}" for i in range(loops))
        listed = [f"affine_map<({all_}) -> ({all_})>"] * len(types)
    listed.append(listed[0] if not maps else f"affine_map<{BOTH}>")
    kind = out.partition(":")[2].strip()
    elements = [type_.rpartition("x")[2].rstrip(">").removeprefix("tensor<") for type_ in types]
    arguments = ", ".join(f"%{'abcd'[i]}: {element}" for i, element in enumerate(elements))
    result = kind.rpartition("x")[2].rstrip(">")
    return f"""
      %{name} = linalg.generic {{indexing_maps = [{", ".join(listed)}],
          iterator_types = [{", ".join(['"parallel"'] * loops)}]}}
          ins({", ".join(inputs)} : {", ".join(types)}) outs({out}) {{
      ^bb0({arguments}, %init: {result}):
        {body}
        linalg.yield %r : {result}
      }} -> {kind}"""


MATRIX = "tensor<5x40xf32>"
BIAS = each("b", ["%y", "%v"], "%r = arith.addf %a, %b : f32", [MATRIX, "tensor<40xf32>"],
            maps=[BOTH, COLUMN])  # fmt: skip


def found(text, columns=1):
    """What the matcher says of the first product; the module stays as it was."""
    module = parse_module(text, "test")
    before = str(module)
    with module.context, ir.Location.unknown():
        op = annotations.matmuls(module)[0]
        matrices = as_matrices(op, columns)
        assert not isinstance(matrices, Refusal), matrices
        chain = epilogues.match(op, matrices)
    assert str(module) == before
    return chain


def taken(text):
    chain = found(text)
    assert isinstance(chain, epilogues.Chain), chain
    return chain


def words(text):
    return taken(text).epilogue.words


def reason(text):
    chain = found(text)
    assert isinstance(chain, Refusal), chain.epilogue
    return chain.reason


def test_a_bias():
    chain = taken(function(BIAS, "%b : tensor<5x40xf32>", ", %v: tensor<40xf32>"))
    assert chain.epilogue.inputs == (Input("columns", "f32"),)
    (step,) = chain.epilogue.steps
    assert (step.name, step.operands, step.element) == ("arith.addf", (0, 1), "f32")
    assert chain.epilogue.result == 2
    assert chain.epilogue.words == ("bias",)
    assert chain.stopped == "it goes to func.return"
    assert [op.name for op in chain.ops] == ["linalg.generic"]


@pytest.mark.parametrize(
    ("type_", "map_", "kind"),
    [
        ("tensor<1x40xf32>", "(i, j) -> (0, j)", "columns"),
        ("tensor<5x40xf32>", BOTH, "full"),
        ("tensor<f32>", "(i, j) -> ()", "scalar"),
        ("tensor<1x1xf32>", "(i, j) -> (0, 0)", "scalar"),
    ],
)
def test_how_another_tensor_is_read(type_, map_, kind):
    add = each(
        "b", ["%y", "%v"], "%r = arith.addf %a, %b : f32", [MATRIX, type_], maps=[BOTH, map_]
    )
    chain = taken(function(add, "%b : tensor<5x40xf32>", f", %v: {type_}"))
    assert [given.kind for given in chain.epilogue.inputs] == [kind]


@pytest.mark.parametrize(
    ("type_", "map_"),
    [("tensor<5x1xf32>", ROW), ("tensor<5xf32>", "(i, j) -> (i)"),
     ("tensor<40x5xf32>", "(i, j) -> (j, i)")],
)  # fmt: skip
def test_a_tensor_that_is_not_read_as_the_result_lies(type_, map_):
    add = each(
        "b", ["%y", "%v"], "%r = arith.addf %a, %b : f32", [MATRIX, type_], maps=[BOTH, map_]
    )
    text = function(add, "%b : tensor<5x40xf32>", f", %v: {type_}")
    assert reason(text) == "another tensor is broadcast or transposed"


def test_one_row_has_a_bias_and_no_residual():
    """With one row both are the same; a vector is what needs no row number."""
    text = function(BIAS, "%b : tensor<5x40xf32>", ", %v: tensor<40xf32>").replace("5x", "1x")
    assert [given.kind for given in taken(text).epilogue.inputs] == ["columns"]


GELU = """%0 = arith.truncf %two : f64 to f32
        %1 = arith.divf %a, %0 : f32
        %2 = math.erf %1 : f32
        %3 = arith.addf %2, %one : f32
        %r = arith.mulf %a, %3 : f32"""


def test_constants_from_outside_become_steps():
    chain = taken(function(each("g", ["%y"], GELU, [MATRIX]), "%g : tensor<5x40xf32>"))
    names = [step.name for step in chain.epilogue.steps]
    assert names == [
        "arith.constant", "arith.truncf", "arith.divf", "math.erf", "arith.constant", "arith.addf",
        "arith.mulf",
    ]  # fmt: skip
    assert chain.epilogue.steps[0] == Step(
        "arith.constant", (), "f64", "{value = 2.000000e+00 : f64}"
    )
    assert chain.epilogue.words == ("gelu",)
    assert chain.epilogue.is_long


def test_a_constant_tensor_is_a_constant():
    text = function(
        "%v = arith.constant dense<3.0> : tensor<40xf32>" + BIAS, "%b : tensor<5x40xf32>"
    )
    chain = taken(text)
    assert chain.epilogue.inputs == chain.tensors == ()
    assert [step.name for step in chain.epilogue.steps] == ["arith.constant", "arith.addf"]


SILU = "%e = tensor.expand_shape %y [[0, 1], [2]] output_shape [1, 5, 40] : {m} into {t}".format(
    m=MATRIX, t="tensor<1x5x40xf32>"
) + each(
    "s", ["%e"],
    """%0 = arith.negf %a : f32
        %1 = math.exp %0 : f32
        %2 = arith.addf %1, %one : f32
        %r = arith.divf %one, %2 : f32""",
    ["tensor<1x5x40xf32>"], out="%p : tensor<1x5x40xf32>", loops=3,
) + each(
    "g", ["%e", "%s"], "%r = arith.mulf %a, %b : f32", ["tensor<1x5x40xf32>"] * 2,
    out="%p : tensor<1x5x40xf32>", loops=3,
)  # fmt: skip
RESIDUAL = each(
    "z", ["%q", "%g"], "%r = arith.addf %a, %b : f32", ["tensor<1x5x40xf32>"] * 2,
    out="%p : tensor<1x5x40xf32>", loops=3,
)  # fmt: skip
CUBES = ", %p: tensor<1x5x40xf32>, %q: tensor<1x5x40xf32>"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("%p = arith.cmpf ugt, %a, %zero : f32 %r = arith.select %p, %a, %zero : f32", "relu"),
        ("%p = arith.cmpf ole, %a, %zero : f32 %r = arith.select %p, %zero, %a : f32", "relu"),
        ("%r = arith.maximumf %zero, %a : f32", "relu"),
        ("%r = arith.maximumf %a, %one : f32", "clamp"),
        ("%r = arith.minimumf %a, %zero : f32", "clamp"),
        ("%p = arith.cmpf ogt, %a, %zero : f32 %r = arith.select %p, %zero, %a : f32", "clamp"),
        ("%s = arith.maximumf %a, %zero : f32 %r = arith.minimumf %s, %one : f32", "clamp"),
        ("%s = arith.maximumf %a, %zero : f32 %r = arith.maximumf %s, %zero : f32", "relu"),
        ("%p = arith.cmpf ogt, %a, %zero : f32 %r = arith.select %p, %a, %one : f32", "selection"),
        ("%p = arith.cmpf une, %a, %zero : f32 %r = arith.select %p, %a, %zero : f32", "selection"),
    ],
)
def test_what_a_selection_is_called(body, word):
    body = body.replace(" %r =", "\n        %r =")
    text = function(each("b", ["%y"], body, [MATRIX]), f"%b : {MATRIX}")
    assert words(text) == (word,)


def test_two_uses_that_meet_again_behind_a_reshape():
    chain = taken(function(SILU + RESIDUAL, "%z : tensor<1x5x40xf32>", CUBES))
    assert chain.epilogue.words == ("silu", "residual")
    assert [given.kind for given in chain.epilogue.inputs] == ["full"]
    assert [op.name for op in chain.ops] == ["tensor.expand_shape"] + ["linalg.generic"] * 3


def test_it_stops_where_two_values_are_used_outside():
    """The sigmoid is returned too: nothing before the residual has one result only."""
    text = function(SILU, "%g, %s : tensor<1x5x40xf32>, tensor<1x5x40xf32>", CUBES)
    assert reason(text) == "it goes to func.return"
    more = SILU + RESIDUAL
    text = function(more, "%z, %g : tensor<1x5x40xf32>, tensor<1x5x40xf32>", CUBES)
    chain = taken(text)
    assert chain.epilogue.words == ("silu",)
    assert chain.stopped == "what lies between is used elsewhere too"


def test_sums_that_are_used_elsewhere():
    text = function(BIAS, "%b, %y : tensor<5x40xf32>, tensor<5x40xf32>", ", %v: tensor<40xf32>")
    assert reason(text) == "it goes to func.return"


def test_rows_that_are_known_at_run_time():
    rows = "tensor<?x40xf32>"
    body = f"""
      %e = tensor.reshape %y(%s) : ({rows}, tensor<3xi64>) -> tensor<?x?x40xf32>
    """ + each(
        "z", ["%q", "%e"], "%r = arith.addf %a, %b : f32", ["tensor<?x?x40xf32>"] * 2,
        out="%q : tensor<?x?x40xf32>", loops=3,
    )  # fmt: skip
    arguments = ", %s: tensor<3xi64>, %q: tensor<?x?x40xf32>"
    chain = taken(function(body, "%z : tensor<?x?x40xf32>", arguments, rows="?"))
    assert [given.kind for given in chain.epilogue.inputs] == ["full"]


def test_what_is_computed_after_the_product():
    """A gate that comes later: all of it stands before the last operation."""
    gate = each("h", ["%q"], "%r = math.absf %a : f32", [MATRIX])
    times = each("g", ["%y", "%h"], "%r = arith.mulf %a, %b : f32", [MATRIX] * 2)
    chain = taken(function(gate + times, "%g : tensor<5x40xf32>", f", %q: {MATRIX}"))
    assert chain.epilogue.words == ("gate",)
    assert len(chain.ops) == 1


def test_a_result_of_another_type_is_not_the_last():
    """A kernel stores f32; what a narrow type is made f32 again for is taken with it."""
    down = each("h", ["%y"], "%r = arith.truncf %a : f32 to bf16", [MATRIX],
                out="%n : tensor<5x40xbf16>")  # fmt: skip
    up = each("g", ["%h"], "%r = arith.extf %a : bf16 to f32", ["tensor<5x40xbf16>"])
    narrow = ", %n: tensor<5x40xbf16>"
    assert reason(function(down, "%h : tensor<5x40xbf16>", narrow)) == "it goes to func.return"
    chain = taken(function(down + up, "%g : tensor<5x40xf32>", narrow))
    assert [step.element for step in chain.epilogue.steps] == ["bf16", "f32"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("%0 = linalg.index 0 : index\n%1 = arith.index_cast %0 : index to i32\n"
         "%2 = arith.sitofp %1 : i32 to f32\n%r = arith.addf %a, %2 : f32",
         "kernels have no linalg.index"),
        ('%0 = arith.cmpf one, %a, %one : f32\ncf.assert %0, "zero"\n%r = arith.divf %one, %a : f32',
         "it may fail at run time (cf.assert)"),
        ("%r = math.sin %a : f32", "kernels have no math.sin"),
        ("%r = arith.addf %a, %init : f32", "it takes a scalar from outside, or reads what it writes to"),
        ("%r = arith.addf %a, %outside : f32",
         "it takes a scalar from outside, or reads what it writes to"),
    ],
)  # fmt: skip
def test_bodies_that_kernels_do_not_do(body, why):
    text = function(each("b", ["%y"], body, [MATRIX]), "%b : tensor<5x40xf32>", ", %outside: f32")
    assert reason(text) == why


def test_tensors_that_kernels_do_not_read():
    choose = each("b", ["%y", "%v"], "%r = arith.select %b, %a, %one : f32",
                  [MATRIX, "tensor<5x40xi1>"])  # fmt: skip
    text = function(choose, "%b : tensor<5x40xf32>", ", %v: tensor<5x40xi1>")
    assert reason(text) == "kernels read no i1 there"


def test_a_result_that_is_read_in_another_region():
    body = """
      %b = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>],
          iterator_types = ["parallel", "parallel"]} outs(%o : tensor<5x40xf32>) {
      ^bb0(%init: f32):
        %i = linalg.index 0 : index
        %r = tensor.extract %y[%i, %i] : tensor<5x40xf32>
        linalg.yield %r : f32
      } -> tensor<5x40xf32>"""
    assert reason(function(body, "%b : tensor<5x40xf32>")) == "it is read inside another operation"


def test_reductions_and_transpositions():
    total = """
      %b = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
          iterator_types = ["parallel", "reduction"]} ins(%y : tensor<5x40xf32>)
          outs(%v : tensor<5xf32>) {
      ^bb0(%a: f32, %acc: f32):
        %r = arith.addf %a, %acc : f32
        linalg.yield %r : f32
      } -> tensor<5xf32>"""
    text = function(total, "%b : tensor<5xf32>", ", %v: tensor<5xf32>")
    assert reason(text) == "it is summed or reduced"
    turned = each("b", ["%y"], "%r = math.absf %a : f32", [MATRIX], maps=["(i, j) -> (j, i)"],
                  out="%v : tensor<40x5xf32>")  # fmt: skip
    text = function(turned, "%b : tensor<40x5xf32>", ", %v: tensor<40x5xf32>")
    assert reason(text) == "it is broadcast or transposed"
    by_columns = found(function(BIAS, "%b : tensor<5x40xf32>", ", %v: tensor<40xf32>"), columns=0)
    assert by_columns.reason == "its result is transposed"


def test_nothing_follows():
    assert reason(function("", "%o : tensor<5x40xf32>")) == "nothing follows"


def test_names_of_epilogues():
    """The same from different tensors is the same; another constant is not."""
    first = taken(function(BIAS, "%b : tensor<5x40xf32>", ", %v: tensor<40xf32>"))
    text = function(BIAS, "%b : tensor<5x40xf32>", ", %u: f32, %v: tensor<40xf32>")
    assert taken(text).epilogue == first.epilogue
    scaled = [
        taken(function(each("b", ["%y"], body, [MATRIX]), "%b : tensor<5x40xf32>")).epilogue.name
        for body in ("%c = arith.constant 3.0 : f32\n%r = arith.mulf %a, %c : f32",
                     "%c = arith.constant 3.0000002 : f32\n%r = arith.mulf %a, %c : f32")
    ]  # fmt: skip
    assert len({first.epilogue.name, *scaled}) == 3
