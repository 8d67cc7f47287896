"""Several matmuls of the same few rows in one kernel for CPUs, and an RMSNorm in front of them.

Queries, keys and values are products of one row, gate and up of another.  Each by its own is a
dispatch, and between two dispatches threads wait for each other and for memory to stream again.
Here each workgroup makes the records of the rows once, and multiplies them by its share of the
panels of every weight.  Weights, results and epilogues stay those of each product.

An epilogue may read what an earlier product of the kernel stored, as that of up reads gate: if all
products have as many panels, a workgroup has the same ones of each.  Else workgroups share out all
panels of all products in a row, which is the more even cut.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import emit
from .executable import Interface, threads
from .record_matmul import THREADS, RecordMatmul
from .row_norm import RowNorm

MOST_STACK = 64 << 10  # bytes of a dispatch, as compiler/targets.toml has it
OWN = -1  # an epilogue's input that no product of the kernel makes


@dataclass(frozen=True)
class JointMatmul:
    """Products `parts` of the same rows, each of one batch.

    Bindings: the activation, the weight of the norm if there is one, for each product its weights
    and the inputs of its epilogue that are :data:`OWN`, and then the results, in order.

    Attributes
    ----------
    parts : tuple of RecordMatmul
        They make the records of their rows themselves, which are the same, and have columns of the
        same panels.
    links : tuple of tuple of int
        For each product, for each input of its epilogue: which product's result it is, or OWN.
    norm : RowNorm or None
        What is done to rows before anything else.
    """

    parts: tuple[RecordMatmul, ...]
    links: tuple[tuple[int, ...], ...]
    norm: RowNorm | None = None

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        norm = "" if self.norm is None else self.norm.name
        text = repr(([part.name for part in self.parts], self.links, norm))
        sizes = "_".join(str(part.n) for part in self.parts)
        number = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"joint_{self.parts[0].m}x{sizes}x{self.parts[0].rows.k}_{number}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return self.parts[0].translation

    @property
    def is_even(self) -> bool:
        """Whether all products have as many panels."""
        return len({part.panels for part in self.parts}) == 1

    @property
    def inputs(self) -> int:
        """How many bindings are only read."""
        return self.places()[-1][-1] - len(self.parts) + 1

    @property
    def bindings(self) -> int:
        """How many buffers it reads and writes."""
        return self.inputs + len(self.parts)

    def grid(self) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        count = threads(THREADS)
        wanted = arith.muli(arith.maxui(count, emit.index(1)), emit.index(self.parts[0].shares))
        groups = arith.minui(emit.index(self.units), wanted)
        return [groups, emit.index(1), emit.index(1)]

    @property
    def units(self) -> int:
        """What workgroups share out: panels of each product, or of all in a row."""
        panels = [part.panels for part in self.parts]
        return panels[0] if self.is_even else sum(panels)

    def places(self) -> list[list[int]]:
        """Return the bindings of each product, in its own order."""
        at = 1 if self.norm is None else 2
        found: list[list[int]] = []
        for part, links in zip(self.parts, self.links, strict=True):
            own = [0]
            for link in [*[OWN] * len(part.weights), *links]:
                own.append(at if link == OWN else -2 - link)
                at += link == OWN
            found.append(own)
        results = range(at, at + len(self.parts))
        return [
            [results[-2 - place] if place < 0 else place for place in own] + [result]
            for own, result in zip(found, results, strict=True)
        ]

    def body(self, interface: Interface, stack: Stack | None = None) -> JointBody:
        """Return what builds the kernel's function, its buffers bound at the current place."""
        return JointBody(self, interface, stack)

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        body = self.body(interface)
        body.prepare()
        group, groups = interface.workgroup(0), interface.workgroups(0)
        after = arith.addi(group, emit.index(1))
        body.multiply(self.first_unit(group, groups), self.first_unit(after, groups))

    def first_unit(self, group: ir.Value, groups: ir.Value) -> ir.Value:
        """Return where the units of workgroup `group` begin, of `groups`."""
        units = emit.index(self.units)
        each, over = arith.divui(units, groups), arith.remui(units, groups)
        return arith.addi(arith.muli(group, each), arith.minui(group, over))


@dataclass(frozen=True)
class Stack:
    """Buffers on the stack, ``[m, at least as much as is needed]``: normed rows, and records."""

    normed: ir.Value
    records: ir.Value

    @staticmethod
    def of(kernels: Sequence[JointMatmul]) -> Stack:
        """Allocate what is enough for each of several kernels of as many rows."""
        normed, records = _stack_shapes(kernels)
        return Stack(
            emit.scratch(normed, ir.F32Type.get()), emit.scratch(records, emit.integer(32))
        )


