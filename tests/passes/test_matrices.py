"""Any contraction as batches of matrices and back: against ``einsum``, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from iree import runtime as rt
from iree.compiler import ir
from iree.compiler.dialects import arith
from lowc.compiler import backend
from lowc.compiler.frontend import parse_module
from lowc.compiler.target import load_target
from lowc.passes import annotations, build
from lowc.passes.base import Refusal
from lowc.passes.matrices import Matrices, as_matrices, from_matrices, to_matrices
from lowc.runtime.devices import open_device


@dataclasses.dataclass(frozen=True)
class Case:
    """A contraction as ``einsum`` writes it, the size of each letter, and which are dynamic."""

    left: str
    right: str
    result: str
    sizes: tuple[int, ...] = (3, 2, 4, 5, 2, 3)
    dynamic: str = ""
    columns: int = 1

    def size(self, letter: str) -> int:
        return self.sizes["abcdef".index(letter)]

    def shape(self, letters: str) -> list[int]:
        return [self.size(letter) for letter in letters]

    def type(self, letters: str) -> str:
        sizes = ["?" if c in self.dynamic else str(self.size(c)) for c in letters]
        return f"tensor<{'x'.join([*sizes, 'f32'])}>"

    def group(self, role: str) -> list[str]:
        """The letters of a role, in the order that they shall have."""
        first, second = self.left, self.right
        if self.columns == 0:
            first, second = second, first
        everywhere = sorted(set(first + second + self.result))
        found = {
            "batch": [c for c in self.result if c in first and c in second],
            "rows": [c for c in self.result if c in first and c not in second],
            "columns": [c for c in self.result if c not in first],
            "summed": [c for c in everywhere if c not in self.result],
        }
        return found[role]

    def text(self, name: str) -> str:
        letters = sorted(set(self.left + self.right + self.result))
        loops = ", ".join(letters)
        maps = [f"affine_map<({loops}) -> ({', '.join(part)})>" for part in self.operands]
        kinds = ['"parallel"' if c in self.result else '"reduction"' for c in letters]
        a, b, o = (self.type(part) for part in self.operands)
        return f"""
