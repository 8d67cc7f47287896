"""Rounds: some tiles of one product, compiled together and timed in turns, whatever they do.

A round is prepared anywhere (:func:`prepare`) and measured on its device (:func:`measure`); between
the two it is a folder with ``round.json`` and modules.  The first tile is what others must agree
with.  A tile that cannot be compiled, crashes, hangs, or gives another result ends only itself.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InternalError, LowcError
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import Outcome
from ...passes.tiling.tilings import Tiling
from .. import backend, subprocesses
from ..target import Target, load_target
from .compiled import Cache, key_of
from .modules import module_text
from .worker import Effort

FILE = "round.json"
COMPILE_SECONDS, COMPILE_EACH = 300.0, 60.0
START_SECONDS, EACH_SECONDS = 120.0, 20.0
COMPILE_MEMORY = 8 << 30
_NOTE_LENGTH = 200


@dataclass(frozen=True)
class Finding:
    """What became of a tile: its outcome, and its times or the reason why there are none."""

    tiling: str
    outcome: Outcome
    times: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A module, and the tiles that it has functions for."""

    module: Path
    tilings: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A compiled round: its modules, and the tiles that cannot be compiled."""

    name: str
    problem: Problem
    parts: tuple[Part, ...]
    failed: tuple[Finding, ...]

    def write(self, folder: Path) -> None:
        """Write ``round.json`` beside the modules."""
        content = {
            "name": self.name,
            "problem": self.problem.to_dict(),
            "parts": [[part.module.name, part.tilings] for part in self.parts],
            "failed": [[one.tiling, one.outcome, one.note] for one in self.failed],
        }
        temporary = folder / f".{FILE}"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """Undo :meth:`write`.

        Raises
        ------
        ValueError
            When ``round.json`` is not what :meth:`write` writes.
        """
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        try:
            problem = Problem.from_json(json.dumps(content["problem"]))
            parts = tuple(Part(folder / Path(name).name, tuple(t)) for name, t in content["parts"])
            failed = tuple(Finding(t, outcome, {}, note) for t, outcome, note in content["failed"])
            return cls(str(content["name"]), problem, parts, failed)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / FILE} is no round: {error}") from error


def prepare(
    name: str, problem: Problem, chosen: Sequence[Tiling], target: str | Target, folder: Path,
    cache: Cache | None = None,
) -> Prepared:  # fmt: skip
    """Compile a function for each of the `chosen` tiles into modules in `folder`.

    All modules have the first one, to compare with.  Tiles that bring ``iree-compile`` down are
    found by halving.  What is in the `cache` is not compiled again.
    """
    kept = cache or Cache(None)
    folder.mkdir(parents=True, exist_ok=True)
    goal = load_target(target)
    # Without fallbacks: another set of flags is another kernel.
    goal = goal.with_flags(goal.flags)
    parts: list[Part] = []
    failed: list[Finding] = []
    first, pending = list(chosen[:1]), [list(chosen[1:])]
    whole = True
    while pending:
        some = [*first, *pending.pop()]
        module = folder / f"part{len(parts)}.vmfb"
        why = _compile(problem, some, goal, module, kept)
        if not why:
            parts.append(Part(module, tuple(tiling.text for tiling in some)))
            continue
        rest = some[len(first) :]
        if whole:  # is it the first one, which all modules share?
            whole = False
            cause = _compile(problem, first, goal, module, kept) if rest else why
            if cause:
                failed.append(_uncompiled(first[0], cause))
                first = []
                pending = [rest] if rest else []
                continue
        if len(rest) == 1:
            failed.append(_uncompiled(rest[0], why))
        else:
            middle = len(rest) // 2
            pending += [rest[middle:], rest[:middle]]
    prepared = Prepared(name, problem, tuple(parts), tuple(failed))
    prepared.write(folder)
    return prepared


def _uncompiled(tiling: Tiling, why: str) -> Finding:
    return Finding(tiling.text, "crash", {}, f"cannot be compiled: {why}")


def _compile(
    problem: Problem, chosen: Sequence[Tiling], target: Target, output: Path, cache: Cache
) -> str:
    """Compile one module; say why that fails, or nothing."""
    limits = subprocesses.Limits(COMPILE_SECONDS + COMPILE_EACH * len(chosen), COMPILE_MEMORY)
    text = module_text(problem, chosen)
    key = key_of(text, target)
    if cache.fetch(key, output):
        return ""
    with tempfile.TemporaryDirectory(prefix="lowc-tiles-") as folder:
        source = Path(folder) / "kernels.mlir"
        source.write_text(text, encoding="utf-8")
        try:
            backend.compile_module(source, output, target, limits)
        except LowcError as error:
            return " ".join(f"{error.what}: {error.detail}".split())[:_NOTE_LENGTH]
    cache.keep(key, output)
    return ""


def measure(
    prepared: Prepared, effort: Effort | None = None, device: str = "cpu",
    seconds: tuple[float, float] = (START_SECONDS, EACH_SECONDS),
) -> Iterator[Finding]:  # fmt: skip
    """Time the tiles of a round, in fresh processes; yield what becomes of each, once.

    Parameters
    ----------
    seconds : pair of float
        How long a process may take to begin, and for each tile.

    Raises
    ------
    InternalError
        When the process fails before it begins with a tile.
    """
    yield from prepared.failed
    said = {one.tiling for one in prepared.failed}
    for part in prepared.parts:
        numbers = list(range(len(part.tilings)))
        while any(part.tilings[number] not in said for number in numbers):
            run = _run(prepared.problem, part, numbers, effort or Effort(), device, seconds)
            found = list(run)
            yield from (one for one in found if one.tiling not in said)
            said |= {one.tiling for one in found}
            # What is known stays away, but for the one that others are compared with.
            bad = {one.tiling for one in found if one.outcome != "ok"}
            numbers = [
                number
                for number in numbers
                if part.tilings[number] not in (bad if number == numbers[0] else said)
            ]


def _run(
    problem: Problem, part: Part, numbers: Sequence[int], effort: Effort, device: str,
    seconds: tuple[float, float],
) -> Iterator[Finding]:  # fmt: skip
    """Run one process; yield at least one finding."""
    with tempfile.TemporaryDirectory(prefix="lowc-measure-") as name:
        spec, out = Path(name) / "spec.json", Path(name) / "out.jsonl"
        content = {
            "problem": problem.to_dict(),
            "tilings": part.tilings,
            "numbers": list(numbers),
            "module": str(part.module.absolute()),
            "device": device,
            "effort": dataclasses.asdict(effort),
        }
        spec.write_text(json.dumps(content), encoding="utf-8")
        out.touch()
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "lowc.compiler.measuring.worker",
            spec,
            out,
        ]
        limits = subprocesses.Limits(seconds[0] + seconds[1] * len(numbers))
        # Modules in the current folder are not lowc's.
        child = subprocesses.run(command, limits, environment={"PYTHONSAFEPATH": "1"})
        lines = _lines(out)
    begun = numbers[0] if child.timed_out else None
    known = set()
    for line in lines:
        if "begin" in line:
            begun = line["begin"]
        elif "wrong" in line:
            known.add(line["wrong"])
            yield Finding(part.tilings[line["wrong"]], "wrong", {}, line["note"])
        elif "time" in line:
            known.add(line["time"])
            yield Finding(part.tilings[line["time"]], "ok", line)
    if any("done" in line for line in lines):
        return
    if begun is None:
        raise InternalError(
            "the process that times tiles failed before it began",
            where=str(problem),
            detail=child.stderr.strip()[-_NOTE_LENGTH:],
        )
    if begun not in known:
        why = f"ended by {child.signal}" if child.signal else _last_line(child.stderr)
        if child.timed_out:
            yield Finding(part.tilings[begun], "timeout", {}, f"not done in {limits.seconds:.0f} s")
        else:
            yield Finding(part.tilings[begun], "crash", {}, why)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return what the process wrote; a last line that it could not finish is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            break
    return found


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:_NOTE_LENGTH] if lines else "it ended without a word"
