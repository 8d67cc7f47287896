"""Places: who waits in vain is told to try again, and a place that was left is free."""

from __future__ import annotations

import asyncio

from lowc.tools.serve.faults import Fault
from lowc.tools.serve.places import Places


async def status_of(places: Places, until: asyncio.Event | None = None) -> int:
    try:
        async with places.one():
            if until is not None:
                await until.wait()
    except Fault as fault:
        return fault.status
    return 200


def test_too_many_wait_and_too_long() -> None:
    async def all_of_it() -> None:
        places, done = Places(1, 1, 0.05, "texts"), asyncio.Event()
        first = asyncio.create_task(status_of(places, done))
        await asyncio.sleep(0)
        late = asyncio.create_task(status_of(places))
        await asyncio.sleep(0)
        assert await status_of(places) == 429, "one more than may wait"
        assert await late == 429, "none was free in time"
        done.set()
        assert await first == 200
        assert await status_of(places) == 200

    asyncio.run(all_of_it())


def test_who_gives_up_takes_no_place() -> None:
    async def all_of_it() -> None:
        places, done = Places(1, 1, 60, "texts"), asyncio.Event()
        first = asyncio.create_task(status_of(places, done))
        await asyncio.sleep(0)
        gone = asyncio.create_task(status_of(places))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        done.set()
        await first
        assert await status_of(places) == 200

    asyncio.run(all_of_it())
