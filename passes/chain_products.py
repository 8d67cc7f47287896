"""Find dispatches of products of which each reads what the one before made, and join them.

What is joined has a kernel that a :class:`.kernels.joint_matmul.JointMatmul` describes: products of
one to four rows that prepare these rows themselves.  The dispatch stands where the last one stood,
so whatever else reads what an earlier one makes must come behind that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build
from .base import RemarkKind
from .contraction import defining
from .kernels import emit, executable
from .kernels.executable import MOST_BINDINGS
from .kernels.joint_matmul import MOST_STACK, OWN, JointMatmul, stack_bytes
from .kernels.product_chain import ProductChain
from .kernels.record_matmul import LINE_BYTES, THREADS, RecordMatmul

_VIEWS = (
    "flow.tensor.reshape", "tensor.cast", "tensor.collapse_shape", "tensor.expand_shape",
    "tensor.reshape",
)  # fmt: skip


def as_joint(kernel: Any) -> JointMatmul | None:
    """Return what describes a kernel as one step of a chain, or None if it cannot be one."""
    if isinstance(kernel, JointMatmul):
        return kernel
    if not isinstance(kernel, RecordMatmul) or not kernel.rounds or not kernel.reads_once:
        return None
    if kernel.batch != 1:
        return None
    read = 0 if kernel.epilogue is None else len(kernel.epilogue.inputs)
    return JointMatmul((kernel,), ((OWN,) * read,))


@dataclass(frozen=True)
class Link:
    """A dispatch of a chain: the operation, what it does, and which one of the module it is."""

    call: Any
    kernel: JointMatmul
    number: int

    @property
    def tensors(self) -> list[ir.Value]:
        """What the call reads, in the order of its kernel's bindings."""
        grid = ir.DenseI32ArrayAttr(self.call.attributes["operandSegmentSizes"])[0]
        return list(self.call.operands)[grid:]

    def describe(self) -> str:
        """Name its products."""
        return ", ".join(annotations.names(self.call))


def chain(
    module: ir.Module, kernels: Mapping[str, JointMatmul], unit: str, remark: Callable[..., None]
) -> None:
    """Join dispatches of which each reads what the one before makes.

    `kernels` are those that may be steps, by their symbols; `unit` is that of the processor.
    """
    chains: list[list[Link]] = []
    for number, op in enumerate(annotations.operations(module)):
        kernel = kernels.get(_symbol(op)) if op.name == "flow.dispatch" else None
        if kernel is None:
            continue
        link = Link(op, kernel, number)
        before = next((one for one in chains if _makes(one[-1], link.tensors[0])), None)
        why = "" if before is None else _hindrance(before, link)
        if before is not None and not why:
            before.append(link)
            continue
        chains.append([link])
        if before is not None:
            _note(link, f"a dispatch apart from {before[-1].describe()}: {why}", remark)
    # They share counters, so in the order of their places.
    joined = sorted((links for links in chains if len(links) > 1), key=lambda one: one[-1].number)
    for links in joined:
        for number, link in enumerate(links):
            _note(link, _words(links, number), remark)
    by_function: dict[Any, list[list[Link]]] = {}
    for links in joined:
        by_function.setdefault(links[0].call.block, []).append(links)
    for found in by_function.values():
        _rewrite(module, found, unit != "portable")


def _note(link: Link, text: str, remark: Callable[..., None]) -> None:
    """Write onto a dispatch, and remark, whether it is a step of a chain."""
    annotations.add_lowering(link.call, text)
    for name in annotations.names(link.call):
        remark(RemarkKind.APPLIED, link.call, name, text)


def _words(links: Sequence[Link], number: int) -> str:
    behind = f" behind {links[number - 1].describe()}" if number else ""
    return f"step {number + 1} of {len(links)} of a dispatch{behind}"


# -- what belongs together -------------------------------------------------------------------------


def _root(value: ir.Value) -> ir.Value:
    """Return the tensor that `value` is another shape of."""
    op = defining(value)
    while op is not None and op.name in _VIEWS:
        value = op.operands[0]
        op = defining(value)
    return value


def _makes(link: Link, value: ir.Value) -> bool:
    return any(_root(value) == result for result in link.call.results)


def _hindrance(links: Sequence[Link], link: Link) -> str:
    """Say why `link` cannot become the last step of a chain, or nothing."""
    first = links[0]
    if link.call.block != first.call.block:
        return "it stands in another block"
    if link.kernel.parts[0].m != first.kernel.parts[0].m:
        return "it has other rows"
    together = [*links, link]
    calls = _calls(together)
    for one in links:
        for result in one.call.results:
            for user in _readers(result):
                if user not in calls and not _is_behind(user, link.call):
                    return f"{one.describe()} is read between"
    # And the counters, and what only steps read.
    if len(_external(together)) + len(_outward(together)) + 2 > MOST_BINDINGS:
        return f"a dispatch has {MOST_BINDINGS} bindings at most"
    if (needed := stack_bytes([one.kernel for one in together])) > MOST_STACK:
        return f"it needs {needed} bytes of stack, of {MOST_STACK}"
    return ""


