"""Structured logs: one JSON object a line on stderr, and names for requests."""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import time
from typing import Any

import orjson

_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_numbers = itertools.count(1)
_prefix = os.urandom(6).hex()


def request_id(given: str | None) -> str:
    """Return the client's name for its request if it is a sane one, else a new one."""
    if given is not None and _SANE.fullmatch(given):
        return given
    return f"{_prefix}-{next(_numbers):x}"


class _AsJson(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log("library", level=record.levelname.lower(), logger=record.name, said=self.format(record))


def take_over() -> None:
    """Write what libraries log, from warnings on, as lines of JSON too."""
    logging.basicConfig(handlers=[_AsJson()], level=logging.WARNING, force=True)
    # One line for each client that does not speak HTTP.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def log(event: str, *, level: str = "info", **facts: Any) -> None:
    """Write one line; neither a reader that went away nor a fact of any kind is reason to stop."""
    head = {"time": round(time.time(), 4), "level": level, "event": event, "pid": os.getpid()}
    try:
        sys.stderr.buffer.write(_line({**head, **facts}) + b"\n")
        sys.stderr.buffer.flush()
    except (OSError, ValueError):
        pass


def _line(facts: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(facts, default=str)
    except Exception:  # Half a surrogate pair, an integer of more than 64 bits, what has no str.
        return orjson.dumps({name: _safe(fact) for name, fact in facts.items()})


def _safe(fact: Any) -> Any:
    try:
        return orjson.loads(orjson.dumps(fact))
    except Exception:
        return ascii(fact)[:2000]
