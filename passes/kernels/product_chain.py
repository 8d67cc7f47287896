"""Products of which each reads what the one before made, in one dispatch for CPUs.

Between two dispatches threads go through IREE's runtime: who is done sleeps, and is woken.  Here
they wait for each other in the kernel, for as long as the last panel of a step takes.

A device need not run workgroups at the same time: one thread may run all of them, one after
another.  So none waits for work that another one has yet to begin.  Each step's units are cut into
as many ranges as there are workgroups; a workgroup claims half of what is left of a range, and half
again, first of its own, so that a core reads the same weights at each call, then of the others'.
Only when all is claimed it waits until it is done::

    for step in steps:
      if done[step] < units:
        make the records of the rows                           // each workgroup for itself
        for range in own, others:
          while units are left: claim some by claimed[step, range]++, multiply their panels
        done[step] += how many those were
        if it is not the last step: ask for weights of the next, wait until done[step] is units

A unit that is claimed is being done by a thread that runs, so all waiting ends.  What is stored
before an addition to `done` is seen by who finds it there (``atomicrmw`` orders both ways).  To
claim unit by unit cost what was won: such an instruction waits for all loads before it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, memref

from . import emit
from .executable import Interface
from .joint_matmul import JointBody, JointMatmul, Stack

LINE = 16  # counters of a cache line, of which one is used: threads would wait for each other's
AHEAD = 16384  # bytes of the next step's weights that are asked for before waiting
MOST_CLAIMS = 31  # of a range, behind which nothing is left of it


@dataclass(frozen=True)
class ProductChain:
    """Joint products `steps`, of as many rows, in one dispatch.

    Push constants: where its counters begin, and how many there are in all.  Bindings: `inputs`
    that are only read, the counters, ``i32``, which are zero, `results`, and bytes for what only
    steps read, if there is any.

    Attributes
    ----------
    steps : tuple of JointMatmul
        In the order in which they are done.
    places : tuple of tuple of int
        For each step, for each of its own bindings, which one of the chain's that is; below zero,
        ``-1 - i`` is byte i of what only steps read.
    inputs, results : int
        How many bindings there are of each kind.
    inner : int
        Bytes of what only steps read.
    pauses : bool
        Whether the processor has x86's instruction for loops that wait.
    """

    steps: tuple[JointMatmul, ...]
    places: tuple[tuple[int, ...], ...]
    inputs: int
    results: int
    inner: int
    pauses: bool = False

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        names = [step.name for step in self.steps]
        text = repr((names, self.places, self.inputs, self.results, self.inner, self.pauses))
        number = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"chain_{'_'.join(str(step.units) for step in self.steps)}_{number}"

    @property
    def translation(self) -> str:
        """How IREE goes on from the kernel's body."""
        return self.steps[0].translation

    @property
    def bindings(self) -> int:
        """How many buffers it reads and writes."""
        return self.inputs + 1 + self.results + (1 if self.inner else 0)

    @property
    def most_units(self) -> int:
        """How many workgroups find something to do."""
        return max(step.units for step in self.steps)

    def groups_for(self, count: ir.Value) -> ir.Value:
        """Return the workgroups for so many threads; a device that says it has none has one."""
        return arith.minui(emit.index(self.most_units), arith.maxui(count, emit.index(1)))

    def counters_for(self, groups: ir.Value) -> ir.Value:
        """Return how many counters so many workgroups take."""
        lines = arith.addi(groups, emit.index(1))
        return arith.muli(lines, emit.index(len(self.steps) * LINE))

    def emit(self, interface: Interface) -> None:
        """Build the kernel's function at the current place."""
        _Body(self, interface).emit()


