"""Memory, threads, processes, and what a call leaves of the caller's policy and cores."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.manifest import Leaf
from lowc.runtime.module import load
from lowc.runtime.scheduling import without_preemption
from tiny.artifacts import build, manifest

DOUBLE = """
func.func @main(%x: tensor<?xf32>) -> (tensor<?xf32>, tensor<?xf32>) @MANIFEST {
  %0 = arith.addf %x, %x : tensor<?xf32>
  return %0, %x : tensor<?xf32>, tensor<?xf32>
}
"""
LARGE = 1 << 20  # elements; results of this size are not copied


@pytest.fixture(scope="module")
def double(folder: Path) -> Path:
    leaf = Leaf("x", ("n",), "float32")
    return build(folder / "double.vmfb", DOUBLE, manifest([leaf], [leaf, leaf]))


@pytest.mark.parametrize("size", [3, LARGE])
def test_results_outlive_module_and_input(double: Path, size: int) -> None:
    module = load(double)
    kept = []
    for value in range(4):
        x = np.full(size, value, np.float32)
        kept.append(module(x))
        x[:] = -1  # neither result is the caller's memory
    del module, x
    gc.collect()
    others = [load(double)(np.full(size, 77, np.float32)) for _ in range(4)]
    for value, (twice, same) in enumerate(kept):
        assert (twice == 2 * value).all()
        assert (same == value).all()
    kept[0][0][:] = 5  # results are writable, and nobody else's
    assert (kept[1][0] == 2).all()
    assert (others[0][1] == 77).all()


def test_results_do_not_pile_up(double: Path) -> None:
    script = (
        "import resource, sys, numpy as np\n"
        "from lowc.runtime.module import load\n"
        "module, x = load(sys.argv[1]), np.ones(1 << 20, np.float32)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "for _ in range(5): out = module(x)\n"
        "before = peak()\n"
        "for _ in range(100): out = module(x)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, double], capture_output=True, text=True, check=True
    )
    # 100 calls make 800 MB of results.
    assert int(done.stdout) < 100


def test_ends_cleanly_with_results_in_globals(double: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from lowc.runtime.module import load\n"
        "out = load(sys.argv[1])(np.ones(1 << 20, np.float32))\n"
        "module = load(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, double], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("device", ["cpu", "cpu-sync"])
def test_concurrent_calls_are_right(double: Path, counter: Path, device: str) -> None:
    module, counting = load(double, device), load(counter, device)
    one = np.ones(4, np.float32)
    problems: list[str] = []

    def work(number: int) -> None:
        for call in range(25):
            value = number * 100 + call
            size = 1 + (value * 37) % 5000
            twice, same = module(np.full(size, value, np.float32))
            old, new = counting(one)
            if twice.shape != (size,) or not (twice == 2 * value).all() or same[0] != value:
                problems.append(f"thread {number}, call {call}")
            if not (new - old == 1).all():
                problems.append(f"thread {number} saw a torn state")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert (counting(one)[0] == 5 + 150).all()


def test_a_fork_is_told_to_load_again(add: Path) -> None:
    script = """
import os, sys, warnings, numpy as np
from lowc.errors import UserError
from lowc.runtime.module import load
warnings.simplefilter("ignore")
module, x = load(sys.argv[1]), np.ones((2, 3), np.float32)
module(x, x)
child = os.fork()
if child == 0:
    try:
        module(x, x)
    except UserError as error:
        print(error.what, flush=True)
    print(load(sys.argv[1])(x, x).sum(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, add], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "the module was loaded before this process was forked, and its threads are gone",
        "12.0",
    ]


