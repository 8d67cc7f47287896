"""ONNX Runtime and OpenVINO as peers: both read the product as the same ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import UserError
from ...passes.forms import Form
from . import limits, onnx_product, onnx_sessions
from .contender import EXACT, Contender, Offer, Setup
from .peers_torch import FLOAT_TOLERANCE, INT8_TOLERANCE

_BITS = (2, 4, 8)


def _ort_f32(setup: Setup, name: str) -> Contender:
    model = onnx_product.exact(setup.product)
    return _ort(setup, name, model, setup.demand(32, limits.FMA), EXACT, FLOAT_TOLERANCE)


def _ort_few_bits(setup: Setup, name: str) -> Contender:
    """``MatMulNBits``: level 4 rounds activations to 8 bits a block, level 1 leaves them in f32."""
    level = 4 if setup.form.activations == "i8" else 1
    return _ort_packed(setup, f"{name}:level{level}", level, {})


def _ort_table(setup: Setup, name: str) -> Contender:
    """``MatMulNBits`` with tables of sums of activations, looked up by bits of the weights."""
    return _ort_packed(setup, name, 4, {"mlas.use_lut_gemm": "1"})


def _ort_packed(setup: Setup, name: str, level: int, entries: dict[str, str]) -> Contender:
    packed = onnx_product.few_bits(setup, level)
    demand = setup.demand(packed.bits, limits.arithmetic(setup.form))
    tolerance = INT8_TOLERANCE if level == 4 else FLOAT_TOLERANCE
    return _ort(setup, name, packed.model, demand, setup.form, tolerance, entries)


def _ort_dynamic(setup: Setup, name: str) -> Contender:
    """``DynamicQuantizeLinear`` and ``MatMulInteger``, as ``quantize_dynamic`` writes them."""
    model = onnx_product.dynamic(setup)
    demand = setup.demand(8, limits.arithmetic(setup.form))
    return _ort(setup, name, model, demand, setup.form, INT8_TOLERANCE)


def _ort(
    setup: Setup, name: str, model: bytes, demand: limits.Demand, weights: Form, tolerance: float,
    entries: dict[str, str] | None = None,
) -> Contender:  # fmt: skip
    onnxruntime = _import("onnxruntime")
    options = onnx_sessions.options(setup.threads, several=setup.rotate)
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)

    def call() -> Callable[[], Any]:
        try:
            session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common base
            raise _refused("ONNX Runtime", error) from error
        names = [node.name for node in session.get_inputs()]
        feed = dict(zip(names, setup.product.operands, strict=False))
        return lambda: session.run(None, feed)

    calls = tuple(call() for _ in range(setup.copies(demand.streamed)))
    return Contender(name, calls, _first, demand, weights=weights, tolerance=tolerance)


def _ov_f32(setup: Setup, name: str) -> Contender:
    model = onnx_product.exact(setup.product)
    demand = setup.demand(32, limits.FMA)
    return _openvino(setup, name, model, demand, EXACT, FLOAT_TOLERANCE, 0)


def _ov_few_bits(setup: Setup, name: str) -> Contender:
    """Return OpenVINO on ``MatMulNBits``; it rounds activations only where it has instructions."""
    packed = onnx_product.few_bits(setup, 4)
    is_rounded = setup.form.activations == "i8"
    demand = setup.demand(packed.bits, limits.arithmetic(setup.form))
    tolerance = INT8_TOLERANCE if is_rounded else FLOAT_TOLERANCE
    group = setup.group if is_rounded else 0
    return _openvino(setup, name, packed.model, demand, setup.form, tolerance, group)


def _openvino(
    setup: Setup, name: str, model: bytes, demand: limits.Demand, weights: Form, tolerance: float,
    group: int,
) -> Contender:  # fmt: skip
    openvino = _import("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": setup.threads, "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": group,
    }  # fmt: skip
    core = openvino.Core()

    def call() -> Callable[[], Any]:
        try:
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
            request = compiled.create_infer_request()
            for i, operand in enumerate(setup.product.operands[: len(compiled.inputs)]):
                request.set_input_tensor(i, openvino.Tensor(operand))
        except Exception as error:
            raise _refused("OpenVINO", error) from error
        return lambda: request.infer(share_outputs=True)

    calls = tuple(call() for _ in range(setup.copies(demand.streamed)))
    return Contender(name, calls, _value, demand, weights=weights, tolerance=tolerance)


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} is not installed", hint="pip install 'lowc[bench]'") from error


def _refused(name: str, error: Exception) -> UserError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{name} does not take it: {said}")


def _first(results: Any) -> Any:
    return results[0]


def _value(results: Any) -> Any:
    return np.array(next(iter(results.values())))


def _is_exact(form: Form) -> bool:
    return form.form != "dequant"


def _is_few_bits(form: Form) -> bool:
    return form.form == "dequant" and form.weights in {f"i{bits}" for bits in _BITS}


def _is_two_bits(form: Form) -> bool:
    return _is_few_bits(form) and form.weights == "i2" and form.activations == "i8"


def _is_eight_bits(form: Form) -> bool:
    return _is_few_bits(form) and form.weights == "i8" and form.activations == "i8"


ONNXRUNTIME_OFFERS = (
    Offer("onnxruntime", _is_exact, _ort_f32),
    Offer("onnxruntime", _is_few_bits, _ort_few_bits),
    Offer("onnxruntime:table", _is_two_bits, _ort_table),
    Offer("onnxruntime:dynamic", _is_eight_bits, _ort_dynamic),
)
OPENVINO_OFFERS = (
    Offer("openvino", _is_exact, _ov_f32),
    Offer("openvino", _is_few_bits, _ov_few_bits),
)
