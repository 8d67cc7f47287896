"""What a server is started with: addresses, models, limits, who may ask."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Options of ``lowc serve``, as the supervisor hands them to its workers.

    Attributes
    ----------
    host, port, grpc_port : str, int
        Where to listen; a `grpc_port` of -1 is none.
    repository : str
        A folder of models beside those of the package; empty for none.
    explicit : bool
        Whether clients may load and unload models.
    workers : int
        Processes that share the ports.
    token : str
        What clients must show; empty for nothing.
    certificate, key : str
        PEM files for TLS; empty for none.
    max_body, max_rows, max_elements, max_mlir : int
        Bytes of a body, rows of a request, elements of a tensor, bytes of MLIR.
    max_buffered : int
        Bytes of all bodies and gRPC's messages that one worker holds; at least that of one body.
    max_requests, max_connections, max_waiting_rows, batch_rows : int
        Requests answered at once and connections, of one worker; rows that may wait for a model,
        and that are calculated together.
    request_seconds, body_seconds, parse_seconds, drain_seconds : float
        Time for an answer, for a request to arrive, for parsing MLIR; and how long readiness is
        down before connections are closed.
    parser_memory, parsers : int
        Bytes that a parser may have, and parsers at once.
    parser_socket, metrics_folder : str
        Where the supervisor's parsers listen, and where workers leave their figures.
    log_requests : bool
        Whether each request leaves a line.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int = 8001
    repository: str = ""
    explicit: bool = False
    workers: int = 1
    token: str = ""
    certificate: str = ""
    key: str = ""
    max_body: int = 16 * MIB
    max_rows: int = 65_536
    max_elements: int = 4 * MIB
    max_mlir: int = 4 * MIB
    max_buffered: int = 256 * MIB
    max_requests: int = 256
    max_connections: int = 1024
    max_waiting_rows: int = 262_144
    batch_rows: int = 4096
    request_seconds: float = 30.0
    body_seconds: float = 15.0
    parse_seconds: float = 10.0
    drain_seconds: float = 0.5
    parser_memory: int = 1 << 30
    parsers: int = 4
    parser_socket: str = ""
    metrics_folder: str = ""
    log_requests: bool = True

    def to_json(self) -> str:
        """Return the settings as text, secrets included: only for a pipe."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Undo :meth:`to_json`."""
        return cls(**json.loads(text))
