"""``lowc-fuse-dequant``: multiply by the codes themselves where that is faster."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir
from iree.compiler.dialects import arith, scf

from . import annotations, build
from .assign_forms import form_of
from .base import Pass, Refusal, RemarkKind
from .code_values import code_value
from .contraction import Contraction, defining, dims_of, match_contraction
from .quantize_weights import widen


@dataclass(frozen=True)
class Dequantised:
    """A contraction over a weight that ``lowc-quantize-weights`` made: its codes and scales.

    ``inputs`` are codes ``[rows…, G, g]``, scales and perhaps zeros ``[rows…, G]``; ``activation``
    is the position of the other operand; ``rows`` is M: the loops that only the activation has.
    """

    contraction: Contraction
    inputs: tuple[ir.Value, ...]
    activation: int
    rows: tuple[int, ...]

    @property
    def static_rows(self) -> int | None:
        """The number of activation rows that meet each weight, None if it is dynamic."""
        count = 1
        for loop in self.rows:
            size = self.contraction.sizes[loop]
            if size is None:
                return None
            count *= size
        return count


@dataclass(frozen=True)
class FuseDequant(Pass):
    """Make the dequantisation part of the product for few rows of activations.

    With M rows every weight is used M times.  Dequantised in the body of the product it is made M
    times but never written to memory; dequantised ahead of it, it is made once, but a float copy
    of one weight goes through memory at each call.  So up to ``max-rows`` rows are fused, more are
    not, and a dynamic number of rows gets both behind an ``scf.if``.

    Parameters
    ----------
    max_rows : int
        The largest M that is fused.  With stock code generation on AVX-512 the two forms are
        equally fast at 4 to 8 rows.

    Before::

        %d = linalg.generic ins(%q, %s) … { sitofp, mulf }       // tensor<8x2x32xf32>
        %w = tensor.collapse_shape %d [[0], [1, 2]]              // tensor<8x64xf32>
        %y = linalg.generic (m, n, k) ins(%x, %w) … { mulf, addf }

    After, for one row::

        %g = tensor.expand_shape %x [[0], [1, 2]]                // tensor<1x2x32xf32>
        %y = linalg.generic (m, n, G, g) ins(%g, %q, %s) … { sitofp, mulf, mulf, addf }
    """

    max_rows: int = 4
    name: ClassVar[str] = "lowc-fuse-dequant"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Rewrite every matmul over a dequantised weight."""
        for op in annotations.matmuls(module):
            found = match(op)
            if isinstance(found, Refusal):
                continue
            name = annotations.text(op, annotations.MATMUL)
            rows = found.static_rows
            if rows is not None and rows > self.max_rows:
                kind = f"{rows} rows > {self.max_rows}"
                annotations.add_text(op, annotations.LOWERING, _ahead(kind))
                remark(RemarkKind.REFUSED, op, name, f"not fused: {kind}, {_WHY_AHEAD}")
                continue
            with ir.InsertionPoint(op), op.location:
                if rows is None:
                    result = self._choose_at_run_time(found)
                else:
                    result = _fused(found)
                    lowering = f"dequantised inside the product ({rows} rows)"
                    annotations.add_text(defining(result), annotations.LOWERING, lowering)
            op.operation.results[0].replace_all_uses_with(result)
            op.operation.erase()
            what = "fused" if rows is not None else f"fused up to {self.max_rows} rows at run time"
            remark(RemarkKind.APPLIED, defining(result), name, what)

    def _choose_at_run_time(self, found: Dequantised) -> ir.Value:
        op, contraction = found.contraction.op, found.contraction
        activation = contraction.operands[found.activation]
        axes = dims_of(contraction.maps[found.activation])
        rows = build.index(1)
        for loop in found.rows:
            rows = arith.muli(rows, build.dim(activation, axes.index(loop)))
        few = arith.cmpi(arith.CmpIPredicate.ule, rows, build.index(self.max_rows))
        choice = scf.IfOp(few, [op.operation.results[0].type], has_else=True)
        lowering = f"at run time: inside the product up to {self.max_rows} rows, else ahead of it"
        with ir.InsertionPoint(choice.then_block):
            result = _fused(found)
            annotations.add_text(defining(result), annotations.LOWERING, lowering)
            scf.YieldOp([result])
        with ir.InsertionPoint(choice.else_block):
            clone = _clone_with_weight(found)
            annotations.add_text(clone, annotations.LOWERING, lowering)
            scf.YieldOp([clone.results[0]])
        return choice.results[0]


