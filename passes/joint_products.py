"""Find products of the same few rows, and put one dispatch into their place.

What is joined has a kernel each that makes the records of its rows itself
(:class:`.kernels.record_matmul.RecordMatmul`): one to four rows.  More rows gain nothing: their
records are made once for all of them, and they are bound by arithmetic.  The dispatch stands where
the first product stood, so an epilogue of a later one must not need what is calculated between.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import annotations, build, epilogues, parameters, row_norms
from .contraction import defining, unshaped
from .dispatch_records import as_chain
from .epilogues import Chain
from .kernels import executable
from .kernels.joint_matmul import MOST_STACK, OWN, JointMatmul, stack_bytes
from .kernels.record_matmul import RecordMatmul
from .kernels.row_norm import RowNorm
from .matrices import from_matrices, to_matrices
from .row_norms import RmsNorm

MOST = 4  # products of a dispatch
NEAR = 8  # following products that are looked at
_PREPARING = ("linalg.", "tensor.", "arith.", "util.optimization_barrier")


@dataclass(frozen=True)
class Joint:
    """Products that become one dispatch in the place of `op`: their plans, kernel, and norm."""

    op: Any
    plans: tuple[Any, ...]
    kernel: JointMatmul
    norm: RmsNorm | None

    @property
    def names(self) -> list[str]:
        """The products' names."""
        return [annotations.text(plan.product.op, annotations.MATMUL) for plan in self.plans]

    def describe(self, number: int) -> str:
        """Say what product `number` is part of."""
        others = [name for i, name in enumerate(self.names) if i != number]
        words = [f"one dispatch with {', '.join(others)}"] if others else []
        words += ["RMSNorm of its rows"] if self.norm is not None else []
        return "; ".join(words)


def _can_join(plan: Any) -> bool:
    """Whether the kernel of a plan makes its rows' records, and is one of a single batch."""
    kernel = getattr(plan, "kernel", None)
    return (
        isinstance(kernel, RecordMatmul)
        and kernel.rounds
        and kernel.reads_once
        and kernel.batch == 1
    )


def match(
    plan: Any, following: Iterable[Any], plan_of: Callable[[Any, ir.Value], Any]
) -> Joint | None:
    """Describe the dispatch that does the product of `plan`, and others of those `following`.

    ``plan_of(op, activation)`` describes the kernel of another product if it reads `activation`;
    None or a refusal if it does not, or has none.  Returns None where there is nothing to join,
    neither products nor a norm.  Changes nothing.
    """
    if not _can_join(plan):
        return None
    op, found = plan.product.op, [plan]
    for other in itertools.islice(following, NEAR):
        if other.name == "flow.dispatch" or other.block != op.block or len(found) == MOST:
            continue
        candidate = plan_of(other, plan.product.activation)
        if _can_join(candidate) and _have_same_rows(plan, candidate):
            found.append(_without_what_others_do(candidate, found))
    while isinstance(links := _links(op, found), int):  # this one hinders it
        if found[links] is plan:
            return None
        del found[links]
    order = _order(links)
    if order is None:
        return None
    found, links = [found[i] for i in order], _renumbered(links, order)
    kernel = JointMatmul(tuple(one.kernel for one in found), links)
    norm = _norm(found)
    if norm is not None:
        first = kernel.parts[0]
        of_rows = RowNorm(first.rows.k, norm.epsilon, first.tile.lanes)
        normed = dataclasses.replace(kernel, norm=of_rows)
        if normed.bindings > executable.MOST_BINDINGS or stack_bytes([normed]) > MOST_STACK:
            norm = None
        else:
            kernel = normed
    if len(found) == 1 and norm is None:
        return None
    return Joint(op, tuple(found), kernel, norm)


def _have_same_rows(one: Any, other: Any) -> bool:
    a, b = one.product, other.product
    return bool(
        a.activation == b.activation
        and one.kernel.rows == other.kernel.rows
        and one.kernel.m == other.kernel.m
        and one.kernel.tile.columns == other.kernel.tile.columns
        and one.kernel.shares == other.kernel.shares
        and list(a.matrices.maps["rows"].results) == list(b.matrices.maps["rows"].results)
    )


