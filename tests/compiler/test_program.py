"""The JSON of a program is rebuilt from what an exported graph can hold, and nothing else."""

from __future__ import annotations

import collections
import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hostile import archives as hostile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lowc.compiler import expressions
from lowc.compiler.archive import Archive
from lowc.compiler.graph import Rebuilder
from lowc.compiler.program import Program, read_program
from lowc.errors import UserError

MANY = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_program(Archive(path))
    assert str(path) in caught.value.where
    return str(caught.value)


def _edited(source: Path, folder: Path, change: Any) -> Path:
    return hostile.edit_program(source, folder / "edited.pt2", change)


# -- what must be taken ----------------------------------------------------------------------------


def test_a_program_keeps_its_graph(plain_pt2: Path) -> None:
    program = read_program(Archive(plain_pt2))
    document = json.loads(hostile.read_entries(plain_pt2)[hostile.PROGRAM])
    kept, given_ = hostile.graph_of(program.exported), hostile.graph_of(document)
    assert [node["target"] for node in kept["nodes"]] == [n["target"] for n in given_["nodes"]]
    assert kept["tensor_values"] == given_["tensor_values"]
    assert kept["inputs"] == given_["inputs"]
    assert program.argument_names == ("x",)
    scale = program.tensors["scale"]
    assert (scale.dtype, scale.sizes, scale.strides, scale.nbytes) == ("float32", (3,), (1,), 12)
    assert program.tensors["fc.weight"].is_parameter


def test_dynamic_sizes_keep_their_expressions(dynamic_pt2: Path) -> None:
    program = read_program(Archive(dynamic_pt2))
    assert sorted(program.ranges.values()) == [(2, 64), (3, 9)]
    document = json.loads(hostile.read_entries(dynamic_pt2)[hostile.PROGRAM])
    kept, given_ = hostile.graph_of(program.exported), hostile.graph_of(document)
    assert kept["tensor_values"] == given_["tensor_values"]
    assert "Symbol('" in json.dumps(kept["tensor_values"])


def test_only_what_an_import_needs_is_left(plain_pt2: Path, tmp_path: Path) -> None:
    word = "print_the_marker"

    def change(document: Any) -> None:
        document["guards_code"] = [word]
        document["verifiers"] = [word]
        document["unheard_of"] = word
        module = document["graph_module"]
        module["metadata"] = {"custom": word}
        module["treespec_namedtuple_fields"] = {"x.Y": {"field_names": [word]}}
        entry = copy.deepcopy(module["module_call_graph"][0])
        entry["signature"]["in_spec"] = word
        module["module_call_graph"].append(entry)
        for key in ("torch_fn", "source_fn_stack", "from_node", "custom", "unheard_of"):
            module["graph"]["nodes"][0]["metadata"][key] = word
        module["graph"]["nodes"][0]["unheard_of"] = word

    program = read_program(Archive(_edited(plain_pt2, tmp_path, change)))
    assert word not in json.dumps(program.exported)
    assert program.exported == read_program(Archive(plain_pt2)).exported


# -- trees -----------------------------------------------------------------------------------------

LEAF = {"type": None, "context": None, "children_spec": []}


def _tree(kind: str, context: Any, count: int = 1) -> dict[str, Any]:
    return {"type": kind, "context": json.dumps(context), "children_spec": [LEAF] * count}


def _with_output(source: Path, folder: Path, spec: Any) -> Path:
    def change(document: Any) -> None:
        call = document["graph_module"]["module_call_graph"][0]
        call["signature"]["out_spec"] = spec if isinstance(spec, str) else json.dumps([1, spec])

    return _edited(source, folder, change)


