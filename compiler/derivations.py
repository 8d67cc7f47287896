"""Make the bytes of derived parameters, a block of rows at a time.

A derivation (see ``passes/parameters.py``) names a source tensor, a layout, and a method with its
numbers; its parts (codes, scales, zeros) are separate parameters that are calculated together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError, UserError
from ..passes.formats import (
    binary_codes,
    bipolar_products,
    bit_planes,
    gpu_rows,
    integer,
    key_panels,
    panels,
    powers,
    shift_panels,
    sign_panels,
    signed_panels,
    small_floats,
    stored,
    tables,
    ternary,
    trit_quads,
    trits,
)
from ..passes.formats.binary_codes import Coded
from . import feedback
from .feedback import Feedback

BLOCK_ELEMENTS = 1 << 22  # 16 MiB of f32 at a time


@dataclass(frozen=True)
class Derivation:
    """What one group of derived parameters follows from: the attribute ``lowc.derivation``.

    ``settings`` are the fields that belong to the method `kind` (a key of :data:`METHODS`).
    """

    kind: str
    source: str
    layout: str
    settings: tuple[tuple[str, Any], ...]

    @classmethod
    def from_attribute(cls, values: dict[str, Any]) -> tuple[Derivation, str]:
        """Split the attribute of a global into its derivation and its part."""
        rest = dict(values)
        part, kind, source, layout = (rest.pop(k) for k in ("part", "kind", "source", "layout"))
        return cls(kind, source, layout, tuple(sorted(rest.items()))), part

    def __getitem__(self, setting: str) -> Any:
        return dict(self.settings)[setting]

    @property
    def moments(self) -> str:
        """The matmul whose inputs the codes depend on, or ``""``."""
        return str(dict(self.settings).get("moments", ""))


Part = tuple[str, NDArray[np.uint8]]


def apply_layout(tensor: NDArray[Any], steps: list[list[Any]]) -> NDArray[Any]:
    """Repeat on stored values what the model does to a weight before it multiplies by it."""
    for name, *arguments in steps:
        if name == "transpose":
            tensor = tensor.transpose(arguments[0])
        elif name == "reshape":
            tensor = tensor.reshape(arguments[0])
        elif name == "slice":
            offsets, sizes, strides = arguments
            tensor = tensor[
                tuple(
                    slice(offset, offset + (size - 1) * stride + 1, stride)
                    for offset, size, stride in zip(offsets, sizes, strides, strict=True)
                )
            ]
        elif name == "cast" and arguments[0] in _CASTS:
            tensor = tensor.astype(_CASTS[arguments[0]])
        else:
            raise InternalError(f"the layout step '{name}' with {arguments} is unknown")
    return tensor


_CASTS: dict[str, Any] = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "f8E4M3FN": ml_dtypes.float8_e4m3fn, "f8E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def _integers(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Integers of rows ``[..., K]``: codes, scales and zeros."""
    bits, fmt = derivation["bits"], _integer_format(derivation)
    for rows in _row_blocks(tensor):
        quantized = _round_to_integers(rows, fmt, inputs)
        yield "codes", integer.pack(quantized.codes, bits)
        yield "scales", quantized.scales.reshape(-1).view(np.uint8)
        if quantized.zeros is not None:
            zeros = quantized.zeros.reshape(-1).astype(f"<u{derivation['zero_bytes']}")
            yield "zeros", zeros.view(np.uint8)


