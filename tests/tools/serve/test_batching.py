"""Micro-batching: everyone gets their own rows, whatever was calculated together."""

from __future__ import annotations

import asyncio
from typing import Any

import lightgbm
import numpy as np
import pytest
from lowc.passes.tiling import trees
from lowc.tools.serve.batching import Batcher
from lowc.tools.serve.boosted import Boosted
from lowc.tools.serve.faults import Fault
from lowc.tools.serve.metrics import Metrics
from serving import trained


class Counted(Boosted):
    """A real model that remembers its batches, and refuses rows whose first feature is negative."""

    batches: list[int]

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["features"]
        self.batches.append(len(x))
        if (x[:, 0] < 0).any():
            raise Fault(400, "a negative row")
        return super().predict(inputs)


@pytest.fixture
def model(booster: lightgbm.Booster) -> Counted:
    text = booster.model_to_string().encode()
    found = trees.load([("times", text)], trained.FEATURES)
    made = Counted("times", "1", found, len(trained.FEATURES))
    made.batches = []
    return made


def batcher(model: Counted, *, most_rows: int = 64, most_waiting: int = 10_000) -> Batcher:
    return Batcher(model, most_rows=most_rows, most_waiting=most_waiting, metrics=Metrics())


def ask(queue: Batcher, parts: list[np.ndarray]) -> list[Any]:
    async def all_at_once() -> list[Any]:
        asked = [queue.predict({"features": x}, len(x)) for x in parts]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(all_at_once())


def test_requests_of_one_moment_are_one_batch(model: Counted, booster: lightgbm.Booster) -> None:
    x = trained.rows(30)
    parts = np.split(x, [1, 4, 5, 17])
    found = ask(batcher(model), parts)
    assert model.batches == [30]
    for one, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(one["predict"], booster.predict(part))


def test_batches_have_a_limit_and_large_requests_stay_whole(model: Counted) -> None:
    parts = np.split(trained.rows(200), [10, 50, 150, 160])
    found = ask(batcher(model, most_rows=64), parts)
    assert model.batches == [50, 100, 50]
    assert [len(one["predict"]) for one in found] == [10, 40, 100, 10, 40]


def test_one_bad_request_harms_no_other(model: Counted, booster: lightgbm.Booster) -> None:
    x = trained.rows(3)
    bad = x[:1].copy()
    bad[0, 0] = -1
    found = ask(batcher(model), [x[:1], bad, x[1:]])
    assert isinstance(found[1], Fault)
    np.testing.assert_array_equal(found[0]["predict"], booster.predict(x[:1]))
    np.testing.assert_array_equal(found[2]["predict"], booster.predict(x[1:]))


def test_a_queue_has_a_limit(model: Counted) -> None:
    x = trained.rows(8)
    found = ask(batcher(model, most_waiting=16), [x, x, x])
    assert [isinstance(one, Fault) and one.status for one in found] == [False, False, 429]


def test_who_does_not_wait_is_not_calculated_for(model: Counted) -> None:
    queue = batcher(model)

    async def give_up() -> None:
        x = trained.rows(4)
        first = asyncio.create_task(queue.predict({"features": x[:1]}, 1))
        second = asyncio.create_task(queue.predict({"features": x[1:]}, 3))
        await asyncio.sleep(0)
        second.cancel()
        await first

    asyncio.run(give_up())
    assert model.batches == [1]
    assert queue.waiting_rows == 0


def test_long_batches_leave_the_loop_free(model: Counted, booster: lightgbm.Booster) -> None:
    """Once a model is known to take long it runs in a thread; the answers are the same."""
    queue, x = batcher(model, most_rows=100_000), trained.rows(20_000)
    ask(queue, [x])
    ticks = 0

    async def beside() -> Any:
        nonlocal ticks
        task = asyncio.create_task(queue.predict({"features": x}, len(x)))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.001)
        return await task

    found = asyncio.run(beside())
    np.testing.assert_array_equal(found["predict"], booster.predict(x))
    assert ticks > 2
