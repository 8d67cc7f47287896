"""Tune on a Ray cluster: compile anywhere, measure on each device with exactly one actor.

What travels is text and bytes: JSON of rounds and findings, and compiled modules.  Ray starts a
compile task again when its worker dies, and the measuring actor when that dies, with the round that
it had.  Runs on one cluster share the actor, which ends with the run that made it; the others then
make one, for the rounds that it had of theirs.  Records are made of what comes back, by this
process alone, so that nothing is lost and nothing is there twice.  The actor takes all processors
of its node: nothing is compiled there while it is measuring.  On a single node compiling and
measuring take turns.

A device is a node with the resource ``lowc_device``; without such nodes, the one that this runs on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compiler import backend
from ...compiler.measuring import fingerprint
from ...compiler.measuring.compiled import Cache, default_folder
from ...compiler.measuring.device import device_lock
from ...compiler.measuring.rounds import FILE, Finding, Prepared, measure, prepare
from ...compiler.measuring.worker import Effort
from ...compiler.target import Target, load_target
from ...errors import UserError
from ...passes.tiling import tilings
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Machine
from .. import output
from .plan import Round
from .run import Job, Progress, record_of

RESOURCE = "lowc_device"
NAMESPACE = "lowc"
RETRIES = 5  # of a compile task whose worker died, and of a round whose actor did
PAUSE_SECONDS = 1.0
REACH_SECONDS = 10.0
AHEAD = 4  # rounds that are compiled, or being compiled, for each one that is measured


def compile_round(text: str) -> list[bytes]:
    """Compile the round that `text` describes; return its ``round.json`` and its modules."""
    asked = json.loads(text)
    target = Target("cpu", "cpu", "cpu", tuple(asked["flags"]))
    chosen = [tilings.parse(one) for one in asked["tilings"]]
    problem = Problem.from_json(json.dumps(asked["problem"]))
    with tempfile.TemporaryDirectory(prefix="lowc-tune-") as name:
        folder = Path(name)
        cache = Cache(default_folder())
        prepared = prepare(asked["name"], problem, chosen, target, folder, cache)
        modules = [part.module.read_bytes() for part in prepared.parts]
        return [(folder / FILE).read_bytes(), *modules]


class Device:
    """The one actor that measures on a device."""

    def describe(self) -> str:
        """Return what the device is, and the flags of code for it, as JSON."""
        target = load_target("cpu")
        machine = fingerprint.fingerprint(target)
        return json.dumps({"machine": machine.to_json(), "flags": explicit_flags(target)})

    def measure(self, compiled: list[bytes], effort: str) -> str:
        """Measure what :func:`compile_round` returned; return the findings as JSON."""
        with (
            tempfile.TemporaryDirectory(prefix="lowc-tune-") as name,
            device_lock(tell=output.remark),
        ):
            folder = Path(name)
            (folder / FILE).write_bytes(compiled[0])
            prepared = Prepared.read(folder)
            for part, module in zip(prepared.parts, compiled[1:], strict=True):
                part.module.write_bytes(module)
            found = measure(prepared, Effort(**json.loads(effort)))
            return json.dumps([[one.tiling, one.outcome, one.times, one.note] for one in found])


def explicit_flags(target: Target) -> list[str]:
    """Return the flags of `target` with the processor's name and features in the place of ``host``.

    Another machine that is told ``host`` would generate code for itself.
    """
    cpu, features = backend.processor(target)
    names = ("--iree-llvmcpu-target-cpu=", "--iree-llvmcpu-target-cpu-features=")
    kept = [flag for flag in target.flags if not flag.startswith(names)]
    return [*kept, f"{names[0]}{cpu}", f"{names[1]}{features}"]


@dataclass
class _Site:
    """A device of the cluster: its actor, and what it says of itself."""

    start: Callable[[], Any]
    actor: Any
    machine: Machine
    flags: list[str]

    def replace(self, lost: Any) -> None:
        """Make the actor again, unless that was done since `lost` died."""
        if self.actor is lost:
            time.sleep(PAUSE_SECONDS)  # its name may be taken for a moment yet
            self.actor = self.start()


def tune_on_ray(job: Job, rounds: Sequence[Round], address: str, progress: Progress) -> None:
    """Measure `rounds` on the cluster at `address` (empty: the one that runs here, or a new one).

    Raises
    ------
    UserError
        When Ray is not installed, or there is no cluster at `address`.
    """
    stop = signal.getsignal(signal.SIGTERM)
    ray = _connected(address)
    try:
        with terminated_as_interrupted(stop):
            _measure_all(ray, job, rounds, progress)
    finally:
        ray.shutdown()


def _measure_all(ray: Any, job: Job, rounds: Sequence[Round], progress: Progress) -> None:
    site, is_apart = _device(ray, job)
    waves = [rounds] if is_apart else _waves(rounds)
    done = 0
    for wave in waves:
        for number, findings in _results(ray, job, site, wave, is_apart):
            one = wave[number]
            mark = f"{one.name}-{os.urandom(4).hex()}"
            machine = job.machine if job.machine.key == site.machine.key else site.machine
            job.store.add(record_of(f, one.problem, machine, mark) for f in findings)
            done += 1
            progress(done // job.passes, str(one.problem))


@contextlib.contextmanager
def terminated_as_interrupted(stop: Any) -> Iterator[None]:
    """End at SIGTERM as Ray does at Ctrl-C, and then as this process does at SIGTERM, by `stop`.

    ``ray.init`` has put a handler of its own there, and one that prints stacks; of what others
    raise code of Ray that waits knows ``KeyboardInterrupt`` alone: after the rest it waits on.
    """
    asked: list[Any] = []

    def interrupt(*told: Any) -> None:
        asked.extend(told)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if asked and callable(stop):
            stop(*asked)
        raise
    finally:
        signal.signal(signal.SIGTERM, stop)


def _connected(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "Ray is not installed", where="--executor ray", hint="pip install 'lowc[tune,ray]'"
        ) from error
    quiet: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if address:
        try:
            _reach(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"there is no Ray cluster at '{address}'", where="--executor ray",
                hint="'ray start --head' prints its address; leave it out for one of its own",
            ) from error  # fmt: skip
        return ray
    with contextlib.suppress(ConnectionError):
        ray.init(address="auto", **quiet)
        return ray
    ray.init(include_dashboard=False, **quiet)
    return ray


def _reach(address: str) -> None:
    """Raise an OSError or ValueError unless something listens there; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=REACH_SECONDS):
        pass


