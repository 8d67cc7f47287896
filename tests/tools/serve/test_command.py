"""`lowc serve` with wrong arguments: each is said in words before anything starts."""

from __future__ import annotations

import pytest
from lowc.tools.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "8123", "--grpc-port", "8123"], "HTTP and gRPC cannot both have port 8123"),
        (["--request-seconds", "nan"], "'nan' is no number of seconds"),
        (["--parse-seconds", "inf"], "inf is not in the range"),
        (["--drain-seconds", "-1"], "-1.0 is not in the range"),
        (["--workers", "2", "--model-control", "explicit"], "would reach one of the workers only"),
        (["--tls-key", __file__], "TLS needs a certificate and its key"),
        (["--token-file", __file__], "a token is 16 or more printable ASCII characters"),
        (["--model-repository", "/nowhere"], "Directory '/nowhere' does not exist"),
        (["--host", "192.0.2.1", "--port", "8123"], "cannot listen on 192.0.2.1:8123"),
    ],
)
def test_mistakes(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    assert said in capsys.readouterr().err
