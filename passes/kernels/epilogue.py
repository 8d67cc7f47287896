"""What a kernel does to its sums before it stores them: bias, activation, residual, as data.

An epilogue is a list of scalar operations of ``arith`` and ``math``, in the order in which they are
done; a kernel does them on vectors.  It is data and no IR, so that kernels with equal epilogues are
equal, and share a name and their code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from . import emit
from .error_function import erf

# From this many operations on, the sums are stored and read again in a loop over rows: unrolled for
# every register of sums, an activation would be longer than the kernel.
UNROLLED_STEPS = 8

# Where its operations say that they stand: they are other operations of the model than the product.
PLACE = "lowc.epilogue"

Kind = Literal["columns", "full", "scalar"]


@dataclass(frozen=True)
class Input:
    """A tensor that is read: one element per column, per element of the result, or a single one."""

    kind: Kind
    element: str  # type of its elements, as MLIR writes it

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of its sizes."""
        return {"columns": ("n",), "full": ("batch", "m", "n"), "scalar": ("one",)}[self.kind]


@dataclass(frozen=True)
class Step:
    """One scalar operation.

    Values have numbers: 0 is the sum, then come the inputs, then the results of the steps.
    """

    name: str  # of the operation, such as "arith.addf"
    operands: tuple[int, ...]
    element: str  # type of its result
    attributes: str = "{}"  # as MLIR writes them


@dataclass(frozen=True)
class Epilogue:
    """Steps from the f32 sum, which is value 0, to the f32 value number `result`.

    ``words`` say what it is, for people: ``("bias", "gelu")``.
    """

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    result: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """A symbol that two epilogues share only if they are the same."""
        text = repr((self.inputs, self.steps, self.result))
        return "e" + hashlib.sha256(text.encode()).hexdigest()[:12]

    def describe(self) -> str:
        """Say what it does."""
        return f"+ {', '.join(self.words)}"

    @property
    def is_long(self) -> bool:
        """Whether it is too long to stand once for every register of sums."""
        varying = [step for step in self.steps if step.name != "arith.constant"]
        return len(varying) > UNROLLED_STEPS or any(s.name.startswith("math.") for s in varying)

    def apply(
        self,
        value: ir.Value,
        buffers: Sequence[ir.Value],
        at: Sequence[ir.Value],
        mask: ir.Value | None,
    ) -> ir.Value:
        """Build the steps on a vector of sums.

        Parameters
        ----------
        value : ir.Value
            Sums, ``vector<lanes x f32>``.
        buffers : sequence of ir.Value
            The inputs, as memrefs.
        at : sequence of ir.Value
            Batch, row and first column of the sums.
        mask : ir.Value or None
            Which lanes exist; None if all do.
        """
        with ir.Location.name(PLACE):
            lanes = ir.VectorType(value.type).shape[0]
            inputs = []
            for given, buffer in zip(self.inputs, buffers, strict=True):
                if given.kind == "scalar":
                    inputs.append(memref.load(buffer, [emit.index(0)]))
                else:
                    place = at if given.kind == "full" else at[-1:]
                    inputs.append(emit.load(lanes, buffer, place, mask))
        return self.finish(value, inputs)

    def finish(self, value: ir.Value, inputs: Sequence[ir.Value]) -> ir.Value:
        """Build the steps on sums, a vector or a scalar, with the inputs loaded for them."""
        is_vector = isinstance(value.type, ir.VectorType)
        lanes = ir.VectorType(value.type).shape[0] if is_vector else 0
        with ir.Location.name(PLACE):
            values = [value, *inputs]
            for step in self.steps:
                values.append(_built(step, [values[i] for i in step.operands], lanes))
            return _vector(values[self.result], lanes)


def finish_rows(
    epilogue: Epilogue,
    results: ir.Value,
    buffers: Sequence[ir.Value],
    item: ir.Value,
    rows: tuple[ir.Value, ir.Value],
    column: ir.Value,
    masks: Sequence[ir.Value | None],
    lanes: int,
) -> None:
    """Build a loop over `rows`, from the first to behind the last, that finishes stored sums.

    The sums stand in `results`, ``[batch, m, n]``, from `column` on, a vector for each of `masks`;
    they were just stored, and are in the first cache.
    """

    def row(r: ir.Value) -> None:
        for v, mask in enumerate(masks):
            at = [item, r, arith.addi(column, emit.index(v * lanes))]
            value = emit.load(lanes, results, at, mask)
            emit.store(epilogue.apply(value, buffers, at, mask), results, at, mask)

    emit.each(*rows, 1, row)


def _built(step: Step, operands: Sequence[ir.Value], lanes: int) -> ir.Value:
    """Build one step: on scalars where no operand is a vector or `lanes` is 0, else on vectors."""
    result = ir.Type.parse(step.element)
    if step.name == "math.erf" and step.element == "f32" and not lanes:
        return erf(operands[0], 0)
    if any(isinstance(operand.type, ir.VectorType) for operand in operands):
        result = emit.vector_type(lanes, result)
        operands = [_vector(operand, lanes) for operand in operands]
        if step.name == "math.erf" and step.element == "f32":
            return erf(operands[0], lanes)
    attributes = {
        named.name: named.attr for named in ir.DictAttr(ir.Attribute.parse(step.attributes))
    }
    return ir.Operation.create(
        step.name, results=[result], operands=list(operands), attributes=attributes
    ).result


def _vector(value: ir.Value, lanes: int) -> ir.Value:
    if not lanes or isinstance(value.type, ir.VectorType):
        return value
    return vector.broadcast(emit.vector_type(lanes, value.type), value)
