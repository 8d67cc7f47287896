"""``lowc-outline-attention``: one dispatch for the attention of a few queries over a cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from iree.compiler import ir

from . import annotations, build, cache_blocks, outline_float, outline_softmax
from .base import Pass, Refusal, RemarkKind
from .contraction import defining, is_zero_fill, match_contraction, multiplies_and_adds
from .kernels import cache_readers, executable, tiles
from .kernels.attention import MOST_ROWS, Attention
from .outline_kernels import erase_unread
from .outline_softmax import constant, is_whole, only_read_by, step_of

_KEYS = (1, 2, 0)  # of [n, heads, width]: what the first product takes
_VALUES = (1, 0, 2)
LEAST_LANES = 4


@dataclass(frozen=True)
class OutlineAttention(Pass):
    """Replace attention of few queries, as a decoder has it, by one dispatch to a kernel.

    Both products of an attention whose keys and values are ``[positions, heads, width]``, with
    the softmax between them, become one dispatch.  It reads keys and values where they are, each
    once, as far as the cache is filled; queries that share a head are rows of one product, so no
    head is copied.  A cache may be in any format of ``lowc-quantize-caches``; all else is f32, and
    sums come in an order of their own.  The report has a line for each of the products still; the
    first one's is kept on the dispatch as ``lowc.also``.

    An attention with a mask, of more than 16 queries for a head, or of a width that is no multiple
    of a vector is left to the kernels of products and of softmax.

    Before::

        %k = tensor.extract_slice %keys[0, 0, 0] [%n, 4, 64] [1, 1, 1] : tensor<2048x4x64xf32> …
        %kt = linalg.transpose ins(%k) … permutation = [1, 2, 0]
        %s = linalg.batch_matmul ins(%q, %kt : tensor<4x4x64xf32>, tensor<4x64x?xf32>) …
        %x = linalg.generic ins(%s) … { mulf by 0.125 }
        %p = softmax of %x, as lowc-outline-softmax finds it
        %v = tensor.extract_slice %values[0, 0, 0] [%n, 4, 64] [1, 1, 1] …
        %vt = linalg.transpose ins(%v) … permutation = [1, 0, 2]
        %y = linalg.batch_matmul ins(%p, %vt : tensor<4x4x?xf32>, tensor<4x?x64xf32>) …

    After::

        hal.executable.source private @attention_4x4x64… { … }
        %y = flow.dispatch @attention_4x4x64…::@…[%c4, %c1, %c1](%n_i32, %q, %keys, %values) : …

    Parameters
    ----------
    unit : str
        The vector unit of a CPU that the kernels are for; of a GPU, or ``none``, nothing is
        outlined.
    """

    unit: tiles.Unit = "none"
    name: ClassVar[str] = "lowc-outline-attention"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Outline every attention that there is a kernel for; say why not for the others."""
        if self.unit not in tiles.ISAS:
            return
        found = [(op, _softmax(op)) for op in annotations.matmuls(module)]
        for op, softmax in [pair for pair in found if pair[1] is not None]:
            name = annotations.text(op, annotations.MATMUL)
            plan = match(op, softmax, tiles.ISAS[self.unit])
            if isinstance(plan, Refusal):
                remark(RemarkKind.REFUSED, op, name, f"attention has no kernel: {plan.reason}")
                continue
            remark(RemarkKind.APPLIED, op, name, plan.kernel.describe())
            rewrite(module, plan)
        erase_unread(module)


@dataclass(frozen=True)
class Plan:
    """An attention: what it reads, and its products, ``first`` and ``last``."""

    q: ir.Value
    keys: "Cache"
    values: "Cache"
    last: Any
    first: Any
    kernel: Attention


def _softmax(op: Any) -> Any:
    """Return the last operation of the softmax that `op` multiplies by values, if it does so."""
    if op.name != "linalg.batch_matmul":
        return None
    last = defining(op.operands[0])
    if last is None or last.name != "linalg.generic":
        return None
    return last if outline_softmax.exponentials_of(last) is not None else None


