"""What the gate holds in memory: bodies of all requests together have a most."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from lowc.tools.serve import sources
from lowc.tools.serve.gate import Gate
from lowc.tools.serve.settings import Settings
from lowc.tools.serve.state import State, make_state

_SCOPE = {"type": "http", "method": "POST", "path": "/v2/x", "raw_path": b"/v2/x", "headers": []}


def ready(repository: Path, **changes: Any) -> State:
    settings = Settings(repository=str(repository), log_requests=False, **changes)
    return make_state(settings, sources.all_sources(settings))


def test_bodies_have_a_most_together(repository: Path) -> None:
    state = ready(repository, max_body=100, max_buffered=150)
    statuses: dict[str, list[int]] = {"first": [], "second": [], "third": []}

    async def answer(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(name: str, middle: asyncio.Event) -> None:
        parts = [b"x" * 90, b""]

        async def receive() -> Any:
            if len(parts) == 1:
                await middle.wait()
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses[name].append(message["status"])

        await Gate(answer, state)(dict(_SCOPE), receive, send)

    async def all_of_them() -> None:
        go, at_once = asyncio.Event(), asyncio.Event()
        at_once.set()
        first = asyncio.create_task(ask("first", go))
        while state.buffered != 90:
            await asyncio.sleep(0)
        await ask("second", at_once)
        go.set()
        await first
        assert state.buffered == 0
        await ask("third", at_once)

    asyncio.run(all_of_them())
    assert statuses == {"first": [200], "second": [429], "third": [200]}
    assert state.buffered == 0
