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

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import emit
from .executable import Interface, threads
from .record_matmul import THREADS, RecordMatmul
from .row_norm import RowNorm

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
        return self._places()[-1][-1] - len(self.parts) + 1

    def grid(self) -> list[ir.Value]:
        """Return the workgroups along x, y and z."""
        count = threads(THREADS)
        wanted = arith.muli(arith.maxui(count, emit.index(1)), emit.index(self.parts[0].shares))
        groups = arith.minui(emit.index(self._units), wanted)
        return [groups, emit.index(1), emit.index(1)]

    @property
    def _units(self) -> int:
        """What workgroups share out: panels of each product, or of all in a row."""
        panels = [part.panels for part in self.parts]
        return panels[0] if self.is_even else sum(panels)

    def _places(self) -> list[list[int]]:
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

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        first = self.parts[0]
        m, rows = first.m or 0, first.rows
        source = interface.buffer(
            0, emit.buffer_type([m, rows.k], ir.F32Type.get()), [], is_input=True
        )
        normed = source
        if self.norm is not None:
            type_ = emit.buffer_type([rows.k], ir.F32Type.get())
            weight = interface.buffer(1, type_, [], is_input=True)
            normed = emit.scratch([m, rows.k], ir.F32Type.get())
        records = emit.scratch([m, rows.words], emit.integer(32))
        maker = rows.maker(normed, records)
        places = self._places()
        results = {own[-1] for own in places}
        bodies = [
            part.body(_PartInterface(interface, own, results, records))
            for part, own in zip(self.parts, places, strict=True)
        ]

        def row(number: ir.Value) -> None:
            if self.norm is not None:
                self.norm.row(source, weight, normed, number)
            maker.row(number, number)

        start, stop = emit.index(0), emit.index(m)
        emit.each(start, stop, 1, row)
        for body, (one, last) in zip(bodies, self._shares(interface), strict=True):
            body.multiply(one, last, start, stop)

    def _shares(self, interface: Interface) -> list[tuple[ir.Value, ir.Value]]:
        """Return of each product this workgroup's first panel, and the one behind its last."""
        group, groups = interface.workgroup(0), interface.workgroups(0)
        units = emit.index(self._units)
        each, over = arith.divui(units, groups), arith.remui(units, groups)

        def begin(number: ir.Value) -> ir.Value:
            return arith.addi(arith.muli(number, each), arith.minui(number, over))

        first, last = begin(group), begin(arith.addi(group, emit.index(1)))
        if self.is_even:
            return [(first, last)] * len(self.parts)
        found, before = [], 0
        for part in self.parts:
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
        self.places, self.results, self.records = places, results, records

    def constant(self, ordinal: int) -> ir.Value:
        raise ValueError("all sizes of a joint kernel are known")

    def buffer(self, ordinal: int, type_: ir.Type, sizes: Any, *, is_input: bool) -> ir.Value:
        place = self.places[ordinal]
        return super().buffer(place, type_, sizes, is_input=is_input and place not in self.results)
