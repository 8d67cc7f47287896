"""``lowc-count-operations``: count the arithmetic of a call, and the bits that it moves."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations
from .base import Pass, RemarkKind
from .contraction import defining, indexing_maps

# Inside of bodies: what is no arithmetic on data.  Reading a table is counted in bits; but where
# the table was made for the product (``lowc.prepared``), it is read once, and look-ups in it count.
_FREE = {
    "arith.bitcast", "arith.constant", "cf.assert", "linalg.index", "linalg.yield", "scf.if",
    "scf.yield", "tensor.dim", "tensor.extract", "tensor.yield",
}  # fmt: skip
# Outside of bodies: dialects that move, name and branch, but calculate nothing.
_PLUMBING = {
    "bufferization", "builtin", "cf", "flow", "func", "hal", "iree_encoding", "iree_tensor_ext",
    "ml_program", "scf", "shape", "tensor", "util",
}  # fmt: skip
_LAYOUT = {
    "flow.tensor.reshape", "linalg.broadcast", "linalg.pack", "linalg.transpose", "linalg.unpack",
    "tensor.cast", "tensor.collapse_shape", "tensor.expand_shape", "tensor.extract_slice",
    "tensor.reshape",
}  # fmt: skip
_REMOVABLE = ("arith.", "linalg.", "math.", "tensor.")
_CALCULATES = ("arith.", "linalg.", "math.")
_RENAMED = {"cmpi": "cmp", "cmpf": "cmp"}


@dataclass
class Tally:
    """Operations of one call by kind, and bits moved if every tensor goes through memory.

    Attributes
    ----------
    operations : Counter
        Kind (``addf.f32``: operation and type of its operand) to number of scalar operations.
    weight_bits, read_bits, written_bits : int
        Sizes of the parameters that are read, of the other operands, and of the results.
    uncounted : Counter
        Operations on tensors that nothing is known of, such as ``linalg.softmax``.
    dynamic : bool
        Whether a size is only known at run time; it is taken as 1.
    once : bool
        Whether it depends on parameters alone, so that it is done when the module is loaded.
    """

    operations: Counter[str] = field(default_factory=Counter)
    weight_bits: int = 0
    read_bits: int = 0
    written_bits: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)
    dynamic: bool = False
    once: bool = False

    @property
    def bits(self) -> int:
        """All bits moved."""
        return self.weight_bits + self.read_bits + self.written_bits

    def add(self, other: "Tally") -> None:
        """Add what `other` counted."""
        self.operations.update(other.operations)
        self.uncounted.update(other.uncounted)
        self.weight_bits += other.weight_bits
        self.read_bits += other.read_bits
        self.written_bits += other.written_bits
        self.dynamic |= other.dynamic

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: kinds sorted, and what is empty or false left out."""
        data: dict[str, Any] = {
            "operations": dict(sorted(self.operations.items())),
            "weight_bits": self.weight_bits,
            "read_bits": self.read_bits,
            "written_bits": self.written_bits,
        }
        if self.uncounted:
            data["uncounted"] = dict(sorted(self.uncounted.items()))
        return data | {key: True for key in ("dynamic", "once") if getattr(self, key)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Tally":
        """Undo :meth:`to_dict`; raises KeyError, TypeError or ValueError for other data."""
        return cls(
            operations=_counts(data["operations"]),
            weight_bits=int(data["weight_bits"]),
            read_bits=int(data["read_bits"]),
            written_bits=int(data["written_bits"]),
            uncounted=_counts(data.get("uncounted", {})),
            dynamic=bool(data.get("dynamic", False)),
            once=bool(data.get("once", False)),
        )


@dataclass(frozen=True)
class CountOperations(Pass):
    """Count what the IR calculates, so that energy is counted from it and never assumed.

    Every linalg operation on tensors, and every elementwise one of ``arith`` and ``math``, gets the
    number of its scalar operations by kind: its iterations times what its body does once.  A kind
    is the operation and the type of its operand; a product of extended bytes is one of bytes.
    Bitcasts, constants and index arithmetic are none; ``math.fma`` is two; reading a table that was
    made of an activation is a ``lookup``; what is not known counts under its own name.  Bits are
    the sizes of operands and results, each once for the operation: an upper bound, as fusion keeps
    some out of memory.  Where a matmul is several operations, the last one has what all of them
    count.

    A size that is only known at run time counts as 1 (``"dynamic": true``).  What depends on
    parameters alone is done when the module is loaded (``"once": true``).  The module gets the sum
    of a call: without those, without dead operations, and of the branches of an ``scf.if`` the one
    with more operations.  Each entry (``lowc.entry``) gets its own, with what it calls.

    Before::

        %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>) …

    After::

        // JSON: {"operations": {"addf.f32": 64, "mulf.f32": 64},
        //        "weight_bits": 1024, "read_bits": 256, "written_bits": 512}
        %y = linalg.matmul {lowc.operations = "{…}"} ins(%x, %w …
    """

    name: ClassVar[str] = "lowc-count-operations"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Annotate; change nothing else."""

        def keep(op: Any, tally: Tally) -> None:
            set_tally(op, tally)
            for name in tally.uncounted:
                remark(RemarkKind.REFUSED, op, name, "its operations are not counted")

        counted = _Count(module, keep)
        set_tally(module.operation, counted.total)
        for op, tally in counted.of_entries():
            set_tally(op, tally)
        _add_parts(module)


def set_tally(op: Any, tally: Tally) -> None:
    """Write what was counted onto an operation."""
    op.attributes[annotations.OPERATIONS] = annotations.json_attribute(tally.to_dict(), op.context)


def _add_parts(module: ir.Module) -> None:
    """Add what was counted for the parts of a product to the operation that stands for it."""
    parts: dict[str, Tally] = {}
    for op in annotations.operations(module):
        name = annotations.text(op, annotations.PART) or annotations.text(op, annotations.AFTER)
        tally = tally_of(op)
        if name and tally is not None:
            parts.setdefault(name, Tally()).add(tally)
    for op in annotations.matmuls(module):
        part = parts.get(annotations.text(op, annotations.MATMUL))
        whole = tally_of(op)
        # A product that was rewritten: with ``lowc-shadow-matmuls`` another one has its name.
        if part is not None and whole is not None and annotations.PRODUCT in op.attributes:
            whole.add(part)
            set_tally(op, whole)


def tally_of(op: Any) -> Tally | None:
    """Return what the pass wrote onto an operation (the module: the sum), or None."""
    text = annotations.text(op, annotations.OPERATIONS)
    return Tally.from_dict(json.loads(text)) if text else None


def count(
    module: ir.Module, keep: Callable[[Any, Tally], object] = lambda _op, _tally: None
) -> Tally:
    """Return the operations of a call; `keep` gets each operation that was counted, and its tally.

    Every function counts once, initializers and what puts state back do not.
    """
    return _Count(module, keep).total


def count_entries(module: ir.Module) -> dict[str, Tally]:
    """Return the operations of a call of each entry (``lowc.entry``), with what it calls."""
    found = _Count(module, lambda _op, _tally: None).of_entries()
    return {annotations.text(op, "sym_name"): tally for op, tally in found}


def tallies_of_entries(module: ir.Module) -> dict[str, Tally]:
    """Return what the pass wrote onto each entry (``lowc.entry``)."""
    return {
        annotations.text(op, "sym_name"): tally_of(op) or Tally()
        for op in module.body.operations
        if annotations.ENTRY in op.attributes
    }


# -- the walk --------------------------------------------------------------------------------------


class _Origin(IntEnum):
    """What a value depends on; that of several is the highest."""

    NOTHING = 0
    PARAMETER = 1  # what depends on these alone is done when the module is loaded
    STORED = 2  # a parameter behind a barrier: what is made of it is made at each call
    CALL = 3


class _Count:
    def __init__(self, module: ir.Module, keep: Callable[[Any, Tally], object]) -> None:
        self.keep = keep
        self.origins: dict[ir.Value, _Origin] = {}
        self.live: set[ir.Value] = set()
        top = list(module.body.operations)
        self.mutable = {
            annotations.text(op, "sym_name") for op in top
            if op.operation.name == "util.global" and "is_mutable" in op.attributes
        }  # fmt: skip
        for op in reversed(top):
            self._mark_live(op.operation)
        self.total = Tally()
        self.functions: dict[str, tuple[Any, Tally]] = {}
        for op in top:
            if op.operation.name == "util.initializer" or annotations.RESET in op.attributes:
                continue
            tally = self._of_operation(op.operation)
            self.total.add(tally)
            if name := annotations.text(op, "sym_name"):
                self.functions[name] = (op, tally)

    def of_entries(self) -> list[tuple[Any, Tally]]:
        """Return each entry and the operations of a call of it, with what it calls."""
        return [
            (op, self._reached(name))
            for name, (op, _) in self.functions.items()
            if annotations.ENTRY in op.attributes
        ]

    def _reached(self, name: str) -> Tally:
        whole, pending, seen = Tally(), [name], set[str]()
        while pending:
            name = pending.pop()
            if name in seen or name not in self.functions:
                continue
            seen.add(name)
            op, tally = self.functions[name]
            whole.add(tally)
            pending += [
                ir.FlatSymbolRefAttr(inner.attributes["callee"]).value
                for inner in annotations.operations(op)
                if inner.name in ("func.call", "util.call")
            ]
        return whole

    # What nobody reads is removed by later passes.  Users stand below, so one look back finds all.
    def _mark_live(self, op: Any) -> None:
        name = op.name
        if name.startswith(_REMOVABLE) or name in ("util.global.load", "util.optimization_barrier"):
            if not any(result in self.live for result in op.results):
                return
            self.live.update(_operands(op))
            return
        self.live.update(op.operands)
        self.live.update(op.results)
        for region in op.regions:
            blocks = list(region.blocks)
            if len(blocks) > 1:  # control flow, in which users may stand above
                self.live.update(result for inner in _inside(op) for result in inner.results)
            for block in reversed(blocks):
                for inner in reversed(list(block.operations)):
                    self._mark_live(inner.operation)

    def _of_operation(self, op: Any) -> Tally:
        name = op.name
        if name.startswith((*_CALCULATES, "tensor.")) or not op.regions:
            return self._of_leaf(op)
        for region in op.regions:
            for block in region.blocks:
                self.origins.update(dict.fromkeys(block.arguments, _Origin.CALL))
        self.origins.update(dict.fromkeys(op.results, _Origin.CALL))
        tallies = [self._of_region(region) for region in op.regions]
        if name == "scf.if":
            return max(tallies, key=lambda tally: tally.operations.total())
        whole = Tally()
        for tally in tallies:
            whole.add(tally)
        if name in ("scf.for", "scf.while", "scf.forall") and whole.operations:
            whole.dynamic = True
        return whole

    def _of_region(self, region: Any) -> Tally:
        whole = Tally()
        for block in region.blocks:
            for op in block.operations:
                whole.add(self._of_operation(op.operation))
        return whole

    def _of_leaf(self, op: Any) -> Tally:
        origin = self._origin_of_results(op)
        self.origins.update(dict.fromkeys(op.results, origin))
        if not any(isinstance(result.type, ir.RankedTensorType) for result in op.results):
            return Tally()
        if not any(result in self.live for result in op.results):
            return Tally()
        tally = self._tally(op)
        if tally is None:
            return Tally()
        tally.once = origin is _Origin.PARAMETER
        self.keep(op, tally)
        return Tally() if tally.once else tally

    def _origin_of_results(self, op: Any) -> _Origin:
        if op.name == "util.global.load":
            symbol = ir.FlatSymbolRefAttr(op.attributes["global"]).value
            return _Origin.CALL if symbol in self.mutable else _Origin.PARAMETER
        if op.name == "arith.constant":
            is_tensor = isinstance(op.results[0].type, ir.RankedTensorType)
            return _Origin.PARAMETER if is_tensor else _Origin.NOTHING
        if op.name == "util.optimization_barrier":
            given = self._origin(op.operands[0])
            return _Origin.STORED if given is _Origin.PARAMETER else given
        if op.name in _LAYOUT or _copies(op):
            return self._origin(op.operands[0])
        if not op.name.startswith((*_CALCULATES, "tensor.")):
            return _Origin.CALL
        found = [self._origin(value) for value in op.operands]
        found += [self.origins[value] for value in _operands(op) if value in self.origins]
        highest = max(found, default=_Origin.NOTHING)
        return _Origin.CALL if highest is _Origin.STORED else highest

    def _origin(self, value: ir.Value) -> _Origin:
        return self.origins.get(value, _Origin.CALL)

    # -- one operation -----------------------------------------------------------------------------

    def _tally(self, op: Any) -> Tally | None:
        """Count one operation on tensors; None if it calculates nothing."""
        if op.name.startswith("linalg.") and op.name != "linalg.fill":
            return self._of_linalg(op)
        if op.name == "tensor.generate":
            iterations, dynamic = _size(op.results[0].type)
            return self._of_body(op, iterations, dynamic)
        if op.name.startswith(("arith.", "math.")):
            return self._of_elementwise(op)
        if op.name.partition(".")[0] in _PLUMBING or op.name == "linalg.fill":
            return None
        return Tally(uncounted=Counter([op.name]))

    def _of_linalg(self, op: Any) -> Tally | None:
        if op.name in _LAYOUT and not op.regions:
            return None
        if len(op.regions) != 1 or len(op.regions[0].blocks) != 1:
            return Tally(uncounted=Counter([op.name]))
        iterations, dynamic = _iterations(op)
        tally = self._of_body(op, iterations, dynamic)
        arguments = list(op.regions[0].blocks[0].arguments)
        first_init = len(op.operands) - len(op.results)
        for position, (value, scalar) in enumerate(zip(op.operands, arguments, strict=True)):
            is_read = any(True for _ in scalar.uses)
            if is_read and (position < first_init or not _is_filled(value)):
                self._read(tally, value)
        _write(tally, op)
        return tally

    def _of_body(self, op: Any, iterations: int, dynamic: bool) -> Tally:
        tally = Tally(dynamic=dynamic)
        tables: dict[ir.Value, None] = {}
        for inner in _inside(op):
            if _is_look_up(inner):
                tables[inner.operands[0]] = None
            elif inner.name == "tensor.extract":
                bits = iterations * _width(inner.results[0].type)
                is_weight = self._origin(inner.operands[0]) in (_Origin.PARAMETER, _Origin.STORED)
                tally.weight_bits += bits if is_weight else 0
                tally.read_bits += 0 if is_weight else bits
        for table in tables:
            self._read(tally, table)
        for kind, number in operations_of_body(op).items():
            tally.operations[kind] += number * iterations
        return tally

    def _of_elementwise(self, op: Any) -> Tally | None:
        if op.name in ("arith.constant", "arith.bitcast"):
            return None
        size, dynamic = _size(op.results[0].type)
        tally = Tally(Counter(dict.fromkeys(_kinds(op), size)), dynamic=dynamic)
        for value in op.operands:
            self._read(tally, value)
        _write(tally, op)
        return tally

    def _read(self, tally: Tally, value: ir.Value) -> None:
        origin = self._origin(value)
        if origin is _Origin.NOTHING or not isinstance(value.type, ir.RankedTensorType):
            return
        if origin is _Origin.CALL:
            tally.read_bits += _bits(value)
        else:
            tally.weight_bits += _bits(_repeated(value))


# -- what stands in a body -------------------------------------------------------------------------


def operations_of_body(op: Any) -> Counter[str]:
    """Return how many scalar operations of each kind the body of `op` does in one iteration."""
    return Counter(kind for inner in _inside(op) for kind in _kinds(inner))


def _kinds(op: Any) -> tuple[str, ...]:
    """Return the kinds of scalar operations that `op` is."""
    if _is_look_up(op):
        return (f"lookup.{op.results[0].type}",)
    if op.name in _FREE:
        return ()
    types = [*(value.type for value in op.operands), *(value.type for value in op.results)]
    if any(isinstance(_element(type_), ir.IndexType) for type_ in types):
        return ()
    name = op.name.removeprefix("arith.")
    name = _RENAMED.get(name, name)
    if name == "muli" and all(_extended_width(value) <= 8 for value in op.operands):
        return ("muli.i8",)
    # The first operand of a select is its condition.
    values = list(op.operands)[1 if name == "select" else 0 :]
    suffix = f".{_element(values[0].type)}" if values else ""
    if name == "math.fma":
        return f"mulf{suffix}", f"addf{suffix}"
    return (f"{name}{suffix}",)


def _is_look_up(op: Any) -> bool:
    """Whether `op` reads a table that an activation was prepared as."""
    if op.name != "tensor.extract":
        return False
    table = defining(op.operands[0])
    return table is not None and annotations.PREPARED in table.attributes


def _extended_width(value: ir.Value) -> int:
    """Return the bits that an integer had before it was extended."""
    op = defining(value)
    if op is not None and op.name in ("arith.extsi", "arith.extui"):
        return _width(op.operands[0].type)
    return _width(value.type)


def _inside(op: Any) -> Iterator[Any]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _inside(inner.operation)


def _operands(op: Any) -> list[ir.Value]:
    """Return the operands, and those of everything inside."""
    return [*op.operands, *(value for inner in _inside(op) for value in inner.operands)]


# -- sizes -----------------------------------------------------------------------------------------


def _iterations(op: Any) -> tuple[int, bool]:
    """Return the product of all loop sizes, and whether one is only known at run time (then 1)."""
    maps = indexing_maps(op)
    sizes: dict[int, int | None] = {}
    for map_, value in zip(maps, op.operands, strict=True):
        if not isinstance(value.type, ir.RankedTensorType):
            continue
        for axis, result in enumerate(map_.results):
            if not isinstance(result, ir.AffineDimExpr):
                continue
            loop = result.position
            if not value.type.is_dynamic_dim(axis):
                sizes[loop] = value.type.get_dim_size(axis)
    iterations = 1
    for size in sizes.values():
        iterations *= size or 0
    return iterations, bool(maps) and len(sizes) < maps[0].n_dims


def _size(type_: ir.Type) -> tuple[int, bool]:
    shape = [None if type_.is_dynamic_dim(d) else type_.get_dim_size(d) for d in range(type_.rank)]
    size = 1
    for extent in shape:
        size *= 1 if extent is None else extent
    return size, None in shape


def _bits(value: ir.Value) -> int:
    return _size(value.type)[0] * _width(value.type)


def _write(tally: Tally, op: Any) -> None:
    tally.written_bits += sum(_bits(result) for result in op.results)


def _width(type_: ir.Type) -> int:
    """Return the bits of an element in memory; a truth value takes a byte."""
    element = _element(type_)
    if isinstance(element, ir.ComplexType):
        return 2 * _width(element.element_type)
    if isinstance(element, ir.IndexType):
        return 64
    width: int = getattr(element, "width", 0)
    return 8 if width == 1 else width


def _element(type_: ir.Type) -> ir.Type:
    return type_.element_type if isinstance(type_, ir.RankedTensorType) else type_


# -- where a value comes from ----------------------------------------------------------------------


def _copies(op: Any) -> bool:
    """Whether a generic gives its one input as it is, in another order or several times."""
    if op.name != "linalg.generic" or len(op.operands) != 2:
        return False
    block = op.regions[0].blocks[0]
    first = block.operations[0].operation
    return first.name == "linalg.yield" and first.operands[0] == block.arguments[0]


def _repeated(value: ir.Value) -> ir.Value:
    """Return what a broadcast parameter was before: it is read from memory once."""
    op = defining(value)
    while op is not None and (op.name == "linalg.broadcast" or _copies(op)):
        value = op.operands[0]
        op = defining(value)
    return value


def _is_filled(value: ir.Value) -> bool:
    """Whether an accumulator begins with a constant, which is not read from memory."""
    op = defining(value)
    if op is None or op.name != "arith.constant":
        return op is not None and op.name in ("linalg.fill", "tensor.empty")
    constant = op.attributes["value"]
    return isinstance(constant, ir.DenseElementsAttr) and constant.is_splat


def _counts(data: dict[str, Any]) -> Counter[str]:
    return Counter({str(kind): int(number) for kind, number in data.items()})
