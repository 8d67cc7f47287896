"""Adaptive micro-batching: what waits while a model works is its next batch.

No timer: a lone request is answered at once, and under load batches grow by themselves.  A batch
that is expected to take little runs where it is, in the event loop; a longer one in a thread, so
that the loop goes on accepting.  Whoever finds the model free, and knows of no others that come in
the same moment, need not even wait for the loop's next turn.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from .faults import Fault
from .metrics import Metrics
from .models import Model

# A thread costs about a tenth of this; the loop stands still for no longer.
_INLINE_SECONDS = 1e-3
_SMOOTHING = 0.2


@dataclass
class _Waiting:
    inputs: dict[str, np.ndarray]
    rows: int
    answer: asyncio.Future[dict[str, np.ndarray]]
    since: float


class Batcher:
    """The queue of one model.

    Parameters
    ----------
    model : Model
        What answers.
    most_rows : int
        Rows of a batch; a larger request is a batch of its own.
    most_waiting : int
        Rows that may wait.
    metrics : Metrics
        Is told how long requests wait and batches take, and how large they are.
    """

    def __init__(
        self, model: Model, *, most_rows: int, most_waiting: int, metrics: Metrics
    ) -> None:
        self.model = model
        self.waiting_rows = 0
        self._most_rows, self._most_waiting, self._metrics = most_rows, most_waiting, metrics
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False
        # Seconds of a batch: what it costs at all, and each row.
        self._fixed, self._per_row = 0.0, 1e-5
        self._takes_long = getattr(model, "takes_long", False)

    async def predict(self, inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """Return the outputs for checked `inputs` of so many `rows`.

        Raises
        ------
        Fault
            429, when too many rows wait; what the model itself raises.
        """
        if self.waiting_rows and self.waiting_rows + rows > self._most_waiting:
            raise Fault(429, f"model '{self.model.name}': too many rows are waiting")
        loop = asyncio.get_running_loop()
        entry = _Waiting(inputs, rows, loop.create_future(), time.perf_counter())
        self._waiting.append(entry)
        self.waiting_rows += rows
        if not self._is_busy:
            self._is_busy = True
            # After what else is ready now: its requests join this batch.
            loop.call_soon(self._start)
        return await entry.answer

    def at_once(self, inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray] | None:
        """Return the outputs if the model is free and takes little time, else None.

        Raises
        ------
        Fault
            What the model itself raises.
        """
        if self._is_busy or self._is_long(rows):
            return None
        start = time.perf_counter()
        found = self.model.predict(inputs)
        self._note(rows, time.perf_counter() - start)
        self._metrics.stage(self.model.name, "queue", 0.0)
        return found

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= self._most_rows):
            entry = self._waiting.popleft()
            self.waiting_rows -= entry.rows
            # Whoever stopped waiting is not calculated for.
            if not entry.answer.done():
                batch.append(entry)
                rows += entry.rows
        return batch

    def _start(self) -> None:
        while batch := self._take():
            now = time.perf_counter()
            for entry in batch:
                self._metrics.stage(self.model.name, "queue", now - entry.since)
            if self._is_long(sum(entry.rows for entry in batch)):
                loop = asyncio.get_running_loop()
                done = loop.run_in_executor(None, self._run, batch)
                done.add_done_callback(functools.partial(self._finish, batch))
                return
            self._hand_out(batch, self._run(batch))
        self._is_busy = False

    def _finish(self, batch: list[_Waiting], done: asyncio.Future[_Ran]) -> None:
        self._hand_out(batch, done.result())
        self._start()

    def _is_long(self, rows: int) -> bool:
        """Whether rows take a thread: they are many, or the model's may be of any length."""
        return self._takes_long or self._fixed + rows * self._per_row > _INLINE_SECONDS

    def _run(self, batch: list[_Waiting]) -> _Ran:
        start = time.perf_counter()
        try:
            results: list[_Result] = [*self._together(batch)]
        except Exception as error:
            # One of several may be at fault: each gets its own answer.
            results = [error] if len(batch) == 1 else [self._alone(entry) for entry in batch]
        return results, time.perf_counter() - start

    def _together(self, batch: list[_Waiting]) -> list[dict[str, np.ndarray]]:
        if len(batch) == 1:
            return [self.model.predict(batch[0].inputs)]
        joined = {
            name: np.concatenate([entry.inputs[name] for entry in batch])
            for name in batch[0].inputs
        }
        ends = np.cumsum([entry.rows for entry in batch])[:-1]
        outputs = self.model.predict(joined)
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [{name: parts[name][index] for name in parts} for index in range(len(batch))]

    def _alone(self, entry: _Waiting) -> _Result:
        if entry.answer.done():  # Whoever stopped waiting is not calculated for.
            return Fault(504, "nobody waits for this answer any more")
        try:
            return self.model.predict(entry.inputs)
        except Exception as error:
            return error

    def _hand_out(self, batch: list[_Waiting], ran: _Ran) -> None:
        results, seconds = ran
        self._note(sum(entry.rows for entry in batch), seconds)
        for entry, result in zip(batch, results, strict=True):
            if entry.answer.done():
                continue
            if isinstance(result, Exception):
                entry.answer.set_exception(result)
            else:
                entry.answer.set_result(result)

    def _note(self, rows: int, seconds: float) -> None:
        self._metrics.stage(self.model.name, "predict", seconds)
        self._metrics.batch(self.model.name, rows)
        if rows <= 4:
            self._fixed += _SMOOTHING * (seconds - self._fixed)
        else:
            per_row = max(0.0, seconds - self._fixed) / rows
            self._per_row += _SMOOTHING * (per_row - self._per_row)


_Result = dict[str, np.ndarray] | Exception
_Ran = tuple[list[_Result], float]
