"""Operands of added products: activations prepared in the model, weights stored prepared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iree.compiler import ir

from . import additive, annotations, build, parameters
from .additive import Addition
from .contraction import Weight, defining, dims_of, simplify_layout
from .formats.floats import F32, FloatFormat
from .formats.stored import STORED, StoredFloat


@dataclass(frozen=True)
class StoredWeight:
    """A weight that is stored as it is added: a parameter derived from the model's.

    Attributes
    ----------
    weight : Weight
        Where it is in the model.
    source : str
        Key of the model's parameter.
    order : tuple
        Its loops as (batch, K, N), each outermost first: the order in which it is stored.
    stored : StoredFloat
        The format of its bits.
    """

    weight: Weight
    source: str
    order: tuple[tuple[int, ...], ...]
    stored: StoredFloat

    @property
    def loops(self) -> tuple[int, ...]:
        """All its loops, in the order in which it is stored."""
        return tuple(loop for part in self.order for loop in part)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(batch, K, N), each the product of its loops."""
        batch, k, n = (_product(self._shape(part)) for part in self.order)
        return batch, k, n

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of one weight, scales counted."""
        return self.stored.width + (32 / self.sizes[1] if self.stored.is_scaled else 0)

    @property
    def shape(self) -> list[int]:
        """The shape that the portable form reads: a dimension per loop."""
        return self._shape(self.loops)

    @property
    def scales_shape(self) -> list[int]:
        """The shape of the scales: that of the weight without K."""
        return self._shape((*self.order[0], *self.order[2]))

    def _shape(self, loops: Sequence[int]) -> list[int]:
        return [self.weight.shape[self.weight.dims.index(loop)] for loop in loops]


def prepared(value: ir.Value, carrier: FloatFormat, product: Addition, less: int) -> ir.Value:
    """Return a tensor of clamped and truncated f32 patterns (i32), minus `less`.

    Before::

        %x : tensor<4x8xf32>

    After::

        %p = linalg.generic ins(%x) { bitcast, andi, maxui, minui, andi, ori, subi }
             // tensor<4x8xi32>
    """

    def body(x: ir.Value, _out: ir.Value) -> ir.Value:
        is_carried = x.type == additive.float_type(carrier)
        x = additive.to_carrier(x, F32)
        x = x if is_carried else additive.round_to(x, carrier)
        return additive.prepare(additive.bits_of(x), product, less=less)

    made = build.elementwise([value], additive.integer(32), body).operation
    annotations.set_text(made, annotations.PREPARED, str(less))
    return made.results[0]


def rounded(value: ir.Value, carrier: FloatFormat) -> ir.Value:
    """Return a tensor in the carrier's type, or as it is if it has that."""
    type_ = additive.float_type(carrier)
    if build.element_of(value) == type_:
        return value
    made = build.elementwise([value], type_, lambda x, _: additive.to_carrier(x, carrier))
    return made.operation.results[0]


def load_bits(module: ir.Module, weight: StoredWeight, product: Addition) -> ir.Value:
    """Return the weight's bits as the portable form reads them: ``[batch…, K…, N…]`` of ``iN``."""
    type_ = build.tensor_type(weight.shape, additive.integer(weight.stored.width))
    return _load(module, weight, product, "bits", type_)


def is_stored(value: ir.Value) -> bool:
    """Whether `value` is a weight that :func:`load_bits` loaded."""
    op = defining(value)
    return op is not None and op.name == "util.global.load" and bool(derivation_of(value))


def derivation_of(value: ir.Value) -> dict[str, Any]:
    """Return the derivation of the parameter that `value` was loaded from, or nothing."""
    load = defining(value)
    module = load
    while module.parent is not None:
        module = module.parent
    symbol = ir.FlatSymbolRefAttr(load.attributes["global"]).value
    holder = parameters.find_global(module.opview, symbol)
    if holder is None or annotations.DERIVATION not in holder.attributes:
        return {}
    return annotations.from_attribute(holder.attributes[annotations.DERIVATION])


def load_panels(module: ir.Module, bits: ir.Value, panel: int, lanes: int) -> ir.Value:
    """Load a weight that :func:`load_bits` loaded as a kernel reads it.

    ``[batch, N/panel, K, words]`` of i32, for vectors of `lanes` words; the packing is
    :func:`.formats.stored.pack_panels`.
    """
    derivation = {**derivation_of(bits), "panel": panel, "lanes": lanes}
    batch, k, n = json.loads(derivation["layout"])[-1][1]
    words = panel * STORED[derivation["storage"]].width // 32
    type_ = build.tensor_type([batch, -(-n // panel), k, words], additive.integer(32))
    symbol = ir.FlatSymbolRefAttr(defining(bits).attributes["global"]).value
    return _load_derived(module, f"{symbol}.p{panel}x{lanes}", symbol, type_, derivation)


def load_scales(module: ir.Module, weight: StoredWeight, product: Addition) -> ir.Value:
    """Return the powers of two of the output channels: f32 ``[batch…, N…]``."""
    type_ = build.tensor_type(weight.scales_shape, ir.F32Type.get())
    return _load(module, weight, product, "scales", type_)


def scales_map(weight: StoredWeight, result: ir.AffineMap) -> ir.AffineMap:
    """Return where the scales of an element of the result are."""
    axes = dims_of(result)
    loops = (*weight.order[0], *weight.order[2])
    return build.dims_map(len(axes), [axes.index(loop) for loop in loops])


def _load(
    module: ir.Module, weight: StoredWeight, product: Addition, part: str, type_: Any
) -> ir.Value:
    axes = [weight.weight.dims.index(loop) for loop in weight.loops]
    steps = [*simplify_layout([*weight.weight.layout, ["transpose", axes]])]
    layout = json.dumps([*steps, ["reshape", list(weight.sizes)]], separators=(",", ":"))
    derivation = {
        "kind": "additive",
        "part": part,
        "source": weight.source,
        "layout": layout,
        "storage": weight.stored.name,
        "mantissa_bits": product.mantissa_bits,
        "panel": 0,
        "lanes": 0,
    }
    tag = f"{weight.stored.name}m{product.mantissa_bits}.{parameters.layout_name(layout)}"
    symbol = f"{weight.source}.{tag}.{part}"
    return _load_derived(module, symbol, weight.weight.symbol, type_, derivation)


def _load_derived(
    module: ir.Module, symbol: str, after: str, type_: Any, derivation: dict[str, Any]
) -> ir.Value:
    holder = parameters.find_global(module, after)
    return build.load_global(
        parameters.derived_global(module, holder, symbol, type_, derivation), type_
    )


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
