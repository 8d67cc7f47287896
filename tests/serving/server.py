"""`lowc serve` as a process of its own, on free ports, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAIN = "import sys; from lowc.tools.cli import main; sys.exit(main())"
_READY = re.compile(r"serving on (\w+)://127\.0\.0\.1:(\d+)(?: and grpc://127\.0\.0\.1:(\d+))?")


@dataclass
class Server:
    """A server that is ready."""

    process: subprocess.Popen[str]
    scheme: str
    port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def ask(
        self, path: str, data: Any = None, *, headers: dict[str, str] | None = None,
        method: str | None = None, raw: bytes | None = None,
    ) -> tuple[int, Any, dict[str, str]]:  # fmt: skip
        """Return (status, body as JSON where it is JSON, headers)."""
        body = raw if raw is not None else None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, body, {"content-type": "application/json", **(headers or {})},
            method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, _read(response), dict(response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _read(error), dict(error.headers)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().split("\n") if line[:1] == "{"]
        return [line for line in lines if line["event"] == event]

    def stop(self) -> int:
        """End it as a service manager does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def _read(response: Any) -> Any:
    body = response.read()
    kind = response.headers.get("content-type", "")
    return json.loads(body) if kind.startswith("application/json") else body


@contextlib.contextmanager
def serving(folder: Path, *options: str | Path, where: Path | None = None) -> Iterator[Server]:
    """Start a server that logs into `folder`, in the folder `where`; kill it at the end."""
    folder.mkdir(exist_ok=True)
    log = folder / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN, "serve", "--port", "0", "--grpc-port", "0",
             *map(str, options)],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=where,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = _READY.match(line)
        assert found, f"it said {line!r}; its log:\n{log.read_text()[-4000:]}"
        yield Server(process, found[1], int(found[2]), int(found[3] or -1), log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