@pytest.mark.parametrize(
    ("spec", "tree"),
    [
        (LEAF, "*"),
        (_tree("builtins.list", None), {"type": "list", "children": ["*"]}),
        (_tree("builtins.dict", ["a"]), {"type": "dict", "children": ["*"], "keys": ["a"]}),
        (_tree("builtins.dict", [7]), {"type": "dict", "children": ["*"], "keys": [7]}),
        (
            _tree("collections.defaultdict", None) | {"context": {"dict_context": ["a"]}},
            {"type": "dict", "children": ["*"], "keys": ["a"]},
        ),
        (
            _tree("some.library.Output", ["a"]),
            {"type": "object", "children": ["*"], "keys": ["a"], "name": "some.library.Output"},
        ),
        (
            _tree("some.library.Output", "opaque"),
            {"type": "object", "children": ["*"], "name": "some.library.Output"},
        ),
        (
            {"type": "my-type", "context": "no JSON", "children_spec": [LEAF]},
            {"type": "object", "children": ["*"], "name": "my-type"},
        ),
    ],
)
def test_output_trees(spec: Any, tree: Any, plain_pt2: Path, tmp_path: Path) -> None:
    assert read_program(Archive(_with_output(plain_pt2, tmp_path, spec))).out_tree == tree


def test_trees_that_torch_writes_for_classes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pair = collections.namedtuple("pair", "a b")
    torch.utils._pytree._register_namedtuple(pair, serialized_type_name="lowc_tests.pair")
    record = dataclasses.make_dataclass("record", ["u", ("v", Any, None)])
    torch.export.register_dataclass(record, serialized_type_name="lowc_tests.record")

    class Classes(torch.nn.Module):
        def forward(self, p, r):
            return pair(p.a + 1, r.u), record(p.b * 2), collections.defaultdict(list, z=p.a * 3)

    inputs = (pair(torch.ones(2), torch.ones(3)), record(torch.ones(1), torch.ones(4)))
    exported = torch.export.export(Classes(), inputs)
    exported.example_inputs = None
    torch.export.save(exported, tmp_path / "classes.pt2")
    program = read_program(Archive(tmp_path / "classes.pt2"))

    def tree(kind: str, keys: str, **name: str) -> dict[str, Any]:
        return {"type": kind, "children": ["*"] * len(keys), "keys": list(keys), **name}

    assert program.args_tree["children"] == [
        tree("namedtuple", "ab", name="lowc_tests.pair"),
        tree("object", "uv", name="lowc_tests.record"),
    ]
    assert program.out_tree["children"] == [
        tree("namedtuple", "ab", name="lowc_tests.pair"),
        tree("object", "u", name="lowc_tests.record"),
        tree("dict", "z"),
    ]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (_tree("builtins.tuple", None, 2), "the graph has 1 outputs, their nesting has 2"),
        (_tree("builtins.dict", ["a", "a"], 2), "keys that are no strings"),
        (_tree("builtins.dict", [1.5]), "keys that are no strings"),
        (_tree("builtins.dict", ["\x1b[2J"]), "keys that are no strings"),
        (_tree("\x1b[2J", None), "an input or output has the type"),
        (
            {"type": "collections.namedtuple", "context": "a.b c", "children_spec": [LEAF]},
            "an input or output has the type",
        ),
        ("[2, {}]", "the tree protocol 2 is unknown"),
        ("[1]", "not one that torch.export.save writes"),
        ("[" * 5000, "not one that torch.export.save writes"),
        ("not JSON", "not one that torch.export.save writes"),
    ],
)
def test_refused_trees(spec: Any, reason: str, plain_pt2: Path, tmp_path: Path) -> None:
    assert reason in _refusal(_with_output(plain_pt2, tmp_path, spec))


def test_a_tree_that_is_too_deep(plain_pt2: Path, tmp_path: Path) -> None:
    spec = LEAF
    for _ in range(60):
        spec = {"type": "builtins.tuple", "context": "null", "children_spec": [spec]}
    assert "nested too deeply" in _refusal(_with_output(plain_pt2, tmp_path, spec))


# -- operators -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.linear.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.aten._softmax.default",
        "torch.ops.aten.sym_size.int",
        "torch.ops.torchvision.nms.default",
        "torch.ops.MyLib.Twice.default",
        "torch.ops.higher_order.wrap_with_set_grad_enabled",
        "_operator.floordiv",
        "math.trunc",
        "torch.sym_max",
    ],
)
def test_operators(target: str) -> None:
    assert Rebuilder("").build("operator", target) == target


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.load_library.__call__",
        "torch.ops.import_module.__call__",
        "torch.ops.loaded_libraries.add.x",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.linear.__init__",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.linear.default.__globals__",
        "torch.ops.__class__.linear",
        "torch.ops.prim.PythonOp.default",
        "torch.ops.debugprims.load_tensor.default",
        "torch.ops.higher_order.aoti_call_delegate",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "torch.ops.aten.linear.default\n",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "math.__class__",
        "math.factorial",
        "os.system",
        "#extension:op",
        "",
        None,
        7,
        ["torch.ops.aten.linear.default"],
    ],
)
def test_refused_operators(target: Any, plain_pt2: Path, tmp_path: Path) -> None:
    def change(document: Any) -> None:
        hostile.graph_of(document)["nodes"][0]["target"] = target

    assert "operator" in _refusal(_edited(plain_pt2, tmp_path, change)) or "not in the graph" in (
        _refusal(_edited(plain_pt2, tmp_path, change))
    )


