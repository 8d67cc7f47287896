"""Bodies of `/v1` and of model control: what is long, deep or of many parts is refused before it is read."""

from __future__ import annotations

from typing import Any

import pytest
from lowc.tools.serve import messages
from lowc.tools.serve.faults import Fault
from serving.server import Server

ONE = {"form": "f32", "shape": [1, 8, 8, 8]}


@pytest.mark.parametrize("path", ["/v1/choose-tiles", "/v1/predict-tiles", "/v1/estimate"])
def test_many_keys(server: Server, path: str) -> None:
    keys = {f"k{number}": 1 for number in range(messages.MOST_PARTS)}
    for body in (
        {**keys, "matmuls": [ONE]},
        {"matmuls": [keys], "problems": [keys], "mlir": "module {}"},
    ):
        status, found, _ = server.ask(path, body)
        assert (status, "more than 4096" in found["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [
        (b"[" + b"{}," * messages.MOST_PARTS + b"{}]", True),
        (b"[" + b'"",' * (messages.MOST_PARTS - 1) + b'""]', False),
        (b'{"mlir": "' + b",[{" * messages.MOST_PARTS + b'"}', False),
        (rb'{"mlir": "\"' + b"," * messages.MOST_PARTS + rb'\\"}', False),
        (rb'["\\"' + b",1" * (messages.MOST_PARTS + 1) + b', """]', True),
        (b'"' * 20_000, True),
    ],
    ids=["objects", "strings", "in a string", "after a quote", "after two", "quotes"],
)
def test_commas_are_counted_before_values_are_made(
    body: bytes, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(messages, "read_json", lambda body: read.append(body) or {})
    if is_refused:
        with pytest.raises(Fault, match="more than 4096"):
            messages.read_small_json(body)
    else:
        messages.read_small_json(body)
    assert read == ([] if is_refused else [body])


@pytest.mark.parametrize("path", ["/v1/choose-tiles", "/v1/predict-tiles", "/v1/estimate"])
def test_deep(server: Server, path: str) -> None:
    status, found, _ = server.ask(path, raw=b'{"a":' * 40 + b"1" + b"}" * 40)
    assert (status, "32 deep" in found["error"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/v1/choose-tiles", 256 << 10), ("/v1/predict-tiles", 256 << 10), ("/v1/none", 256 << 10),
        ("/v2/repository/index", 64 << 10),
    ],
)  # fmt: skip
def test_long(server: Server, path: str, most: int) -> None:
    assert server.ask(path, raw=b"{}".ljust(most))[0] != 413
    status, found, _ = server.ask(path, raw=b"{}".ljust(most + 1))
    assert (status, found["error"]) == (413, f"a body has at most {most} bytes")


def test_as_many_matmuls_as_are_allowed_with_all_they_can_say(server: Server) -> None:
    one: dict[str, Any] = {
        **ONE, "target": "cpu", "lowering": "kernel", "right": "weight", "group": None, "planes": 2,
    }  # fmt: skip
    status, found, _ = server.ask(
        "/v1/choose-tiles", {"matmuls": [one] * 256, "top": 1, "all": False}
    )
    assert (status, len(found["matmuls"])) == (200, 256)


def test_no_redirect_to_the_host_that_a_request_names(server: Server) -> None:
    status, found, _ = server.ask("/v1/choose-tiles/", {"matmuls": [ONE]})
    assert (status, list(found)) == (404, ["error"])
