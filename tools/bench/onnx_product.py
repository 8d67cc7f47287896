"""A product as an ONNX file: in f32, with weights in few bits, and with 8-bit activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .contender import Setup
from .products import Product

# Weights that share a scale in ONNX Runtime's MatMulNBits.
_BLOCKS = (16, 32, 64, 128, 256)
_OPSETS = {"": 17, "com.microsoft": 1}


@dataclass(frozen=True)
class Packed:
    """A file of one ``MatMulNBits``, and the bits of a weight in it with its part of the scale."""

    model: bytes
    bits: float


def exact(product: Product) -> bytes:
    """Return ``x . w`` in f32: the weight ``[K, N]`` in the file, or two inputs ``[B, M, K]``."""
    shape, (left, right) = product.shape, product.operands
    constants: dict[str, NDArray[Any]] = {}
    inputs = {"x": left.shape}
    if product.has_weight:
        constants["w"] = np.ascontiguousarray(right.T)
    else:
        inputs["w"] = right.shape
    return _model(
        [("MatMul", ["x", "w"], ["y"], {})], inputs, (*left.shape[:-1], shape.n), constants
    )


def few_bits(setup: Setup, accuracy_level: int) -> Packed:
    """Return one ``MatMulNBits`` on the codes of the form.

    B is uint8 ``[N, blocks, block * bits / 8]``, lowest bits first, the scales are f32
    ``[N * blocks]``, the zero points packed as B; without them they are 2^(bits-1).
    Source: ONNX Runtime's documentation of its contrib operators.
    """
    shape, bits, quantized = setup.product.shape, setup.form.bits, setup.quantized
    block = _block(setup.group, shape.k)
    blocks = -(-shape.k // block)
    middle = 1 << (bits - 1)
    signed = 0 if quantized.zeros is not None else middle
    codes = (quantized.codes.reshape(shape.n, -1).astype(np.int16) + signed).astype(np.uint8)
    missing = blocks * block - codes.shape[1]
    if missing > 0:
        codes = np.pad(codes, [(0, 0), (0, missing)], constant_values=middle)
    repeat = blocks if setup.group >= shape.k else setup.group // block
    constants: dict[str, NDArray[Any]] = {
        "w": pack(codes[:, : blocks * block], bits).reshape(shape.n, blocks, block * bits // 8),
        "s": np.repeat(quantized.scales, repeat, axis=1)[:, :blocks].reshape(-1),
    }
    if quantized.zeros is not None:
        constants["z"] = pack(np.repeat(quantized.zeros, repeat, axis=1)[:, :blocks], bits)
        constants["z"] = constants["z"].reshape(-1)
    attributes = {
        "domain": "com.microsoft", "K": shape.k, "N": shape.n, "bits": bits, "block_size": block,
        "accuracy_level": accuracy_level,
    }  # fmt: skip
    node = ("MatMulNBits", ["x", *constants], ["y"], attributes)
    model = _model([node], {"x": (shape.m, shape.k)}, (shape.m, shape.n), constants)
    zero_bits = 0 if quantized.zeros is None else bits
    return Packed(model, bits + (32 + zero_bits) / block)


def dynamic(setup: Setup) -> bytes:
    """Return ``MatMulInteger`` between activations rounded at run time and 8-bit weights.

    The weights are unsigned, with a zero point of 128: signed ones saturate in sums of two products
    where the processor has no 8-bit dot product.
    """
    shape, quantized = setup.product.shape, setup.quantized
    if setup.group < shape.k or quantized.zeros is not None:
        raise UserError("it takes one scale per row of the weight and no zero point")
    codes = quantized.codes.reshape(shape.n, shape.k).astype(np.int16) + 128
    constants: dict[str, NDArray[Any]] = {
        "w": np.ascontiguousarray(codes.T).astype(np.uint8),
        "wz": np.array(128, np.uint8),
        "ws": quantized.scales.reshape(-1),
    }
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"], {}),
        ("MatMulInteger", ["xq", "w", "xz", "wz"], ["d"], {}),
        ("Cast", ["d"], ["df"], {"to": 1}),
        ("Mul", ["xs", "ws"], ["s"], {}),
        ("Mul", ["df", "s"], ["y"], {}),
    ]
    return _model(nodes, {"x": (shape.m, shape.k)}, (shape.m, shape.n), constants)


def _model(
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
    inputs: dict[str, tuple[int, ...]], output: tuple[int, ...],
    constants: dict[str, NDArray[Any]],
) -> bytes:  # fmt: skip
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ModuleNotFoundError as error:
        raise UserError("onnx is not installed", hint="pip install 'lowc[bench]'") from error

    def float_value(name: str, shape: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **rest) for kind, ins, outs, rest in nodes],
        "product",
        [float_value(name, shape) for name, shape in inputs.items()],
        [float_value("y", output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        raise UserError("an ONNX file holds 2 GB at most") from error


def _block(group: int, k: int) -> int:
    """Return the longest block whose repeated scale stands for that of a group."""
    if group >= k:
        return next((block for block in _BLOCKS if block >= k), _BLOCKS[-1])
    return max(block for block in _BLOCKS if group % block == 0)


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return codes ``[N, C]`` in bytes ``[N, C * bits / 8]``, rows filled up, lowest bits first."""
    per_byte = 8 // bits
    missing = -codes.shape[1] % per_byte
    filled = np.pad(codes, [(0, 0), (0, missing)]) if missing else codes
    packed = np.zeros((len(filled), filled.shape[1] // per_byte), np.uint8)
    for position in range(per_byte):
        packed |= filled[:, position::per_byte] << np.uint8(bits * position)
    return packed
