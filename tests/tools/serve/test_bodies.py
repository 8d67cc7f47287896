"""Bodies of `/v1` and of model control: what is long, deep or of many parts is refused before it is read."""

from __future__ import annotations

from typing import Any

import pytest
from lowc.tools.serve import messages
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


@pytest.mark.parametrize("path", ["/v1/choose-tiles", "/v1/predict-tiles", "/v1/estimate"])
def test_deep(server: Server, path: str) -> None:
    status, found, _ = server.ask(path, raw=b'{"a":' * 40 + b"1" + b"}" * 40)
    assert (status, "32 deep" in found["error"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "most"),
    [("/v1/choose-tiles", 256 << 10), ("/v1/predict-tiles", 256 << 10), ("/v2/repository/index", 64 << 10)],
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