def test_an_operator_as_argument_and_in_a_subgraph(plain_pt2: Path, tmp_path: Path) -> None:
    def as_argument(document: Any) -> None:
        argument = {"as_operator": "torch.hub.load"}
        hostile.graph_of(document)["nodes"][0]["inputs"][0]["arg"] = argument

    def in_subgraph(document: Any) -> None:
        inner = copy.deepcopy(hostile.graph_of(document))
        inner["nodes"].append(hostile.call_node("torch.hub.load", "a", "b"))
        argument = {"as_graph": {"name": "inner", "graph": inner}}
        hostile.graph_of(document)["nodes"][0]["inputs"][0]["arg"] = argument

    for change in (as_argument, in_subgraph):
        assert "'torch.hub.load'" in _refusal(_edited(plain_pt2, tmp_path, change))


def test_a_subgraph_that_is_too_deep(plain_pt2: Path, tmp_path: Path) -> None:
    def change(document: Any) -> None:
        outer = hostile.graph_of(document)
        for index in range(20):
            argument = {"as_graph": {"name": f"g{index}", "graph": copy.deepcopy(outer)}}
            node = hostile.call_node("torch.ops.higher_order.cond")
            node["inputs"] = [{"name": "", "arg": argument, "kind": 1}]
            outer = outer | {"nodes": [node]}
        document["graph_module"]["graph"] = outer

    assert "nested too deeply" in _refusal(_edited(plain_pt2, tmp_path, change))


@pytest.mark.parametrize("name", ["a b", "x=1", "x\ny", "x.y", "1x", "x\u200b", 7, None])
def test_names_that_are_no_identifiers(name: Any, plain_pt2: Path, tmp_path: Path) -> None:
    def change(document: Any) -> None:
        hostile.graph_of(document)["inputs"][2]["as_tensor"]["name"] = name

    assert "is no identifier" in _refusal(_edited(plain_pt2, tmp_path, change))


@pytest.mark.parametrize("name", ['a"]; x', "a'b", "a\\b", "a\nb", 7])
def test_parameter_names_that_leave_their_quotes(
    name: Any, plain_pt2: Path, tmp_path: Path
) -> None:
    def change(document: Any) -> None:
        specs = document["graph_module"]["signature"]["input_specs"]
        specs[0]["parameter"]["parameter_name"] = name

    assert "the parameter name" in _refusal(_edited(plain_pt2, tmp_path, change))


# -- symbolic sizes --------------------------------------------------------------------------------

S0 = "Symbol('s0', positive=True, integer=True)"


