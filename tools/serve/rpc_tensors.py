"""Tensors of gRPC's messages: raw ones as over HTTP, and the typed contents."""

from __future__ import annotations

from typing import Any

import numpy as np

from .datatypes import BYTES, DATATYPES
from .faults import Fault, short
from .inference import Answer, Check, Request
from .tensors import checked_datatype, checked_shape, finite, from_binary, to_binary


def decode(message: Any, most_elements: int, check: Check) -> Request:
    """Return the request that a ``ModelInferRequest`` is.

    `check` sees what is declared of an input before its elements are looked at.

    Raises
    ------
    Fault
        400, which says what is wrong and where.
    """
    request = Request(id=message.id)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise Fault(400, f"{len(message.inputs)} inputs, but {len(raw)} raw contents")
    # Who sends raw tensors wants such ones back.
    request.binary = bool(raw)
    for index, tensor in enumerate(message.inputs):
        where = f"input {short(tensor.name)}"
        checked_datatype(tensor.datatype, where)
        shape = checked_shape(list(tensor.shape), where, most_elements)
        check(tensor.name, tensor.datatype, shape)
        if raw:
            if tensor.HasField("contents"):
                raise Fault(400, f"{where}: it has both contents and raw contents")
            array = from_binary(memoryview(raw[index]), shape, tensor.datatype, where)
        else:
            array = _from_contents(tensor, shape, where)
        request.add(tensor.name, tensor.datatype, array)
    if message.outputs:
        request.outputs = {output.name: request.binary for output in message.outputs}
    return request


def _from_contents(tensor: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    kind = DATATYPES[tensor.datatype]
    if not kind.contents:
        raise Fault(400, f"{where}: {tensor.datatype} must be given as raw contents")
    values = getattr(tensor.contents, kind.contents)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if filled and filled != [kind.contents]:
        raise Fault(400, f"{where}: {tensor.datatype} stands in '{kind.contents}'")
    count = 1
    for size in shape:
        count *= size
    if len(values) != count:
        raise Fault(400, f"{where}: {len(values)} elements where {count} are declared")
    if tensor.datatype == BYTES:
        made = np.empty(count, object)
        made[:] = list(values)
        return made.reshape(shape)
    try:
        # NumPy takes ten times as long for a message's own kind of list.
        return finite(np.array(list(values), kind.dtype), where).reshape(shape)
    except OverflowError:
        raise Fault(400, f"{where}: an element does not fit into {tensor.datatype}") from None


def encode(answer: Answer) -> dict[str, Any]:
    """Return the fields of a ``ModelInferResponse``."""
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for spec, array, binary in answer.outputs:
        output: dict[str, Any] = {
            "name": spec.name, "datatype": spec.datatype, "shape": array.shape,
        }  # fmt: skip
        if binary:
            raw.append(to_binary(array))
        else:
            output["contents"] = {DATATYPES[spec.datatype].contents: array.reshape(-1).tolist()}
        outputs.append(output)
    return {
        "model_name": answer.model.name, "model_version": answer.model.version,
        "id": answer.request.id, "outputs": outputs, "raw_output_contents": raw,
    }  # fmt: skip