_WHY_AHEAD = "the weight is made float once per call instead of once per row"


def _ahead(kind: str) -> str:
    return f"dequantised ahead of the product ({kind}: {_WHY_AHEAD})"


def match(op: Any, *, words: bool = False) -> Dequantised | Refusal:
    """Describe `op` as a product with a dequantised weight, or say why not.  Changes nothing.

    Codes packed in words are taken with `words` only.
    """
    found = match_contraction(op)
    if isinstance(found, Refusal):
        return found
    for position in (1, 0):
        reshape = defining(found.operands[position])
        if reshape is None or reshape.name != "tensor.collapse_shape":
            continue
        producer = defining(reshape.operands[0])
        if producer is None or producer.name != "linalg.generic":
            continue
        inputs = list(producer.operands)[:-1]
        if len(inputs) not in (2, 3) or not _is_code(inputs[0], words):
            continue
        weight_dims = dims_of(found.maps[position])
        if weight_dims[-1] not in found.k:
            continue
        activation_dims = dims_of(found.maps[1 - position])
        rows = tuple(d for d in activation_dims if d not in weight_dims)
        return Dequantised(found, tuple(inputs), 1 - position, rows)
    return Refusal("its weight is not dequantised")


def _clone_with_weight(found: Dequantised) -> ir.Operation:
    """Clone the contraction and what dequantises for it, so that only this branch does either."""
    contraction = found.contraction
    reshape = defining(contraction.operands[1 - found.activation])
    producer = defining(reshape.operands[0])
    dequantised = producer.clone()
    weight = reshape.clone()
    weight.operands[0] = dequantised.results[0]
    product: ir.Operation = contraction.op.operation.clone()
    product.operands[1 - found.activation] = weight.results[0]
    return product


def _is_code(value: ir.Value, words: bool) -> bool:
    op = defining(value)
    if op is not None and op.name == "util.optimization_barrier":
        op = defining(op.operands[0])
    element = build.element_of(value)
    # Codes packed in words are not fused: the product would need a loop over words too.
    is_code = isinstance(element, ir.IntegerType) and (words or element.width <= 8)
    return is_code and op is not None and op.name == "util.global.load"


def _fused(found: Dequantised) -> ir.Value:
    """Build the product over codes: the loop over K becomes one over groups and one inside."""
    contraction = found.contraction
    activation = contraction.operands[found.activation]
    axes = dims_of(contraction.maps[found.activation])
    k = contraction.k[0]
    groups, group = build.shape_of(found.inputs[0])[-2:]
    grouped = build.expand_last(activation, groups, group, axes.index(k))

    loops = contraction.maps[0].n_dims + 1
    inner = loops - 1  # k itself becomes the loop over groups, the loop inside a group comes last
    split = [part for d in axes for part in ((k, inner) if d == k else (d,))]
    weight_dims = dims_of(contraction.maps[1 - found.activation])[:-1]
    per_code = build.dims_map(loops, [*weight_dims, k, inner])
    per_group = build.dims_map(loops, [*weight_dims, k])
    maps = [
        build.dims_map(loops, split),
        per_code,
        *[per_group] * (len(found.inputs) - 1),
        build.dims_map(loops, dims_of(contraction.maps[2])),
    ]
    iterators = ["reduction" if d in (k, inner) else "parallel" for d in range(loops)]
    element = build.element_of(contraction.operands[1 - found.activation])
    form = form_of(contraction.op)

    def body(x: ir.Value, q: ir.Value, s: ir.Value, *rest: ir.Value) -> ir.Value:
        acc = rest[-1]
        value = build.convert(
            arith.mulf(code_value(q, rest[0] if len(rest) > 1 else None, form), s), element
        )
        return arith.addf(acc, arith.mulf(widen(x, acc.type), widen(value, acc.type)))

    new = build.generic([grouped, *found.inputs], contraction.init, maps, iterators, body)
    annotations.copy_annotations(contraction.op, new.operation)
    return new.operation.results[0]
