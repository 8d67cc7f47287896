"""The caller goes to the core of the first worker, and stays free to go elsewhere."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from lowc.runtime import placement
from lowc.runtime.devices import open_device
from lowc.runtime.module import load
from lowc.runtime.placement import core_of_first, move_to, threads
from lowc.runtime.wakefulness import VARIABLE


def test_moves_without_binding() -> None:
    before = os.sched_getaffinity(0)
    for core in sorted(before):
        # Whoever is busy there may send the thread away again before it looks.
        seen = set()
        for _ in range(100):
            move_to(core)
            seen.add(placement._current_core())
            assert os.sched_getaffinity(0) == before
        assert core in seen
    move_to(max(before) + 1)  # it may not run there: nothing happens
    assert os.sched_getaffinity(0) == before


def test_a_bound_thread_is_not_moved() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is one core")
    seen = []

    def work() -> None:
        os.sched_setaffinity(0, {cores[0]})
        move_to(cores[1])
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{cores[0]}]


def test_finds_the_first_worker(add: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "spin")
    module, x = load(add, "cpu"), np.ones((2, 3), np.float32)
    before = os.sched_getaffinity(0)
    for _ in range(50):
        assert (module(x, x) == 2).all()
    device = open_device("cpu")
    assert set(device.workers) <= threads()
    assert core_of_first(device.workers) == device.cores[0]
    assert module._pool._core == device.cores[0]
    assert os.sched_getaffinity(0) == before
    assert core_of_first([]) is None
    assert core_of_first([os.getpid()]) is None
