"""Cores that are kept awake between short calls: when, how, who decides, and that it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lowc.errors import UserError
from lowc.runtime import latency_request, spinners, wakefulness
from lowc.runtime.scheduling import Keeping
from lowc.runtime.wakefulness import SHORT, VARIABLE, WINDOW, Wakefulness, choose

CORES = sorted(os.sched_getaffinity(0))
SPINS = pytest.mark.skipif(bool(spinners.problem()), reason=spinners.problem() or "can spin")
MAY_ASK = not latency_request.problem(CORES, on_a_part=True)
POLICIES = ["", "active", "spin", "passive"]


def until(condition: Callable[[], bool]) -> bool:
    """Return whether it becomes true before long."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(1e-3)
    return condition()


# -- who decides -----------------------------------------------------------------------------------


def test_passive_lets_them_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, " Passive ")
    choice = choose([0, 1])
    assert choice.keeper is None
    assert str(choice) == "cores may sleep between short calls: LOWC_WAIT_POLICY=passive"


def test_an_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "actve")
    with pytest.raises(UserError) as caught:
        choose([0, 1])
    assert str(caught.value) == (
        "LOWC_WAIT_POLICY: there is no policy 'actve'\n  hint: did you mean 'active'?"
    )


def test_a_pool_of_one_core_or_none_of_its_own_has_no_use_for_it() -> None:
    assert choose([0]).keeper is None
    assert choose([]).keeper is None


@SPINS
def test_a_quota_is_not_spun_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakefulness, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(latency_request, "_DEVICE", Path("/nonexistent"))
    monkeypatch.delenv(VARIABLE, raising=False)
    choice = choose([0, 1])
    assert choice.keeper is None
    assert choice.reason == (
        "spinning would take from a quota of 1.5 cores (LOWC_WAIT_POLICY=active does it)"
    )
    for policy in ("active", "spin"):
        monkeypatch.setenv(VARIABLE, policy)
        assert isinstance(choose([0, 1]).keeper, spinners.Spinners)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(wakefulness, "cpu_quota", lambda: None)
    assert isinstance(choose([0, 1]).keeper, spinners.Spinners)


def test_a_request_is_for_a_whole_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "device").touch()
    (tmp_path / "online").write_text("0-2,5\n")
    monkeypatch.setattr(latency_request, "_DEVICE", tmp_path / "device")
    monkeypatch.setattr(latency_request, "_ONLINE", tmp_path / "online")
    assert latency_request.problem([0, 1, 2, 5], on_a_part=False) == ""
    assert "the pool has a part of them" in latency_request.problem([0, 1, 2], on_a_part=False)
    assert latency_request.problem([0, 1, 2], on_a_part=True) == ""
    (tmp_path / "device").unlink()
    assert "cannot be opened" in latency_request.problem([0, 1, 2, 5], on_a_part=True)


# -- when ------------------------------------------------------------------------------------------


class Recorder:
    """A keeper that knows whether it keeps cores awake, and how often it began to."""

    def __init__(self) -> None:
        self.begun = 0
        self.is_on = False

    def begin(self) -> None:
        self.begun += 1
        self.is_on = True

    def end(self) -> None:
        self.is_on = False


def test_short_calls_that_follow_each_other_begin_it_and_silence_ends_it() -> None:
    keeper = Recorder()
    awake = Wakefulness(keeper)
    for time_round in (1, 2):
        now = time.perf_counter()
        awake.after_call(now, now)
        awake.after_call(now, now)
        assert until(lambda expected=time_round: keeper.begun == expected)
        assert until(lambda: not keeper.is_on and not awake._wanted.is_set())
    awake.stop()
    assert not any(thread.is_alive() for thread in awake._threads)
    now = time.perf_counter()
    awake.after_call(now, now)
    awake.after_call(now, now)
    assert (keeper.begun, keeper.is_on) == (2, False)


def test_calls_that_are_long_or_apart_begin_nothing() -> None:
    awake = Wakefulness(Recorder())
    for number in range(4):
        awake.after_call(10 + number * (SHORT + 2e-3), 10 + number * (SHORT + 2e-3) + SHORT + 1e-3)
    for number in range(4):
        awake.after_call(20 + number * 2 * WINDOW, 20 + number * 2 * WINDOW)
    assert awake._threads == []


