"""PyTorch as a peer: products in floats, and its kernels for weights in few bits.

Left out is what PyTorch 2.13 calculates in plain loops on x86, 10 to 50 times as long: the kernels
for few bits with activations in f32, that for 4 bits with 8-bit activations, and ``torch._int_mm``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import UserError
from ...passes.forms import Form
from . import limits
from .contender import EXACT, Contender, Offer, Setup

# How far results may be from the product of the weights, relatively: with activations as they are,
# rounded to bfloat16, rounded to 8 bits (4.5 standard deviations in 127 steps give 0.01).
FLOAT_TOLERANCE, BF16_TOLERANCE, INT8_TOLERANCE = 1e-4, 0.02, 0.03
_INT4_GROUPS = (32, 64, 128, 256)


def _f32(setup: Setup, name: str) -> Contender:
    return _float(setup, name, "float32", FLOAT_TOLERANCE)


def _bf16(setup: Setup, name: str) -> Contender:
    """Return PyTorch with operands and result in bfloat16.

    Some processors have instructions for it and others convert: only its bytes limit it.
    """
    return _float(setup, name, "bfloat16", BF16_TOLERANCE)


def _float(setup: Setup, name: str, dtype: str, tolerance: float) -> Contender:
    import torch

    kind = getattr(torch, dtype)
    left, right = (torch.from_numpy(operand).to(kind) for operand in setup.product.operands)
    multiply = torch.nn.functional.linear if setup.product.has_weight else torch.bmm
    size = kind.itemsize
    arithmetic = limits.FMA if size == 4 else ""
    demand = setup.demand(8 * size, arithmetic, other_bytes=size)

    def call(weight: Any) -> Callable[[], Any]:
        return lambda: multiply(left, weight)

    calls = _copies(setup, demand.streamed, lambda: call(right.clone()))
    return Contender(name, calls, _numpy, demand, weights=EXACT, tolerance=tolerance)


def _int4(setup: Setup, name: str) -> Contender:
    """Return its 4-bit weights with a scale and an offset per group, activations in bfloat16."""
    import torch

    _refuse_ragged(setup)
    if setup.group not in _INT4_GROUPS:
        raise UserError(f"it takes groups of {_INT4_GROUPS}, not {setup.group}")
    quantized, shape = setup.quantized, setup.product.shape
    codes = quantized.codes.reshape(shape.n, -1).astype(np.int32)
    offsets = np.zeros_like(quantized.scales)
    if quantized.zeros is None:
        codes += 8
    else:
        # Its weight is (code - 8) * scale + offset.
        offsets = (8 - quantized.zeros.astype(np.float32)) * quantized.scales
    pairs = np.ascontiguousarray(np.stack([quantized.scales, offsets], -1).transpose(1, 0, 2))
    scales = torch.from_numpy(pairs).bfloat16()
    left = torch.from_numpy(setup.product.operands[0]).bfloat16()
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    demand = setup.demand(4 + 32 / setup.group, limits.FMA, other_bytes=2)

    def call() -> Callable[[], Any]:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes), 2)
        own = scales.clone()
        return lambda: multiply(left, packed, setup.group, own)

    calls = _copies(setup, demand.streamed, call)
    return Contender(name, calls, _numpy, demand, weights=setup.form, tolerance=BF16_TOLERANCE)


def _int8(setup: Setup, name: str) -> Contender:
    """Return its 8-bit weights with a scale per row, activations in bfloat16."""
    import torch

    codes, scales = _per_row(setup)
    if setup.product.shape.k % 16:
        raise UserError("it takes K in multiples of 16")  # it reads beyond the rows of others
    left = torch.from_numpy(setup.product.operands[0]).bfloat16()
    scales = scales.bfloat16()
    multiply = torch.ops.aten._weight_int8pack_mm
    demand = setup.demand(8, limits.FMA, other_bytes=2)

    def call() -> Callable[[], Any]:
        own = codes.clone()
        return lambda: multiply(left, own, scales)

    calls = _copies(setup, demand.streamed, call)
    return Contender(name, calls, _numpy, demand, weights=setup.form, tolerance=BF16_TOLERANCE)


def _dynamic(setup: Setup, name: str) -> Contender:
    """Return the linear layer of dynamic quantisation: 8-bit weights, activations with one scale.

    They are rounded to 7 bits, as in ``torch.ao.nn.quantized.dynamic.Linear``: sums of two products
    of 8 bits saturate where the processor has no 8-bit dot product.
    """
    import warnings

    import torch

    codes, scales = _per_row(setup)
    left = torch.from_numpy(setup.product.operands[0])
    demand = setup.demand(8, limits.arithmetic(setup.form))
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will go
        weight = torch._make_per_channel_quantized_tensor(codes, scales.double(), zeros, 0)

    def call() -> Callable[[], Any]:
        packed = torch.ops.quantized.linear_prepack(weight, None)
        return lambda: torch.ops.quantized.linear_dynamic(left, packed, reduce_range=True)

    calls = _copies(setup, demand.streamed, call)
    return Contender(
        name, calls, _numpy, demand, weights=setup.form, tolerance=INT8_TOLERANCE,
        is_rougher=True, lowering="activations rounded to 7 bits",
    )  # fmt: skip


def _per_row(setup: Setup) -> tuple[Any, Any]:
    """Return codes ``[N, K]`` and scales ``[N]``, or refuse: there is one scale per row."""
    import torch

    quantized, shape = setup.quantized, setup.product.shape
    if setup.group < shape.k or quantized.zeros is not None:
        raise UserError("it takes one scale per row of the weight and no zero point")
    codes = torch.from_numpy(quantized.codes.reshape(shape.n, shape.k))
    return codes, torch.from_numpy(quantized.scales.reshape(shape.n))


def _refuse_ragged(setup: Setup) -> None:
    shape = setup.product.shape
    if shape.k % setup.group or shape.n % 16:
        raise UserError(f"it takes N in multiples of 16 and K in multiples of {setup.group}")


def _copies(
    setup: Setup, weight_bytes: float, make: Callable[[], Callable[[], Any]]
) -> tuple[Callable[[], Any], ...]:
    """Return one call, or as many with weights of their own as leave the caches."""
    import torch

    torch.set_num_threads(setup.threads)
    calls = [make() for _ in range(setup.copies(weight_bytes))]
    return tuple(map(_without_gradient, calls))


def _without_gradient(call: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _numpy(result: Any) -> Any:
    return result.float().numpy()


def _always(form: Form) -> bool:
    return True


def _is(bits: int, activations: str) -> Callable[[Form], bool]:
    """Return a test for weights in integers of `bits` and these activations."""
    return lambda form: (
        form.form == "dequant" and form.weights == f"i{bits}" and form.activations == activations
    )


OFFERS = (
    Offer("torch", _always, _f32),
    Offer("torch:int4", _is(4, "f32"), _int4),
    Offer("torch:int8", _is(8, "f32"), _int8),
    Offer("torch:dynamic", _is(8, "i8"), _dynamic),
)
BF16_OFFERS = (Offer("torch-bf16", _always, _bf16),)
