"""Inference requests and answers over HTTP: JSON, and tensors in binary behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from .faults import Fault, short
from .inference import Answer, Check, Request
from .tensors import checked_datatype, checked_shape, from_binary, from_json, to_binary, to_json

HEADER_LENGTH = "inference-header-content-length"
JSON, BINARY = "application/json", "application/octet-stream"
MOST_DEPTH = 32
MOST_PARTS = 4096
_CONTAINERS = (dict, list)
_NO_PARAMETERS: dict[str, Any] = {}


@dataclass(frozen=True)
class Encoded:
    """The body of an answer; `json_length` is -1 where there is nothing behind the JSON."""

    body: bytes
    json_length: int

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the body."""
        if self.json_length < 0:
            return {"content-type": JSON}
        return {"content-type": BINARY, HEADER_LENGTH: str(self.json_length)}


def read_json(body: bytes | memoryview) -> Any:
    """Return JSON as Python values.

    Raises
    ------
    Fault
        400, when it is none: bad UTF-8, NaN and too deep nesting included.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Fault(400, f"the body is no JSON: {error}") from None
    if _depth_is_more_than(MOST_DEPTH, data):
        raise Fault(400, f"the body nests lists and objects more than {MOST_DEPTH} deep")
    return data


def read_small_json(body: bytes) -> Any:
    """Return JSON as :func:`read_json` does; 400, too, when it has many elements and members."""
    if _has_many_commas(body):
        raise Fault(400, f"the body has more than {MOST_PARTS} elements and members")
    data = read_json(body)
    level, count = [data], 0
    while level := [one for one in level if type(one) in _CONTAINERS]:
        count += sum(map(len, level))
        if count > MOST_PARTS:
            break
        inside = (one.values() if type(one) is dict else one for one in level)
        level = [part for parts in inside for part in parts]
    if count > MOST_PARTS:
        raise Fault(400, f"the body has more than {MOST_PARTS} elements and members")
    return data


def _has_many_commas(body: bytes) -> bool:
    """Tell whether JSON surely has too many parts, before a Python object is made of each.

    Commas outside of strings part elements and members; of strings, each part has two at most.
    """
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * MOST_PARTS + 2:
        return True
    return sum(part.count(b",") for part in plain.split(b'"')[::2]) >= MOST_PARTS


def _depth_is_more_than(most: int, data: Any) -> bool:
    # Level by level, whole lists at a time: most that comes is one long list of numbers.
    level = [data] if type(data) in _CONTAINERS else []
    for _ in range(most):
        if not level:
            return False
        inside = (one.values() if type(one) is dict else one for one in level)
        level = [part for parts in inside for part in parts if type(part) in _CONTAINERS]
    return bool(level)


def decode(body: bytes, header_length: str | None, most_elements: int, check: Check) -> Request:
    """Return the request that `body` is; `header_length` is the header that says where JSON ends.

    `check` sees what is declared of an input before its elements are looked at.

    Raises
    ------
    Fault
        400, which says what is wrong and where.
    """
    view = memoryview(body)
    length = _json_length(header_length, len(view))
    data = read_json(view[:length])
    if not isinstance(data, dict):
        raise Fault(400, "the body must be a JSON object")
    request = Request(id=_text(data.get("id", ""), "id"))
    request.binary = _flag(_parameters(data, "the request"), "binary_data_output", default=False)
    rest = _inputs(request, data.get("inputs"), view[length:], most_elements, check)
    if len(rest):
        raise Fault(400, f"{len(rest)} bytes follow the last tensor")
    request.outputs = _outputs(data.get("outputs"), default=request.binary)
    return request


def encode(answer: Answer) -> Encoded:
    """Return the body of an answer."""
    outputs: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for spec, array, binary in answer.outputs:
        output: dict[str, Any] = {
            "name": spec.name, "datatype": spec.datatype, "shape": list(array.shape),
        }  # fmt: skip
        if binary:
            tensors.append(to_binary(array))
            output["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            output["data"] = to_json(array)
        outputs.append(output)
    data: dict[str, Any] = {
        "model_name": answer.model.name, "model_version": answer.model.version,
    }  # fmt: skip
    if answer.request.id:
        data["id"] = answer.request.id
    data["outputs"] = outputs
    text = orjson.dumps(data)
    return Encoded(b"".join([text, *tensors]), len(text) if tensors else -1)


def _json_length(header: str | None, available: int) -> int:
    if header is None:
        return available
    # int() would take signs, blanks, underscores and other scripts' digits.
    if not (header.isascii() and header.isdigit() and len(header) < 12):
        raise Fault(400, f"{HEADER_LENGTH} {short(header)} is no length")
    if int(header) > available:
        raise Fault(400, f"{HEADER_LENGTH} is {int(header)}, the body has {available} bytes")
    return int(header)


def _inputs(
    request: Request, inputs: Any, rest: memoryview, most_elements: int, check: Check
) -> memoryview:
    if not isinstance(inputs, list) or not inputs:
        raise Fault(400, "'inputs' must be a list of tensors")
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, dict):
            raise Fault(400, f"inputs[{index}] must be an object")
        name = _text(tensor.get("name"), f"inputs[{index}].name")
        where = f"input {short(name)}"
        kind = checked_datatype(tensor.get("datatype"), where)
        shape = checked_shape(tensor.get("shape"), where, most_elements)
        check(name, kind, shape)
        size = _parameters(tensor, where).get("binary_data_size")
        if size is None:
            array = from_json(tensor.get("data"), shape, kind, where)
        else:
            if type(size) is not int or not 0 <= size <= len(rest):
                raise Fault(400, f"{where}: binary_data_size {short(size)} is not what follows")
            if "data" in tensor:
                raise Fault(400, f"{where}: it has both data and binary_data_size")
            array = from_binary(rest[:size], shape, kind, where)
            rest = rest[size:]
        request.add(name, kind, array)
    return rest


def _outputs(outputs: Any, *, default: bool) -> dict[str, bool] | None:
    if outputs is None:
        return None
    if not isinstance(outputs, list):
        raise Fault(400, "'outputs' must be a list")
    wanted: dict[str, bool] = {}
    for index, output in enumerate(outputs):
        if not isinstance(output, dict):
            raise Fault(400, f"outputs[{index}] must be an object")
        name = _text(output.get("name"), f"outputs[{index}].name")
        parameters = _parameters(output, f"output {short(name)}")
        wanted[name] = _flag(parameters, "binary_data", default=default)
    # A client that names none means all.
    return wanted or None


def _parameters(data: dict[str, Any], where: str) -> dict[str, Any]:
    found = data.get("parameters")
    if found is None:
        return _NO_PARAMETERS
    if not isinstance(found, dict):
        raise Fault(400, f"{where}: 'parameters' must be an object")
    return found


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Fault(400, f"the parameter '{name}' is true or false, not {short(value)}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Fault(400, f"'{where}' must be a text")
    return value
