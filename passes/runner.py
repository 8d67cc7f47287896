"""Run a pipeline of lowc's and MLIR's passes over a module, one at a time.

Each element runs in an MLIR ``PassManager`` of its own, a Python pass as a callable in it, so that
ours and native ones mix freely, and instruments (dumps, timing, verification) stand between any
two without the passes knowing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from iree.compiler import ir
from iree.compiler.passmanager import PassManager

from ..errors import InternalError, LowcError, UserError
from . import registry
from .base import Pass, Remark, RemarkKind

ANCHOR = "builtin.module"


class Instrument(Protocol):
    """A hook around passes; ``index`` counts from 0, ``text`` is the element's text form."""

    def before(self, index: int, text: str, module: ir.Module) -> None:
        """Look at `module` before element `index` runs."""

    def after(self, index: int, text: str, module: ir.Module, seconds: float) -> None:
        """Look at `module` after element `index` ran and its result was verified."""


@dataclass
class PassFailure(Exception):
    """A pass failed: which, why, and the IR that it was given (for a reproducer)."""

    element: str
    cause: LowcError
    input_ir: str

    def __post_init__(self) -> None:
        super().__init__(str(self.cause))


@dataclass
class Runner:
    """Runs elements in order; collects their remarks.

    Attributes
    ----------
    elements : sequence of Pass or str
        Our passes, and native MLIR elements as text (``canonicalize``, ``func.func(cse)``).
    instruments : sequence of Instrument
        Hooks around every element.
    remarks : list of Remark
        What the passes said, in order.
    """

    elements: Sequence[Pass | str]
    instruments: Sequence[Instrument] = ()
    remarks: list[Remark] = field(default_factory=list)

    def run(self, module: ir.Module) -> None:
        """Run all elements over `module` in place.

        Raises
        ------
        PassFailure
            Names the element that failed, or after which the IR was invalid.
        """
        for index, element in enumerate(self.elements):
            text = str(element)
            before = _snapshot(module)
            for instrument in self.instruments:
                instrument.before(index, text, module)
            start = time.perf_counter()
            try:
                self._run_one(element, module)
            except LowcError as error:
                raise PassFailure(text, error, before()) from error
            seconds = time.perf_counter() - start
            for instrument in self.instruments:
                instrument.after(index, text, module, seconds)

    def _run_one(self, element: Pass | str, module: ir.Module) -> None:
        raised: list[BaseException] = []
        with module.context, ir.Location.unknown():
            manager = _manager_of(element, lambda op, _pass: self._call(element, module, raised))
            manager.enable_verifier(True)
            try:
                manager.run(module.operation)
                failure = raised[0] if raised else None
            except ir.MLIRError as error:
                failure = raised[0] if raised else _rejection(error, str(element))
            except Exception as error:
                failure = raised[0] if raised else error
        if failure is not None:
            raise _as_lowc_error(failure, str(element))

    def _call(self, element: Any, module: ir.Module, raised: list[BaseException]) -> None:
        def remark(kind: RemarkKind, op: Any, subject: str, message: str) -> None:
            location = str(op.location) if op is not None else ""
            self.remarks.append(Remark(element.name, kind, subject, message, location))

        try:
            element.run(module, remark)
        except BaseException as error:
            raised.append(error)
            raise


def _manager_of(element: Pass | str, call: Callable[..., None]) -> PassManager:
    if isinstance(element, Pass):
        manager = PassManager(ANCHOR)
        manager.add(call, name=type(element).__name__, argument=element.name)
        return manager
    try:
        return PassManager.parse(f"{ANCHOR}({element})")
    except (ValueError, ir.MLIRError) as error:
        name = element.partition("{")[0].partition("(")[0]
        raise UserError(
            f"MLIR does not know the pass '{name}', or not with these options",
            hint="list lowc's passes with 'lowc passes', native ones with 'iree-opt --help'",
        ) from error


def _rejection(error: ir.MLIRError, element: str) -> LowcError:
    found = InternalError(
        f"the pass '{element}' failed or left invalid IR: {_first_message(error)}"
    )
    found.__cause__ = error
    return found


def _as_lowc_error(error: BaseException, element: str) -> LowcError:
    if isinstance(error, LowcError):
        return error
    if not isinstance(error, Exception):
        raise error
    fault = InternalError(
        f"the pass '{element}' raised {type(error).__name__}: {error}",
        hint="this is a fault of lowc; the reproducer shows the IR that it was given",
    )
    fault.__cause__ = error
    return fault


def _first_message(error: ir.MLIRError) -> str:
    if error.error_diagnostics:
        found = error.error_diagnostics[0]
        return f"{found.message} at {found.location}"
    return str(error).splitlines()[0]


def _snapshot(module: ir.Module) -> Callable[[], str]:
    """Keep a clone to print if the pass fails; printing each time would cost more than passes."""
    clone = module.operation.clone()
    return lambda: clone.get_asm(enable_debug_info=True)


def parse_pipeline(text: str) -> list[Pass | str]:
    """Read ``builtin.module(a,b{c=d},func.func(e))`` into elements.

    Raises
    ------
    UserError
        Unknown pass or option of ours; unbalanced brackets; another anchor.
    """
    parts = split_elements(text)
    anchor = parts[0].partition("(")[0].strip() if len(parts) == 1 else ""
    if anchor == ANCHOR and parts[0].endswith(")"):
        parts = split_elements(parts[0].partition("(")[2][:-1])
    elif anchor.endswith("module") and anchor != parts[0]:
        raise UserError(f"the pipeline is anchored on '{anchor}', not on {ANCHOR}")
    elements: list[Pass | str] = []
    for element in parts:
        elements.append(registry.parse_pass(element) if registry.is_ours(element) else element)
    return elements


def format_pipeline(elements: Iterable[Pass | str]) -> str:
    """Return the text form that :func:`parse_pipeline` reads."""
    return f"{ANCHOR}({','.join(str(element) for element in elements)})"


def split_elements(text: str) -> list[str]:
    """Split at the commas that are outside of all brackets and quotes."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    closers: list[str] = []
    elements, start, position = [], 0, 0
    while position < len(text):
        char = text[position]
        if char in "\"'":
            end = position + 1
            while end < len(text) and text[end] != char:
                end += 2 if text[end] == "\\" else 1
            if end >= len(text):
                raise UserError("a quote in the pipeline is not closed", where=text[position:][:40])
            position = end
        elif char in pairs:
            closers.append(pairs[char])
        elif char in pairs.values():
            if not closers or closers.pop() != char:
                raise UserError(f"the brackets of the pipeline do not match at '{text[position:]}'")
        elif char == "," and not closers:
            elements.append(text[start:position].strip())
            start = position + 1
        position += 1
    if closers:
        raise UserError(f"the pipeline lacks a '{closers[-1]}'")
    elements.append(text[start:].strip())
    return [element for element in elements if element]
