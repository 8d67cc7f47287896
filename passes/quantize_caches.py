"""``lowc-quantize-caches``: keep keys and values of attention in few bits."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations, build, cache_blocks, cache_rows, cache_scatters
from .base import Pass, Refusal, RemarkKind
from .build import Part
from .contraction import defining
from .formats.caches import Name
from .parameters import declare, parameter_key
from .state import is_mutable, store_global, store_zeros, type_of

_ROLES = {"qk": "keys", "pv": "values"}
_SEARCH_LIMIT = 400
Touching = Mapping[tuple[str, str], list[Any]]  # by operation and symbol of the global


@dataclass(frozen=True)
class QuantizeCaches(Pass):
    """Store what a model keeps of its keys and values in other formats than f32.

    A cache is a global f32 ``[…, width]`` that begins as zeros, that the model writes rows to, and
    that a product of attention reads: the first one reads keys, the second one values.  It becomes
    one global or several (``passes/formats/caches.py`` has the formats, ``cache_rows.py`` and
    ``cache_blocks.py`` the tensors); rows are rounded where they are written, and made f32 where
    they are read, of what is read alone.  ``lowc.caches`` of the module says what became of each.

    Before::

        util.global private mutable @keys = #flow.parameter.named<…> : tensor<40x2x16xf32>
        %c = util.global.load @keys : tensor<40x2x16xf32>
        %d = tensor.insert_slice %new into %c[%at, 0, 0] [1, 2, 16] [1, 1, 1]
        util.global.store %d, @keys
        %k = tensor.extract_slice %d[0, 0, 0] [%n, 2, 16] [1, 1, 1]

    After ``lowc-quantize-caches{keys=i8}``::

        util.global private mutable @"keys.i8.codes" {lowc.zeros} = … : tensor<40x2x16xi8>
        util.global private mutable @"keys.i8.scales" {lowc.zeros} = … : tensor<40x2xf32>
        %q, %s = codes and scales of %new
        %e = tensor.insert_slice %q into %codes[%at, 0, 0] [1, 2, 16] [1, 1, 1]
        %f = tensor.insert_slice %s into %scales[%at, 0] [1, 2] [1, 1]
        util.global.store %e, … %f, …
        %g, %h = tensor.extract_slice %e[0, 0, 0] …, %f[0, 0] …
        %k = linalg.generic {lowc.cache = "i8"} ins(%g, %h) … { sitofp, mulf }

    Parameters
    ----------
    keys : str
        The format of keys: ``f32``, ``f16``, ``i8`` or ``i4``.  ``i4`` has scales for each channel
        and block of tokens, and needs a cache ``[positions, heads, width]``.
    values : str
        The format of values: the same, but the scales of ``i4`` are for each token and head.
    """

    keys: Name = "f32"
    values: Name = "f32"
    name: ClassVar[str] = "lowc-quantize-caches"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every cache; note what became of it."""
        rows: list[dict[str, Any]] = []
        touching = _touching(module)
        for op in [op for op in module.body.operations if is_mutable(op)]:
            role = _role(touching, op)
            if not role:
                continue
            wanted = self.keys if role == "keys" else self.values
            name, type_ = annotations.text(op, "sym_name"), type_of(op)
            shape, stays = list(type_.shape), str(type_.element_type)
            count = math.prod(shape)
            row = {
                "name": name, "role": role, "shape": shape, "format": stays, "why": "",
                "bytes": count * type_.element_type.width // 8, "bytes_f32": 4 * count,
            }  # fmt: skip
            plan = match(touching, op, role, wanted) if wanted not in ("f32", stays) else None
            if isinstance(plan, Refusal):
                row["why"] = f"not {wanted}: {plan.reason}"
                remark(RemarkKind.REFUSED, op, name, f"the cache stays {stays}: {plan.reason}")
            elif plan is not None:
                remark(RemarkKind.APPLIED, op, name, f"{role} in {plan.describe()}")
                row |= {"format": wanted, "bytes": rewrite(module, plan)}
            rows.append(row)
        for role, wanted in (("keys", self.keys), ("values", self.values)):
            if wanted != "f32" and all(row["role"] != role for row in rows):
                why = f"of what the model keeps none was recognised as {role} of attention"
                remark(RemarkKind.WARNING, None, f"{role} in {wanted}", why)
        # Row by row: caches of one layer stand together, keys first.
        rows.sort(key=lambda row: _in_order(row["name"]))
        module.operation.attributes[annotations.CACHES] = annotations.json_attribute(
            rows, module.context
        )


