"""Globals that hold parameters, and the derivations that say how new ones follow from old ones.

Passes never touch weight bytes.  One that changes how a weight is stored declares a new global
whose ``lowc.derivation`` says how its bytes are made; after the passes one place
(``compiler/parameters.py``) makes them::

    util.global private @"fc.weight.i4g32.codes"
        {lowc.derivation = {bits = 4, group = 32, kind = "rtn", layout = "[]", part = "codes",
                            source = "fc.weight", symmetric = true}}
        = #flow.parameter.named<"model"::"fc.weight.i4g32.codes"> : tensor<8x1x32xi4>
"""

import hashlib
import json
import re
from typing import Any

from iree.compiler import ir

from . import annotations
from .contraction import Weight

SCOPE = "model"
_PARAMETER = re.compile(r'#flow\.parameter\.named<"((?:[^"\\]|\\.)*)"::"((?:[^"\\]|\\.)*)">')


def module_of(op: Any) -> ir.Module:
    """Return the module that `op` is in."""
    module = op.operation
    while module.parent is not None:
        module = module.parent
    return module.opview


def find_global(module: ir.Module, symbol: str) -> Any:
    """Return the ``util.global`` called `symbol`, or None."""
    for op in module.body.operations:
        if op.operation.name == "util.global" and annotations.text(op, "sym_name") == symbol:
            return op
    return None


def parameter_key(op: Any, *, mutable: bool = False) -> str | None:
    """Return the key of the parameter that a global is initialised with, if it is one of ours.

    A global that the model writes to counts only with `mutable`.
    """
    if "initial_value" not in op.attributes or ("is_mutable" in op.attributes and not mutable):
        return None
    match = _PARAMETER.match(str(op.attributes["initial_value"]))
    return match[2] if match and match[1] == SCOPE else None


def stored_bits(module: ir.Module, weight: Weight) -> int:
    """Return the bits of one element of the global that holds `weight`."""
    holder = find_global(module, weight.symbol)
    return int(ir.RankedTensorType(ir.TypeAttr(holder.attributes["type"]).value).element_type.width)


def declare(symbol: str, type_: ir.Type, others: dict[str, ir.Attribute], before: Any) -> Any:
    """Put a private global of the parameter `symbol` in front of an operation; return it."""
    key = ir.StringAttr.get(symbol)
    attributes = {
        "sym_name": key,
        "sym_visibility": ir.StringAttr.get("private"),
        "type": ir.TypeAttr.get(type_),
        "initial_value": ir.Attribute.parse(f'#flow.parameter.named<"{SCOPE}"::{key}> : {type_}'),
        **others,
    }
    return ir.Operation.create("util.global", attributes=attributes, ip=ir.InsertionPoint(before))


def derived_global(
    module: ir.Module, after: Any, symbol: str, type_: ir.Type, derivation: dict[str, Any]
) -> str:
    """Declare a global for a derived parameter unless it is there; return its symbol."""
    if find_global(module, symbol) is None:
        made = annotations.to_attribute(derivation, module.context)
        op = declare(symbol, type_, {annotations.DERIVATION: made}, after)
        op.move_after(after)
    return symbol


def layout_name(text: str) -> str:
    """Return a short name for a layout (JSON): ``t10`` for a transposition, else a checksum."""
    steps = json.loads(text)
    if len(steps) == 1 and steps[0][0] == "transpose":
        return "t" + "".join(str(axis) for axis in steps[0][1])
    return f"v{hashlib.sha256(text.encode()).hexdigest()[:8]}"