def _links(place: Any, plans: Sequence[Any]) -> tuple[tuple[int, ...], ...] | int:
    """Return what the epilogues read of each other's results, or the product that hinders it.

    It does if its epilogue needs what is not there at `place`, or if there is no binding left.
    """
    is_even = len({plan.kernel.panels for plan in plans}) == 1
    results = [unshaped(_last(plan).results[0]) for plan in plans]
    found = []
    for number, plan in enumerate(plans):
        chain, own = as_chain(plan.chain), []
        for value, given in zip(*_inputs(chain), strict=True):
            others = [i for i, result in enumerate(results) if result == unshaped(value)]
            # Of one row, the columns are all there is.
            is_all = given.kind == "full" or (given.kind == "columns" and plan.kernel.m == 1)
            is_link = is_even and is_all and given.element == "f32" and others not in ([], [number])
            if not is_link and not _is_before(value, place):
                return number
            own.append(others[0] if is_link else OWN)
        found.append(tuple(own))
    bindings = JointMatmul(tuple(plan.kernel for plan in plans), tuple(found)).bindings
    if bindings > executable.MOST_BINDINGS and len(plans) > 1:
        return len(plans) - 1
    return tuple(found)


def _order(links: Sequence[Sequence[int]]) -> list[int] | None:
    """Return an order in which every product comes behind those whose results it reads."""
    order: list[int] = []
    while len(order) < len(links):
        ready = [
            i
            for i, own in enumerate(links)
            if i not in order and all(link == OWN or link in order for link in own)
        ]
        if not ready:
            return None
        order.append(ready[0])
    return order


