"""Work that takes long has threads of its own, so few that others' bodies are read meanwhile."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from lowc.tools.serve import sources
from lowc.tools.serve.faults import Fault
from lowc.tools.serve.settings import Settings
from lowc.tools.serve.state import AT_ONCE, make_state


def test_long_work_leaves_other_threads_free(repository: Path) -> None:
    settings = Settings(repository=str(repository), max_requests=2, request_seconds=60)
    state = make_state(settings, sources.all_sources(settings))
    end = threading.Event()

    async def all_of_it() -> None:
        working = [asyncio.create_task(state.calculate(end.wait, 60)) for _ in range(AT_ONCE)]
        waiting = [asyncio.create_task(state.calculate(end.wait, 60)) for _ in range(2)]
        await asyncio.sleep(0.05)
        try:
            await state.calculate(int)
            refused = 200
        except Fault as fault:
            refused = fault.status
        assert refused == 429
        everyone = [asyncio.to_thread(int) for _ in range(50)]
        assert await asyncio.wait_for(asyncio.gather(*everyone), 60) == [0] * 50
        end.set()
        assert all(await asyncio.gather(*working, *waiting))

    asyncio.run(all_of_it())
