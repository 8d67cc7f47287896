"""Texts of kernels and what became of them: the data set of the text model, one JSON line a kernel.

Kernels are drawn (:mod:`.kernel_corpus`) and compiled, some dozens in one ``iree-compile`` call.
What is drawn depends on the seed alone, so a file that was cut short is continued by its batches.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...compiler.target import load_target
from . import kernel_corpus
from .object_facts import compile_facts

BATCH = 24
# How often each unit is drawn: ours first, but all of them.
UNITS = ("avx512vnni", "avx512", "avx2", "avx512vbmi", "avx2vnni", "avx512vnni", "avx512", "avx2",
         "avx512vbmi", "portable")  # fmt: skip


def batch(number: int, size: int = BATCH) -> Iterator[dict[str, Any]]:
    """Yield the rows of batch `number`: unit, family, shape, register tile, text, and facts."""
    unit = UNITS[number % len(UNITS)]
    chosen = kernel_corpus.samples(unit, size, number)
    module = kernel_corpus.module_of(chosen)
    with tempfile.TemporaryDirectory(prefix="lowc-corpus-") as folder:
        target = load_target(kernel_corpus.CHIPS[unit])
        facts = compile_facts(str(module), target, Path(folder))
    with module.context:
        texts = [str(function) for function in kernel_corpus.functions_of(module)]
    by_name = {name_of(text): text for text in texts}
    for sample in chosen:
        name = sample.kernel.name
        if name in facts:
            yield {
                "batch": number, "unit": unit, "name": name, "family": sample.family,
                "shape": sample.shape, "register_tile": sample.register_tile,
                "text": by_name[name], **dataclasses.asdict(facts[name]),
            }  # fmt: skip


def name_of(function: str) -> str:
    """Return the symbol of a function's text."""
    return function.partition("@")[2].partition("(")[0]


def collect(path: Path, batches: Sequence[int]) -> Iterator[int]:
    """Append the rows of each batch that `path` lacks; yield how many rows each gave."""
    done = {row["batch"] for row in read(path)} if path.exists() else set()
    for number in batches:
        if number in done:
            continue
        rows = list(batch(number))
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        yield len(rows)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; a last line that was cut short is left out."""
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