@pytest.mark.parametrize(
    "text",
    [
        S0,
        f"Add(Mul({S0}, Symbol('u1', integer=True)), Pow({S0}, Integer(2)), Integer(-4))",
        f"FloorDiv({S0}, Integer(3))",
        f"ModularIndexing({S0}, Integer(2), {S0})",
        f"Mul(Float('0.5', precision=53), ToFloat({S0}))",
        f"Mul(Rational(1, 2), {S0})",
        f"Pow({S0}, Rational(1, 2))",
        f"Piecewise(ExprCondPair({S0}, StrictGreaterThan({S0}, Integer(2))), "
        "ExprCondPair(Integer(1), true))",
        f"And(Equality({S0}, Integer(3)), Unequality({S0}, Integer(4)))",
        f"PowByNatural({S0}, {S0})",
        f"Max({S0}, oo)",
        "s0",
        "2*s0 - s1//3 + s0**2",
        "Mod(s0, 4)",
        "Piecewise((s0, s0 > 2), (1, True))",
        "(s0 > 1) & (s1 <= 3) | ~(s0 < 2)",
    ],
)
def test_sizes_keep_their_meaning(text: str) -> None:
    sympy = pytest.importorskip("sympy")
    written = expressions.checked(text)
    assert written is not None
    assert sympy.sympify(written) == sympy.sympify(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch x')",
        "().__class__.__bases__[0].__subclasses__()",
        "open('x', 'w')",
        "eval('1')",
        "Symbol('open(1)')",
        "Symbol('x')",
        "Symbol(open('x'))",
        "Symbol('s0', positive=open('x'))",
        "Symbol('s0', cls=True)",
        "Symbol(*s0)",
        "Add(**s0)",
        "Integer('__import__(1)')",
        "Float('__import__(1)')",
        "Float('1', precision=1000000000)",
        "Float('1e999')",
        "Float('1.2.3')",
        "s0.free_symbols",
        "s0[1]",
        "[s0 for s0 in s0]",
        "lambda: s0",
        "lambda s0: s0",
        "(s0 := 3)",
        "s0 if s1 else s2",
        "f'{s0}'",
        "'s0'",
        "None",
        "1j",
        "2 ^ 999999999",
        "1 << 999999999",
        "2 ** 999999999",
        "2 ** 2 ** 2 ** 2 ** 2 ** 2",
        "Pow(Integer(2), Integer(999999999))",
        "Pow(Integer(2), Mul(Integer(99999), Integer(99999)))",
        "PowByNatural(Integer(2), Integer(999999999))",
        "LShift(Integer(1), Integer(999999999))",
        "Pow(2)",
        "1e999",
        "u99999999999",
        "factorial(99999999)",
        "s0!",
        "s0 @ s1",
        "s0, s1 = 1",
        "s0 # x",
        "\u017f0",
        "(" * 150 + "s0" + ")" * 150 + "(",
        "+".join(["s0"] * 3000),
        "-" * 9000 + "s0",
        "s0" + " " * 20000,
        "",
        "\0",
        7,
        None,
        ["s0"],
    ],
)
def test_refused_sizes(text: Any) -> None:
    found = expressions.checked(text)
    if text == "s0 # x":
        assert found == "s0"  # what is evaluated is written anew, so a comment cannot matter
        return
    assert found is None


@MANY
@given(text=st.text(alphabet="s0123456789u+-*/()%<>=&|~, .'\"_#\n", max_size=30))
@example("s0**-16")
def test_any_text_is_checked(text: str) -> None:
    found = expressions.checked(text)
    assert found is None or expressions.checked(found) is not None


# -- tensors ---------------------------------------------------------------------------------------


def _with_meta(source: Path, folder: Path, **fields: Any) -> Path:
    def change(config: Any) -> None:
        config["config"]["fc.weight"]["tensor_meta"].update(fields)

    return hostile.edit_json(source, folder / "x.pt2", hostile.CONFIGS["weights"], change)


def _ints(*values: Any) -> list[dict[str, Any]]:
    return [{"as_int": value} for value in values]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sizes": _ints(3, 5)}, "needs"),
        ({"sizes": _ints(1 << 40, 1 << 20)}, "needs"),
        ({"sizes": _ints(1 << 62, 4), "strides": _ints(0, 1)}, "repeats its"),
        ({"sizes": _ints(1 << 30, 4), "strides": _ints(0, 1)}, "repeats its"),
        ({"storage_offset": {"as_int": 1}}, "needs"),
        ({"storage_offset": {"as_int": -1}}, "negative"),
        ({"strides": _ints(-4, 1)}, "negative"),
        ({"sizes": _ints(-3, 4)}, "negative"),
        ({"sizes": _ints(3)}, "uneven"),
        ({"sizes": _ints(3.0, 4)}, "integer"),
        ({"sizes": _ints("3", 4)}, "integer"),
        ({"sizes": _ints(True, 4)}, "integer"),
        ({"sizes": _ints(float("nan"), 4)}, "integer"),
        ({"sizes": _ints(float("inf"), 4)}, "integer"),
        ({"sizes": _ints(1 << 70, 4)}, "integer"),
        ({"sizes": [{"as_expr": {"expr_str": "s0"}}, {"as_int": 4}]}, "as_int"),
        ({"sizes": None}, "list"),
        ({"dtype": 99}, "data type number 99"),
        ({"dtype": "7"}, "integer"),
        ({"dtype": 8}, "needs"),
        ({"layout": 1}, "dense"),
    ],
)
def test_refused_tensors(
    fields: dict[str, Any], reason: str, plain_pt2: Path, tmp_path: Path
) -> None:
    assert reason in _refusal(_with_meta(plain_pt2, tmp_path, **fields))


