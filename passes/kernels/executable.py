"""Put a kernel into the module as an executable of its own, and dispatch to it.

``hal.executable.source`` hands a function to IREE's code generator as it is: nothing is tiled,
fused or vectorised any more.  Tensors become bindings, unknown sizes become push constants::

    hal.executable.source private @kernel {
      hal.executable.export public @kernel ordinal(0) layout(…) count(%device, %x, %y, %z) { … }
      builtin.module { func.func @kernel() attributes {translation_info = …} { … } }
    }
    %c = flow.dispatch @kernel::@kernel[%x, %y, %z](%m_i32, %a, %b) : … -> tensor<…>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from .. import build

MOST_BINDINGS = 32  # of a dispatch in a command buffer of IREE's CPU devices
READ_ONLY = 1  # of hal.descriptor_flags


def declare(
    module: ir.Module,
    name: str,
    bindings: Sequence[bool],
    constants: int,
    translation: str,
    body: Callable[[Interface], None],
) -> None:
    """Add the executable `name` to `module` unless it is there.

    Parameters
    ----------
    bindings : sequence of bool
        For each buffer, whether it is only read.
    constants : int
        How many i32 push constants it takes.
    translation : str
        The ``translation_info`` that says how IREE goes on.
    body : callable
        Builds the function's body, given its :class:`Interface`.
    """
    if any(_symbol(op) == name for op in module.body.operations):
        return
    flags = [", ReadOnly" if is_input else "" for is_input in bindings]
    listed = ", ".join(f"#hal.pipeline.binding<storage_buffer{flag}>" for flag in flags)
    layout = f"#hal.pipeline.layout<constants = {constants}, bindings = [{listed}]>"
    executable = ir.Operation.parse(
        f"""
        hal.executable.source private @{name} {{
          hal.executable.export public @{name} ordinal(0) layout({layout})
              count(%device: !hal.device, %x: index, %y: index, %z: index)
              -> (index, index, index) {{
            hal.return %x, %y, %z : index, index, index
          }}
          builtin.module {{
            func.func @{name}() attributes {{translation_info = {translation}}} {{
              return
            }}
          }}
        }}""",
        context=module.context,
    )
    ir.InsertionPoint.at_block_begin(module.body).insert(executable)
    function = executable.regions[0].blocks[0].operations[1].operation.regions[0].blocks[0]
    entry = function.operations[0].operation.regions[0].blocks[0]
    last = entry.operations[len(entry.operations) - 1]
    with ir.InsertionPoint(last), ir.Location.name(name):
        body(Interface(layout))


class Interface:
    """What a kernel's function reads its arguments from.

    ``records`` are records of its rows where another part of the function made them; then nothing
    is read from the first buffer.
    """

    records: ir.Value | None = None

    def __init__(self, layout: str | ir.Attribute) -> None:
        self.layout = ir.Attribute.parse(layout) if isinstance(layout, str) else layout

    def constant(self, ordinal: int) -> ir.Value:
        """Return a push constant as an index."""
        i32 = ir.IntegerType.get_signless(32)
        value = ir.Operation.create(
            "hal.interface.constant.load",
            results=[i32],
            attributes={
                "layout": self.layout,
                "ordinal": ir.IntegerAttr.get(ir.IndexType.get(), ordinal),
            },
        ).result
        return arith.index_cast(ir.IndexType.get(), value)

    def buffer(
        self, ordinal: int, type_: ir.Type, sizes: Sequence[ir.Value], *, is_input: bool
    ) -> ir.Value:
        """Return binding `ordinal` as a memref; `sizes` are those that its type leaves open."""
        attributes: dict[str, Any] = {
            "layout": self.layout,
            "binding": ir.IntegerAttr.get(ir.IndexType.get(), ordinal),
            "alignment": ir.IntegerAttr.get(ir.IndexType.get(), 64),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([1, len(sizes)]),
        }
        if is_input:
            attributes["descriptor_flags"] = ir.IntegerAttr.get(
                ir.IntegerType.get_signless(32), READ_ONLY
            )
        offset = build.index(0)
        return ir.Operation.create(
            "hal.interface.binding.subspan",
            results=[type_],
            operands=[offset, *sizes],
            attributes=attributes,
        ).result

    @staticmethod
    def workgroup(axis: int) -> ir.Value:
        """Return this workgroup's number along x, y or z."""
        return Interface._of_workgroup("id", axis)

    @staticmethod
    def workgroups(axis: int) -> ir.Value:
        """Return how many workgroups there are along x, y or z."""
        return Interface._of_workgroup("count", axis)

    @staticmethod
    def _of_workgroup(what: str, axis: int) -> ir.Value:
        return ir.Operation.create(
            f"hal.interface.workgroup.{what}",
            results=[ir.IndexType.get()],
            attributes={"dimension": ir.IntegerAttr.get(ir.IndexType.get(), axis)},
        ).result


def threads(default: int) -> ir.Value:
    """Return how many threads the device has that runs the module, `default` if it does not say."""
    kind = ir.Type.parse("!hal.device")
    device = ir.Operation.create(
        "hal.devices.get", results=[kind], operands=[build.index(0)]
    ).result  # fmt: skip
    i64 = ir.IntegerType.get_signless(64)
    found = ir.Operation.create(
        "hal.device.query",
        results=[ir.IntegerType.get_signless(1), i64],
        operands=[device],
        attributes={
            "category": ir.StringAttr.get("hal.dispatch"),
            "key": ir.StringAttr.get("concurrency"),
            "default_value": ir.IntegerAttr.get(i64, default),
        },
    )
    return arith.index_cast(ir.IndexType.get(), found.results[1])


def dispatch(
    name: str,
    grid: Sequence[ir.Value],
    constants: Sequence[ir.Value],
    tensors: Sequence[ir.Value],
    result: ir.RankedTensorType | Sequence[ir.RankedTensorType],
    result_sizes: Sequence[ir.Value],
    into: ir.Value | None = None,
) -> Any:
    """Build ``flow.dispatch`` to the executable `name`; `constants` are indices.

    `result` may be the types of several results.  With `into` the result is written in the place of
    that tensor, the last one if there are several.
    """
    i32 = ir.IntegerType.get_signless(32)
    scalars = [arith.index_cast(i32, value) for value in constants]
    entry = ir.Attribute.parse(f"[@{name}::@{name}]")
    tied = {}
    if into is not None:
        others = 0 if isinstance(result, ir.Type) else len(result) - 1
        numbers = [*[-1] * others, len(scalars) + len(tensors)]
        places = [ir.IntegerAttr.get(ir.IndexType.get(), number) for number in numbers]
        tied, tensors = {"tied_operands": ir.ArrayAttr.get(places)}, [*tensors, into]
    sizes = [size for tensor in tensors for size in build.dynamic_sizes(tensor)]
    segments = [len(grid), len(scalars) + len(tensors), len(sizes), len(result_sizes)]
    return ir.Operation.create(
        "flow.dispatch",
        results=[result] if isinstance(result, ir.Type) else list(result),
        operands=[*grid, *scalars, *tensors, *sizes, *result_sizes],
        attributes={
            "entry_points": entry,
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get(segments),
            **tied,
        },
    )


def _symbol(op: Any) -> str:
    attributes = op.operation.attributes
    return ir.StringAttr(attributes["sym_name"]).value if "sym_name" in attributes else ""
