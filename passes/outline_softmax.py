"""``lowc-outline-softmax``: dispatch to a kernel of lowc's own for softmax on CPUs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from iree.compiler import ir

from . import annotations, build
from .base import Pass, Refusal, RemarkKind
from .contraction import defining, indexing_maps, is_dim, module_path
from .kernels import executable, tiles
from .kernels.softmax import Softmax

_EQUAL = 1  # arith.cmpf oeq
_VIEWS = ("tensor.expand_shape", "tensor.collapse_shape")


@dataclass(frozen=True)
class OutlineSoftmax(Pass):
    """Replace softmax over the last dimension by a dispatch to a generated kernel.

    The kernel takes what is added to the scores of an attention with it, a mask that may be the
    same for several heads, and the rule of masked softmax that a row of negative infinities gives
    zeros (maximum and sum of such a row are replaced by 0 and 1).  It multiplies by the reciprocal
    of a row's sum, and sums in an order of its own.

    Before::

        %s = linalg.generic ins(%x, %mask) … { addf }
        %m = linalg.generic ins(%s) … { maximumf }            // over the last dimension
        %d = linalg.generic ins(%s, %m) … { subf }
        %e = linalg.generic ins(%d) … { exp }
        %t = linalg.generic ins(%e) … { addf }                // over the last dimension
        %y = linalg.generic ins(%e, %t) … { divf }

    After::

        hal.executable.source private @softmax_12x128x128… { … }
        %y = flow.dispatch @softmax_12x128x128…::@softmax_12x128x128…[%items](%x, %mask) : … -> …

    Parameters
    ----------
    unit : str
        The vector unit of a CPU that the kernels are for; of a GPU, or ``none``, nothing is
        outlined.
    """

    unit: Literal[
        "none", "portable", "avx2", "avx2vnni", "avx512", "avx512vnni", "spirv", "ptx"
    ] = "none"
    name: ClassVar[str] = "lowc-outline-softmax"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Outline every softmax that there is a kernel for; say why not for the others."""
        if self.unit not in tiles.ISAS:
            return
        # Found before anything is erased, which would leave some of a list of all behind.
        found = [(op, _divided(op)) for op in annotations.operations(module)]
        for op, exponentials in [pair for pair in found if pair[1] is not None]:
            where = module_path(op.location) or op.name
            plan = match(op, exponentials, tiles.ISAS[self.unit].lanes)
            if isinstance(plan, Refusal):
                remark(RemarkKind.REFUSED, op, where, f"softmax has no kernel: {plan.reason}")
                continue
            remark(RemarkKind.APPLIED, op, where, plan.kernel.describe())
            rewrite(module, plan)


@dataclass(frozen=True)
class Plan:
    """What a softmax reads, and its operations: the last comes first."""

    x: ir.Value
    addend: ir.Value | None
    ops: tuple[Any, ...]
    kernel: Softmax