@dataclass
class Plan:
    """A cache, and the format that it shall have.

    ``loads`` are those whose states are written and read, ``zeros`` the stores of a reset.
    """

    holder: Any
    symbol: str
    shape: list[int]
    format: str
    by_channels: bool
    loads: list[Any] = field(default_factory=list)
    zeros: list[Any] = field(default_factory=list)

    def describe(self) -> str:
        """Say which format it is."""
        shares = "a channel of 32 tokens" if self.by_channels else "a token and head"
        return self.format if self.format == "f16" else f"{self.format}, a scale for {shares}"

    def parts(self) -> cache_rows.Shapes:
        """Return the tensors that it is stored in."""
        if self.by_channels:
            return cache_blocks.parts_of(self.shape)
        return cache_rows.parts_of(self.format, self.shape)

    def symbol_of(self, part: str) -> str:
        """Return the global that holds a part."""
        return f"{self.symbol}.{self.format}.{part}"


def match(touching: Touching, op: Any, role: str, wanted: str) -> Plan | Refusal:
    """Describe how the cache `op` would be stored, or say why it stays.  Changes nothing."""
    symbol, shape = annotations.text(op, "sym_name"), list(type_of(op).shape)
    element = type_of(op).element_type
    if element != ir.F32Type.get(op.context):
        return Refusal(f"its elements are {element}")
    if annotations.ZEROS not in op.attributes or parameter_key(op, mutable=True) is None:
        return Refusal("it is not known to begin as zeros; export a model before it is run")
    if len(shape) < 2 or build.DYNAMIC in shape or not math.prod(shape):
        return Refusal("it has no rows of a known size")
    by_channels = role == "keys" and wanted == "i4"
    if by_channels and len(shape) != 3:
        return Refusal("scales of channels need a cache [positions, heads, width]")
    plan = Plan(op, symbol, shape, wanted, by_channels)
    for load in touching["util.global.load", symbol]:
        uses = list(load.results[0].uses)
        if uses and all(_is_zeroing(use.owner) for use in uses):
            continue
        why = _why_not(load.results[0], shape, by_channels)
        if why:
            return Refusal(why)
        plan.loads.append(load)
    states = {state for load in plan.loads for state in _states(load.results[0])}
    for store in touching["util.global.store", symbol]:
        if _is_zeroing(defining(store.operands[0])):
            plan.zeros.append(store)
        elif store.operands[0] not in states:
            return Refusal("all of it is written at once")
    return plan


def rewrite(module: ir.Module, plan: Plan) -> int:
    """Store the cache in its format; return how many bytes that takes."""
    shapes = plan.parts()
    size = 0
    with module.context, plan.holder.location:
        for part, (shape, element) in shapes.items():
            size += math.prod(shape) * element.width // 8
            _declare(plan, part, build.tensor_type(shape, element))
        types = [build.tensor_type(shape, element) for shape, element in shapes.values()]
        symbols = [plan.symbol_of(part) for part in shapes]
        for load in plan.loads:
            with ir.InsertionPoint(load), load.location:
                parts = [build.load_global(*pair) for pair in zip(symbols, types, strict=True)]
            _replace(plan, load.results[0], parts, symbols)
            load.erase()
        for store in plan.zeros:
            with ir.InsertionPoint(store), store.location:
                for symbol, type_ in zip(symbols, types, strict=True):
                    store_zeros(symbol, type_)
            maker = defining(store.operands[0])
            old = [maker.operands[0], maker.operands[1]]
            store.erase()
            maker.erase()
            for value in old:
                if not list(value.uses):
                    defining(value).erase()
        plan.holder.operation.erase()
    return size


# -- matching --------------------------------------------------------------------------------------


def _role(touching: Touching, op: Any) -> str:
    """Return ``keys`` or ``values``, by the products that read the global `op`; "" if none does."""
    type_ = ir.TypeAttr(op.attributes["type"]).value
    if not isinstance(type_, ir.RankedTensorType):
        return ""
    if not isinstance(ir.RankedTensorType(type_).element_type, ir.FloatType):
        return ""
    found = {
        name.partition("@")[0].partition("#")[0].rpartition(":")[2]
        for load in touching["util.global.load", annotations.text(op, "sym_name")]
        for name in _products(load.results[0])
    }
    return _ROLES.get(next(iter(found)), "") if len(found) == 1 else ""


def _products(value: ir.Value) -> set[str]:
    """Return the names of the products of two activations that `value` comes to unmixed."""
    pending, found, seen = [value], set[str](), 0
    while pending and seen < _SEARCH_LIMIT:
        one = pending.pop()
        seen += 1
        for use in one.uses:
            op = use.owner
            if annotations.MATMUL in op.attributes:
                if annotations.text(op, annotations.KIND) == "product":
                    found.add(annotations.text(op, annotations.MATMUL))
            elif _hands_on(op) and len(op.results) == 1:
                pending.append(op.results[0])
    return found


