"""`lowc tune --executor ray` on a cluster of two nodes, while workers are killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import psutil
import pytest
from lowc.compiler import backend
from lowc.compiler.target import load_target
from lowc.tools.cli import main
from lowc.tools.tune import plan
from lowc.tools.tune.distribute import explicit_flags, terminated_as_interrupted
from lowc.tools.tune.store import Store

ROUNDS, TILES = 5, 2
RUN = "import sys; from lowc.tools.cli import main; sys.exit(main())"


def processes(word):
    """Those that come of this test, cluster and command, and have `word` in their command."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if word in " ".join(one.cmdline()):
                found.append(one.pid)
    return found


def records(place):
    if not place.exists():
        return []
    with Store(place) as store:
        return list(store.records())


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's sockets lie there, and the path of one has at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        found.add_node(**small)
        yield found
    finally:
        found.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_two_nodes_and_killed_workers(cluster, tmp_path):
    place = tmp_path / "tiles.sqlite"
    with Store(place):
        pass
    shapes = [part for m in range(1, ROUNDS + 1) for part in ("--shape", f"1x{m}x40x33")]
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, "tune", "--store", str(place), "--form", "f32", "--tiles", str(TILES),
         "--executor", f"ray:{cluster.address}", *shapes],
        start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed, at_once = Counter(), 0
    try:
        while child.poll() is None:
            at_once = max(at_once, len(processes("lowc.compiler.measuring.worker")))
            if not killed["compiling"]:
                killed["compiling"] += kill(processes("ray::compile_round"))
            elif not killed["measuring"] and processes("lowc.compiler.measuring.worker"):
                killed["measuring"] += kill(processes("ray::Device"))
            time.sleep(0.02)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        said = child.communicate()[1]
    assert child.returncode == 0, said
    assert killed["compiling"] and killed["measuring"], killed
    found = records(place)
    tried = Counter((record.problem.shape, record.tiling) for record in found)
    chosen = [
        plan.problem_of("f32", found[0].problem.unit, (1, m, 40, 33)) for m in range(1, ROUNDS + 1)
    ]
    wanted = {(one.shape, tiling.text) for one in chosen for tiling in plan.sample(one, TILES)}
    assert set(tried) == wanted, said
    assert set(tried.values()) == {2}  # of as many processes, whoever was killed meanwhile
    assert len({record.round for record in found}) == 2 * ROUNDS
    assert {record.outcome for record in found} == {"ok"}
    assert at_once == 1


@pytest.mark.slow
def test_a_run_goes_on_where_the_one_ends_that_made_the_actor(cluster, tmp_path):
    def run(name, shapes):
        place = tmp_path / name
        with Store(place):
            pass
        arguments = [part for shape in shapes for part in ("--shape", shape)]
        return place, subprocess.Popen(
            [sys.executable, "-c", RUN, "tune", "--store", str(place), "--form", "f32",
             "--tiles", "2", "--passes", "1", "--executor", f"ray:{cluster.address}", *arguments],
            start_new_session=True, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    _, first = run("first.sqlite", [f"1x{m}x40x33" for m in range(1, 9)])
    place, second = first, first
    try:
        while first.poll() is None and not processes("ray::Device"):
            time.sleep(0.05)
        place, second = run("second.sqlite", [f"1x{m}x24x33" for m in range(1, 5)])
        while second.poll() is None and not records(place):
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)  # the actor is its own, and ends with it
        said = second.communicate(timeout=300)[1]
    finally:
        for one in (first, second):
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()
    assert second.returncode == 0, said
    assert "was not measured" not in said
    found = Counter((record.problem.shape, record.outcome) for record in records(place))
    assert found == {(f"1x{m}x24x33", "ok"): 2 for m in range(1, 5)}, said


def kill(pids):
    for pid in pids[:1]:
        os.kill(pid, signal.SIGKILL)
    return len(pids[:1])


def test_code_for_another_machine_names_the_processor():
    flags = explicit_flags(load_target("cpu"))
    name, features = backend.processor(load_target("cpu"))
    assert f"--iree-llvmcpu-target-cpu={name}" in flags
    assert f"--iree-llvmcpu-target-cpu-features={features}" in flags
    assert not [flag for flag in flags if flag.endswith("=host")]
    assert backend.processor(load_target("cpu:haswell"))[0] == "haswell"


def test_no_cluster(tmp_path, capsys):
    pytest.importorskip("ray")
    place = str(tmp_path / "tiles.sqlite")
    arguments = ["tune", "--store", place, "--shape", "1x1x1x1", "--executor", "ray:127.0.0.1:1"]
    assert main(arguments) == 2
    assert "there is no Ray cluster at '127.0.0.1:1'" in capsys.readouterr().err


def test_sigterm_is_what_ray_knows_and_then_what_it_was():
    """Who waits within sees Ctrl-C; who waits for all of it sees what SIGTERM raised before Ray."""

    class StoppedError(Exception):
        pass

    def stop(number, _frame):
        raise StoppedError(number)

    seen, before = [], signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(StoppedError), terminated_as_interrupted(stop):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException as error:
                seen.append(type(error))
                raise
        assert seen == [KeyboardInterrupt] and signal.getsignal(signal.SIGTERM) is stop
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted(stop):
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGTERM, before)
