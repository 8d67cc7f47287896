"""What passes write onto operations for later passes and the report, in one place.

============================ ============ =========================================================
attribute                    on           meaning
============================ ============ =========================================================
``lowc.matmul = "name"``     contraction  its name: module path in the PyTorch model
``lowc.kind = "weight"``     contraction  ``weight`` or ``product`` (of two activations)
``lowc.shape = "128x384x…"`` contraction  batch x M x N x K as it was found; ``?`` is dynamic
``lowc.form = {…}``          contraction  the form that the recipe assigns (:class:`.forms.Form`)
``lowc.lowering = "…"``      contraction  what became of it, and why, for the report
``lowc.bits = 5.0``          contraction  stored bits per weight, scales counted
``lowc.operations = "{…}"``  linalg …     its scalar operations by kind, and bits moved; module: sum
``lowc.product = "{…}"``     contraction  how patterns or signed sums are added, integers multiplied
                                          or sums looked up (JSON); element-wise also its operations
                                          as exported
``lowc.tile = "…"``          contraction  the tile that is chosen (``tiling/tilings.py``); of a
                                          dispatch, the one that its kernel was generated for
``lowc.panels = {…}``         contraction  panels that its weight is stored in because of another
                                          product (:mod:`.shared_panels`)
``lowc.predicted = 1.0e-3``  contraction  the seconds of a call that the choice of the tile expects
``lowc.why = "…"``           contraction  why it has that tile, for the report
``lowc.also = [{…}]``        dispatch     these attributes of other matmuls that it does as well
``lowc.part = "name"``       generic      its operations count for the matmul of that name
``lowc.after = "name"``      generic      the same, of what scales the finished sums
``lowc.prepared = "0"``      generic      it prepares an operand of such a product, less this much,
                                          or is a step to ``tables``
``lowc.lookup = "name"``     generic      it looks up rows of a parameter: its module path; form,
                                          shape, lowering and bits are as of a contraction
``lowc.filled``              tensor.pad   fills K up to whole groups: no part of the model
``lowc.derivation = {…}``    util.global  how its bytes follow from another parameter
``lowc.zeros``               util.global  it begins as zeros; on a generic: it makes what a reset
                                          puts there
``lowc.cache = "i8"``        generic      it reads part of a cache that is stored in this format
``lowc.caches = "[…]"``      module       what became of every cache, for the report (JSON)
``lowc.entry``               func.func    one of several entries of a module: its matmuls are
                                          called ``name@entry``
``lowc.reset``               func.func    it puts the state back: no part of a call
``lowc.index_bounds = "…"``  func.func    [argument, size] of inputs that index a table
``lowc.shadows = "[…]"``     func.func    names of the matmuls that its last result measures
``lowc.moments = "[…]"``     func.func    [[matmul, weight] …] of each of the last results, moments
============================ ============ =========================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from iree.compiler import ir

MATMUL = "lowc.matmul"
KIND = "lowc.kind"
SHAPE = "lowc.shape"
FORM = "lowc.form"
LOWERING = "lowc.lowering"
BITS = "lowc.bits"
OPERATIONS = "lowc.operations"
PRODUCT = "lowc.product"
PART = "lowc.part"
AFTER = "lowc.after"
PREPARED = "lowc.prepared"
TILE = "lowc.tile"
PANELS = "lowc.panels"
PREDICTED = "lowc.predicted"
WHY = "lowc.why"
ALSO = "lowc.also"
LOOKUP = "lowc.lookup"
FILLED = "lowc.filled"
DERIVATION = "lowc.derivation"
ZEROS = "lowc.zeros"
CACHE = "lowc.cache"
CACHES = "lowc.caches"
ENTRY = "lowc.entry"
RESET = "lowc.reset"
INDEX_BOUNDS = "lowc.index_bounds"
SHADOWS = "lowc.shadows"
MOMENTS = "lowc.moments"
MATMUL_ATTRIBUTES = (
    MATMUL, KIND, SHAPE, FORM, LOWERING, BITS, OPERATIONS, PRODUCT, TILE, PREDICTED, WHY,
)  # fmt: skip


def operations(root: Any) -> Iterator[Any]:
    """Yield every operation below `root`, outermost first, as a list taken before any change."""
    found: list[Any] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        found.append(op)
        return ir.WalkResult.ADVANCE

    root.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    yield from found


def matmuls(module: ir.Module) -> list[Any]:
    """Return the contractions that ``lowc-name-matmuls`` named."""
    return [op for op in operations(module) if MATMUL in op.attributes]


def look_ups(module: ir.Module) -> list[Any]:
    """Return the look-ups of rows that ``lowc-assign-forms`` named."""
    return [op for op in operations(module) if LOOKUP in op.attributes]


def reported(module: ir.Module) -> list[Any]:
    """Return what has the attributes of a matmul: operations, and what they do as well."""
    found = []
    for op in matmuls(module):
        if ALSO in op.attributes:
            found += [
                SimpleNamespace(name=op.name, attributes=ir.DictAttr(attributes))
                for attributes in ir.ArrayAttr(op.attributes[ALSO])
            ]
        found.append(op)
    return found


def text(op: Any, name: str) -> str:
    """Return a string attribute, or ``""``."""
    return ir.StringAttr(op.attributes[name]).value if name in op.attributes else ""


def product_facts(op: Any) -> dict[str, Any]:
    """Return what was noted of the product whose last operation `op` is: its ``kind``, and more."""
    found = text(op, PRODUCT)
    return json.loads(found) if found else {}


def set_text(op: Any, name: str, value: str) -> None:
    """Set a string attribute."""
    op.attributes[name] = ir.StringAttr.get(value, op.context)


def add_text(op: Any, name: str, value: str) -> None:
    """Add `value` to what a string attribute says, if it says anything."""
    said = text(op, name)
    set_text(op, name, f"{said}; {value}" if said else value)


def copy_annotations(source: Any, target: Any) -> None:
    """Carry what is known of a matmul over to the operation that replaces it."""
    for name in MATMUL_ATTRIBUTES:
        if name in source.attributes:
            target.attributes[name] = source.attributes[name]


def add_also(source: Any, target: Any) -> None:
    """Note on `target`, which replaces another matmul, that it replaces `source` as well."""
    known = {
        name: source.attributes[name] for name in MATMUL_ATTRIBUTES if name in source.attributes
    }
    with source.context:
        before = list(ir.ArrayAttr(target.attributes[ALSO])) if ALSO in target.attributes else []
        target.attributes[ALSO] = ir.ArrayAttr.get([*before, ir.DictAttr.get(known)])


def add_lowering(op: Any, value: str) -> None:
    """Add `value` to what is said of the lowering of every matmul that a dispatch does."""
    add_text(op, LOWERING, value)
    if ALSO not in op.attributes:
        return
    with op.context:
        found = []
        for one in ir.ArrayAttr(op.attributes[ALSO]):
            known = {named.name: named.attr for named in ir.DictAttr(one)}
            said = ir.StringAttr(known[LOWERING]).value if LOWERING in known else ""
            known[LOWERING] = ir.StringAttr.get(f"{said}; {value}" if said else value)
            found.append(ir.DictAttr.get(known))
        op.attributes[ALSO] = ir.ArrayAttr.get(found)


def carry_all(sources: list[Any], target: Any) -> None:
    """Note on `target` all matmuls of the dispatches that it replaces, in their order.

    Its own is the last one, which :func:`reported` tells behind the others.
    """
    copy_annotations(sources[-1], target)
    also: list[ir.Attribute] = []
    for number, source in enumerate(sources):
        if ALSO in source.attributes:
            also += list(ir.ArrayAttr(source.attributes[ALSO]))
        if number < len(sources) - 1:
            known = {n: source.attributes[n] for n in MATMUL_ATTRIBUTES if n in source.attributes}
            also.append(ir.DictAttr.get(known, source.context))
    if also:
        target.attributes[ALSO] = ir.ArrayAttr.get(also, target.context)


def names(op: Any) -> list[str]:
    """Return the names of all matmuls that an operation does."""
    also = list(ir.ArrayAttr(op.attributes[ALSO])) if ALSO in op.attributes else []
    found = [ir.StringAttr(ir.DictAttr(one)[MATMUL]).value for one in also]
    return [text(op, MATMUL), *found]


def move_annotations(source: Any, target: Any) -> None:
    """Carry what is known of a matmul over to another operation, and leave nothing of it behind."""
    copy_annotations(source, target)
    for name in MATMUL_ATTRIBUTES:
        if name in source.attributes:
            del source.attributes[name]


def to_attribute(values: dict[str, Any], context: ir.Context) -> ir.Attribute:
    """Turn strings, booleans, integers and JSON lists into a ``DictAttr``."""
    with context:
        return ir.DictAttr.get({key: _attribute(value) for key, value in values.items()})


def json_attribute(value: Any, context: ir.Context) -> ir.Attribute:
    """Return a string attribute that holds `value` as JSON."""
    with context:
        return ir.StringAttr.get(json.dumps(value, separators=(",", ":")))


def _attribute(value: Any) -> ir.Attribute:
    if isinstance(value, bool):
        return ir.BoolAttr.get(value)
    if isinstance(value, int):
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
    if isinstance(value, str):
        return ir.StringAttr.get(value)
    return ir.StringAttr.get(json.dumps(value, separators=(",", ":")))


def from_attribute(attribute: ir.Attribute) -> dict[str, Any]:
    """Undo :func:`to_attribute` (JSON lists stay text)."""
    result: dict[str, Any] = {}
    for named in ir.DictAttr(attribute):
        value = named.attr
        if isinstance(value, (ir.BoolAttr, ir.IntegerAttr)):
            result[named.name] = value.value
        else:
            result[named.name] = ir.StringAttr(value).value
    return result