def _stack_shapes(kernels: Sequence[JointMatmul]) -> tuple[list[int], list[int]]:
    """Return the shapes of both buffers, whose elements have 32 bits."""
    m, words = kernels[0].parts[0].m or 0, [kernel.parts[0].rows.words for kernel in kernels]
    normed = [kernel.parts[0].rows.k for kernel in kernels if kernel.norm is not None]
    return [m, max(normed, default=1)], [m, max(words)]


def stack_bytes(kernels: Sequence[JointMatmul]) -> int:
    """Return the bytes on the stack that kernels of as many rows take in one dispatch."""
    shared = sum(4 * math.prod(shape) for shape in _stack_shapes(kernels))
    return shared + sum(
        kernel.parts[0].rows.making_bytes + sum(part.sums_bytes for part in kernel.parts)
        for kernel in kernels
    )


class JointBody:
    """The function of one kernel while it is being built."""

    def __init__(self, kernel: JointMatmul, interface: Interface, stack: Stack | None) -> None:
        self.kernel = kernel
        first = kernel.parts[0]
        m, self.rows = first.m or 0, first.rows
        self.source = interface.buffer(
            0, emit.buffer_type([m, self.rows.k], ir.F32Type.get()), [], is_input=True
        )
        stack = stack or Stack.of([kernel])
        self.normed = self.source
        if kernel.norm is not None:
            type_ = emit.buffer_type([self.rows.k], ir.F32Type.get())
            self.weight = interface.buffer(1, type_, [], is_input=True)
            self.normed = stack.normed
        self.maker = self.rows.maker(self.normed, stack.records)
        self.start, self.stop = emit.index(0), emit.index(m)
        places = kernel.places()
        results = {own[-1] for own in places}
        self.bodies = [
            part.body(_PartInterface(interface, own, results, stack.records))
            for part, own in zip(kernel.parts, places, strict=True)
        ]

    def prepare(self) -> None:
        """Build what makes the records of the rows."""

        def row(number: ir.Value) -> None:
            if self.kernel.norm is not None:
                self.kernel.norm.row(self.source, self.weight, self.normed, number)
            self.maker.row(number, number)

        emit.each(self.start, self.stop, 1, row)

    def ask(self, first: ir.Value, most: int) -> None:
        """Ask for the weight of the unit `first`, at most so many bytes of each tensor of it."""
        if self.kernel.is_even:
            for body in self.bodies:
                body.ask(first, most // len(self.bodies))
            return
        before = 0
        for body, part in zip(self.bodies, self.kernel.parts, strict=True):
            own = arith.subi(first, emit.index(before))
            is_own = arith.cmpi(arith.CmpIPredicate.ult, own, emit.index(part.panels))
            emit.only_if(is_own, functools.partial(body.ask, own, most))
            before += part.panels

    def multiply(self, first: ir.Value, last: ir.Value) -> None:
        """Build the products of the units `first` to `last`."""
        for body, (one, end) in zip(self.bodies, self._ranges(first, last), strict=True):
            body.multiply(one, end, self.start, self.stop)

    def _ranges(self, first: ir.Value, last: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
        """Return of each product the first panel, and the one behind the last."""
        parts = self.kernel.parts
        if self.kernel.is_even:
            return [(first, last)] * len(parts)
        found, before = [], 0
        for part in parts:
            ends = [
                arith.subi(
                    arith.minui(
                        arith.maxui(end, emit.index(before)), emit.index(before + part.panels)
                    ),
                    emit.index(before),
                )
                for end in (first, last)
            ]
            found.append((ends[0], ends[1]))
            before += part.panels
        return found


class _PartInterface(Interface):
    """The bindings of one product within those of the kernel."""

    def __init__(
        self, whole: Interface, places: Sequence[int], results: set[int], records: ir.Value
    ) -> None:
        super().__init__(whole.layout)
        self.whole, self.places = whole, places
        self.results, self.records = results, records

    def constant(self, ordinal: int) -> ir.Value:
        raise ValueError("all sizes of a joint kernel are known")

    def buffer(self, ordinal: int, type_: ir.Type, sizes: Any, *, is_input: bool) -> ir.Value:
        place = self.places[ordinal]
        is_input = is_input and place not in self.results
        return self.whole.buffer(place, type_, sizes, is_input=is_input)
