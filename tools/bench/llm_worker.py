"""One contender of ``lowc bench llm``, in a process of its own: memory and threads are its alone.

``llm_worker.py lowc|llama.cpp FILE THREADS CONTEXT`` reads a request of JSON per line and answers
each with one.  It stands alone, since llama.cpp's may run in another Python, which has no lowc.

Seconds are this process's own, from a token that is known to the choice of the next one, the
largest of its logits, as a program that generates does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

WARM_UP = 2  # steps before each block


class Lowc:
    """A module of lowc's with the entries prefill and decode."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        import numpy as np
        from lowc.runtime.feeding import Feeder
        from lowc.runtime.module import load

        self._load: Any = lambda: load(file, "cpu", threads=threads)
        self._feeder: Any = lambda module: Feeder(module.prefill, module.decode, context)
        self.array: Any = lambda tokens: np.array(tokens, np.int64)

    def load(self) -> None:
        """Open the files."""
        self.module: Any = self._load()
        self.feeder: Any = self._feeder(self.module)

    def feed(self, tokens: Any, start: int) -> Any:
        """Return the logits ``[vocabulary]`` after `tokens`, of which the first is at `start`."""
        return self.feeder.feed(tokens, start)


class LlamaCpp:
    """llama.cpp, with its own defaults but for threads and context."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        import llama_cpp
        import numpy as np

        # Its log goes nowhere; the function must live as long as it.
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, None)
        self.library, self.file = llama_cpp, file
        self.threads, self.context = threads, context
        self.array: Any = lambda tokens: np.array(tokens, np.int32)
        self.as_array: Any = np.ctypeslib.as_array

    def load(self) -> None:
        """Open the file."""
        library = self.library
        library.llama_backend_init()
        model = library.llama_model_load_from_file(
            self.file.encode(), library.llama_model_default_params()
        )
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {self.file}")
        given = library.llama_context_default_params()
        given.n_ctx = self.context
        given.n_threads = given.n_threads_batch = self.threads
        self.state = library.llama_init_from_model(model, given)
        if not self.state:
            raise RuntimeError(f"llama.cpp has no memory for a context of {self.context}")
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))

    def feed(self, tokens: Any, start: int) -> Any:
        """Return the logits ``[vocabulary]`` after `tokens`, of which the first is at `start`."""
        import ctypes

        library = self.library
        library.llama_memory_seq_rm(library.llama_get_memory(self.state), 0, start, -1)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        failed = library.llama_decode(self.state, library.llama_batch_get_one(pointer, len(tokens)))
        if failed:
            raise RuntimeError(f"llama.cpp cannot go on after {start} tokens ({failed})")
        logits = library.llama_get_logits_ith(self.state, -1)
        return self.as_array(logits, (self.vocabulary,))


CONTENDERS: dict[str, Any] = {"lowc": Lowc, "llama.cpp": LlamaCpp}


class Worker:
    """Answers requests; each is a method and what it takes."""

    def __init__(self, name: str, file: str, threads: int, context: int) -> None:
        self.contender: Any = CONTENDERS[name](file, threads, context)
        self.before = resident("VmRSS")

    def load(self, tokens: list[int]) -> dict[str, Any]:
        """Load, and choose the first token after the prompt; libraries are loaded already."""
        given = self.contender.array(tokens)
        begun = time.perf_counter()
        self.contender.load()
        loaded = time.perf_counter() - begun
        logits = self.contender.feed(given, 0)
        first = int(logits.argmax())
        seconds = time.perf_counter() - begun
        return {
            "load_s": loaded, "first_token_s": seconds, "first_token": first,
            "logits": [float(value) for value in logits], "before_bytes": self.before,
        }  # fmt: skip

    def prefill(self, tokens: list[int], start: int = 0) -> list[float]:
        """Take `tokens` in a single feed (lowc's are pieces of 128), and choose the next."""
        given = self.contender.array(tokens)
        begun = time.perf_counter()
        self.contender.feed(given, start).argmax()
        return [time.perf_counter() - begun]

    def decode(self, start: int, steps: int) -> list[float]:
        """Choose `steps` tokens, one after the other, after `start` that are there.

        Some steps go before that do not count; they leave nothing behind.
        """
        for _ in range(WARM_UP):
            token = int(self.contender.feed(self.contender.array([1]), start).argmax())
        seconds = []
        for place in range(start, start + steps):
            begun = time.perf_counter()
            token = int(self.contender.feed(self.contender.array([token]), place).argmax())
            seconds.append(time.perf_counter() - begun)
        return seconds

    def memory(self) -> int | None:
        """Return the most bytes that were resident, files that are mapped included."""
        return resident("VmHWM")


def resident(name: str) -> int | None:
    """Return a line of Linux's ``/proc/self/status`` in bytes; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(found[0][1]) << 10 if found else None


def main(arguments: list[str]) -> int:
    """Serve until the input ends; return the exit code.  Trouble is one line on stderr."""
    name, file, threads, context = arguments
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        worker = Worker(name, file, int(threads), int(context))
        print(json.dumps("ready"), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            answer = getattr(worker, request.pop("do"))(**request)
            print(json.dumps(answer), file=answers, flush=True)
    except Exception as error:
        sys.stderr.write(f"\n{type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    del sys.path[0]  # this folder, when it is run as a file
    sys.exit(main(sys.argv[1:]))
