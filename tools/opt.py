"""``lowc opt``: run passes over MLIR, lowc's and native ones mixed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from iree.compiler import ir

from ..compiler.frontend import parse_module
from ..errors import LowcError, UserError
from ..passes.base import Pass
from ..passes.instruments import DumpIR, PrintIR, Timing
from ..passes.runner import Instrument, PassFailure, Runner, parse_pipeline
from . import diagnostics, expectations, output

_SPLIT = re.compile(r"^// -----.*\n?", re.MULTILINE)
_BYTECODE = b"ML\xefR"


@dataclass
class Part:
    """One module of the input and what became of it."""

    source: str | bytes
    module: ir.Module | None = None
    error: LowcError | None = None
    said: list[diagnostics.Diagnostic] = field(default_factory=list)


@click.command("opt")
@click.argument("file", default="-")
@click.option(
    "--pass-pipeline", default="", metavar="PIPELINE",
    help="Such as 'builtin.module(lowc-name-matmuls,canonicalize,cse)'; 'lowc passes' lists ours.",
)  # fmt: skip
@click.option(
    "-o", "--output", "target", default="-", help="Where the result goes; .mlirbc: bytecode."
)
@click.option("--print-ir-after-all", is_flag=True, help="Print the IR after each pass to stderr.")
@click.option("--split-input-file", is_flag=True, help="Take each part between '// -----' alone.")
@click.option(
    "--verify-diagnostics", is_flag=True,
    help="Compare remarks and errors with the comments expected-…{{…}} of the input.",
)  # fmt: skip
@click.option("--time-passes", is_flag=True, help="Print the seconds of each pass to stderr.")
@click.option("--mlir-print-debuginfo", is_flag=True, help="Print locations (layer names).")
@click.option("--dump-ir", type=click.Path(path_type=Path), help="Folder for numbered IR dumps.")
def opt_command(
    file: str,
    *,
    pass_pipeline: str,
    target: str,
    print_ir_after_all: bool,
    split_input_file: bool,
    verify_diagnostics: bool,
    time_passes: bool,
    mlir_print_debuginfo: bool,
    dump_ir: Path | None,
) -> int:
    """Run passes over the MLIR in FILE ('-': stdin) and print the result.

    Remarks of lowc's passes and diagnostics of MLIR go to stderr as
    file:line:column: severity: message [pass].
    """
    elements = parse_pipeline(pass_pipeline)
    name = "<stdin>" if file == "-" else file
    parts = [Part(source) for source in _sources(_read(file), name, split=split_input_file)]
    for index, part in enumerate(parts):
        instruments: list[Instrument] = []
        if print_ir_after_all:
            instruments.append(PrintIR(output.remark))
        if dump_ir is not None:
            instruments.append(DumpIR(dump_ir / f"part-{index}" if len(parts) > 1 else dump_ir))
        if time_passes:
            instruments.append(Timing())
        _process(part, name, elements, instruments)
        if not verify_diagnostics:
            _report(part, name)
        if time_passes:
            output.remark(instruments[-1].table())  # type: ignore[attr-defined]
    modules = [part.module for part in parts if part.module is not None]
    _write(modules, target, with_locations=mlir_print_debuginfo)
    return _verdict(parts, name) if verify_diagnostics else _exit_code(parts)


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except FileNotFoundError:
        raise UserError("the file does not exist", where=file) from None
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", where=file) from error


def _sources(raw: bytes, name: str, *, split: bool) -> Iterator[str | bytes]:
    """Yield the modules of the input, text with as many lines in front as in the file."""
    if raw.startswith(_BYTECODE):
        yield raw
        return
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"this is neither text nor MLIR bytecode ({error})", where=name) from error
    if not split:
        yield text
        return
    start = 0
    for mark in _SPLIT.finditer(text):
        yield "\n" * text.count("\n", 0, start) + text[start : mark.start()]
        start = mark.end()
    yield "\n" * text.count("\n", 0, start) + text[start:]


def _process(
    part: Part, name: str, elements: list[Pass | str], instruments: list[Instrument]
) -> None:
    runner = Runner(elements, instruments)
    try:
        module = parse_module(part.source, name)
        handler = module.context.attach_diagnostic_handler(lambda said: _listen(part, said))
        try:
            runner.run(module)
        finally:
            handler.detach()
        part.module = module
    except PassFailure as failure:
        part.error = _naming(failure)
    except LowcError as error:
        part.error = error
    part.said.extend(diagnostics.of_remark(remark) for remark in runner.remarks)
    if part.error is not None:
        part.said.extend(diagnostics.of_failure(part.error))


def _listen(part: Part, said: ir.Diagnostic) -> bool:
    part.said.append(diagnostics.of_mlir(said))
    return True


def _naming(failure: PassFailure) -> LowcError:
    """Return the error behind a failure, which names the pass."""
    cause = failure.cause
    name = failure.element.partition("{")[0]
    if name in str(cause):
        return cause
    place = f"{cause.where}, pass '{name}'" if cause.where else f"pass '{name}'"
    named = type(cause)(cause.what, where=place, hint=cause.hint, detail=cause.detail)
    named.__cause__ = cause
    return named


def _report(part: Part, name: str) -> None:
    for diagnostic in part.said:
        if diagnostic.severity != "error":
            output.remark(diagnostic.text(name))
    if part.error is not None:
        output.remark(f"lowc opt: error: {part.error}")


def _exit_code(parts: list[Part]) -> int:
    """Return 1 if any failure is lowc's, else 2 if any is the user's."""
    codes = [part.error.exit_code for part in parts if part.error is not None]
    return min(codes, default=0)


def _verdict(parts: list[Part], name: str) -> int:
    found = [
        complaint
        for part in parts
        for complaint in expectations.complaints(
            expectations.read_expectations(part.source if isinstance(part.source, str) else ""),
            part.said,
            name,
        )
    ]
    for complaint in found:
        output.remark(complaint)
    return 2 if found else 0


def _write(modules: list[ir.Module], target: str, *, with_locations: bool) -> None:
    if not modules:
        return
    if target.endswith(".mlirbc"):
        if len(modules) != 1:
            raise UserError(f"bytecode holds one module, there are {len(modules)}", where=target)
        output.write_atomically(Path(target), modules[0].operation.write_bytecode)
        return
    text = "\n// -----\n\n".join(
        module.operation.get_asm(enable_debug_info=with_locations) for module in modules
    )
    if target == "-":
        output.result(text.rstrip("\n"))
        return
    output.write_atomically(Path(target), lambda file: file.write(text.encode()))
