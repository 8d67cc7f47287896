"""Time the tiles of one product: run as ``python -m lowc.compiler.measuring.worker SPEC OUT``.

A process of its own, so that code that crashes or hangs takes nothing else with it.  Every step
begins with a line in OUT, so that the one that waits knows which tile it was.  Tiles take turns in
blocks of calls: what the machine does meanwhile meets them all.

What two tiles differ by is less than what a call differs by from the next, unless threads are kept
in their places (:func:`_steady`): cores awake, the caller bound to one of them and never preempting
a worker.  A block's time is its 10th percentile, and a tile's the lower quartile of its blocks:
what comes between only ever makes a call longer.  Two measurements of 78 tiles of 7 products, 20 us
to 3 ms, on two virtual cores differed by 0.4 % so (standard deviation), and had a Kendall's tau of
0.90; with medians, the caller free and cores that sleep by 7 %, and a tau of 0.14.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import tilings
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import standard_error
from ...runtime import wakefulness
from ...runtime.buffers import download, upload
from ...runtime.devices import Device, open_device
from ...runtime.fences import Timeline, takes_fences
from ...runtime.scheduling import without_preemption
from .data import data_of, difference, useless
from .modules import function_name, operands
from .others import Others

DISTURBED = 0.15  # of the cores' time that others had: such turns do not count
_DTYPES = {"f32": "float32", "i32": "int32", "i16": "int16", "i8": "int8"}


@dataclass(frozen=True)
class Effort:
    """How long each tile is timed.

    Blocks are repeated until the standard error of their lower quartile is `error` of it, or
    `seconds` are spent.

    Attributes
    ----------
    block_seconds : float
        Calls of a block; at least two are made.
    least, most : int
        Blocks.
    error : float
        How well the lower quartile shall be known.
    seconds : float
        After so many no block of a tile is begun, once there are two.
    """

    block_seconds: float = 0.003
    least: int = 9
    most: int = 30
    error: float = 0.005
    seconds: float = 0.5


@dataclass
class _Tile:
    number: int
    call: Callable[[], Any]
    blocks: list[float] = field(default_factory=list)
    calls: list[list[float]] = field(default_factory=list)  # of each block
    lost: float = 0.0  # seconds of blocks that do not count

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles of the blocks, by their median."""
        low, high = np.percentile(self.blocks, [25, 75])
        return float((high - low) / 2 / statistics.median(self.blocks))

    def drop(self, blocks: int) -> None:
        """Forget the last blocks, and what their calls took."""
        self.lost += sum(map(sum, self.calls[-blocks:]))
        del self.blocks[-blocks:], self.calls[-blocks:]

    def is_known(self, effort: Effort) -> bool:
        blocks = len(self.blocks)
        if blocks >= 2 and self.lost + sum(map(sum, self.calls)) >= effort.seconds:
            return True
        return blocks >= effort.least and standard_error(self.spread, blocks) <= effort.error


class _Session:
    """A compiled module on the device, and what it is given."""

    def __init__(self, problem: Problem, texts: list[str], module: Path, device: str) -> None:
        self.problem, self.texts = problem, texts
        self.device = open_device(device)
        instance = rt.VmInstance()
        hal = rt.create_hal_module(instance, self.device.hal)
        self.module = rt.VmModule.mmap(instance, str(module))
        self.context = rt.VmContext(instance, [hal, self.module])
        self.timeline = Timeline(self.device.hal, str(module))
        self.data = data_of(problem)
        self.buffers: dict[tuple[Any, ...], Any] = {}

    def call(self, number: int) -> Callable[[], Any]:
        tiling = tilings.parse(self.texts[number])
        function = self.module.lookup_function(function_name(number))
        with_fences = takes_fences(function)
        kinds = operands(self.problem, tiling)
        keys = [(place, one.shape) for place, one in enumerate(kinds)]
        if any(key not in self.buffers for key in keys):
            arrays = self.data.operands(tiling)
            for key, one, array in zip(keys, kinds, arrays, strict=True):
                if key not in self.buffers:
                    self.buffers[key] = upload(
                        np.ascontiguousarray(array).reshape(one.shape), _DTYPES[one.element],
                        self.device,
                    )  # fmt: skip

        def listed() -> Any:
            arguments = rt.VmVariantList(len(keys) + 2 * with_fences)
            for key in keys:
                arguments.push_ref(self.buffers[key])
            return arguments

        if with_fences:

            def on_gpu() -> Any:
                results = rt.VmVariantList(1)
                call = functools.partial(self._invoke, function, results)
                self.timeline.invoke(call, listed()).wait()
                return results

            return on_gpu
        arguments = listed()

        def run() -> Any:
            results = rt.VmVariantList(1)
            self.context.invoke(function, arguments, results)
            return results

        return run

    def _invoke(self, function: Any, results: Any, arguments: Any) -> None:
        self.context.invoke(function, arguments, results)

    def result(self, call: Callable[[], Any]) -> NDArray[Any]:
        view = call().get_as_object(0, rt.HalBufferView)
        return np.array(download(view, "float32", self.device))


