"""``lowc serve``: the cost-model inference server."""

from __future__ import annotations

import ssl
from pathlib import Path

import click

from ...errors import UserError
from ..seconds import Seconds
from .settings import MIB, Settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_D = Settings()


# The names of help here too: tests call it without the group that has them.
@click.command("serve", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default=_D.host, show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=_D.port, show_default=True,
              help="Port of HTTP; 0 takes a free one.")  # fmt: skip
@click.option("--grpc-port", type=click.IntRange(-1, 65535), default=_D.grpc_port,
              show_default=True, help="Port of gRPC; 0 takes a free one, -1 is none.")  # fmt: skip
@click.option("--model-repository", type=_FOLDER,
              help="Folder of more models: NAME/VERSION/manifest.json.")  # fmt: skip
@click.option("--model-control", type=click.Choice(["none", "explicit"]), default="none",
              show_default=True,
              help="Whether clients may load and unload models; with one worker.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), default=_D.workers, show_default=True,
              help="Processes that share the ports.")  # fmt: skip
@click.option("--token-file", type=_FILE, help="File with the bearer token that clients must show.")
@click.option("--tls-certificate", type=_FILE, help="PEM file of the certificate and its chain.")
@click.option("--tls-key", type=_FILE, help="PEM file of its private key.")
@click.option("--max-body-mib", type=click.IntRange(1, 1024), default=_D.max_body // MIB,
              show_default=True, help="Largest body of a request.")  # fmt: skip
@click.option("--max-rows", type=click.IntRange(1), default=_D.max_rows, show_default=True,
              help="Most rows of a request.")  # fmt: skip
@click.option("--max-mlir-mib", type=click.IntRange(1, 256), default=_D.max_mlir // MIB,
              show_default=True, help="Largest MLIR text.")  # fmt: skip
@click.option("--max-requests", type=click.IntRange(1), default=_D.max_requests, show_default=True,
              help="Requests that a worker answers at once.")  # fmt: skip
@click.option("--request-seconds", type=Seconds(0.01), default=_D.request_seconds,
              show_default=True, help="Time for an answer.")  # fmt: skip
@click.option("--body-seconds", type=Seconds(0.01), default=_D.body_seconds,
              show_default=True, help="Time for a request to arrive.")  # fmt: skip
@click.option("--parse-seconds", type=Seconds(0.01), default=_D.parse_seconds,
              show_default=True, help="Time for reading MLIR.")  # fmt: skip
@click.option("--drain-seconds", type=Seconds(0), default=_D.drain_seconds,
              show_default=True,
              help="Time between not being ready and closing, when asked to end.")  # fmt: skip
@click.option("--log-requests/--no-log-requests", default=_D.log_requests, show_default=True,
              help="Write a line of JSON for each request to stderr.")  # fmt: skip
def serve_command(
    host: str, port: int, grpc_port: int, model_repository: Path | None, model_control: str,
    workers: int, token_file: Path | None, tls_certificate: Path | None, tls_key: Path | None,
    max_body_mib: int, max_rows: int, max_mlir_mib: int, max_requests: int,
    request_seconds: float, body_seconds: float, parse_seconds: float,
    drain_seconds: float, log_requests: bool,
) -> None:  # fmt: skip
    """Answer how fast a matmul will be, which tile it should have, what an MLIR module costs.

    The Open Inference Protocol v2 over HTTP and gRPC, /v1/choose-tiles, /v1/estimate, a page at /,
    figures at /metrics.  SIGTERM ends it: readiness goes down first, requests are answered.
    """
    if model_control == "explicit" and workers > 1:
        raise UserError(
            "loading and unloading would reach one of the workers only", where="lowc serve",
            hint="give --model-control explicit with one worker",
        )  # fmt: skip
    if (tls_certificate is None) != (tls_key is None):
        raise UserError(
            "TLS needs a certificate and its key", where="lowc serve",
            hint="give --tls-certificate and --tls-key",
        )  # fmt: skip
    if tls_certificate is not None and tls_key is not None:
        _check_chain(tls_certificate, tls_key)
    if port == grpc_port > 0:
        # Both could have it, as workers share ports, and each would get the other's clients.
        raise UserError(
            f"HTTP and gRPC cannot both have port {port}", where="--grpc-port",
            hint="give another one, or -1 for no gRPC",
        )  # fmt: skip
    settings = Settings(
        host=host, port=port, grpc_port=grpc_port,
        repository=str(model_repository.resolve()) if model_repository else "",
        explicit=model_control == "explicit", workers=workers, token=_token(token_file),
        certificate=str(tls_certificate or ""), key=str(tls_key or ""),
        max_body=max_body_mib * MIB, max_rows=max_rows, max_mlir=max_mlir_mib * MIB,
        max_requests=max_requests, request_seconds=request_seconds, body_seconds=body_seconds,
        parse_seconds=parse_seconds, drain_seconds=drain_seconds,
        log_requests=log_requests,
    )  # fmt: skip
    _check_packages()
    from .supervisor import supervise

    supervise(settings)


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    token = path.read_text("utf-8").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            "a token is 16 or more printable ASCII characters without blanks", where=str(path),
            hint="python -c 'import secrets; print(secrets.token_urlsafe())' makes one",
        )  # fmt: skip
    return token


def _check_chain(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password is one that no key has: nobody is there to be asked.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise UserError(
            f"this is no certificate with its key: {error}", where=f"{certificate}, {key}",
            hint="both are PEM files, and the key has no password",
        ) from error  # fmt: skip


def _check_packages() -> None:
    from importlib.util import find_spec

    needed = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "grpc", "prometheus_client")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the server needs {', '.join(missing)}", where="lowc serve",
            hint="pip install 'lowc[serve]'",
        )  # fmt: skip