def match(op: Any, exponentials: Any, lanes: int) -> Plan | Refusal:
    """Describe the softmax that `op` divides `exponentials` for, or say why it is none."""
    total, is_mended = _unmended(op.operands[1], 1.0)
    summed, shifted = _reduced(total, "arith.addf"), _arguments(exponentials, "arith.subf")
    if summed is None or summed.operands[0] != exponentials.results[0]:
        return Refusal("it divides by something else than their sum over the last dimension")
    if shifted is None:
        return Refusal("nothing is taken from its exponents")
    difference, x = defining(exponentials.operands[0]), shifted[0]
    shift, is_shift_mended = _unmended(shifted[1], 0.0)
    largest = _reduced(shift, "arith.maximumf")
    if largest is None or largest.operands[0] != x:
        return Refusal("its exponents are not shifted by their maximum over the last dimension")
    for condition in (is_mended, is_shift_mended):
        if (is_mended is None) != (is_shift_mended is None) or (
            condition is not None and not _finds_nothing(condition, largest)
        ):
            return Refusal("its sum or its maximum is changed")
    if build.element_of(x) != ir.F32Type.get():
        return Refusal(f"its elements are {build.element_of(x)}")
    ops = [op, summed, exponentials, difference, largest]
    if not _only_read_by(exponentials, (op, summed)) or not _only_read_by(
        difference, (exponentials,)
    ):
        return Refusal("its exponentials are used elsewhere")
    added = _added(x, (difference, largest))
    addend = None
    if added is not None:
        ops.append(defining(x))
        x, addend = added
    shape = tuple(None if size == build.DYNAMIC else size for size in build.shape_of(x))
    if 0 in shape:
        return Refusal("one of its sizes is 0")
    own = None if addend is None else _own(addend, shape)
    return Plan(x, addend, tuple(ops), Softmax(shape, own, is_mended is not None, lanes))


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel, and erase what nobody reads any more."""
    last, kernel = plan.ops[0], plan.kernel
    with ir.InsertionPoint(last), last.location:
        inputs = [plan.x, *([] if plan.addend is None else [plan.addend])]
        sizes = [build.dim(plan.x, axis) for axis in range(len(kernel.shape))]
        opened = [value for value, size in zip(sizes, kernel.shape, strict=True) if size is None]
        executable.declare(
            module, kernel.name, [True] * len(inputs) + [False], len(opened), kernel.translation,
            kernel.emit,
        )  # fmt: skip
        call = executable.dispatch(
            kernel.name, kernel.grid(sizes), opened, inputs, last.results[0].type, opened
        )
    last.results[0].replace_all_uses_with(call.results[0])
    for op in plan.ops:
        if not any(list(result.uses) for result in op.results):
            op.erase()


# -- parts -----------------------------------------------------------------------------------------


def _divided(op: Any) -> Any:
    """Return the operation that makes exponentials, if `op` divides them row by row."""
    if _body(op) != ("arith.divf",) or not _is_rowwise(op):
        return None
    exponentials = defining(op.operands[0])
    return exponentials if _body(exponentials) == ("math.exp",) else None


def _arguments(exponentials: Any, name: str) -> tuple[ir.Value, ir.Value] | None:
    """Return the two operands of the row-wise `name` that exponents come from."""
    op = defining(exponentials.operands[0])
    if _body(op) != (name,) or not _is_rowwise(op):
        return None
    return op.operands[0], op.operands[1]


def _reduced(value: ir.Value, name: str) -> Any:
    """Return the operation that reduces the last dimension by `name`, through changes of shape."""
    op = defining(value)
    while op is not None and op.name in _VIEWS:
        op = defining(op.operands[0])
    if op is None or op.name != "linalg.generic" or name not in _body(op):
        return None
    kinds = [str(kind) for kind in op.attributes["iterator_types"]]
    maps = indexing_maps(op)
    rank = len(kinds)
    is_last = all("parallel" in kind for kind in kinds[:-1]) and "reduction" in kinds[-1]
    if not is_last or list(maps[0].results) != _dims(rank):
        return None
    # Its place beside the maximum, which PyTorch asks for too, is nobody's.
    yielded = op.regions[0].blocks[0].operations[len(_operations(op))].operands[0]
    maker, block = defining(yielded), op.regions[0].blocks[0]
    arguments = {block.arguments[0], block.arguments[1]}
    if maker is None or maker.name != name or {*maker.operands} != arguments:
        return None
    if any(list(result.uses) for result in list(op.results)[1:]):
        return None
    return op if _starts_at(op.operands[1], name) else None


def _starts_at(value: ir.Value, name: str) -> bool:
    """Whether a reduction by `name` starts where it must not change the result."""
    fill = defining(value)
    if fill is None or fill.name != "linalg.fill":
        return False
    number = _constant(fill.operands[0])
    if name == "arith.addf":
        return number == 0
    return number is not None and number < -3e38


def _constant(value: ir.Value) -> float | None:
    op = defining(value)
    if op is None or op.name != "arith.constant":
        return None
    attribute = op.attributes["value"]
    if isinstance(attribute, ir.DenseElementsAttr) and attribute.is_splat:
        attribute = attribute.get_splat_value()
    return float(attribute.value) if isinstance(attribute, ir.FloatAttr) else None


def _unmended(value: ir.Value, instead: float) -> tuple[ir.Value, ir.Value | None]:
    """Return what `value` is where it is not `instead`, and the tensor that says where it is."""
    op = defining(value)
    if _body(op) != ("arith.select",):
        return value, None
    maps, block = indexing_maps(op), op.regions[0].blocks[0]
    condition, number, given = list(op.operands)[:3]
    chosen = list(block.operations[0].operation.operands)
    is_plain = _is_whole(maps[0], maps[3]) and _is_whole(maps[2], maps[3])
    if not is_plain or chosen != list(block.arguments)[:3] or _constant(number) != instead:
        return value, None
    return given, condition


def _finds_nothing(condition: ir.Value, largest: Any) -> bool:
    """Whether `condition` is where the maximum is negative infinity."""
    op = defining(condition)
    if _body(op) not in (("arith.cmpf",), ("arith.extf", "arith.cmpf")):
        return False
    comparison = _operations(op)[-1]
    predicate = ir.IntegerAttr(comparison.attributes["predicate"]).value
    if predicate != _EQUAL or _constant(comparison.operands[1]) != -math.inf:
        return False
    return bool(_reduced(op.operands[0], "arith.maximumf") == largest)


def _added(x: ir.Value, readers: Sequence[Any]) -> tuple[ir.Value, ir.Value] | None:
    """Return what is added up to `x`, whole tensor first, if nobody else reads the sum."""
    op = defining(x)
    if _body(op) != ("arith.addf",) or not _only_read_by(op, readers):
        return None
    maps = indexing_maps(op)
    if not _is_whole(maps[0], maps[-1]) or not _is_broadcast(op.operands[1], maps[1], maps[-1]):
        return None
    return op.operands[0], op.operands[1]


def _own(addend: ir.Value, shape: tuple[int | None, ...]) -> tuple[bool, ...]:
    """Return for each dimension whether the addend has its size, not size 1 alone."""
    sizes = build.shape_of(addend)
    return tuple(size != 1 or whole == 1 for size, whole in zip(sizes, shape, strict=True))


def _is_broadcast(value: ir.Value, map_: ir.AffineMap, whole: ir.AffineMap) -> bool:
    """Whether a tensor of the same rank is read at its place, or at 0 where it has size 1."""
    sizes = build.shape_of(value)
    if len(map_.results) != len(whole.results) or sizes[-1:] == [1]:
        return False
    return all(
        (is_dim(found) and found == wanted) or (_is_zero(found) and size == 1)
        for found, wanted, size in zip(map_.results, whole.results, sizes, strict=True)
    ) and is_dim(map_.results[-1])


def _is_rowwise(op: Any) -> bool:
    """Whether the second operand of an element-wise `op` has size 1 in the last dimension."""
    maps = indexing_maps(op)
    if len(maps) != 3 or not _is_whole(maps[0], maps[2]):
        return False
    results = list(maps[1].results)
    rank = maps[2].n_dims
    return results[:-1] == _dims(rank)[:-1] and len(results) == rank and _is_zero(results[-1])


def _is_whole(map_: ir.AffineMap, result: ir.AffineMap) -> bool:
    return list(map_.results) == list(result.results) == _dims(result.n_dims)


def _is_zero(expression: ir.AffineExpr) -> bool:
    return isinstance(expression, ir.AffineConstantExpr) and expression.value == 0


def _dims(rank: int) -> list[ir.AffineExpr]:
    return [ir.AffineExpr.get_dim(axis) for axis in range(rank)]


def _operations(op: Any) -> list[Any]:
    """Return the operations of a body, but for the last one, which yields."""
    return [inner.operation for inner in op.regions[0].blocks[0].operations][:-1]


def _body(op: Any) -> tuple[str, ...]:
    """Return the names of what an operation of linalg does to its elements; empty for others."""
    if op is None or op.name != "linalg.generic":
        return ()
    return tuple(inner.name for inner in _operations(op))


def _only_read_by(op: Any, readers: Sequence[Any]) -> bool:
    return all(use.owner in readers for result in op.results for use in result.uses)