def test_it_ends_while_calls_go_on() -> None:
    keeper = Recorder()
    awake = Wakefulness(keeper)
    far = time.perf_counter() + 1e6  # as if calls did not end
    awake.after_call(far, far)
    awake.after_call(far, far)
    assert until(lambda: keeper.is_on)
    awake.stop()
    assert not keeper.is_on


def test_a_caller_keeps_the_policy_until_calls_cease(ordinary_policy: None) -> None:
    awake = Wakefulness(Recorder())

    def call() -> bool:
        now = time.perf_counter()
        awake.after_call(now, now)
        return os.sched_getscheduler(0) == os.SCHED_BATCH

    def work() -> tuple[int, bool]:
        assert until(call)
        assert awake.keeping.has()
        assert until(lambda: os.sched_getscheduler(0) == os.SCHED_OTHER)
        assert not awake.keeping.has()
        assert until(call)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        awake.stop()
        return os.sched_getscheduler(0), call()

    with ThreadPoolExecutor(1) as pool:  # who is idle may need a right to be anything else again
        policy, is_kept = pool.submit(work).result()
    assert policy == os.SCHED_IDLE  # somebody else's
    assert not is_kept


def test_a_thread_is_not_taken_for_one_that_ended(ordinary_policy: None) -> None:
    keeping, found, numbers = Keeping(), [], set()

    def work() -> None:
        numbers.add(threading.get_ident())
        before = keeping.has(), os.sched_getscheduler(0), len(keeping)
        keeping.keep(lambda: True)
        found.append((*before, keeping.has(), os.sched_getscheduler(0), len(keeping)))

    for _ in range(200):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(numbers) < 200  # given again, so that the test means something
    assert set(found) == {(False, os.SCHED_OTHER, 0, True, os.SCHED_BATCH, 1)}
    assert len(keeping) == 0


def test_all_that_are_kept_are_let_go(ordinary_policy: None) -> None:
    keeping, all_kept, go = Keeping(), threading.Barrier(4), threading.Event()

    def work() -> tuple[int, bool, int]:
        keeping.keep(lambda: True)
        first = os.sched_getscheduler(0)
        all_kept.wait()
        go.wait()
        return first, keeping.has(), os.sched_getscheduler(0)

    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(work) for _ in range(3)]
        all_kept.wait()
        assert len(keeping) == 3
        keeping.let_go()
        go.set()
        assert {one.result() for one in made} == {(os.SCHED_BATCH, False, os.SCHED_OTHER)}


def test_a_thread_that_is_let_go_as_it_is_kept_does_not_stay(ordinary_policy: None) -> None:
    keeping = Keeping()

    def is_wanted() -> bool:
        keeping.let_go()  # by another thread, which makes it false before
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # as if that were before this
        return False

    keeping.keep(is_wanted)
    assert (keeping.has(), os.sched_getscheduler(0)) == (False, os.SCHED_OTHER)


def test_a_caller_is_not_kept_where_nobody_lets_it_go() -> None:
    awake = Wakefulness(Recorder())
    awake._wanted.set()  # as an interrupt leaves it that ends the thread as it starts
    for _ in range(3):
        now = time.perf_counter()
        awake.after_call(now, now)
    assert not awake.keeping.has()


# -- how -------------------------------------------------------------------------------------------


def spinning() -> list[int]:
    """Return the cores that threads of the lowest policy are bound to."""
    found = []
    for task in map(int, (path.name for path in Path("/proc/self/task").iterdir())):
        try:
            if os.sched_getscheduler(task) == os.SCHED_IDLE:
                found += os.sched_getaffinity(task)
        except ProcessLookupError:  # it has ended meanwhile
            continue
    return sorted(found)


@SPINS
def test_a_thread_spins_on_each_core_until_the_end() -> None:
    keeper = spinners.Spinners(CORES)
    for _ in range(3):
        keeper.begin()
        assert until(lambda: spinning() == CORES)
        keeper.begin()  # those that are there stay
        assert spinning() == CORES
        keeper.end()
        assert until(lambda: spinning() == [])
    keeper.end()