def measure(spec: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    """Check and time what `spec` says; `write` gets what is known, a line each."""
    problem, effort = Problem.from_json(json.dumps(spec["problem"])), Effort(**spec["effort"])
    session = _Session(problem, spec["tilings"], Path(spec["module"]), spec["device"])
    wanted = None
    running = []
    for number in spec["numbers"]:
        write({"begin": number})
        tile = _Tile(number, session.call(number))
        found = session.result(tile.call)
        wanted = found if wanted is None else wanted
        why = useless(wanted) or difference(found, wanted, problem)
        if why:
            write({"wrong": number, "note": why})
        else:
            running.append(tile)
    with _steady(session.device):
        _take_turns(running, effort, Others(session.device.cores), write)


def _take_turns(
    running: list[_Tile], effort: Effort, others: Others, write: Callable[[dict[str, Any]], None]
) -> None:
    """Time blocks of the tiles in turns until each is known.

    Turns while others had the cores are taken again, up to ``effort.most`` of them; `doubtful` are
    those of which that is not known yet.
    """
    turns = disturbed = doubtful = 0
    while turns < effort.most:
        for tile in running[turns % len(running) :] + running[: turns % len(running)]:
            write({"begin": tile.number})
            _block(tile, effort.block_seconds)
        turns, doubtful = turns + 1, doubtful + 1
        share = others.share()
        if share is not None:
            if share > DISTURBED and disturbed < effort.most:
                disturbed += doubtful
                turns -= doubtful
                for tile in running:
                    tile.drop(doubtful)
            doubtful = 0
        if doubtful:
            continue
        for tile in [tile for tile in running if tile.is_known(effort)]:
            running.remove(tile)
            write(_summary(tile))
        if not running:
            return
    for tile in running:
        write(_summary(tile))


@contextlib.contextmanager
def _steady(device: Device) -> Iterator[None]:
    """Keep the threads of a pool in their places, as far as the system lets us.

    The caller stays on the last worker's core: it wakes the first one, which is on another.
    """
    gc.disable()
    with contextlib.ExitStack() as stack:
        keeper = wakefulness.choose(device.cores).keeper
        if keeper is not None:
            keeper.begin()
            stack.callback(keeper.end)
        if device.cores and hasattr(os, "sched_setaffinity"):
            before = os.sched_getaffinity(0)
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {device.cores[-1]})
                stack.callback(os.sched_setaffinity, 0, before)
        stack.enter_context(without_preemption())
        yield


def _block(tile: _Tile, seconds: float) -> None:
    tile.call()  # brings code, operands and workers back
    taken = []
    end = time.perf_counter() + seconds
    while True:
        before = time.perf_counter()
        tile.call()
        after = time.perf_counter()
        taken.append(after - before)
        if after >= end and len(taken) >= 2:
            break
    tile.blocks.append(float(np.percentile(taken, 10)))
    tile.calls.append(taken)


def _summary(tile: _Tile) -> dict[str, Any]:
    calls = [seconds for block in tile.calls for seconds in block]
    low, high = np.percentile(calls, [10, 90])
    return {
        "time": tile.number,
        "seconds": float(np.percentile(tile.blocks, 25)),
        "p10": float(low),
        "p90": float(high),
        "spread": tile.spread,
        "blocks": len(tile.blocks),
        "calls": len(calls),
    }


def main() -> None:
    """Measure what the file of the first argument says; append to that of the second."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Path(sys.argv[2]).open("a", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        measure(spec, write)
        write({"done": True})


if __name__ == "__main__":
    main()
