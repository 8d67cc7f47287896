"""Do rounds on this machine: prepare, measure alone, keep every record at once."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...compiler.measuring import fingerprint
from ...compiler.measuring.compiled import Cache
from ...compiler.measuring.device import device_lock
from ...compiler.measuring.rounds import FILE, Finding, Prepared, measure, prepare
from ...compiler.measuring.worker import Effort
from ...passes.tiling import revisions
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Machine, Record
from .. import output
from .plan import Round
from .store import Store

MEASURED = "measured-"  # and a number: a file for each time
# Called with how many rounds are done, and what was done last.
Progress = Callable[[int, str], object]


@dataclass(frozen=True)
class Job:
    """What stays the same from round to round.

    Attributes
    ----------
    work : Path
        The folder for prepared rounds.
    deadline : float
        ``time.monotonic()`` after which no round is begun.
    passes : int
        Processes that measure a round: in one of ten all tiles took up to twice as long.
    device : str
        What it is measured on, as :mod:`...runtime.devices` names it.
    cache : Cache
        Modules that were compiled before.
    """

    store: Store
    machine: Machine
    target: str
    work: Path
    effort: Effort
    deadline: float
    passes: int = 1
    device: str = "cpu"
    cache: Cache = field(default_factory=lambda: Cache(None))

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self.deadline


def prepare_all(job: Job, rounds: Sequence[Round], progress: Progress) -> int:
    """Compile rounds that are not compiled yet; return how many are ready."""
    ready = 0
    for done, one in enumerate(rounds):
        if job.is_over:
            break
        folder = job.work / one.name
        if not (folder / FILE).exists():
            prepare(one.name, one.problem, one.tilings, job.target, folder, job.cache)
        ready += 1
        progress(done + 1, str(one.problem))
    return ready


def measure_all(job: Job, rounds: Sequence[Round], progress: Progress) -> int:
    """Prepare what is not prepared, measure, and keep the records; return how many there are."""
    kept = 0
    with device_lock(tell=output.remark):
        for done, one in enumerate(rounds):
            if job.is_over:
                break
            folder = job.work / one.name
            if not (folder / FILE).exists():
                prepare(one.name, one.problem, one.tilings, job.target, folder, job.cache)
            while folder.exists():
                kept += _measure(job, folder)
            progress(done + 1, str(one.problem))
    return kept


def measure_ready(job: Job, progress: Progress) -> int:
    """Measure the rounds that are prepared in the folder; return how many records there are.

    All of them once before any a second time: what disturbs a pass has gone by the next one.
    """
    kept = done = 0
    with device_lock(tell=output.remark):
        while ready := sorted(path.parent for path in job.work.glob(f"*/{FILE}")):
            least = min(_passes(folder) for folder in ready)
            for folder in (one for one in ready if _passes(one) == least):
                if job.is_over:
                    return kept
                name = str(Prepared.read(folder).problem)
                kept += _measure(job, folder)
                done += 1
                progress(done, name)
    return kept


def _passes(folder: Path) -> int:
    """Return how often a prepared round was measured."""
    return len(list(folder.glob(f"{MEASURED}*")))


def _measure(job: Job, folder: Path) -> int:
    """Measure a prepared round once more, and remove it after the last time."""
    prepared = Prepared.read(folder)
    mark = f"{prepared.name}-{time.time_ns():x}"
    kept = 0
    for finding in measure(prepared, job.effort, job.device):
        kept += job.store.add([record_of(finding, prepared.problem, job.machine, mark)])
    count = _passes(folder) + 1
    (folder / f"{MEASURED}{count}").touch()
    if count >= job.passes:
        shutil.rmtree(folder)
    return kept


def record_of(finding: Finding, problem: Problem, machine: Machine, mark: str) -> Record:
    """Return the record of a finding; `mark` names its round."""
    times = {
        name: finding.times[name]
        for name in ("seconds", "p10", "p90", "spread", "blocks", "calls")
        if name in finding.times
    }
    return Record(
        problem=problem,
        tiling=finding.tiling,
        machine=machine,
        outcome=finding.outcome,
        round=mark,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        versions={**fingerprint.versions(), **revisions.said(problem)},
        note=finding.note,
        **times,
    )
