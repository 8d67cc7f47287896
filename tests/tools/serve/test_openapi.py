"""The server is as its OpenAPI says: schemathesis asks it hundreds of odd things."""

from __future__ import annotations

import subprocess

from serving.foreign import foreign_python
from serving.server import Server

# A schema cannot say what MLIR is, nor which tensors a model takes: what fits it may be refused.
_NOT_CHECKED = "positive_data_acceptance"


def test_schemathesis_finds_nothing(server: Server) -> None:
    command = [
        foreign_python().parent / "schemathesis", "run", f"{server.url}/openapi.json", "--seed", "1",
        "--max-examples", "8", "--phases", "examples,coverage,fuzzing", "--no-color",
        "--request-timeout", "120", "--exclude-checks", _NOT_CHECKED,
    ]  # fmt: skip
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=900, cwd=server.log.parent
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    paths = server.ask("/openapi.json")[1]["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}" in ran.stdout
    assert not server.logged("failed")


def test_every_route_is_described(server: Server) -> None:
    status, schema, _ = server.ask("/openapi.json")
    assert status == 200
    assert schema["openapi"].startswith("3.1")
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
            assert set(route["responses"]) >= {"200", "400", "401", "413", "429", "504"}
            assert "422" not in route["responses"]
    infer = schema["paths"]["/v2/models/{model}/infer"]["post"]
    assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
