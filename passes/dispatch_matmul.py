"""Put the dispatch of a matmul kernel, with its epilogue, into the place of a contraction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from iree.compiler import ir
from iree.compiler.dialects import arith

from . import annotations, build, epilogues
from .epilogues import Chain
from .kernels import executable
from .kernels.executable import Interface
from .matrices import Matrices, from_matrices


@dataclass(frozen=True)
class ResultHeads:
    """What behind a product moves its heads, of which there are `count`, behind its rows.

    It is a ``tensor.expand_shape`` that tells them from the rest of the batch, and a transpose.
    """

    expanded: Any
    transposed: Any
    count: int


class MatmulKernel(Protocol):
    """What is asked of a kernel here; sizes are batch, m, n and k."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def sizes(self) -> tuple[int | None, ...]: ...  # noqa: D102
    @property
    def translation(self) -> str: ...  # noqa: D102
    def grid(self, sizes: dict[str, ir.Value]) -> list[ir.Value]: ...  # noqa: D102
    def emit(self, interface: Interface) -> None: ...  # noqa: D102


def replace(
    module: ir.Module,
    op: Any,
    matrices: Matrices,
    kernel: MatmulKernel,
    operands: Callable[[], Sequence[ir.Value]],
    chain: Chain | None = None,
    sizes_of: Callable[[], dict[str, ir.Value]] | None = None,
    result_heads: ResultHeads | None = None,
) -> None:
    """Declare `kernel`, dispatch to it, and erase `op` and what the kernel does of `chain`.

    ``sizes_of()`` builds batch, m, n and k for an `op` whose result is ``[batch, m, n]`` as it is;
    None takes them from its operands.
    With `result_heads` the kernel stores the result as the transpose behind `op` would.
    ``operands()`` builds what the kernel reads before what the chain reads.  All of it is built
    where the last operation goes: another operand of the chain may be computed behind `op`.
    """
    place = op if chain is None else chain.ops[-1]
    with ir.InsertionPoint(place), op.location:
        inputs = list(operands())
        found = matrices.values(op) if sizes_of is None else sizes_of()
        sizes = {**found, "one": build.index(1)}
        known = {**dict(zip(("batch", "m", "n", "k"), kernel.sizes, strict=True)), "one": 1}
        if chain is not None:
            inputs += epilogues.tensors(chain, sizes, known)
        opened = {name: sizes[name] for name, size in known.items() if size is None}
        executable.declare(
            module, kernel.name, [True] * len(inputs) + [False], len(opened), kernel.translation,
            kernel.emit,
        )  # fmt: skip
        dims: tuple[str, ...] = ("batch", "m", "n")
        if result_heads is not None:
            count, batch = result_heads.count, known["batch"]
            dims = ("outer", "m", "head", "n")
            known |= {"outer": None if batch is None else batch // count, "head": count}
            sizes["outer"] = arith.divui(sizes["batch"], build.index(count))
        shape = [build.DYNAMIC if (s := known[d]) is None else s for d in dims]
        call = executable.dispatch(
            kernel.name, kernel.grid(sizes), list(opened.values()), inputs,
            build.tensor_type(shape, ir.F32Type.get()),
            [sizes[name] for name in dims if known[name] is None],
        )  # fmt: skip
        annotations.copy_annotations(op, call)
        if result_heads is not None:
            moved = result_heads.transposed.results[0]
            init = result_heads.transposed.operands[1]
            with ir.InsertionPoint(result_heads.transposed):  # its sizes may come behind `op`
                sizes_now = build.dynamic_sizes(init)
                result = build.reshape(call.results[0], build.shape_of(init), sizes_now)
            moved.replace_all_uses_with(result)
            result_heads.transposed.erase()
            result_heads.expanded.erase()
        elif chain is None:
            result = call.results[0]
            if sizes_of is None:
                result = from_matrices(result, matrices, op)
            op.operation.results[0].replace_all_uses_with(result)
        else:
            epilogues.replace(chain, call.results[0])
    op.operation.erase()