@SPINS
def test_a_core_that_there_is_not_is_left_out() -> None:
    keeper = spinners.Spinners([CORES[0], 1000])
    keeper.begin()
    assert until(lambda: spinning() == CORES[:1])
    keeper.end()
    assert until(lambda: spinning() == [])


HELD = """
import os
from pathlib import Path
from lowc.runtime.latency_request import LatencyRequest

def held():
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return found.count("/dev/cpu_dma_latency")

def asked():
    with open("/dev/cpu_dma_latency", "rb") as device:
        return int.from_bytes(device.read(4), "little", signed=True)
"""


@pytest.mark.skipif(not MAY_ASK, reason="/dev/cpu_dma_latency cannot be opened")
def test_a_request_is_held_until_the_end_and_not_by_a_fork() -> None:
    script = """
keeper = LatencyRequest()
keeper.end()
for _ in range(2):
    before = asked()
    keeper.begin()
    print(held(), flush=True)
    assert asked() == 0, asked()
    child = os.fork()
    if not child:
        print(held(), flush=True)
        keeper.end()
        keeper.begin()
        keeper.end()
        os._exit(held())
    print(os.waitpid(child, 0)[1])
    keeper.end()
    print(held())
    assert asked() == before
"""
    done = python(HELD + script, "")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1", "0", "0", "0"] * 2


# -- processes -------------------------------------------------------------------------------------


def python(script: str, policy: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {VARIABLE: policy},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_process_ends_cleanly_in_the_midst_of_calls(add: Path, policy: str) -> None:
    """IREE's bindings print what they find alive when Python ends."""
    script = """
import sys, threading, numpy as np
from lowc.runtime.module import load
module, other, x = load(sys.argv[1], "cpu"), load(sys.argv[1], "cpu"), np.ones((2, 3), np.float32)
def calls(module):
    for _ in range(300):
        assert (module(x, x) == 2).all()
threads = [threading.Thread(target=calls, args=(each,)) for each in (module, other, other)]
for thread in threads: thread.start()
for thread in threads: thread.join()
calls(module)
awake = [thread.name for thread in threading.enumerate() if thread.name == "lowc-awake"]
print(len(awake), module._pool.choice.keeper is not None)
"""
    done = python(script, policy, add)
    assert (done.returncode, done.stderr) == (0, "")
    threads, is_kept = done.stdout.split()
    # All modules share one.
    assert threads == ("1" if is_kept == "True" else "0")
    if policy == "passive":
        assert is_kept == "False"


@pytest.mark.parametrize("policy", ["", "spin"])
def test_a_fork_in_the_midst_of_calls(add: Path, policy: str) -> None:
    script = """
import os, sys, warnings, numpy as np
from lowc.runtime.module import load
warnings.simplefilter("ignore")
module, x = load(sys.argv[1], "cpu"), np.ones((2, 3), np.float32)
for _ in range(100): module(x, x)
child = os.fork()
if child == 0:
    module = load(sys.argv[1], "cpu")
total = sum(float(module(x, x).sum()) for _ in range(100))
if child: os.waitpid(child, 0)
print(total, flush=True)
if not child: os._exit(0)  # a fork cannot end the pool of its parent
"""
    done = python(script, policy, add)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1200.0", "1200.0"]


@pytest.mark.parametrize("policy", ["", "spin"])
def test_an_interrupt_ends_a_process_as_ever(add: Path, policy: str) -> None:
    script = """
import signal, sys, numpy as np
from lowc.runtime.module import load
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests' processes do with it
module, x = load(sys.argv[1], "cpu"), np.ones((2, 3), np.float32)
for _ in range(100): module(x, x)
print("calls", flush=True)
while True: module(x, x)
"""
    started = subprocess.Popen(
        [sys.executable, "-c", script, add],
        env=os.environ | {VARIABLE: policy},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "calls\n"
    for _ in range(20):  # what is raised in a destructor is lost
        started.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(5)
            break
    _, errors = started.communicate(timeout=5)
    assert started.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "leaked" not in errors
