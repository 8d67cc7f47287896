"""``lowc opt``: input, output, remarks, failures, and --verify-diagnostics."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from lowc.compiler.frontend import parse_module
from lowc.tools.cli import main
from lowc.tools.diagnostics import Diagnostic, place_in
from lowc.tools.expectations import Expectation, complaints, read_expectations

MATMUL = """
func.func @main(%x: tensor<2x4xf32>, %y: tensor<4x8xf32>, %i: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // HERE
  %r = linalg.matmul ins(%x, %y : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %r : tensor<2x8xf32>
}
"""
WRONG = """
func.func @wrong(%x: tensor<2xf32>) -> tensor<3xf32> {
  // HERE
  return %x : tensor<2xf32>
}
"""
NAME = "--pass-pipeline=builtin.module(lowc-name-matmuls)"
QUANTIZE = (
    "--pass-pipeline=builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="
    '\'[{"match":"*","form":"dequant","weights":"i4"}]\'},lowc-quantize-weights)'
)


def write(path: Path, text: str, here: str = "") -> str:
    path.write_text(text.replace("HERE", here))
    return str(path)


def test_result_on_stdout_remarks_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.mlir", MATMUL)
    assert main(["opt", file, NAME]) == 0
    shown = capsys.readouterr()
    assert 'lowc.matmul = "main:0"' in shown.out
    assert parse_module(shown.out, "stdout") is not None
    assert shown.err == f"{file}:4:8: remark: main:0: product, 2x8x4 [lowc-name-matmuls]\n"


def test_stdin_and_no_pipeline(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(MATMUL.encode())))
    assert main(["opt"]) == 0
    assert "linalg.matmul ins(" in capsys.readouterr().out


def test_output_file_and_bytecode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.mlir", MATMUL)
    text, code = tmp_path / "b.mlir", tmp_path / "b.mlirbc"
    assert main(["opt", file, NAME, "-o", str(text)]) == 0
    assert main(["opt", file, NAME, "-o", str(code)]) == 0
    assert capsys.readouterr().out == ""
    assert code.read_bytes().startswith(b"ML\xefR")
    assert main(["opt", str(code)]) == 0
    assert capsys.readouterr().out == text.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mlir", "b.mlir", "b.mlirbc"]


def test_locations_are_printed_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.mlir", MATMUL)
    main(["opt", file])
    assert "loc(" not in capsys.readouterr().out
    main(["opt", file, "--mlir-print-debuginfo"])
    assert "loc(" in capsys.readouterr().out


def test_print_time_and_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.mlir", MATMUL)
    dump = tmp_path / "dump"
    arguments = [NAME.replace(")", ",cse)"), "--print-ir-after-all", "--time-passes"]
    assert main(["opt", file, *arguments, "--dump-ir", str(dump)]) == 0
    said = capsys.readouterr().err
    assert "IR Dump After lowc-name-matmuls" in said
    assert "IR Dump After cse" in said
    assert said.rstrip().endswith("total")
    assert len(list(dump.iterdir())) == 3


def test_split_input_keeps_lines_and_goes_on_after_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.mlir", f"{MATMUL}// -----\n{WRONG}// ----- last\n{MATMUL}")
    assert main(["opt", file, NAME, "--split-input-file"]) == 2
    shown = capsys.readouterr()
    assert shown.out.count("func.func @main") == 2
    assert shown.out.count("// -----") == 1
    assert f"{file}:4:8: remark" in shown.err
    assert f"{file}:18:8: remark" in shown.err
    assert "type of return operand 0" in shown.err
    assert ":12:3" in shown.err


def test_a_failing_pass_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.mlir", MATMUL)
    assert main(["opt", file, "--pass-pipeline=builtin.module(cse,iree-vm-conversion)"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "the pass 'iree-vm-conversion' failed" in shown.err
    assert main(["opt", file, "--pass-pipeline=builtin.module(lowc-assign-forms{rules=x})"]) == 2
    assert "lowc-assign-forms: the rules are not JSON" in capsys.readouterr().err
    assert main(["opt", file, "--pass-pipeline=builtin.module(no-such-pass)"]) == 2
    assert "MLIR does not know the pass 'no-such-pass'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"\xff\xfe", "neither text nor MLIR bytecode"),
        (b"func.func @f(", "this is not valid MLIR"),
        (b"ML\xefR garbage", "this is not valid MLIR"),
        (b'%0 = "no.dialect', "this is not valid MLIR"),
    ],
)
def test_foreign_input(
    raw: bytes, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mlir").write_bytes(raw)
    assert main(["opt", str(tmp_path / "a.mlir")]) == 2
    assert what in capsys.readouterr().err


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.mlir", MATMUL)
    assert main(["opt", file, "-o", str(tmp_path / "none" / "b.mlir")]) == 2
    assert "the file cannot be written (No such file or directory)" in capsys.readouterr().err


# -- --verify-diagnostics --------------------------------------------------------------------------

REFUSED = "not quantised: a product of two activations"


@pytest.mark.parametrize(
    ("text", "here", "pipeline", "code", "said"),
    [
        (MATMUL, f"expected-remark@+1 {{{{{REFUSED}}}}}", QUANTIZE, 0, ""),
        (MATMUL, f"expected-remark@below {{{{{REFUSED}}}}}", QUANTIZE, 0, ""),
        # A note may be expected, and need not be.
        (MATMUL, "expected-remark@below {{product, 2x8x4}}", NAME, 0, ""),
        (MATMUL, "", NAME, 0, ""),
        # A refusal that nobody expects, on the wrong line, with other words, of another severity.
        (MATMUL, "", QUANTIZE, 2, f"unexpected FILE:4:8: remark: main:0: {REFUSED}"),
        (MATMUL, f"expected-remark@+2 {{{{{REFUSED}}}}}", QUANTIZE, 2, "was not produced"),
        (MATMUL, "expected-remark@+1 {{not folded}}", QUANTIZE, 2, "'not folded' was not produced"),
        (MATMUL, f"expected-error@+1 {{{{{REFUSED}}}}}", QUANTIZE, 2, "expected error"),
        # One diagnostic meets one expectation.
        (MATMUL, f"expected-remark@+1 {{{{{REFUSED}}}}} expected-remark@+1 {{{{{REFUSED}}}}}",
         QUANTIZE, 2, "was not produced"),
        (MATMUL, "expected-remark@+1 {not quantised}", NAME, 2, "FILE:3: expected readable"),
        # Errors of the verifier and of the parser.
        (WRONG, "expected-error@+1 {{type of return operand 0}}", NAME, 0, ""),
        (WRONG, "", NAME, 2, "unexpected FILE:4:3: error: type of return operand 0"),
        ("\n\n// HERE\nbad.op", "expected-error@+1 {{custom op 'bad.op'}}", NAME, 0, ""),
        # An error of a pass has no line.
        (MATMUL, "expected-error@unknown {{the rules are not JSON}}",
         "--pass-pipeline=lowc-assign-forms{rules=x}", 0, ""),
    ],
)  # fmt: skip
def test_verify_diagnostics(
    text: str, here: str, pipeline: str, code: int, said: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = write(tmp_path / "a.mlir", text, here)
    assert main(["opt", file, pipeline, "--verify-diagnostics"]) == code
    err = capsys.readouterr().err
    assert said.replace("FILE", file) in err
    assert (err == "") == (code == 0)


def test_verify_diagnostics_takes_each_part_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = MATMUL.replace("HERE", f"expected-remark@below {{{{{REFUSED}}}}}")
    file = write(tmp_path / "a.mlir", f"{expected}// -----\n{expected}")
    arguments = ["opt", file, QUANTIZE, "--split-input-file", "--verify-diagnostics"]
    assert main(arguments) == 0
    write(tmp_path / "a.mlir", f"{expected}// -----\n{MATMUL}")
    assert main(arguments) == 2
    assert f"unexpected {file}:12:8: remark" in capsys.readouterr().err


def test_read_expectations() -> None:
    text = "\n".join(
        [
            "op // expected-warning {{own line}}",
            "// expected-error@-1 {{a}} expected-note @+1 {{b}}",
            "// expected-remark@below {{c}}",
            "// expected-remark@below {{d}}",
            "op",
            "// expected-error@above {{e}}",
            "// expected-error@above {{f}}",
            'op "expected-error {{in no comment}}"',
            "// expected-remark@unknown {{g {h} }}",
        ]
    )
    assert [(e.severity, e.line, e.part) for e in read_expectations(text)] == [
        ("warning", 1, "own line"), ("error", 1, "a"), ("note", 3, "b"), ("remark", 5, "c"),
        ("remark", 5, "d"), ("error", 5, "e"), ("error", 5, "f"), ("remark", 0, "g {h} "),
    ]  # fmt: skip


def test_complaints_name_both_sides() -> None:
    expected = [Expectation("error", 3, "x", written_at=2)]
    found = [Diagnostic("error", "y", 3, 1), Diagnostic("remark", "z", is_required=False)]
    assert complaints(expected, found, "f") == [
        "f:2: expected error 'x' was not produced",
        "unexpected f:3:1: error: y",
    ]
    assert complaints(expected, [Diagnostic("error", "has x in it", 3)], "f") == []


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ('loc("a b.mlir":3:8)', (3, 8)),
        ('loc("fc"("a.mlir":3:8))', (3, 8)),
        ('loc(fused["fc", "a.mlir":3:8, "b.mlir":9:9])', (3, 8)),
        ('loc("odd \\" name":5:6)', (5, 6)),
        ('loc("fc")', (0, 0)),
        ("loc(unknown)", (0, 0)),
    ],
)
def test_place_in(location: str, place: tuple[int, int]) -> None:
    assert place_in(location) == place
