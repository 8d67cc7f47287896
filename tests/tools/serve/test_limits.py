"""Limits, token and TLS: each refusal has its own status, and nothing behind it is disturbed."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from lowc.tools.serve.reading import EXAMPLE
from serving import trained
from serving.server import Server, serving

TOKEN = "a-token-that-only-this-test-knows"
AUTHORIZATION = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server with a token, TLS, and the least of everything."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"{TOKEN}\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    options = [
        "--model-repository", repository, "--token-file", folder / "token", "--tls-key", folder / "key.pem",
        "--tls-certificate", folder / "cert.pem", "--max-requests", "1", "--max-rows", "4",
        "--parse-seconds", "1",
    ]  # fmt: skip
    with serving(folder / "run", *options) as started:
        yield started


@pytest.fixture
def trusting(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return that server, with its certificate trusted by this process."""
    certificate = guarded.log.parent.parent / "cert.pem"
    context = ssl.create_default_context(cafile=str(certificate))
    handler = urllib.request.HTTPSHandler(context=context)
    monkeypatch.setattr(urllib.request, "urlopen", urllib.request.build_opener(handler).open)
    return guarded


def infer_body(rows: int) -> dict[str, object]:
    x = trained.rows(rows)
    tensor = {"name": "features", "datatype": "FP64", "shape": list(x.shape), "data": x.tolist()}
    return {"inputs": [tensor]}


def test_token(trusting: Server) -> None:
    path = "/v2/models/times/infer"
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
        status, found, headers = trusting.ask(path, infer_body(1), headers=given)
        assert (status, found) == (401, {"error": "a bearer token is needed"})
        assert headers["www-authenticate"] == "Bearer"
    assert trusting.ask(path, infer_body(1), headers=AUTHORIZATION)[0] == 200
    assert trusting.ask("/metrics")[0] == 401
    # Whoever looks after the server need not know the token.
    assert trusting.ask("/v2/health/ready")[0] == 200


def test_token_of_grpc(guarded: Server) -> None:
    import grpc
    from lowc.tools.serve import protocol

    spoken = protocol.load()
    certificate = (guarded.log.parent.parent / "cert.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(certificate)
    with grpc.secure_channel(guarded.grpc, credentials) as channel:

        def ask(name: str, **metadata: str) -> object:
            method = spoken.methods[name]
            call = channel.unary_unary(
                f"/{spoken.service}/{name}",
                method.request.SerializeToString,
                method.response.FromString,
            )
            return call(method.request(), metadata=tuple(metadata.items()), timeout=30)

        assert ask("ServerLive").live
        with pytest.raises(grpc.RpcError) as error:
            ask("ServerMetadata")
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert ask("ServerMetadata", **AUTHORIZATION).name == "lowc"


def test_rows(trusting: Server) -> None:
    path = "/v2/models/times/infer"
    assert trusting.ask(path, infer_body(4), headers=AUTHORIZATION)[0] == 200
    status, found, _ = trusting.ask(path, infer_body(5), headers=AUTHORIZATION)
    assert (status, found) == (413, {"error": "5 rows are more than the 4 allowed"})


def test_one_at_once(trusting: Server) -> None:
    """While MLIR that takes its reader a second is read, there is no place for anyone else."""
    # Each type has two of the one before: whoever prints the last one prints for ever.
    types = "!t0 = tuple<i32, i32>\n" + "".join(
        f"!t{i + 1} = tuple<!t{i}, !t{i}>\n" for i in range(60)
    )
    text = types + "func.func @main(%a: !t60) -> i32 { return %a : !t60 }"
    answers = []
    busy = threading.Thread(
        target=lambda: answers.append(
            trusting.ask("/v1/estimate", {"mlir": text}, headers=AUTHORIZATION)
        )
    )
    busy.start()
    refused = 0
    while busy.is_alive():
        status, found, headers = trusting.ask("/v2/models/times", headers=AUTHORIZATION)
        assert status in (200, 429)
        if status == 429:
            refused += 1
            assert "try again" in found["error"]
            assert headers["retry-after"] == "1"
            assert trusting.ask("/v2/health/ready")[0] == 200
    busy.join()
    assert refused > 0
    status, found, _ = answers[0]
    assert status == 400
    assert "took more than 1 s" in found["error"] or "more memory" in found["error"]
    assert trusting.ask("/v2/models/times", headers=AUTHORIZATION)[0] == 200


def test_time(repository: Path, tmp_path: Path) -> None:
    """Nothing can be read in a hundredth of a second."""
    with serving(
        tmp_path / "run", "--model-repository", repository, "--request-seconds", "0.01"
    ) as server:
        status, found, _ = server.ask("/v1/estimate", EXAMPLE)
        assert (status, found) == (504, {"error": "no answer in 0.01 s"})
        assert server.ask("/v2/models/times")[0] == 200


def test_model_control_is_off(trusting: Server) -> None:
    for what in ("load", "unload"):
        path = f"/v2/repository/models/times/{what}"
        status, found, _ = trusting.ask(path, {}, headers=AUTHORIZATION)
        assert status == 403
        assert "--model-control explicit" in found["error"]


def test_plain_http_gets_nothing_from_tls(guarded: Server) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"lowc" not in connection.recv(1000)


def requests_until(server: Server, name: str) -> list[dict[str, object]]:
    """Return the log lines of requests up to one, which may be written after its answer."""
    for _ in range(1000):
        found = server.logged("request")
        if any(line["id"] == name for line in found):
            return found
        time.sleep(0.01)
    pytest.fail(f"the log has no line of request {name}")


def test_request_ids(server: Server) -> None:
    _, _, headers = server.ask("/v2", headers={"x-request-id": "mine-7"})
    assert headers["x-request-id"] == "mine-7"
    _, _, headers = server.ask("/v2", headers={"x-request-id": "not mine\t"})
    made = headers["x-request-id"]
    assert made != "not mine\t"
    assert {"mine-7", made} <= {line["id"] for line in requests_until(server, made)}


def test_a_path_ends_no_line_of_the_log(server: Server) -> None:
    assert server.ask("/%E2%80%A8%C2%85%0Ahere")[0] == 404
    made = server.ask("/v2")[2]["x-request-id"]
    paths = [line["path"] for line in requests_until(server, made)]
    assert "/%E2%80%A8%C2%85%0Ahere" in paths
    assert all(path.isascii() for path in paths)
