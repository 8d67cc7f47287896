"""A contender of ``lowc bench llm`` seen from outside: its process, and what is asked of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import InternalError

WORKER = Path(__file__).with_name("llm_worker.py")


class Process:
    """Runs ``llm_worker.py``; ends with its context."""

    def __init__(
        self, command: list[str], name: str, file: Path, threads: int, context: int
    ) -> None:
        """Start it; `command` runs the worker's code, in whichever Python."""
        self.name, self.file = name, file
        kind = name.partition(":")[0]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (__exit__ closes it)
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, kind, str(file), str(threads), str(context)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self._requests: Any = self._process.stdin
        self._answers: Any = self._process.stdout
        self._answer()
        # From nothing to libraries that are loaded.
        self.libraries_s = time.perf_counter() - begun

    def __enter__(self) -> Process:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def ask(self, do: str, **given: Any) -> Any:
        """Return the answer to one request."""
        with suppress(BrokenPipeError):  # what it said is on stderr
            self._requests.write(f"{json.dumps({'do': do, **given})}\n")
            self._requests.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or ["it said nothing"]
        raise InternalError(f"{self.name} ended: {lines[-1][:300]}", where="lowc bench llm")
