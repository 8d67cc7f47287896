"""What kernels for GPUs share: threads, shuffles, workgroup memory, buffers of vectors.

A kernel's body is the same for Vulkan (``spirv``) and CUDA (``ptx``) as long as it calls no
instruction of one of them by name (:func:`dot4`, :func:`round_to_int`, :func:`copy_ahead`).
"""

from __future__ import annotations

from collections.abc import Sequence

from iree.compiler import ir
from iree.compiler.dialects import arith, memref, vector

from . import emit
from .executable import Interface

WARP = 32  # threads that run together, and shuffle
MAX_WORKGROUPS = 65535  # along each axis: what Vulkan promises; CUDA has more along x
PIPELINES = {
    "spirv": "#iree_gpu.spirv_pipeline<BaseLowering>",
    "ptx": "#iree_gpu.pipeline<BaseLowering>",
}


def translation(dialect: str, threads: Sequence[int]) -> str:
    """Return how IREE goes on from a body for workgroups of so many threads along x, y and z."""
    warp = f" subgroup_size = {WARP}" if dialect == "ptx" else ""
    return (
        f"#iree_codegen.translation_info<pipeline = {PIPELINES[dialect]} "
        f"workgroup_size = {list(threads)}{warp}>"
    )


def thread(axis: str) -> ir.Value:
    """Return this thread's number in its workgroup along ``x``, ``y`` or ``z``."""
    return ir.Operation.create(
        "gpu.thread_id",
        results=[ir.IndexType.get()],
        attributes={"dimension": ir.Attribute.parse(f"#gpu<dim<{axis}>>")},
    ).result


def barrier() -> None:
    """Wait for all threads of the workgroup, and for what they wrote to its memory."""
    ir.Operation.create("gpu.barrier")


def shuffle_xor(value: ir.Value, distance: int) -> ir.Value:
    """Return `value` of the thread of this warp whose number differs in the bit `distance`."""
    i32 = emit.integer(32)
    return ir.Operation.create(
        "gpu.shuffle",
        results=[value.type, emit.integer(1)],
        operands=[value, arith.constant(i32, distance), arith.constant(i32, WARP)],
        attributes={"mode": ir.Attribute.parse("#gpu<shuffle_mode<xor>>")},
    ).results[0]


def shared(shape: Sequence[int], element: ir.Type) -> ir.Value:
    """Return memory of the workgroup."""
    space = ir.Attribute.parse("#gpu.address_space<workgroup>")
    type_ = ir.MemRefType.get(list(shape), element, memory_space=space)
    return memref.AllocOp(type_, [], []).result


def buffer(
    interface: Interface,
    ordinal: int,
    shape: Sequence[int | None],
    element: ir.Type,
    opened: Sequence[ir.Value] = (),
    *,
    lanes: int = 1,
    is_input: bool = True,
) -> ir.Value:
    """Return a binding as a memref whose last dimension is counted in vectors of `lanes`.

    `opened` are the sizes that stand as None in `shape`; the last one is known if `lanes` is not 1.
    """
    known = [ir.ShapedType.get_dynamic_size() if size is None else size for size in shape]
    if lanes > 1:
        known[-1] //= lanes
        element = emit.vector_type(lanes, element)
    space = ir.Attribute.parse("#hal.descriptor_type<storage_buffer>")
    type_ = ir.MemRefType.get(known, element, memory_space=space)
    return interface.buffer(ordinal, type_, opened, is_input=is_input)


def when(condition: ir.Value) -> ir.InsertionPoint:
    """Return the place inside of an ``scf.if`` without results; end it with ``scf.YieldOp([])``."""
    from iree.compiler.dialects import scf

    return ir.InsertionPoint(scf.IfOp(condition).then_block)


def lanes_of(value: ir.Value) -> list[ir.Value]:
    """Return the elements of a vector."""
    return [vector.extract(value, [], [i]) for i in range(ir.VectorType(value.type).shape[0])]


def word(pattern: int) -> ir.Value:
    """Return an i32 constant of so many bits."""
    return emit.wrapped(emit.integer(32), pattern)


def add(value: ir.Value, other: int) -> ir.Value:
    """Return an index plus a constant."""
    return arith.addi(value, emit.index(other)) if other else value


def scaled(value: ir.Value, factor: int) -> ir.Value:
    """Return an index times a constant."""
    return arith.muli(value, emit.index(factor)) if factor != 1 else value


def dot4(codes: ir.Value, q: ir.Value, total: ir.Value, *, signed: bool) -> ir.Value:
    """Return `total` and four products of bytes: `codes` signed or not, `q` signed (``dp4a``)."""
    name = "llvm.nvvm.idp4a.s.s" if signed else "llvm.nvvm.idp4a.u.s"
    found: ir.Value = emit.intrinsic(name, [codes, q, total], emit.integer(32))
    return found


def masked_or(value: ir.Value, mask: int, pattern: int) -> ir.Value:
    """Return ``value & mask | pattern`` as one instruction: both constants in registers."""
    i32 = emit.integer(32)
    return ir.Operation.create(
        "llvm.inline_asm",
        results=[i32],
        operands=[value, word(mask), word(pattern)],
        attributes={
            "asm_string": ir.StringAttr.get("lop3.b32 $0, $1, $2, $3, 0xEA;"),
            "constraints": ir.StringAttr.get("=r,r,r,r"),
        },
    ).result


def round_to_int(value: ir.Value) -> ir.Value:
    """Return an f32 as the nearest i32, ties to even."""
    found: ir.Value = emit.intrinsic("llvm.nvvm.f2i.rn", [value], emit.integer(32))
    return found


def copy_ahead(
    source: ir.Value, at: Sequence[ir.Value], target: ir.Value, to: Sequence[ir.Value], count: int
) -> ir.Value:
    """Start to copy `count` elements to workgroup memory, without waiting (``cp.async``)."""
    return ir.Operation.create(
        "nvgpu.device_async_copy",
        results=[ir.Type.parse("!nvgpu.device.async.token")],
        operands=[target, *to, source, *at],
        attributes={
            "dstElements": ir.IntegerAttr.get(ir.IndexType.get(), count),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, len(to), 1, len(at), 0]),
            "bypassL1": ir.UnitAttr.get(),
        },
    ).result


def close_copies(tokens: Sequence[ir.Value]) -> ir.Value:
    """Make one group of the copies that were started since the last one: those of `tokens`."""
    token = ir.Type.parse("!nvgpu.device.async.token")
    return ir.Operation.create(
        "nvgpu.device_async_create_group", results=[token], operands=list(tokens)
    ).result


def wait_for_copies(token: ir.Value, pending: int) -> None:
    """Wait until at most the `pending` latest groups are still being copied."""
    ir.Operation.create(
        "nvgpu.device_async_wait",
        operands=[token],
        attributes={"numGroups": ir.IntegerAttr.get(emit.integer(32), pending)},
    )
