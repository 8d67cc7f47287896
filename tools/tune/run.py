"""Do rounds on this machine: prepare, measure alone, keep every record at once."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.measuring import fingerprint
from ...compiler.measuring.device import device_lock
from ...compiler.measuring.rounds import FILE, Finding, Prepared, measure, prepare
from ...compiler.measuring.worker import Effort
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Machine, Record
from .. import output
from .plan import Round
from .store import Store

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
    """

    store: Store
    machine: Machine
    target: str
    work: Path
    effort: Effort
    deadline: float

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
            prepare(one.name, one.problem, one.tilings, job.target, folder)
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
                prepare(one.name, one.problem, one.tilings, job.target, folder)
            kept += _measure(job, Prepared.read(folder))
            shutil.rmtree(folder)
            progress(done + 1, str(one.problem))
    return kept


def measure_ready(job: Job, progress: Progress) -> int:
    """Measure the rounds that are prepared in the folder; return how many records there are."""
    ready = sorted(path.parent for path in job.work.glob(f"*/{FILE}"))
    kept = 0
    with device_lock(tell=output.remark):
        for done, folder in enumerate(ready):
            if job.is_over:
                break
            prepared = Prepared.read(folder)
            kept += _measure(job, prepared)
            shutil.rmtree(folder)
            progress(done + 1, str(prepared.problem))
    return kept


def _measure(job: Job, prepared: Prepared) -> int:
    mark = f"{prepared.name}-{time.time_ns():x}"
    kept = 0
    for finding in measure(prepared, job.effort):
        kept += job.store.add([record_of(finding, prepared.problem, job.machine, mark)])
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
        versions=fingerprint.versions(),
        note=finding.note,
        **times,
    )