def test_an_entry_that_holds_no_whole_elements(plain_pt2: Path, tmp_path: Path) -> None:
    path = hostile.rewrite(plain_pt2, tmp_path / "x.pt2", {"data/weights/weight_0": bytes(49)})
    assert "no whole number of float32" in _refusal(path)


def test_a_tensor_that_repeats_its_elements_is_taken(plain_pt2: Path, tmp_path: Path) -> None:
    path = _with_meta(plain_pt2, tmp_path, strides=_ints(0, 1))
    assert read_program(Archive(path)).tensors["fc.weight"].strides == (0, 1)


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({"sizes": _ints(4, 3), "strides": _ints(3, 1)}, "float32 of [4, 3]"),
        ({"sizes": _ints(1, 4)}, "float32 of [1, 4]"),
        ({"dtype": 4}, "int32 of [3, 4]"),
    ],
)
def test_a_tensor_of_another_type_than_the_graph_says(
    fields: dict[str, Any], held: str, plain_pt2: Path, tmp_path: Path
) -> None:
    message = _refusal(_with_meta(plain_pt2, tmp_path, **fields))
    assert f"takes 'fc.weight' for float32 of [3, 4], the archive holds {held}" in message


def test_a_tensor_that_the_archive_lacks(plain_pt2: Path, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        del config["config"]["fc.bias"]

    path = hostile.edit_json(plain_pt2, tmp_path / "x.pt2", hostile.CONFIGS["weights"], change)
    assert "a tensor 'fc.bias' that the archive does not hold" in _refusal(path)


def test_many_views_of_one_entry_are_a_bomb(plain_pt2: Path, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        first = config["config"]["fc.weight"]
        for index in range(64):
            view = copy.deepcopy(first)
            sizes = _ints((1 << 20) + index, 4)
            view["tensor_meta"].update(sizes=sizes, strides=_ints(0, 1))
            config["config"][f"view{index}"] = view

    path = hostile.edit_json(plain_pt2, tmp_path / "x.pt2", hostile.CONFIGS["weights"], change)
    assert "far more than the archive holds" in _refusal(path)


def test_a_name_that_is_weight_and_constant(plain_pt2: Path, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        config["config"]["fc.weight"] = config["config"]["scale"]

    path = hostile.edit_json(plain_pt2, tmp_path / "x.pt2", hostile.CONFIGS["constants"], change)
    assert "both a weight and a constant" in _refusal(path)


# -- anything at all -------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "s0", "as_int", "torch.ops.aten.linear.default", "\x1b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    found = [path]
    for key, child in children:
        is_inner = isinstance(child, (dict, list))
        found += _places(child, (*path, key)) if is_inner else [(*path, key)]
    return found


@MANY
@given(data=st.data())
def test_any_change_is_taken_or_refused(
    data: st.DataObject, plain_pt2: Path, dynamic_pt2: Path, tmp_path: Path
) -> None:
    source = data.draw(st.sampled_from([plain_pt2, dynamic_pt2]))
    entry = data.draw(st.sampled_from([hostile.PROGRAM, *hostile.CONFIGS.values()]))

    def change(document: Any) -> Any:
        for _ in range(data.draw(st.integers(1, 3))):
            path = data.draw(st.sampled_from(_places(document)))
            value = data.draw(VALUES)
            if not path:
                return value
            parent = document
            for key in path[:-1]:
                parent = parent[key]
            if data.draw(st.booleans()):
                parent[path[-1]] = value
            else:
                del parent[path[-1]]
        return document

    path = hostile.edit_json(source, tmp_path / "x.pt2", entry, change)
    try:
        assert isinstance(read_program(Archive(path)), Program)
    except UserError as error:
        assert str(path) in error.where
        str(error).encode()