class _Body:
    def __init__(self, kernel: ProductChain, interface: Interface) -> None:
        self.kernel = kernel
        self.first, size = interface.constant(0), interface.constant(1)
        self.group, self.groups = interface.workgroup(0), interface.workgroups(0)
        self.i32 = emit.integer(32)
        type_ = emit.buffer_type([ir.ShapedType.get_dynamic_size()], self.i32)
        self.counters = interface.buffer(kernel.inputs, type_, [size], is_input=False)
        inner = None
        if kernel.inner:
            type_ = emit.buffer_type([kernel.inner], emit.integer(8))
            inner = interface.buffer(kernel.bindings - 1, type_, [], is_input=False)
        stack = Stack.of(kernel.steps)
        self.steps = [
            step.body(_StepInterface(interface, places, kernel.inputs, inner), stack)
            for step, places in zip(kernel.steps, kernel.places, strict=True)
        ]

    def emit(self) -> None:
        for number, body in enumerate(self.steps):
            done = self._counter(number, emit.index(0))
            units = emit.wrapped(self.i32, body.kernel.units)
            before = emit.add_atomically(self._number(0), self.counters, [done])
            is_left = arith.cmpi(arith.CmpIPredicate.ult, before, units)
            emit.only_if(is_left, functools.partial(self._step, number, body, done, units))

    def _step(self, number: int, body: JointBody, done: ir.Value, units: ir.Value) -> None:
        body.prepare()

        def share(turn: ir.Value, made: ir.Value) -> Sequence[ir.Value]:
            range_ = arith.remui(arith.addi(self.group, turn), self.groups)
            return [self._claim(number, body, range_, made)]

        zero, one = emit.index(0), emit.index(1)
        (made,) = emit.loop(zero, self.groups, one, share, [self._number(0)])
        emit.add_atomically(made, self.counters, [done])
        if number + 1 == len(self.steps):
            return
        following = self.steps[number + 1]
        following.ask(following.kernel.first_unit(self.group, self.groups), AHEAD)

        def wait(before: ir.Value) -> tuple[ir.Value, ir.Value]:
            if self.kernel.pauses:
                emit.intrinsic("llvm.x86.sse2.pause", [], None)
            now = emit.add_atomically(self._number(0), self.counters, [done])
            return arith.cmpi(arith.CmpIPredicate.ult, now, units), before

        emit.repeat(self._number(0), wait)

    def _claim(self, number: int, body: JointBody, range_: ir.Value, made: ir.Value) -> ir.Value:
        """Build the loop that does units of a range as long as some are left; return the count."""
        kernel, one = body.kernel, emit.index(1)
        first, last = (
            kernel.first_unit(at, self.groups) for at in (range_, arith.addi(range_, one))
        )
        counter = self._counter(number, arith.addi(range_, one))
        units = arith.subi(last, first)

        def claim(made: ir.Value) -> tuple[ir.Value, ir.Value]:
            turn = emit.add_atomically(self._number(1), self.counters, [counter])
            turn = arith.minui(turn, self._number(MOST_CLAIMS))
            left = arith.shrui(units, arith.index_cast(ir.IndexType.get(), turn))
            start = arith.subi(last, left)
            stop = arith.subi(last, arith.shrui(left, one))
            is_left = arith.cmpi(arith.CmpIPredicate.ult, start, last)
            emit.only_if(is_left, lambda: body.multiply(start, stop))
            count = arith.index_cast(self.i32, arith.subi(stop, start))
            return is_left, arith.addi(made, count)

        return emit.repeat(made, claim)

    def _counter(self, number: int, line: ir.Value) -> ir.Value:
        """Return where a counter of a step stands: the one of what is done, or of a range."""
        lines = arith.muli(emit.index(number), arith.addi(self.groups, emit.index(1)))
        at = arith.muli(arith.addi(lines, line), emit.index(LINE))
        return arith.addi(self.first, at)

    def _number(self, value: int) -> ir.Value:
        return emit.wrapped(self.i32, value)


class _StepInterface(Interface):
    """The bindings of one step within those of the chain."""

    def __init__(
        self, whole: Interface, places: Sequence[int], inputs: int, inner: ir.Value | None
    ) -> None:
        super().__init__(whole.layout)
        self.whole, self.places, self.inputs, self.inner = whole, places, inputs, inner

    def constant(self, ordinal: int) -> ir.Value:
        raise ValueError("all sizes of a chain are known")

    def buffer(self, ordinal: int, type_: ir.Type, sizes: Any, *, is_input: bool) -> ir.Value:
        place = self.places[ordinal]
        if place < 0:
            found: ir.Value = memref.ViewOp(type_, self.inner, emit.index(-1 - place), []).result
            return found
        # What another step makes is no input of the dispatch.
        is_input = is_input and place < self.inputs
        return self.whole.buffer(place, type_, sizes, is_input=is_input)
