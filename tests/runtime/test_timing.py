"""Interleaved timing.  Nothing here depends on how long anything takes."""

from __future__ import annotations

import gc
import time

import pytest
from lowc.errors import UserError
from lowc.runtime.timing import Timing, time_interleaved


def test_blocks_alternate_after_warm_up_calls() -> None:
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    result = time_interleaved(functions, blocks=3, block_seconds=0, idle=0, warmup=2)
    # Two calls to warm up and one that counts; each round begins with another function.
    assert "".join(calls) == "aaabbbccc" + "bbbcccaaa" + "cccaaabbb"
    assert list(result) == ["a", "b", "c"]
    assert all(timing.calls == 3 and len(timing.block_medians) == 3 for timing in result.values())


def test_a_block_fills_its_time() -> None:
    timing = time_interleaved(
        {"sleep": lambda: time.sleep(0.002)}, blocks=2, block_seconds=0.01, idle=0, warmup=0
    )["sleep"]
    assert 2 <= timing.calls <= 12
    assert 0.002 <= timing.minimum <= timing.p10 <= timing.p90
    assert timing.minimum <= timing.median


def test_statistics() -> None:
    timing = Timing((3.0, 1.0, 2.0), 0.5, 1.0, 3.0, 30)
    assert timing.median == 2.0
    assert timing.spread == 1.0
    assert str(timing) == "2000.000 ms (p10 1000.000, p90 3000.000, 30 calls)"


def test_the_collector_is_off_while_timing_and_as_before_after() -> None:
    seen = []
    time_interleaved({"a": lambda: seen.append(gc.isenabled())}, blocks=1, block_seconds=0, idle=0)
    assert not any(seen)
    assert gc.isenabled()
    gc.disable()
    try:
        time_interleaved({"a": lambda: None}, blocks=1, block_seconds=0, idle=0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_exception_ends_it_and_the_collector_comes_back() -> None:
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"a": lambda: 1 / 0}, idle=0)
    assert gc.isenabled()


def test_refuses_nothing_and_nonsense() -> None:
    with pytest.raises(UserError, match="there is nothing to time"):
        time_interleaved({})
    for wrong in ({"blocks": 0}, {"warmup": -1}, {"idle": -1.0}, {"block_seconds": -1.0}):
        with pytest.raises(UserError, match="at least one block, and no negative numbers"):
            time_interleaved({"a": lambda: None}, **wrong)