def _rtn_floats(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Small floats rounded to nearest, of rows ``[..., K]``: codes and scales."""
    fmt, scales = small_floats.SMALL_FLOATS[derivation["format"]], _scale_type(derivation)
    for rows in _row_blocks(tensor):
        quantized = small_floats.quantize(rows, fmt, derivation["group"], scales)
        yield "codes", integer.pack(quantized.codes, fmt.bits)
        yield "scales", quantized.scales.reshape(-1).view(np.uint8)


def _additive(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Patterns of added products, of ``[batch, K, N]``: bits, in panels or as they are, and scales.

    One panel of columns is in memory at a time; bits that are not in panels are as a whole, since
    the columns of a scale lie apart.
    """
    store = stored.STORED[derivation["storage"]]
    panel, lanes = derivation["panel"], derivation["lanes"]
    for matrix in tensor:
        width = panel or max(1, matrix.shape[1])
        for start in range(0, matrix.shape[1], width):
            columns = np.ascontiguousarray(matrix[:, start : start + width], np.float32)
            bits, scales = stored.encode(columns, store, derivation["mantissa_bits"])
            if panel:
                bits = stored.pack_panels(bits, store, panel, lanes)
            yield "bits", bits.reshape(-1).view(np.uint8)
            if scales is not None:
                yield "scales", scales.reshape(-1).view(np.uint8)


def _integer_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Integers of ``[batch, N, K]``, in the panels of ``formats/panels.py``.

    One panel of columns is in memory at a time; with error feedback more, as its steps are short.
    """
    bits, columns = derivation["bits"], derivation["columns"]
    fmt, has_halves = _integer_format(derivation), "halves" in dict(derivation.settings)
    for matrix in tensor:
        step = columns
        if inputs is not None:
            step *= max(1, BLOCK_ELEMENTS // (columns * matrix.shape[1]))
        for start in range(0, matrix.shape[0], step):
            rows = np.ascontiguousarray(matrix[start : start + step], np.float32)
            quantized = _round_to_integers(rows, fmt, inputs)
            codes = panels.unsigned_codes(quantized, fmt)
            words = panels.pack_panels(codes, bits, columns, panels.zero_code(fmt))
            yield "codes", words.reshape(-1).view(np.uint8)
            yield from _panel_scales(quantized, columns, has_halves=has_halves)
            if quantized.zeros is not None:
                zeros = panels.pack_group_values(quantized.zeros, columns, np.uint8)
                yield "zeros", zeros.reshape(-1).view(np.uint8)


def _panel_scales(
    quantized: integer.Quantized, columns: int, *, has_halves: bool
) -> Iterator[Part]:
    """Scales of some columns, and their factors if the scales are stored as halves."""
    scales, factors = panels.pack_scales(quantized, columns, has_halves=has_halves)
    yield "scales", scales.reshape(-1).view(np.uint8)
    if factors is not None:
        yield "factors", factors.reshape(-1).view(np.uint8)


def _integer_format(derivation: Derivation) -> integer.GroupedInteger:
    bits, group, symmetric = (derivation[key] for key in ("bits", "group", "symmetric"))
    return integer.GroupedInteger(bits, group, symmetric, _scale_type(derivation))


def _scale_type(derivation: Derivation) -> str:
    """Return what scales of groups are rounded to."""
    return str(dict(derivation.settings).get("scales", "f32"))


def _gpu_rows(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Integers of rows ``[..., K]`` as kernels for GPUs read them (``formats/gpu_rows.py``)."""
    bits, k, group = derivation["bits"], tensor.shape[-1], derivation["group"]
    fmt = _integer_format(derivation)
    for rows in _row_blocks(tensor):
        quantized = _round_to_integers(rows, fmt, inputs)
        if derivation["order"] == "integer":
            words = gpu_rows.pack_integers(quantized.codes, bits)
        else:
            words = gpu_rows.pack_floats(quantized.codes, bits, derivation["span"])
        yield "codes", words.reshape(-1).view(np.uint8)
        scales = gpu_rows.pack_values(quantized.scales, k, group, np.float32)
        yield "scales", scales.reshape(-1).view(np.uint8)
        if quantized.zeros is not None:
            zeros = gpu_rows.pack_values(quantized.zeros, k, group, np.uint8)
            yield "zeros", zeros.reshape(-1).view(np.uint8)


def _small_float_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Small floats rounded to nearest, of ``[batch, N, K]``, in panels: codes and scales.

    One panel of columns is in memory at a time.
    """
    fmt, columns = small_floats.SMALL_FLOATS[derivation["format"]], derivation["columns"]
    scales, has_halves = _scale_type(derivation), "halves" in dict(derivation.settings)
    for matrix in tensor:
        for start in range(0, matrix.shape[0], columns):
            rows = np.ascontiguousarray(matrix[start : start + columns], np.float32)
            quantized = small_floats.quantize(rows, fmt, derivation["group"], scales)
            codes = quantized.codes.astype(np.uint8, copy=False)
            yield "codes", panels.pack_panels(codes, fmt.bits, columns).reshape(-1).view(np.uint8)
            yield from _panel_scales(quantized, columns, has_halves=has_halves)


def _float_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Floats of ``[batch, K, N]`` as f32 in panels of columns, a panel at a time."""
    columns = derivation["columns"]
    for matrix in tensor:
        for start in range(0, matrix.shape[1], columns):
            part = np.ascontiguousarray(matrix[:, start : start + columns], np.float32)
            yield "panels", panels.float_panels(part, columns).reshape(-1).view(np.uint8)


def _binary(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Binary codes of ``[batch, N, K]``: signs ``[batch, N, planes, words]``, and terms.

    Terms are ``[batch, blocks along N, G, planes, scale_bytes]``: those of a scale, filled up with
    terms of zero.  Ternary codes have one scale more for all of them.
    """
    missing = derivation["scale_bytes"] - derivation["terms"]
    step = max(1, BLOCK_ELEMENTS // (tensor.shape[2] * _binary_format(tensor, derivation).outputs))
    for coded in _coded(tensor, derivation, inputs, step):
        yield "signs", binary_codes.pack_signs(coded.signs).reshape(-1).view(np.uint8)
        yield "terms", np.pad(coded.terms, [(0, 0)] * 3 + [(0, missing)]).reshape(-1)
    if derivation["coding"] == "ternary":
        yield "scale", np.array([ternary.scale_of(tensor)]).view(np.uint8)


def _shift(tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None) -> Iterator[Part]:
    """Rows ``[..., K]`` as one power of two each, K filled up to whole words with zeros."""
    missing = -tensor.shape[-1] % 4
    for rows in _row_blocks(tensor):
        terms = powers.project(rows, 1)[..., 0]
        yield "terms", np.pad(terms, [(0, 0), (0, missing)]).reshape(-1)


def _bipolar(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Rows ``[..., K]`` in planes of signs: bits, 32 to a word, and scales."""
    planes = derivation["planes"]
    for rows in _row_blocks(tensor):
        coded = _bipolar_rows(rows, planes)
        yield "bits", bipolar_products.pack_bits(coded.codes, planes).reshape(-1).view(np.uint8)
        is_power = derivation["scales"] == "power"
        scales = bipolar_products.fields(coded.scales) if is_power else coded.scales
        yield "scales", np.ascontiguousarray(scales).view(np.uint8)


def _bipolar_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Planes of signs of ``[batch, N, K]`` as :func:`.bipolar_products.pack_panels` orders them.

    One panel of columns is in memory at a time.
    """
    planes, columns = derivation["planes"], derivation["columns"]
    for matrix in tensor:
        for start in range(0, matrix.shape[0], columns):
            coded = _bipolar_rows(matrix[start : start + columns], planes)
            words = bipolar_products.pack_panels(coded, planes, derivation["scales"], columns)
            yield "panels", words.reshape(-1).view(np.uint8)


def _bipolar_rows(rows: NDArray[Any], planes: int) -> bipolar_products.Rows:
    """Code rows of a weight.

    Raises
    ------
    ValueError
        When one holds NaN or infinity.
    """
    coded = bipolar_products.encode(np.ascontiguousarray(rows, np.float32), planes)
    if np.isnan(coded.scales).any():
        raise ValueError("the weight holds NaN or infinity")
    return coded


def _shift_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Powers of two of ``[batch, N, K]``, in the panels of ``formats/shift_panels.py``.

    One panel of columns is in memory at a time.
    """
    columns, lanes = derivation["columns"], derivation["lanes"]
    for matrix in tensor:
        for start in range(0, matrix.shape[0], columns):
            rows = np.ascontiguousarray(matrix[start : start + columns], np.float32)
            terms = powers.project(rows, 1)[..., 0]
            yield "terms", shift_panels.pack_terms(terms, columns, lanes).reshape(-1).view(np.uint8)
            yield "ranges", shift_panels.ranges(terms, columns).reshape(-1).view(np.uint8)


def _bit_planes(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Integers of rows ``[..., K]`` in planes of bits: signs, halves of scales, bipolar zeros."""
    fmt = integer.GroupedInteger(derivation["bits"], derivation["group"], derivation["symmetric"])
    for rows in _row_blocks(tensor):
        quantized = _round_to_integers(rows, fmt, inputs)
        words = binary_codes.pack_signs(bit_planes.signs(quantized, fmt))
        yield "signs", words.reshape(-1).view(np.uint8)
        yield "scales", bit_planes.halves(quantized).reshape(-1).view(np.uint8)
        if quantized.zeros is not None:
            zeros = bit_planes.zeros(quantized, fmt).astype("<i4")
            yield "zeros", zeros.reshape(-1).view(np.uint8)


def _binary_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Binary codes of ``[batch, N, K]`` in panels: signs, and scales.

    Scales that all columns of a panel share are f32 ``[panels, G, planes]``; ternary codes have
    none, but the one for all of them, which is not here.

    As many columns are in memory at a time as are whole panels and share whole scales; with error
    feedback more, as its steps are short.
    """
    columns, fmt = derivation["columns"], _binary_format(tensor, derivation)
    for coded in _coded(tensor, derivation, inputs, _panel_step(tensor, columns, fmt, inputs)):
        yield _sign_panels(coded, derivation)
        if derivation["coding"] == "ternary":
            continue
        scales = np.repeat(powers.values(coded.terms), fmt.outputs, axis=0)[: len(coded.signs)]
        if "shared" in dict(derivation.settings):
            packed: NDArray[Any] = scales[::columns].astype(np.float32)
        else:
            packed = key_panels.pack_scales(scales, columns)
        yield "scales", packed.reshape(-1).view(np.uint8)


def _bit_plane_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Integers of ``[batch, N, K]`` in panels: signs of planes, halves of scales, zero points.

    One panel of columns is in memory at a time; with error feedback more, as its steps are short.
    """
    columns = derivation["columns"]
    fmt = integer.GroupedInteger(derivation["bits"], derivation["group"], derivation["symmetric"])
    for matrix in tensor:
        step = columns
        if inputs is not None:
            step *= max(1, BLOCK_ELEMENTS // (columns * matrix.shape[1]))
        for start in range(0, matrix.shape[0], step):
            rows = np.ascontiguousarray(matrix[start : start + step], np.float32)
            quantized = _round_to_integers(rows, fmt, inputs)
            no_terms = np.zeros((len(rows), 0, fmt.bits, 1), np.uint8)
            yield _sign_panels(Coded(bit_planes.signs(quantized, fmt), no_terms), derivation)
            scales = panels.pack_group_values(bit_planes.halves(quantized), columns, np.float32)
            yield "scales", scales.reshape(-1).view(np.uint8)
            if quantized.zeros is not None:
                zeros = panels.pack_group_values(quantized.zeros, columns, np.uint8)
                yield "zeros", zeros.reshape(-1).view(np.uint8)


def _trits(tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None) -> Iterator[Part]:
    """Ternary codes of ``[batch, N, K]``, five in a byte, and the one scale."""
    for codes in _ternary_codes(tensor, max(1, BLOCK_ELEMENTS // tensor.shape[2])):
        yield "trits", trits.keys(codes, derivation["fives"]).reshape(-1)
    yield "scale", np.array([ternary.scale_of(tensor)]).view(np.uint8)


def _trit_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Ternary codes of ``[batch, N, K]`` in the panels of ``formats/trits.py``."""
    columns = derivation["columns"]
    for codes in _ternary_codes(tensor, columns):
        yield "trits", trits.pack(codes, columns, derivation["fives"]).reshape(-1)


def _trit_quad_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Ternary codes of ``[batch, N, K]`` in the panels of ``formats/trit_quads.py``."""
    columns = derivation["columns"]
    for codes in _ternary_codes(tensor, columns):
        yield "quads", trit_quads.pack(codes, columns, derivation["quads"]).reshape(-1)


def _ternary_codes(tensor: NDArray[Any], step: int) -> Iterator[NDArray[np.int8]]:
    """Yield the codes of `step` rows at a time."""
    scale = ternary.scale_of(tensor)
    for matrix in tensor:
        for start in range(0, len(matrix), step):
            rows = np.ascontiguousarray(matrix[start : start + step], np.float32)
            yield ternary.round_by(rows, scale)


def _sign_panels(coded: Coded, derivation: Derivation) -> Part:
    """Return the signs of some columns, as the kernel reads them that has these panels."""
    columns, settings = derivation["columns"], dict(derivation.settings)
    if "words" in settings:
        words = sign_panels.pack_words(coded.signs, columns, settings["words"])
        return "words", words.reshape(-1).view(np.uint8)
    return "keys", key_panels.pack_keys(tables.keys(coded), columns, settings["quads"]).reshape(-1)


def _signed_panels(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None
) -> Iterator[Part]:
    """Binary codes of ``[batch, N, K]`` in the panels of ``formats/signed_panels.py``.

    As many columns are in memory at a time as :func:`_binary_panels` has.
    """
    columns, fmt = derivation["columns"], _binary_format(tensor, derivation)
    for coded in _coded(tensor, derivation, inputs, _panel_step(tensor, columns, fmt, inputs)):
        words = signed_panels.pack_signs(coded.signs, tensor.shape[2], columns)
        yield "signs", words.reshape(-1).view(np.uint8)
        terms = np.repeat(coded.terms, fmt.outputs, axis=0)[: len(coded.signs)]
        yield "terms", signed_panels.pack_terms(terms, columns).reshape(-1).view(np.uint8)


def _panel_step(
    tensor: NDArray[Any], columns: int, fmt: binary_codes.BinaryCodes, inputs: Feedback | None
) -> int:
    """Return how many blocks of outputs are coded at a time: whole panels and whole scales."""
    at_once = math.lcm(columns, fmt.outputs)
    if inputs is not None:
        at_once *= max(1, BLOCK_ELEMENTS // (at_once * tensor.shape[2]))
    return at_once // fmt.outputs


def _binary_format(tensor: NDArray[Any], derivation: Derivation) -> binary_codes.BinaryCodes:
    planes, group, terms = (derivation[key] for key in ("planes", "group", "terms"))
    outputs = derivation["outputs"] or tensor.shape[1]
    return binary_codes.BinaryCodes(planes, group, outputs, terms)


def _coded(
    tensor: NDArray[Any], derivation: Derivation, inputs: Feedback | None, step: int
) -> Iterator[binary_codes.Coded]:
    """Yield the codes of ``[batch, N, K]``, `step` blocks of outputs of a matrix at a time."""
    fmt = _binary_format(tensor, derivation)
    is_ternary = derivation["coding"] == "ternary"
    scale = ternary.scale_of(tensor) if is_ternary else None
    rows_at_once = step * fmt.outputs
    for matrix in tensor:
        for start in range(0, len(matrix), rows_at_once):
            rows = np.ascontiguousarray(matrix[start : start + rows_at_once], np.float32)
            if scale is not None:
                yield ternary.as_planes(ternary.round_by(rows, scale), fmt)
            elif inputs is None:
                yield binary_codes.encode(rows, fmt, derivation["rounds"])
            else:
                yield feedback.binary(rows, inputs, fmt, derivation["rounds"])


def _round_to_integers(
    rows: NDArray[np.float32], fmt: integer.GroupedInteger, inputs: Feedback | None
) -> integer.Quantized:
    return integer.quantize(rows, fmt) if inputs is None else feedback.integers(rows, inputs, fmt)


def _row_blocks(tensor: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield ``[..., K]`` as f32 ``[rows, K]``, a block of rows at a time."""
    k = tensor.shape[-1]
    rows = tensor.reshape(-1, k)
    step = max(1, BLOCK_ELEMENTS // k)
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(rows[start : start + step], dtype=np.float32)


METHODS: dict[str, Callable[[NDArray[Any], Derivation, Feedback | None], Iterator[Part]]] = {
    "rtn": _integers,
    "gptq": _integers,
    "rtn-floats": _rtn_floats,
    "additive": _additive,
    "integer-panels": _integer_panels,
    "gpu-rows": _gpu_rows,
    "small-float-panels": _small_float_panels,
    "float-panels": _float_panels,
    "binary": _binary,
    "bit-planes": _bit_planes,
    "shift": _shift,
    "bipolar": _bipolar,
    "bipolar-panels": _bipolar_panels,
    "shift-panels": _shift_panels,
    "binary-panels": _binary_panels,
    "bit-plane-panels": _bit_plane_panels,
    "trits": _trits,
    "trit-panels": _trit_panels,
    "trit-quad-panels": _trit_quad_panels,
    "signed-panels": _signed_panels,
}


def derive(
    tensor: NDArray[Any],
    derivation: Derivation,
    moments: Mapping[str, NDArray[np.float64]] | None = None,
) -> Iterator[Part]:
    """Yield ``(part, bytes)`` pairs; the blocks of one part follow each other in memory order.

    Parameters
    ----------
    tensor : ndarray
        The source as it is stored; may be memory-mapped, any float type.
    moments : mapping, optional
        ``X^T X`` of the inputs of matmuls, by name.  A weight whose matmul is not among them is
        rounded as without inputs.

    Raises
    ------
    UserError
        When the weight cannot be quantised (NaN or infinity in it, or in the inputs).
    """
    if derivation.kind not in METHODS:
        raise InternalError(f"the derivation '{derivation.kind}' is unknown")
    laid_out = apply_layout(tensor, json.loads(derivation.layout))
    measured = (moments or {}).get(derivation.moments)
    try:
        inputs = None if measured is None else Feedback.of(measured)
        yield from METHODS[derivation.kind](laid_out, derivation, inputs)
    except ValueError as error:
        raise UserError(
            f"the weight cannot be stored anew: {error}", where=f"parameter '{derivation.source}'"
        ) from error
