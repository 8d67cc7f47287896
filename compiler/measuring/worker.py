"""Time the tiles of one product: run as ``python -m lowc.compiler.measuring.worker SPEC OUT``.

A process of its own, so that code that crashes or hangs takes nothing else with it.  Every step
begins with a line in OUT, so that the one that waits knows which tile it was.  Tiles take turns in
blocks of calls: what the machine does meanwhile meets them all.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import tilings
from ...passes.tiling.problem import Problem
from ...runtime.buffers import download, upload
from ...runtime.devices import open_device
from .data import Data, difference
from .modules import function_name, operands

_DTYPES = {"f32": "float32", "i32": "int32", "i8": "int8"}


@dataclass(frozen=True)
class Effort:
    """How long each tile is timed.

    Blocks are repeated until the standard error of their median is `error` of it, or `seconds` are
    spent.

    Attributes
    ----------
    block_seconds : float
        Calls of a block; at least two are made.
    least, most : int
        Blocks.
    error : float
        How well the median shall be known.
    seconds : float
        After so many no block of a tile is begun, once there are two.
    """

    block_seconds: float = 0.01
    least: int = 5
    most: int = 15
    error: float = 0.01
    seconds: float = 1.0


@dataclass
class _Tile:
    number: int
    call: Callable[[], Any]
    medians: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles of the blocks' medians, by their median."""
        low, high = np.percentile(self.medians, [25, 75])
        return float((high - low) / 2 / statistics.median(self.medians))

    def is_known(self, effort: Effort) -> bool:
        # Of a normal distribution, the median's standard error: 1.25 sigma / sqrt(n), and sigma is
        # half the distance of the quartiles by 0.67.
        blocks = len(self.medians)
        if blocks >= 2 and sum(self.calls) >= effort.seconds:
            return True
        return blocks >= effort.least and 1.86 * self.spread / blocks**0.5 <= effort.error


class _Session:
    """A compiled module on the device, and what it is given."""

    def __init__(self, problem: Problem, texts: list[str], module: Path, device: str) -> None:
        self.problem, self.texts = problem, texts
        self.device = open_device(device)
        instance = rt.VmInstance()
        hal = rt.create_hal_module(instance, self.device.hal)
        self.module = rt.VmModule.mmap(instance, str(module))
        self.context = rt.VmContext(instance, [hal, self.module])
        self.data = Data(problem)
        self.buffers: dict[tuple[Any, ...], Any] = {}

    def call(self, number: int) -> Callable[[], Any]:
        tiling = tilings.parse(self.texts[number])
        function = self.module.lookup_function(function_name(number))
        arguments = rt.VmVariantList(4)
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
        for key in keys:
            arguments.push_ref(self.buffers[key])

        def run() -> Any:
            results = rt.VmVariantList(1)
            self.context.invoke(function, arguments, results)
            return results

        return run

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
        why = difference(found, wanted, problem)
        if why:
            write({"wrong": number, "note": why})
        else:
            running.append(tile)
    gc.disable()
    for start in range(effort.most):
        for tile in running[start % len(running) :] + running[: start % len(running)]:
            write({"begin": tile.number})
            _block(tile, effort.block_seconds)
        for tile in [tile for tile in running if tile.is_known(effort)]:
            running.remove(tile)
            write(_summary(tile))
        if not running:
            return
    for tile in running:
        write(_summary(tile))


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
    tile.medians.append(statistics.median(taken))
    tile.calls += taken


def _summary(tile: _Tile) -> dict[str, Any]:
    low, high = np.percentile(tile.calls, [10, 90])
    return {
        "time": tile.number,
        "seconds": statistics.median(tile.medians),
        "p10": float(low),
        "p90": float(high),
        "spread": tile.spread,
        "blocks": len(tile.medians),
        "calls": len(tile.calls),
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
