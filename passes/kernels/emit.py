"""Build loops, vectors and memory accesses of a kernel in few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, scf, vector

Loop = Callable[..., Sequence[ir.Value]]


def index(value: int) -> ir.Value:
    """Return an index constant."""
    return arith.constant(ir.IndexType.get(), value)


def integer(width: int) -> ir.Type:
    """Return the signless integer type of `width` bits."""
    return ir.IntegerType.get_signless(width)


def vector_type(lanes: int, element: ir.Type) -> ir.VectorType:
    """Return ``vector<lanes x element>``."""
    return ir.VectorType.get([lanes], element)


def splat(lanes: int, element: ir.Type, value: int | float) -> ir.Value:
    """Return a vector constant; an integer is a bit pattern."""
    type_ = vector_type(lanes, element)
    if isinstance(element, ir.IntegerType):
        scalar: Any = ir.IntegerAttr.get(element, _signed(int(value), element.width))
    else:
        scalar = ir.FloatAttr.get(element, float(value))
    return arith.constant(type_, ir.DenseElementsAttr.get_splat(type_, scalar))


def wrapped(element: ir.IntegerType, value: int) -> ir.Value:
    """Return an integer constant; `value` is taken modulo two to the width of `element`."""
    return arith.constant(element, _signed(value % (1 << element.width), element.width))


def _signed(pattern: int, width: int) -> int:
    return pattern - (1 << width) if pattern >> (width - 1) & 1 else pattern


def loop(
    start: ir.Value, stop: ir.Value, step: ir.Value, body: Loop, carried: Sequence[ir.Value] = ()
) -> list[ir.Value]:
    """Build ``scf.for``; ``body(i, *carried)`` returns what the next round carries."""
    op = scf.ForOp(start, stop, step, list(carried))
    with ir.InsertionPoint(op.body):
        scf.YieldOp(list(body(op.induction_variable, *op.inner_iter_args)))
    return list(op.results)


def each(start: ir.Value, stop: ir.Value, step: int, body: Callable[[ir.Value], object]) -> None:
    """Build ``scf.for`` that carries nothing."""

    def run(i: ir.Value) -> Sequence[ir.Value]:
        body(i)
        return ()

    loop(start, stop, index(step), run)


def repeat(first: ir.Value, step: Callable[[ir.Value], tuple[ir.Value, ir.Value]]) -> ir.Value:
    """Build ``scf.while``: ``step(value)`` returns whether to go on, and the next value.

    Returns the value that the last round returned.
    """
    op = scf.WhileOp([first.type], [first])
    before = op.before.blocks.append(first.type)
    with ir.InsertionPoint(before):
        goes_on, value = step(before.arguments[0])
        scf.ConditionOp(goes_on, [value])
    after = op.after.blocks.append(first.type)
    with ir.InsertionPoint(after):
        scf.YieldOp([after.arguments[0]])
    found: ir.Value = op.results[0]
    return found


def only_if(condition: ir.Value, body: Callable[[], object]) -> None:
    """Build ``scf.if`` that gives nothing."""
    op = scf.IfOp(condition)
    with ir.InsertionPoint(op.then_block):
        body()
        scf.YieldOp([])


def add_atomically(value: ir.Value, target: ir.Value, at: Sequence[ir.Value]) -> ir.Value:
    """Add to an integer that other threads add to; return what it was before.

    What a thread stored before is seen by those that find its addition there.
    """
    found: ir.Value = memref.AtomicRMWOp(arith.AtomicRMWKind.addi, value, target, list(at)).result
    return found


def buffer_type(shape: Sequence[int], element: ir.Type) -> ir.MemRefType:
    """Return ``memref<shape x element>``."""
    return ir.MemRefType.get(list(shape), element)


def scratch(shape: Sequence[int], element: ir.Type) -> ir.Value:
    """Return a buffer on the stack, aligned to 64 bytes."""
    alignment = ir.IntegerAttr.get(integer(64), 64)
    return memref.AllocaOp(buffer_type(shape, element), [], [], alignment=alignment).result


def load(lanes: int, source: ir.Value, at: Sequence[ir.Value], mask: ir.Value | None = None) -> Any:
    """Load a vector; lanes outside `mask` are zero and are not read."""
    element = ir.MemRefType(source.type).element_type
    type_ = vector_type(lanes, element)
    if mask is None:
        return vector.load(type_, source, list(at))
    return vector.maskedload(type_, source, list(at), mask, splat(lanes, element, 0))


def store(
    value: ir.Value, target: ir.Value, at: Sequence[ir.Value], mask: ir.Value | None = None
) -> None:
    """Store a vector; lanes outside `mask` are not written."""
    if mask is None:
        vector.store(value, target, list(at))
    else:
        vector.maskedstore(target, list(at), mask, value)


def load_scalar(source: ir.Value, at: Sequence[ir.Value]) -> ir.Value:
    """Load one element."""
    return memref.load(source, list(at))


def store_scalar(value: ir.Value, target: ir.Value, at: Sequence[ir.Value]) -> None:
    """Store one element."""
    memref.store(value, target, list(at))


def prefetch(source: ir.Value, at: Sequence[ir.Value]) -> None:
    """Ask for a cache line that will be read; the place may lie beyond the buffer."""
    flags = {"isWrite": False, "isDataCache": True}
    ir.Operation.create(
        "memref.prefetch",
        operands=[source, *at],
        attributes={
            **{name: ir.BoolAttr.get(value) for name, value in flags.items()},
            "localityHint": ir.IntegerAttr.get(integer(32), 3),
        },
    )


def mask_of(lanes: int, count: ir.Value) -> ir.Value:
    """Return a mask whose first `count` lanes are set; none below 0, all above `lanes`."""
    bounded = arith.minsi(arith.maxsi(count, index(0)), index(lanes))
    return vector.create_mask(vector_type(lanes, integer(1)), [bounded])


def broadcast_scalar(lanes: int, source: ir.Value, at: Sequence[ir.Value]) -> ir.Value:
    """Load one element into all lanes."""
    scalar = memref.load(source, list(at))
    return vector.broadcast(vector_type(lanes, scalar.type), scalar)


def as_floats(bits: ir.Value, lanes: int) -> ir.Value:
    """Return i32 patterns as f32."""
    return vector.bitcast(vector_type(lanes, ir.F32Type.get()), bits)


def from_halves(patterns: ir.Value, lanes: int) -> ir.Value:
    """Return i16 patterns of f16 as f32."""
    halves = vector.bitcast(vector_type(lanes, ir.F16Type.get()), patterns)
    return arith.extf(vector_type(lanes, ir.F32Type.get()), halves)


def multiply_add(a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
    """Return ``a * b + total``, rounded once where the processor can, else twice.

    ``math.fma`` would call a function on processors that have no such instruction.
    """
    may_fuse = arith.FastMathFlags.contract
    return arith.addf(arith.mulf(a, b, fastmath=may_fuse), total, fastmath=may_fuse)


def intrinsic(name: str, operands: Sequence[ir.Value], result: ir.Type | None) -> Any:
    """Call an instruction of one processor by LLVM's name for it; without `result`, for nothing."""
    attributes = {
        "intrin": ir.StringAttr.get(name),
        "op_bundle_sizes": ir.DenseI32ArrayAttr.get([]),
        "operandSegmentSizes": ir.DenseI32ArrayAttr.get([len(operands), 0]),
    }
    op = ir.Operation.create(
        "llvm.call_intrinsic",
        results=[] if result is None else [result],
        operands=list(operands),
        attributes=attributes,
    )
    return None if result is None else op.result


def transposed(rows: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the columns of a square of as many vectors as each has lanes, a power of two.

    Each stage interleaves row i of the upper half with row i of the lower half; the number of a
    lane takes a bit from the number of its row, and after all stages they have changed places.
    """
    found, lanes = list(rows), len(rows)
    half = lanes // 2
    low = [i // 2 + lanes * (i % 2) for i in range(lanes)]
    high = [half + i for i in low]
    for _ in range(lanes.bit_length() - 1):
        pairs = list(zip(found[:half], found[half:], strict=True))
        found = [vector.shuffle(a, b, mask) for a, b in pairs for mask in (low, high)]
    return found