def _device(ray: Any, job: Job) -> tuple[_Site, bool]:
    """Return the device, and whether there are other nodes that compile for it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    marked = [node for node in nodes if RESOURCE in node["Resources"]]
    here = ray.get_runtime_context().get_node_id()
    chosen = marked[0] if marked else next(node for node in nodes if node["NodeID"] == here)
    if len(marked) > 1:
        output.remark(f"{len(marked)} nodes are devices; this run measures on the first one")
    others = [node for node in nodes if node is not chosen and node["Resources"].get("CPU")]
    cores = chosen["Resources"].get("CPU", 0) if others else 0
    place = NodeAffinitySchedulingStrategy(node_id=chosen["NodeID"], soft=False)
    options = ray.remote(Device).options(
        name=f"device-{chosen['NodeID']}", get_if_exists=True, num_cpus=cores,
        max_restarts=-1, max_task_retries=-1, scheduling_strategy=place,
    )  # fmt: skip
    actor, said = _described(ray, options.remote)
    machine = Machine.from_json(said["machine"])
    if machine.unit != job.machine.unit:
        raise UserError(
            f"the device has {machine.unit}, this machine {job.machine.unit}",
            where="--executor ray",
            hint="start it on a machine like the device",
        )
    return _Site(options.remote, actor, machine, said["flags"]), bool(others)


def _described(ray: Any, start: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Return the actor and what it says of its device; it may end with another run meanwhile."""
    from ray.exceptions import ActorDiedError

    for _ in range(RETRIES):
        actor = start()
        with contextlib.suppress(ActorDiedError):
            return actor, json.loads(ray.get(actor.describe.remote()))
        time.sleep(PAUSE_SECONDS)
    raise UserError(
        f"the device's actor died {RETRIES} times", where="--executor ray", hint="ray status"
    )


def _waves(rounds: Sequence[Round]) -> Iterator[Sequence[Round]]:
    """Yield as many rounds as are compiled before they are measured, on a node that does both."""
    size = 4 * AHEAD
    for start in range(0, len(rounds), size):
        yield rounds[start : start + size]


def _results(
    ray: Any, job: Job, site: _Site, rounds: Sequence[Round], is_apart: bool
) -> Iterator[tuple[int, list[Finding]]]:
    """Yield the number of each round and its findings, as they come: once for each pass."""
    from ray.exceptions import ActorDiedError, RayError

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(compile_round)
    effort = json.dumps(vars(job.effort))
    waiting = list(enumerate(rounds))
    compiling: dict[Any, int] = {}
    measuring: dict[Any, tuple[int, Any, Any]] = {}  # the round, its modules, and who measures
    lost: Counter[int] = Counter()
    nodes = max(1, int(ray.cluster_resources().get("CPU", 1)))
    most = nodes * AHEAD if is_apart else len(rounds)
    ready: list[tuple[Any, int, int]] = []  # modules, the round, and how often to measure it
    while (waiting and not job.is_over) or compiling or measuring:
        while waiting and not job.is_over and len(compiling) + len(measuring) < most:
            number, one = waiting.pop(0)
            compiling[task.remote(_text(one, site.flags))] = number
        done, _ = ray.wait([*compiling, *measuring], num_returns=1)
        for ref in done:
            if ref in compiling:
                ready.append((ref, compiling.pop(ref), job.passes))
                continue
            number, modules, actor = measuring.pop(ref)
            try:
                found = json.loads(ray.get(ref))
            except ActorDiedError as error:
                # It was the actor of another run, which has ended: this run makes one.
                lost[number] += 1
                if lost[number] > RETRIES * job.passes:
                    output.remark(f"{rounds[number].problem} was not measured: {_line(error)}")
                    continue
                site.replace(actor)
                ready.append((modules, number, 1))
                continue
            except RayError as error:
                output.remark(f"{rounds[number].problem} was not measured: {_line(error)}")
                continue
            yield number, [Finding(*one) for one in found]
        if is_apart or not compiling:
            for ref, number, count in ready:
                for _ in range(count):
                    asked = site.actor.measure.remote(ref, effort)
                    measuring[asked] = number, ref, site.actor
            ready = []


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _text(one: Round, flags: list[str]) -> str:
    return json.dumps(
        {
            "name": one.name,
            "problem": one.problem.to_dict(),
            "tilings": [tiling.text for tiling in one.tilings],
            "flags": flags,
        }
    )
