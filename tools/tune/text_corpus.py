"""Texts of kernels and what became of them: the data set of the text model, one JSON line a kernel.

Kernels are drawn (:mod:`.kernel_corpus`) and compiled, some dozens in one ``iree-compile`` call.
What is drawn depends on the seed alone, so a file that was cut short is continued by its batches.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...compiler.backend import CHIPS
from ...compiler.target import load_target
from ...errors import UserError
from . import kernel_corpus
from .object_facts import compile_facts

BATCH = 24
_BEGIN = b'{"batch": '  # of each line
# How often each unit is drawn: ours first, but all of them.
UNITS = ("avx512vnni", "avx512", "avx2", "avx512vbmi", "avx2vnni", "avx512vnni", "avx512", "avx2",
         "avx512vbmi", "portable")  # fmt: skip


def batch(number: int, size: int = BATCH) -> Iterator[dict[str, Any]]:
    """Yield the rows of batch `number`: unit, family, shape, register tile, text, and facts."""
    unit = UNITS[number % len(UNITS)]
    chosen = kernel_corpus.samples(unit, size, number)
    module = kernel_corpus.module_of(chosen)
    with tempfile.TemporaryDirectory(prefix="lowc-corpus-") as folder:
        target = load_target(CHIPS[unit])
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
    mend(path)
    done = {row["batch"] for row in read(path)} if path.exists() else set()
    for number in batches:
        if number in done:
            continue
        rows = list(batch(number))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with path.open("ab") as file:
            file.write(text.encode())
        yield len(rows)


def mend(path: Path) -> None:
    """Take the last batch out of a file that was cut short in it, so that it is compiled again.

    Raises
    ------
    UserError
        When it is no file of kernels; then it stays as it is.
    """
    if not path.exists() or not (data := path.read_bytes()) or data.endswith(b"\n"):
        return
    *lines, rest = data.split(b"\n")
    batches = [row["batch"] for row in read(path)]
    if not rest.startswith(_BEGIN[: len(rest)]):
        raise UserError("this is no file of kernels", where=f"{path}, line {len(lines) + 1}")
    keep = batches.index(batches[-1]) if batches else 0
    os.truncate(path, sum(len(line) + 1 for line in lines[:keep]))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; a last line that was cut short is left out.

    Raises
    ------
    UserError
        When a line is no row.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or not isinstance(row.get("batch"), int):
                raise UserError("this is no file of kernels", where=f"{path}, line {number}")
            yield row