def _renumbered(
    links: Sequence[Sequence[int]], order: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return links between products in that order."""
    return tuple(
        tuple(link if link == OWN else order.index(link) for link in links[i]) for i in order
    )


def _without_what_others_do(plan: Any, others: Sequence[Any]) -> Any:
    """Return `plan` with what is left of its epilogue if that of another plan does some of it.

    What gate and up are multiplied with each other by follows both of them; a bias does not.
    """
    chain, taken = as_chain(plan.chain), []
    for other in others:
        of_other = as_chain(other.chain)
        taken += [] if of_other is None else list(of_other.ops)
    if chain is None or not any(op in taken for op in chain.ops):
        return plan
    left = epilogues.match(plan.product.op, plan.product.matrices, taken)
    own = as_chain(left)
    kernel = dataclasses.replace(plan.kernel, epilogue=None if own is None else own.epilogue)
    return dataclasses.replace(plan, chain=left, kernel=kernel)


def _inputs(chain: Chain | None) -> tuple[Sequence[ir.Value], Sequence[Any]]:
    return ((), ()) if chain is None else (chain.tensors, chain.epilogue.inputs)


def _last(plan: Any) -> Any:
    chain = as_chain(plan.chain)
    return plan.product.op if chain is None else chain.ops[-1]


def _is_before(value: ir.Value, op: Any) -> bool:
    """Whether `value` is there before `op`, or can be brought there: it follows from parameters."""
    maker = defining(value)
    if maker is None or maker.block != op.block:
        return True
    if maker.is_before_in_block(op.operation):
        return True
    return _can_move(maker) and all(_is_before(operand, op) for operand in maker.operands)


def _can_move(maker: Any) -> bool:
    if maker.name == "util.global.load":
        return _is_constant(maker)
    return maker.name in (*epilogues.VIEWS, "arith.constant", "tensor.empty")


def _is_constant(load: Any) -> bool:
    """Whether nothing writes to the global that is loaded."""
    symbol = ir.FlatSymbolRefAttr(load.attributes["global"]).value
    holder = parameters.find_global(parameters.module_of(load), symbol)
    return holder is not None and "is_mutable" not in holder.attributes


def _bring(value: ir.Value, op: Any) -> None:
    """Bring what makes `value` in front of `op`, if it is not there."""
    maker = defining(value)
    if maker is None or maker.block != op.block or maker.is_before_in_block(op.operation):
        return
    for operand in maker.operands:
        _bring(operand, op)
    maker.move_before(op.operation)


def _norm(plans: Sequence[Any]) -> RmsNorm | None:
    """Return the RMSNorm that makes the rows, if nobody but these products reads them."""
    activation = plans[0].product.activation
    found = row_norms.match(activation)
    k = plans[0].kernel.rows.k
    if found is None or build.shape_of(activation)[-1] != k:
        return None
    product = plans[0].product
    dims = list(product.matrices.maps["rows"].results)
    if dims[-1] != ir.AffineExpr.get_dim(len(product.matrices.sizes) - 1):
        return None
    shape = build.shape_of(activation)
    if build.shape_of(found.x) != shape or build.shape_of(found.weight) != [k]:
        return None
    ends = [plan.product.op.operation for plan in plans]
    return found if _is_read_only_by(ends, activation) else None


def _is_read_only_by(products: Sequence[Any], value: ir.Value) -> bool:
    """Whether all that is calculated from `value` ends in these products.

    Between stand the operations that prepare it, which have no use once there is a kernel.
    """
    seen: list[Any] = []
    values = [value]
    while values:
        for use in values.pop().uses:
            user = use.owner.operation
            if user in products or user in seen:
                continue
            if annotations.MATMUL in user.attributes or not user.name.startswith(_PREPARING):
                return False
            seen.append(user)
            values += list(user.results)
    return True


def rewrite(module: ir.Module, joint: Joint, weights_of: Callable[[Any], list[ir.Value]]) -> None:
    """Dispatch to the kernel in the place of all products; ``weights_of(plan)`` loads a weight."""
    kernel, first = joint.kernel, joint.plans[0].product
    with ir.InsertionPoint(joint.op), joint.op.location:
        source = first.activation if joint.norm is None else joint.norm.x
        x = build.collapse(to_matrices(source, first.matrices, "rows"), [[0, 1], [2]])
        inputs = [x, *([] if joint.norm is None else [joint.norm.weight])]
        for plan, links in zip(joint.plans, kernel.links, strict=True):
            inputs += weights_of(plan)
            chain = as_chain(plan.chain)
            if chain is None:
                continue
            own = [i for i, link in enumerate(links) if link == OWN]
            for i in own:  # what is linked is made by the dispatch itself
                _bring(chain.tensors[i], joint.op)
            epilogue = dataclasses.replace(
                chain.epilogue, inputs=tuple(chain.epilogue.inputs[i] for i in own)
            )
            kept = dataclasses.replace(
                chain, tensors=tuple(chain.tensors[i] for i in own), epilogue=epilogue
            )
            known = {"batch": 1, "m": plan.kernel.m, "n": plan.kernel.n, "one": 1}
            inputs += epilogues.tensors(kept, {}, known)
        executable.declare(
            module, kernel.name, [True] * kernel.inputs + [False] * len(kernel.parts), 0,
            kernel.translation, kernel.emit,
        )  # fmt: skip
        f32 = ir.F32Type.get()
        types = [build.tensor_type([1, part.m or 0, part.n], f32) for part in kernel.parts]
        call = executable.dispatch(kernel.name, kernel.grid(), [], inputs, types, [])
        annotations.copy_annotations(first.op, call)
        for plan, result in zip(joint.plans, call.results, strict=True):
            if plan.product.op != first.op:
                annotations.add_also(plan.product.op, call)
            _replace(plan, result)
    for plan in joint.plans:
        plan.product.op.operation.erase()


def _replace(plan: Any, result: ir.Value) -> None:
    chain, product = as_chain(plan.chain), plan.product
    if chain is None:
        value = from_matrices(result, product.matrices, product.op)
        product.op.operation.results[0].replace_all_uses_with(value)
        return
    epilogues.replace(chain, result)