def _readers(value: ir.Value) -> list[Any]:
    """Return the operations that read a tensor, in whatever shape."""
    found = []
    for use in value.uses:
        user = use.owner.operation
        found += _readers(user.results[0]) if user.name in _VIEWS else [user]
    return found


def _is_behind(user: Any, call: Any) -> bool:
    while user.parent is not None and user.block != call.block:
        user = user.parent.operation
    return call.operation.is_before_in_block(user)


def _calls(links: Sequence[Link]) -> list[Any]:
    return [one.call.operation for one in links]


def _results(links: Sequence[Link]) -> list[ir.Value]:
    return [result for link in links for result in link.call.results]


def _outward(links: Sequence[Link]) -> list[ir.Value]:
    """Return what a chain makes that others read."""
    calls = _calls(links)
    return [one for one in _results(links) if any(user not in calls for user in _readers(one))]


def _external(links: Sequence[Link]) -> list[ir.Value]:
    """Return what a chain reads that it does not make, each once."""
    found: list[ir.Value] = []
    for link in links:
        for value in link.tensors:
            if not any(_makes(one, value) for one in links) and value not in found:
                found.append(value)
    return found


# -- the dispatch ----------------------------------------------------------------------------------


def _rewrite(module: ir.Module, chains: Sequence[Sequence[Link]], pauses: bool) -> None:
    """Put one dispatch into the place of each chain of a block; they share a tensor of counters."""
    kernels = [_kernel(links, pauses) for links in chains]
    with ir.InsertionPoint(chains[0][-1].call), chains[0][-1].call.location:
        count = executable.threads(THREADS)
        starts = [emit.index(0)]
        groups = [kernel.groups_for(count) for kernel in kernels]
        for kernel, own in zip(kernels, groups, strict=True):
            starts.append(arith.addi(starts[-1], kernel.counters_for(own)))
        zero = arith.constant(emit.integer(32), 0)
        type_ = build.tensor_type([build.DYNAMIC], emit.integer(32))
        counters = ir.Operation.create(
            "flow.tensor.splat", results=[type_], operands=[zero, starts[-1]]
        ).result
    for links, kernel, own, start in zip(chains, kernels, groups, starts[:-1], strict=True):
        counters = _dispatch(module, links, kernel, own, [start, starts[-1]], counters)


def _kernel(links: Sequence[Link], pauses: bool) -> ProductChain:
    external, outward = _external(links), _outward(links)
    places, size = {}, 0  # of what the chain makes
    for result in _results(links):
        if result in outward:
            places[result] = len(external) + 1 + outward.index(result)
            continue
        places[result] = -1 - size
        size += -(-4 * math.prod(build.shape_of(result)) // LINE_BYTES) * LINE_BYTES
    found = []
    for link in links:
        own = [
            external.index(value) if value in external else places[_root(value)]
            for value in link.tensors
        ]
        found.append((*own, *(places[one] for one in link.call.results)))
    steps = tuple(link.kernel for link in links)
    return ProductChain(steps, tuple(found), len(external), len(outward), size, pauses)


def _dispatch(
    module: ir.Module, links: Sequence[Link], kernel: ProductChain, groups: ir.Value,
    constants: Sequence[ir.Value], counters: ir.Value,
) -> ir.Value:  # fmt: skip
    """Build the dispatch of a chain; return the counters behind it."""
    last, outward = links[-1].call, _outward(links)
    with ir.InsertionPoint(last), last.location:
        executable.declare(
            module, kernel.name,
            [number < kernel.inputs for number in range(kernel.bindings)],
            len(constants), kernel.translation, kernel.emit,
        )  # fmt: skip
        inner = [build.tensor_type([kernel.inner], emit.integer(8))] if kernel.inner else []
        types = [*(result.type for result in outward), *inner, counters.type]
        call = executable.dispatch(
            kernel.name, [groups, emit.index(1), emit.index(1)], constants, _external(links), types,
            [constants[-1]], counters,
        )  # fmt: skip
    annotations.carry_all([link.call for link in links], call)
    for view in _views(outward, last):
        view.move_before(last.operation)
    for old, new in zip(outward, call.results, strict=False):
        old.replace_all_uses_with(new)
    for link in reversed(links):
        for result in link.call.results:
            _erase_views(result)
        link.call.operation.erase()
    behind: ir.Value = call.results[len(types) - 1]
    return behind


def _erase_views(value: ir.Value) -> None:
    """Erase what gives another shape to what nobody reads."""
    for user in [use.owner.operation for use in value.uses]:
        _erase_views(user.results[0])
        user.erase()


def _views(results: Sequence[ir.Value], last: Any) -> list[Any]:
    """Return what gives `results` another shape in front of `last`, in order."""
    found: list[Any] = []
    for value in results:
        for use in value.uses:
            user = use.owner.operation
            is_before = user.block == last.block and user.is_before_in_block(last.operation)
            if user.name in _VIEWS and is_before:
                found += [user, *_views(user.results, last)]
    return found


def _symbol(call: Any) -> str:
    """Return the name of the executable of a dispatch."""
    found = ir.ArrayAttr(call.attributes["entry_points"])[0]
    return str(ir.SymbolRefAttr(found).value[0])