func.func @{name}(%a: {a}, %b: {b}, %o: {o}) -> {o} {{
  %r = linalg.generic {{indexing_maps = [{", ".join(maps)}], iterator_types = [{", ".join(kinds)}]}}
      ins(%a, %b : {a}, {b}) outs(%o : {o}) {{
  ^bb0(%l: f32, %r: f32, %acc: f32):
    %p = arith.mulf %l, %r : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  }} -> {o}
  return %r : {o}
}}"""

    @property
    def operands(self) -> tuple[str, str, str]:
        return self.left, self.right, self.result


CASES = [
    Case("ac", "cb", "ab"),
    Case("ac", "bc", "ab", columns=0),
    Case("ca", "cb", "ba"),
    Case("abcd", "abed", "abce"),  # attention: two batch loops
    Case("badc", "dbea", "eacb", dynamic="abcde"),  # everything elsewhere
    Case("abd", "dc", "abc", dynamic="ab"),  # a batch that only the rows have
    Case("abdf", "dfc", "bac"),
    Case("abef", "cdfe", "acbd", dynamic="bcf"),  # several of rows, columns and summed
    Case("abef", "cdfe", "acbd", dynamic="ade", columns=0),
    Case("ab", "b", "a", dynamic="a"),  # without columns
    Case("b", "bac", "ca", dynamic="b"),  # without rows
    Case("ab", "ab", ""),  # a scalar
    Case("ab", "ab", "ba", dynamic="b"),  # only batch
    Case("ab", "cd", "acdb", dynamic="c"),  # nothing is summed
    Case("", "a", "a"),
    Case("abc", "cad", "dba", sizes=(1, 1, 1, 1, 1, 1)),
    Case("abc", "cad", "dba", sizes=(1, 3, 1, 1, 1, 1), dynamic="ad"),
]


# -- what it says ----------------------------------------------------------------------------------


def operation(case: Case) -> tuple[ir.Module, Any]:
    module = parse_module(case.text("f"), "test")
    (found,) = [op for op in annotations.operations(module) if op.name == "linalg.generic"]
    return module, found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_description(case: Case) -> None:
    _module, op = operation(case)
    found = as_matrices(op, case.columns)
    assert isinstance(found, Matrices)
    letters = sorted(set(case.left + case.right + case.result))
    names = {
        "batch": found.batch_loops, "rows": found.rows, "columns": found.columns,
        "summed": found.summed,
    }  # fmt: skip
    sizes = {"batch": found.batch, "rows": found.m, "columns": found.n, "summed": found.k}
    for role, loops in names.items():
        group = case.group(role)
        assert [letters[loop] for loop in loops] == group
        is_open = any(c in case.dynamic for c in group)
        assert sizes[role] == (None if is_open else int(np.prod(case.shape("".join(group)))))
    assert found.batch_in_columns == bool(case.group("batch"))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("ac", "cb", "abd"), "the result has a dimension that no operand has"),
        (Case("acd", "cb", "ab"), "an operand is summed over a dimension that the other does not"),
        (Case("ac", "dcb", "ab"), "an operand is summed over a dimension that the other does not"),
    ],
    ids=str,
)
def test_refusals_say_why(case: Case, reason: str) -> None:
    _module, op = operation(case)
    for columns in (0, 1):
        found = as_matrices(op, columns)
        assert isinstance(found, Refusal)
        assert reason in found.reason


# -- what it calculates ----------------------------------------------------------------------------


def with_matrices(cases: Sequence[Case]) -> ir.Module:
    """A module of functions ``f0``, ``f1`` …, whose contractions became batches of matrices."""
    text = "\n".join(case.text(f"f{number}") for number, case in enumerate(cases))
    module = parse_module(text, "test")
    ops = [op for op in annotations.operations(module) if op.name == "linalg.generic"]
    with module.context:
        for op, case in zip(ops, cases, strict=True):
            matrices = as_matrices(op, case.columns)
            assert isinstance(matrices, Matrices)
            with ir.InsertionPoint(op), op.location:
                left = to_matrices(op.operands[1 - case.columns], matrices, "rows")
                right = to_matrices(op.operands[case.columns], matrices, "columns")
                for value, sizes in (
                    (left, (matrices.batch, matrices.m, matrices.k)),
                    (right, (matrices.batch, matrices.k, matrices.n)),
                ):
                    known = [build.DYNAMIC if size is None else size for size in sizes]
                    assert build.shape_of(value) == known
                result = from_matrices(multiply(left, right, matrices, op), matrices, op)
            assert result.type == op.results[0].type
            op.operation.results[0].replace_all_uses_with(result)
            op.operation.erase()
    assert module.operation.verify()
    return module


def multiply(left: ir.Value, right: ir.Value, matrices: Matrices, op: Any) -> ir.Value:
    """Multiply ``[batch, m, k]`` by ``[batch, k, n]`` into a tensor of the sizes that are promised."""
    values = matrices.values(op)
    sizes = {"batch": matrices.batch, "m": matrices.m, "n": matrices.n}
    opened = [values[name] for name, size in sizes.items() if size is None]
    shape = [build.DYNAMIC if size is None else size for size in sizes.values()]
    init = build.zeros(shape, ir.F32Type.get(), opened)
    maps = [build.dims_map(4, dims) for dims in ([0, 1, 3], [0, 3, 2], [0, 1, 2])]
    kinds = ["parallel", "parallel", "parallel", "reduction"]

    def body(x: ir.Value, y: ir.Value, acc: ir.Value) -> ir.Value:
        return arith.addf(acc, arith.mulf(x, y))

    product: ir.Value = build.generic([left, right], init, maps, kinds, body).operation.results[0]
    return product


def check(cases: Sequence[Case], folder: Path) -> None:
    """Compile the matrices of all cases into one module and compare each with ``einsum``."""
    source, output = folder / "matrices.mlir", folder / "matrices.vmfb"
    source.write_text(str(with_matrices(cases)))
    flags = ("--iree-opt-data-tiling=false",)
    backend.compile_module(source, output, load_target("cpu").with_flags(flags))
    hal, instance = open_device("cpu-sync").hal, rt.VmInstance()
    module = rt.VmModule.copy_buffer(instance, output.read_bytes())
    context = rt.VmContext(instance, [rt.create_hal_module(instance, hal), module])
    rng = np.random.default_rng(0)
    for number, case in enumerate(cases):
        # Integers: sums are exact in any order.
        a, b = (
            rng.integers(-9, 10, case.shape(part)).astype(np.float32) for part in case.operands[:2]
        )
        call = rt.FunctionInvoker(context, hal, module.lookup_function(f"f{number}"))
        found = np.asarray(call(a, b, np.zeros(case.shape(case.result), np.float32)))
        expected = np.einsum(f"{case.left},{case.right}->{case.result}", a, b)
        np.testing.assert_array_equal(found, expected, err_msg=str(case))


def test_results(tmp_path: Path) -> None:
    check(CASES, tmp_path)


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    """One to six loops of any role in any order, sizes from 1, each static or dynamic."""
    roles = draw(st.text("bmnk", min_size=1, max_size=6))
    letters = dict(zip("abcdef", roles, strict=False))
    left, right, result = (
        "".join(draw(st.permutations([c for c, role in letters.items() if role in kept])))
        for kept in ("bmk", "bnk", "bmn")
    )
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=6, max_size=6)))
    dynamic = "".join(c for c in letters if draw(st.booleans()))
    return Case(left, right, result, sizes, dynamic, draw(st.sampled_from([0, 1])))


@given(any_case())
def test_any_contraction_keeps_its_type(case: Case) -> None:
    with_matrices([case])


@pytest.mark.slow
@settings(
    max_examples=3, deadline=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(any_case(), min_size=6, max_size=6))
def test_any_contraction_is_calculated(tmp_path: Path, cases: list[Case]) -> None:
    check(cases, tmp_path)
