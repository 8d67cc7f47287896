"""The runner: pipelines as text, failures with the pass's name, instruments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from iree.compiler import ir
from lowc.compiler.frontend import parse_module
from lowc.errors import InternalError, UserError
from lowc.passes import annotations
from lowc.passes.assign_forms import AssignForms
from lowc.passes.base import Pass, RemarkKind
from lowc.passes.instruments import DumpIR, PrintIR, Timing
from lowc.passes.name_matmuls import NameMatmuls
from lowc.passes.runner import (
    PassFailure,
    Runner,
    format_pipeline,
    parse_pipeline,
    split_elements,
)
from lowc.passes.strip_annotations import StripAnnotations

SOURCE = """
func.func @main(%x: tensor<2x4xf32>, %y: tensor<4x8xf32>, %init: tensor<2x8xf32>)
    -> tensor<2x8xf32> {
  %unused = tensor.empty() : tensor<3xf32>
  %r = linalg.matmul ins(%x, %y : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %r : tensor<2x8xf32>
}
"""


@dataclass(frozen=True)
class BreaksTheIR(Pass):
    """Leaves a matmul whose result type does not fit."""

    name: ClassVar[str] = "lowc-breaks-the-ir"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        matmul = next(op for op in annotations.operations(module) if op.name == "linalg.matmul")
        wrong = ir.Type.parse("tensor<2x9xf32>", module.context)
        matmul.results[0].set_type(wrong)


@dataclass(frozen=True)
class Raises(Pass):
    """Has a fault."""

    name: ClassVar[str] = "lowc-raises"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        remark(RemarkKind.NOTE, None, "self", "about to fail")
        raise KeyError("lost")


@dataclass(frozen=True)
class Interrupted(Pass):
    """Is interrupted by Ctrl-C."""

    name: ClassVar[str] = "lowc-interrupted"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def module() -> ir.Module:
    return parse_module(SOURCE, "test")


# -- pipelines as text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", []),
        ("builtin.module()", []),
        ("cse", ["cse"]),
        (" builtin.module( cse , canonicalize ) ", ["cse", "canonicalize"]),
        ("builtin.module(func.func(cse,canonicalize),cse)", ["func.func(cse,canonicalize)", "cse"]),
        ("func.func(cse)", ["func.func(cse)"]),
        ("canonicalize{max-iterations=3 top-down=true},cse",
         ["canonicalize{max-iterations=3 top-down=true}", "cse"]),
        ("builtin.module(lowc-name-matmuls,cse)", [NameMatmuls(), "cse"]),
        ('lowc-assign-forms{rules="[{},(\\"a,b\\")]"},cse', [AssignForms('[{},("a,b")]'), "cse"]),
        ("lowc-assign-forms{rules='[{\"match\":\"*\"}]'}", [AssignForms('[{"match":"*"}]')]),
    ],
)  # fmt: skip
def test_parse_pipeline(text: str, elements: list[Pass | str]) -> None:
    assert parse_pipeline(text) == elements
    assert parse_pipeline(format_pipeline(elements)) == elements


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (
            "builtin.module(lowc-name-matmul)",
            "there is no pass 'lowc-name-matmul'",
            "name-matmuls'?",
        ),
        ("lowc-assign-forms{rule=1}", "the pass has no option 'rule'", "did you mean 'rules'?"),
        ("builtin.module(cse", "the pipeline lacks a ')'", ""),
        ("builtin.module(cse))", "brackets of the pipeline do not match", ""),
        ("canonicalize{a=(1}", "brackets of the pipeline do not match", ""),
        ("canonicalize{a=1", "the pipeline lacks a '}'", ""),
        ('lowc-assign-forms{rules="[]}', "a quote in the pipeline is not closed", ""),
        ("spirv.module(cse)", "anchored on 'spirv.module', not on builtin.module", ""),
    ],
)
def test_parse_pipeline_refuses(text: str, what: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_pipeline(text)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_split_elements_leaves_brackets_and_quotes_alone() -> None:
    text = """a, b{x="1,2}" y='[,'}, c(d, e),, f[1,2]"""
    assert split_elements(text) == ["a", """b{x="1,2}" y='[,'}""", "c(d, e)", "f[1,2]"]


# -- running ---------------------------------------------------------------------------------------


def test_own_and_native_passes_mix_in_order(module: ir.Module) -> None:
    elements = parse_pipeline("lowc-name-matmuls,canonicalize,func.func(cse),lowc-assign-forms")
    runner = Runner(elements)
    runner.run(module)
    text = str(module)
    assert "tensor.empty" not in text, "canonicalize did not run"
    (matmul,) = annotations.matmuls(module)
    assert annotations.text(matmul, annotations.MATMUL) == "main:0"
    assert annotations.FORM in matmul.attributes
    assert [(r.pass_name, r.kind, r.subject) for r in runner.remarks] == [
        ("lowc-name-matmuls", RemarkKind.NOTE, "main:0"),
        ("lowc-assign-forms", RemarkKind.NOTE, "main:0"),
    ]
    assert '":5:8' in runner.remarks[0].location
    Runner([StripAnnotations()]).run(module)
    assert "lowc." not in str(module)


def test_invalid_ir_after_a_pass_is_caught_and_the_pass_named(module: ir.Module) -> None:
    with pytest.raises(PassFailure) as caught:
        Runner(["cse", BreaksTheIR(), "canonicalize"]).run(module)
    failure = caught.value
    assert failure.element == "lowc-breaks-the-ir"
    assert isinstance(failure.cause, InternalError)
    assert "'lowc-breaks-the-ir' failed or left invalid IR" in failure.cause.what
    # What a reproducer needs: the IR as the failing pass found it, valid and with its names.
    assert "tensor<2x9xf32>" not in failure.input_ir
    assert "loc(" in failure.input_ir
    assert parse_module(failure.input_ir, "again") is not None


def test_an_exception_in_a_pass_is_our_fault_and_named(module: ir.Module) -> None:
    runner = Runner([NameMatmuls(), Raises()])
    with pytest.raises(PassFailure) as caught:
        runner.run(module)
    assert caught.value.element == "lowc-raises"
    assert isinstance(caught.value.cause, InternalError)
    assert "raised KeyError: 'lost'" in caught.value.cause.what
    assert "lowc.matmul" in caught.value.input_ir
    assert isinstance(caught.value.cause.__cause__, KeyError)
    assert runner.remarks[-1].message == "about to fail"


def test_a_users_error_in_a_pass_stays_one_and_is_no_circle(module: ir.Module) -> None:
    with pytest.raises(PassFailure) as caught:
        Runner([AssignForms('[{"match":"*","form":"exat"}]')]).run(module)
    assert isinstance(caught.value.cause, UserError)
    assert "did you mean 'exact'?" in caught.value.cause.hint
    cause, seen = caught.value.cause.__cause__, 0
    while cause is not None and seen < 10:
        cause, seen = cause.__cause__, seen + 1
    assert seen < 10, "an exception is its own cause"


def test_an_interrupt_passes_through(module: ir.Module) -> None:
    with pytest.raises(KeyboardInterrupt):
        Runner([Interrupted()]).run(module)


@pytest.mark.parametrize("element", ["no-such-pass", "canonicalize{no-such-option=1}"])
def test_an_unknown_native_pass_is_the_users(module: ir.Module, element: str) -> None:
    with pytest.raises(PassFailure) as caught:
        Runner([element]).run(module)
    assert isinstance(caught.value.cause, UserError)
    assert element.partition("{")[0] in caught.value.cause.what


def test_a_native_pass_that_fails_is_named(module: ir.Module) -> None:
    fails = "canonicalize{test-convergence=true max-iterations=1}"
    with pytest.raises(PassFailure) as caught:
        Runner([NameMatmuls(), fails, "cse"]).run(module)
    assert caught.value.element == fails
    assert isinstance(caught.value.cause, InternalError)
    assert fails in caught.value.cause.what


# -- instruments -----------------------------------------------------------------------------------


def test_numbered_dumps(module: ir.Module, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "dump"
    Runner([NameMatmuls(), "func.func(cse)", "canonicalize"], [DumpIR(folder)]).run(module)
    assert sorted(path.name for path in folder.iterdir()) == [
        "00-input.mlir",
        "01-lowc-name-matmuls.mlir",
        "02-func.func-cse.mlir",
        "03-canonicalize.mlir",
    ]
    assert "lowc.matmul" not in (folder / "00-input.mlir").read_text()
    named = (folder / "01-lowc-name-matmuls.mlir").read_text()
    assert named.startswith("// lowc-name-matmuls\n")
    assert 'lowc.matmul = "main:0"' in named
    assert parse_module(named, "dump") is not None


def test_dumps_stop_before_the_pass_that_failed(module: ir.Module, tmp_path: Path) -> None:
    with pytest.raises(PassFailure):
        Runner(["cse", BreaksTheIR()], [DumpIR(tmp_path)]).run(module)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00-input.mlir", "01-cse.mlir"]


def test_large_constants_are_left_out_of_dumps(tmp_path: Path) -> None:
    values = ", ".join(str(i) for i in range(100))
    big = parse_module(
        f"func.func @main() -> tensor<100xi32> {{ %c = arith.constant dense<[{values}]> : "
        "tensor<100xi32> return %c : tensor<100xi32> }", "test",
    )  # fmt: skip
    Runner(["cse"], [DumpIR(tmp_path)]).run(big)
    assert "97, 98" not in (tmp_path / "01-cse.mlir").read_text()


def test_print_and_timing(module: ir.Module) -> None:
    printed: list[str] = []
    timing = Timing()
    Runner([NameMatmuls(), "cse"], [PrintIR(printed.append), timing]).run(module)
    assert [text.splitlines()[0] for text in printed] == [
        "// -----// IR Dump After lowc-name-matmuls //----- //",
        "// -----// IR Dump After cse //----- //",
    ]
    assert [text for text, _ in timing.rows] == ["lowc-name-matmuls", "cse"]
    assert all(seconds >= 0 for _, seconds in timing.rows)
    assert len(timing.table().splitlines()) == 3
    assert timing.table().splitlines()[-1].endswith("total")