def test_a_fork_that_generates_is_told_to_load_again(folder: Path) -> None:
    pytest.importorskip("torch")
    from tiny.chains import chain

    made = chain(folder / "steps.vmfb", 4, {1: 2, 2: 3})
    script = """
import os, sys, warnings, lowc
from lowc.errors import UserError
warnings.simplefilter("ignore")
module = lowc.load(sys.argv[1], "cpu")
print(list(lowc.generate(module, [1], limit=2)), flush=True)
child = os.fork()
if child == 0:
    try:
        print(list(lowc.generate(module, [1], limit=2)), flush=True)
    except UserError as error:
        print(error.what, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, made.path], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the child, which holds the output open
            raise
    assert output.splitlines() == [
        "[2, 3]",
        "the module was loaded before this process was forked, and its threads are gone",
    ]


@pytest.mark.parametrize("policy", ["", "active", "spin", "passive"])
def test_a_fork_of_a_process_with_a_module_ends(add: Path, policy: str) -> None:
    script = """
import os, sys, time, warnings, numpy as np
from lowc.runtime.module import load
warnings.simplefilter("ignore")
module, x = load(sys.argv[1], "cpu"), np.ones((2, 3), np.float32)
result = module(x, x)
child = os.fork()
if child == 0:
    sys.exit(7)
end = time.monotonic() + 20
while not (status := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
    time.sleep(0.01)
if not status[0]:
    os.kill(child, 9)
    os.waitpid(child, 0)
print("ends" if status[0] else "hangs", os.waitstatus_to_exitcode(status[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, add],
        env=os.environ | {"LOWC_WAIT_POLICY": policy},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("ends 7\n", "")


@pytest.mark.parametrize("policy", ["", "spin"])
def test_interrupts_leave_neither_lock_nor_policy(add: Path, policy: str) -> None:
    """Ctrl-C at any moment of a call: the next one runs, under the policy that there was."""
    script = """
import os, random, signal, sys, threading, time, numpy as np
from lowc.runtime.module import load

class Interrupt(Exception):
    pass

def interrupt(*_):
    raise Interrupt

def calls():
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-4))
        for _ in range(1000):  # an interrupt in a destructor is lost
            module(x, x)
    except Interrupt:
        pass

module, x = load(sys.argv[1]), np.ones((2, 3), np.float32)
module(x, x)
before = os.sched_getscheduler(0), os.sched_getaffinity(0)
signal.signal(signal.SIGALRM, interrupt)
for _ in range(3000):
    calls()
done = threading.Thread(target=module, args=(x, x), daemon=True)
done.start()
done.join(30)
print("stuck" if done.is_alive() else "runs")
if not done.is_alive():
    module(x, x)
    end = time.monotonic() + 20  # a thread gives the policy back when calls have ceased
    while (after := (os.sched_getscheduler(0), os.sched_getaffinity(0))) != before:
        if time.monotonic() > end: break
        time.sleep(1e-3)
    print("same" if after == before else "another policy", flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, add],
        env=os.environ | {"LOWC_WAIT_POLICY": policy},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["runs", "same"], done.stderr


def test_a_policy_that_an_interrupt_left_is_put_back(ordinary_policy: None) -> None:
    before = os.sched_getscheduler(0)
    without_preemption().__enter__()
    assert os.sched_getscheduler(0) == os.SCHED_BATCH
    with without_preemption():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before


def test_scheduling_policy_is_put_back(add: Path) -> None:
    before = os.sched_getscheduler(0)
    with without_preemption():
        inside = os.sched_getscheduler(0)
    assert inside == (os.SCHED_BATCH if before == os.SCHED_OTHER else before)
    with pytest.raises(UserError):
        load(add)(1)
    with pytest.raises(ZeroDivisionError), without_preemption():
        raise ZeroDivisionError
    x = np.ones((2, 3), np.float32)
    load(add)(x, x)
    assert os.sched_getscheduler(0) == before


def test_another_policy_is_left_alone() -> None:
    seen = []

    def work(policy: int) -> None:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        with without_preemption():
            seen.append(os.sched_getscheduler(0))
        seen.append(os.sched_getscheduler(0))

    for policy in (os.SCHED_IDLE, os.SCHED_BATCH):
        thread = threading.Thread(target=work, args=(policy,))
        thread.start()
        thread.join()
    assert seen == [os.SCHED_IDLE, os.SCHED_IDLE, os.SCHED_BATCH, os.SCHED_BATCH]