def _hands_on(op: Any) -> bool:
    """Whether an operation moves elements, or changes each by itself."""
    if op.name == "linalg.generic":
        return all("parallel" in str(kind) for kind in op.attributes["iterator_types"])
    return op.name in (
        "tensor.insert_slice", "tensor.extract_slice", "tensor.expand_shape", "tensor.cast",
        "tensor.collapse_shape", "linalg.transpose", "linalg.broadcast", cache_scatters.NAME,
    )  # fmt: skip


def _touching(module: ir.Module) -> Touching:
    """Return the loads and stores of each global, by operation and symbol."""
    found = defaultdict[tuple[str, str], list[Any]](list)
    for op in annotations.operations(module):
        if op.name in ("util.global.load", "util.global.store"):
            found[op.name, ir.FlatSymbolRefAttr(op.attributes["global"]).value].append(op)
    return found


def _is_zeroing(op: Any) -> bool:
    return op is not None and annotations.ZEROS in op.attributes


def _is_write(use: Any) -> bool:
    into = {"tensor.insert_slice": 1, cache_scatters.NAME: 2}.get(use.owner.name)
    return use.operand_number == into


def _states(value: ir.Value) -> list[ir.Value]:
    """Return a state of the cache and all that are made of it by writing."""
    writes = [use.owner for use in value.uses if _is_write(use)]
    return [value, *(state for op in writes for state in _states(op.results[0]))]


def _why_not(value: ir.Value, shape: Sequence[int], by_channels: bool) -> str:
    """Say why the states that begin with `value` cannot be stored in rows, or nothing."""
    for state in _states(value):
        for use in state.uses:
            if not _is_write(use):
                continue
            if use.owner.name == cache_scatters.NAME:
                if by_channels or cache_scatters.match(use.owner) is None:
                    return "it is written to element by element"
                continue
            part = Part.of(use.owner, 2)
            if part is None or len(part.sizes) != len(shape) or part.sizes[-1] != shape[-1]:
                return "what is written are no whole rows"
            others = list(zip(part.offsets, part.sizes, shape, strict=True))[1:]
            if by_channels and any((at, size) != (0, whole) for at, size, whole in others):
                return "what is written are not the rows of all heads"
    return ""


def _in_order(name: str) -> list[Any]:
    """Sort numbers in names as numbers."""
    pieces = name.replace("_", ".").split(".")
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


# -- rewriting -------------------------------------------------------------------------------------


def _declare(plan: Plan, part: str, type_: ir.Type) -> None:
    state = {"is_mutable": ir.UnitAttr.get(), annotations.ZEROS: ir.UnitAttr.get()}
    declare(plan.symbol_of(part), type_, state, plan.holder)


def _replace(
    plan: Plan, state: ir.Value, parts: Sequence[ir.Value], symbols: Sequence[str]
) -> None:
    """Let all that touches a state of the cache touch its parts."""
    for use in list(state.uses):
        op = use.owner
        if _is_write(use):
            with ir.InsertionPoint(op), op.location:
                made = _written(plan, op, parts)
            _replace(plan, op.results[0], made, symbols)
            op.erase()
        elif op.name == "util.global.store":
            with ir.InsertionPoint(op), op.location:
                for symbol, value in zip(symbols, parts, strict=True):
                    store_global(symbol, value)
            op.erase()
        else:
            _read(plan, op, use.operand_number, parts)


def _written(plan: Plan, op: Any, parts: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the tensors of the cache after what `op` writes."""
    if op.name == cache_scatters.NAME:
        found = cache_scatters.match(op)
        assert found is not None  # noqa: S101  (it was matched)
        made = cache_rows.rounded(plan.format, found.rows)
        pairs = zip(made, parts, strict=True)
        return [cache_scatters.write(found, value, old) for value, old in pairs]
    part, rows = Part.of(op, 2), op.operands[0]
    assert part is not None  # noqa: S101  (it was matched)
    if plan.by_channels:
        return cache_blocks.write(parts, rows, part.offsets[0], part.sizes[0])
    return cache_rows.write(parts, cache_rows.rounded(plan.format, rows), part)


def _read(plan: Plan, op: Any, number: int, parts: Sequence[ir.Value]) -> None:
    """Make f32 of what `op` reads as its operand of that number."""
    part = None
    if op.name == "tensor.extract_slice":
        part = Part.of(op, 1)
        # A slice of fewer dimensions, or of parts of rows, is cut out of all.
        if part is not None and (
            len(build.shape_of(op.results[0])) != len(plan.shape)
            or part.sizes[-1] != plan.shape[-1]
        ):
            part = None
    with ir.InsertionPoint(op), op.location:
        if plan.by_channels:
            value = cache_blocks.read(parts, plan.shape[2], part, plan.shape[0])
        else:
            value = cache_rows.read(plan.format, parts, plan.shape[-1], part)
    if part is None:
        op.operands[number] = value
        return
    op.results[0].replace_all_uses_with(value)
    op.erase()
