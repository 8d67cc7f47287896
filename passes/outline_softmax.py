"""``lowc-outline-softmax``: dispatch to a kernel of lowc's own for softmax on CPUs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from iree.compiler import ir

from . import annotations, build
from .base import Pass, Refusal, RemarkKind
from .contraction import defining, indexing_maps, is_zero_fill, module_path
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

    unit: tiles.Unit = "none"
    name: ClassVar[str] = "lowc-outline-softmax"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Outline every softmax that there is a kernel for; say why not for the others."""
        if self.unit not in tiles.ISAS:
            return
        # Found before anything is erased, which would leave some of a list of all behind.
        found = [(op, exponentials_of(op)) for op in annotations.operations(module)]
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
    if not _is_rowwise(op):
        return Refusal("it is not over the last dimension")
    total, is_mended = _unmended(op.operands[1], 1.0)
    summed = reduced(total, "arith.addf")
    if summed is None or summed.operands[0] != exponentials.results[0]:
        return Refusal("it divides by something else than their sum over the last dimension")
    difference = defining(exponentials.operands[0])
    if step_of(difference, ("arith.subf",), 2) is None or not _is_rowwise(difference):
        return Refusal("nothing is taken from its exponents")
    x = difference.operands[0]
    shift, is_shift_mended = _unmended(difference.operands[1], 0.0)
    largest = reduced(shift, "arith.maximumf")
    if largest is None or largest.operands[0] != x:
        return Refusal("its exponents are not shifted by their maximum over the last dimension")
    conditions = [one for one in (is_mended, is_shift_mended) if one is not None]
    if len(conditions) == 1 or not all(_finds_nothing(one, largest) for one in conditions):
        return Refusal("its sum or its maximum is changed")
    if build.element_of(x) != ir.F32Type.get():
        return Refusal(f"its elements are {build.element_of(x)}")
    ops = [op, summed, exponentials, difference, largest]
    if not only_read_by(exponentials, (op, summed)) or not only_read_by(
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


class _Step(NamedTuple):
    """What one ``linalg.generic`` without a reduction does to its elements."""

    operations: tuple[Any, ...]
    arguments: tuple[Any, ...]  # scalars of its inputs
    maps: tuple[ir.AffineMap, ...]  # of its inputs, and of its result

    def is_plain(self, operation: int = 0) -> bool:
        """Whether an operation takes the scalars of all inputs, in order."""
        return tuple(self.operations[operation].operands) == self.arguments


def step_of(op: Any, names: tuple[str, ...], inputs: int) -> _Step | None:
    """Describe `op` if it does just these operations to so many inputs, and yields the last."""
    if op is None or op.name != "linalg.generic" or len(op.operands) != inputs + 1:
        return None
    if any("parallel" not in str(kind) for kind in op.attributes["iterator_types"]):
        return None
    block = op.regions[0].blocks[0]
    *operations, last = [inner.operation for inner in block.operations]
    if tuple(inner.name for inner in operations) != names:
        return None
    if last.operands[0] != operations[-1].results[0]:
        return None
    return _Step(tuple(operations), tuple(block.arguments)[:inputs], indexing_maps(op))


def exponentials_of(op: Any) -> Any:
    """Return the operation that makes the exponentials that `op` divides, if it does."""
    divided = step_of(op, ("arith.divf",), 2)
    if divided is None or not divided.is_plain():
        return None
    maker = defining(op.operands[0])
    step = step_of(maker, ("math.exp",), 1)
    return maker if step is not None and step.is_plain() and is_whole(*step.maps) else None


def reduced(value: ir.Value, name: str) -> Any:
    """Return the operation that reduces the last dimension by `name`, through changes of shape."""
    op = defining(value)
    while op is not None and op.name in _VIEWS:
        op = defining(op.operands[0])
    if op is None or op.name != "linalg.generic":
        return None
    kinds, maps = [str(kind) for kind in op.attributes["iterator_types"]], indexing_maps(op)
    if not all("parallel" in kind for kind in kinds[:-1]) or "reduction" not in kinds[-1]:
        return None
    dims = _dims(len(kinds))
    kept = list(maps[1].results)
    if kept[-1:] and _is_zero(kept[-1]):
        kept.pop()
    # It reads one tensor, in order; beside the maximum PyTorch asks for its place too.
    reads = len(maps) - len(op.results)
    if reads != 1 or list(maps[0].results) != dims or kept != dims[:-1]:
        return None
    block = op.regions[0].blocks[0]
    last = block.operations[len(block.operations) - 1].operation
    maker = defining(last.operands[0])
    if maker is None or maker.name != name:
        return None
    if {*maker.operands} != {block.arguments[0], block.arguments[1]}:
        return None
    if any(list(result.uses) for result in list(op.results)[1:]):
        return None
    return op if _starts_at(op.operands[1], name) else None


def _starts_at(value: ir.Value, name: str) -> bool:
    """Whether a reduction by `name` starts where it must not change the result."""
    if name == "arith.addf":
        return is_zero_fill(value)
    fill = defining(value)
    if fill is None or fill.name != "linalg.fill":
        return False
    number = constant(fill.operands[0])
    return number is not None and number < -3e38


def constant(value: ir.Value) -> float | None:
    """Return the number that a float constant, or all of a tensor of one, is."""
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
    step = step_of(op, ("arith.select",), 3)
    if step is None or not step.is_plain() or constant(op.operands[1]) != instead:
        return value, None
    if not is_whole(step.maps[0], step.maps[3]) or not is_whole(step.maps[2], step.maps[3]):
        return value, None
    return op.operands[2], op.operands[0]


def _finds_nothing(condition: ir.Value, largest: Any) -> bool:
    """Whether `condition` is where the maximum is negative infinity."""
    op = defining(condition)
    step = step_of(op, ("arith.cmpf",), 1) or step_of(op, ("arith.extf", "arith.cmpf"), 1)
    if step is None or not is_whole(*step.maps):
        return False
    comparison = step.operations[-1]
    compared = step.arguments[0] if len(step.operations) == 1 else step.operations[0].results[0]
    is_of_input = step.operations[0].operands[0] == step.arguments[0]
    if not is_of_input or comparison.operands[0] != compared:
        return False
    predicate = ir.IntegerAttr(comparison.attributes["predicate"]).value
    if predicate != _EQUAL or constant(comparison.operands[1]) != -math.inf:
        return False
    return bool(reduced(op.operands[0], "arith.maximumf") == largest)


def _added(x: ir.Value, readers: Sequence[Any]) -> tuple[ir.Value, ir.Value] | None:
    """Return what is added up to `x`, whole tensor first, if nobody else reads the sum."""
    op = defining(x)
    step = step_of(op, ("arith.addf",), 2)
    if step is None or not only_read_by(op, readers):
        return None
    if {*step.operations[0].operands} != {*step.arguments}:
        return None
    result = step.maps[2]
    for whole, other in ((0, 1), (1, 0)):
        if is_whole(step.maps[whole], result) and _is_broadcast(
            op.operands[other], step.maps[other], result
        ):
            return op.operands[whole], op.operands[other]
    return None


def _own(addend: ir.Value, shape: tuple[int | None, ...]) -> tuple[bool, ...]:
    """Return for each dimension whether the addend has its size, not size 1 alone."""
    sizes = build.shape_of(addend)
    return tuple(size != 1 or whole == 1 for size, whole in zip(sizes, shape, strict=True))


def _is_broadcast(value: ir.Value, map_: ir.AffineMap, whole: ir.AffineMap) -> bool:
    """Whether an f32 tensor of the same rank is read at its place, or at 0 where it has size 1."""
    if not isinstance(value.type, ir.RankedTensorType):
        return False
    sizes, places = build.shape_of(value), list(map_.results)
    if build.element_of(value) != ir.F32Type.get() or len(places) != len(whole.results):
        return False
    return places[-1:] == _dims(whole.n_dims)[-1:] and all(
        place == wanted or (_is_zero(place) and size == 1)
        for place, wanted, size in zip(places, whole.results, sizes, strict=True)
    )


def _is_rowwise(op: Any) -> bool:
    """Whether an element-wise `op` takes a tensor and, as second, one of size 1 in the last place.

    It must take them in this order.
    """
    step = step_of(op, (op.regions[0].blocks[0].operations[0].operation.name,), 2)
    if step is None or not step.is_plain() or not is_whole(step.maps[0], step.maps[2]):
        return False
    places, dims = list(step.maps[1].results), _dims(step.maps[2].n_dims)
    return len(places) == len(dims) and places[:-1] == dims[:-1] and _is_zero(places[-1])


def is_whole(map_: ir.AffineMap, result: ir.AffineMap) -> bool:
    """Whether a tensor is read where the result is written, both in the order of the loops."""
    return list(map_.results) == list(result.results) == _dims(result.n_dims)


def _is_zero(expression: ir.AffineExpr) -> bool:
    return isinstance(expression, ir.AffineConstantExpr) and expression.value == 0


def _dims(rank: int) -> list[ir.AffineExpr]:
    return [ir.AffineExpr.get_dim(axis) for axis in range(rank)]


def only_read_by(op: Any, readers: Sequence[Any]) -> bool:
    """Whether nobody but `readers` uses a result of `op`."""
    return all(use.owner in readers for result in op.results for use in result.uses)