def match(op: Any, softmax: Any, isa: tiles.Isa) -> Plan | Refusal:
    """Describe the attention whose second product is `op`, or say why it is none."""
    found = outline_softmax.match(softmax, outline_softmax.exponentials_of(softmax), isa.lanes)
    if isinstance(found, Refusal):
        return found
    if found.addend is not None or found.kernel.zeros:
        return Refusal("it has a mask")
    if not only_read_by(softmax, (op,)):
        return Refusal("its softmax is used elsewhere")
    scaled = _scaled(found.x, found.ops)
    if scaled is None:
        return Refusal("its scores are used elsewhere")
    product, scale = scaled
    for one in (product, op):
        why = _no_product(one)
        if why:
            return Refusal(why)
    keys, values = _cache(product.operands[1], _KEYS), _cache(op.operands[1], _VALUES)
    for cache in (keys, values):
        if isinstance(cache, Refusal):
            return cache
    assert isinstance(keys, Cache) and isinstance(values, Cache)  # noqa: S101  (for mypy)
    formats = (keys.format, values.format)
    kernel = _kernel(product.operands[0], op.operands[1], scale, isa, formats)
    if isinstance(kernel, Refusal):
        return kernel
    return Plan(product.operands[0], keys, values, op, product, kernel)


def _kernel(
    q: ir.Value, values: ir.Value, scale: float, isa: tiles.Isa, formats: tuple[str, str]
) -> Attention | Refusal:
    """Return the kernel for queries ``[heads, rows, width]``, or say why there is none."""
    heads, rows, width = build.shape_of(q)
    if build.DYNAMIC in (heads, rows, width):
        return Refusal("a size of its queries is not known")
    if not 0 < rows <= MOST_ROWS:
        return Refusal(f"a head has {rows} queries, kernels take up to {MOST_ROWS}")
    lanes = isa.lanes
    # Halves of a head in 4 bits may be shorter than the longest vector.
    while "i4" in formats and lanes > LEAST_LANES and (width // 2) % lanes:
        lanes //= 2
    of = cache_readers.Heads(heads, width, lanes)
    fits = all(of.fits(name) for name in formats)
    if build.shape_of(values)[2] != width or not fits or not heads * width:
        return Refusal(f"a width of {width} is no multiple of a vector, or not that of values")
    return Attention(heads, rows, width, scale, lanes, isa.registers // 2, *formats)


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernel in the place of the second product; the rest loses its reader."""
    kernel, last = plan.kernel, plan.last
    with ir.InsertionPoint(last), last.location:
        executable.declare(
            module, kernel.name, [*[True] * kernel.inputs, False], 1, kernel.translation,
            kernel.emit,
        )  # fmt: skip
        call = executable.dispatch(
            kernel.name, kernel.grid(), [build.dim(plan.values.filled, 0)],
            [plan.q, *plan.keys.flat(), *plan.values.flat()], last.results[0].type, [],
        )  # fmt: skip
    for op in (plan.first, last):
        annotations.add_text(op, annotations.LOWERING, kernel.describe())
    annotations.copy_annotations(last, call)
    annotations.add_also(plan.first, call)
    last.results[0].replace_all_uses_with(call.results[0])
    last.erase()


# -- parts -----------------------------------------------------------------------------------------


def _scaled(x: ir.Value, readers: Sequence[Any]) -> tuple[Any, float] | None:
    """Return the product that scores are, and what they are multiplied by, if nobody else reads."""
    op, scale = defining(x), 1.0
    # A number that f32 has not is an f64 in PyTorch's programs, rounded where it is used.
    found = step_of(op, ("arith.mulf",), 1) or step_of(op, ("arith.truncf", "arith.mulf"), 1)
    if found is not None and is_whole(*found.maps) and only_read_by(op, readers):
        product = found.operations[-1]
        factors = [value for value in product.operands if value != found.arguments[0]]
        if len(factors) == 1 and len(found.operations) == 2:
            factors = [found.operations[0].operands[0]]
        number = constant(factors[0]) if len(factors) == 1 else None
        if number is None:
            return None
        readers, scale = (op,), float(np.float32(number))
        op = defining(op.operands[0])
    return None if op is None or not only_read_by(op, readers) else (op, scale)


def _no_product(op: Any) -> str:
    """Say why `op` is no product that the kernel does, or nothing."""
    if op.name != "linalg.batch_matmul" or annotations.MATMUL not in op.attributes:
        return "its scores are no product of queries and keys"
    if not outline_float.takes(op):
        return "its products have a form of their own"
    found = match_contraction(op)
    if isinstance(found, Refusal):
        return found.reason
    if [str(map_) for map_ in found.maps] != _MAPS or not multiplies_and_adds(op):
        return "its products are no plain ones"
    if any(build.element_of(value) != ir.F32Type.get() for value in op.operands):
        return "its elements are not f32"
    return "" if is_zero_fill(found.init) else "its sums do not start at zero"


_MAPS = [f"(d0, d1, d2, d3) -> ({dims})" for dims in ("d0, d1, d3", "d0, d3, d2", "d0, d1, d2")]


@dataclass(frozen=True)
class Cache:
    """A cache whose first positions a product reads: its format, and the tensors it is stored in.

    The first size of ``filled`` says how many positions those are.
    """

    format: str
    parts: tuple[ir.Value, ...]
    filled: ir.Value

    def flat(self) -> list[ir.Value]:
        """Build what the kernel takes: the channels of a head are one dimension."""
        halves = [[0], [1], [2, 3]]
        return [
            build.collapse(part, halves)
            if len(build.shape_of(part)) == len(halves) + 1
            and build.element_of(part) == ir.F32Type.get()
            else part
            for part in self.parts
        ]


def _cache(value: ir.Value, permutation: Sequence[int]) -> Cache | Refusal:
    """Return the cache ``[positions, heads, width]`` whose first positions `value` has turned."""
    op = defining(value)
    is_turned = op is not None and op.name == "linalg.transpose"
    if not is_turned or tuple(ir.DenseI64ArrayAttr(op.attributes["permutation"])) != permutation:
        return Refusal("keys and values are no [positions, heads, width]")
    source = op.operands[0]
    stored = _stored(source)
    if isinstance(stored, Refusal):
        return stored
    if stored is None:
        return Cache("f32", (_whole(source),), source)
    name = annotations.text(stored, annotations.CACHE)
    *inputs, _ = stored.operands
    parts = tuple(_whole(part) for part in inputs)
    if name == cache_blocks.NAME:
        return Cache("i4", parts, source)
    # Positions may be left out before what is stored is read, or behind that.
    is_cut = defining(source).name == "tensor.extract_slice"
    return Cache(name, parts, source if is_cut else inputs[0])


def _stored(value: ir.Value) -> Any:
    """Return the operation that reads `value` from a cache which is not f32; None if none does.

    A Refusal if `value` lacks heads or channels of what is stored: kernels step over whole rows.
    """
    if build.shape_of(value)[-1] % 2:
        return None  # no kernel takes odd widths, however they are stored
    op, is_whole_row = defining(value), True
    while op is not None and op.name in ("tensor.collapse_shape", "tensor.extract_slice"):
        if op.name == "tensor.extract_slice":
            if not _is_start(op):
                return None
            is_whole_row &= _keeps_rows(op)
        op = defining(op.operands[0])
    if op is None or annotations.CACHE not in op.attributes:
        return None
    shape = build.shape_of(op.results[0])
    is_i4 = annotations.text(op, annotations.CACHE) in ("i4", cache_blocks.NAME)
    row = [shape[-3], 2 * shape[-1]] if is_i4 else shape[-2:]
    if is_whole_row and row == build.shape_of(value)[1:]:
        return op
    return Refusal("not all heads and channels of its caches are read")


def _whole(value: ir.Value) -> ir.Value:
    """Return what `value` is the first part of, whole in all dimensions but the first."""
    cut = defining(value)
    if cut is None or cut.name != "tensor.extract_slice" or not _is_start(cut):
        return value
    return cut.operands[0] if _keeps_rows(cut) else value


def _keeps_rows(cut: Any) -> bool:
    """Whether a slice has all sizes of its source but the first."""
    whole, part = (build.shape_of(one) for one in (cut.operands[0], cut.results[0]))
    return bool(whole[1:] == part[1:])


def _is_start(cut: Any) -> bool:
    """Whether a slice begins where the tensor does, and leaves no element and dimension out."""
    part = build.Part.of(cut, 1)
    if part is None or len(build.shape_of(cut.results[0])) != len(part.sizes):
        return False
    return all(offset == 0 for offset in part.offsets)
