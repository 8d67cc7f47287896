"""``lowc bench llm``: a Llama of random weights that generates, beside llama.cpp."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...errors import UserError
from .. import output
from ..llama_model import Shape
from . import llm_show
from .llm_files import KINDS, Files, kind_of, llama_version, this_python
from .llm_process import WORKER, Process
from .opponents import check_names
from .other_load import OtherLoad
from .record import keep as keep_record
from .record import new_record

PEERS = ("llama.cpp",)


def _numbers(_context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Return the numbers in ``128,512``, from small to large."""
    try:
        found = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise click.BadParameter(f"'{text}' is no list such as 128,512", param=parameter) from None
    if any(number < 2 for number in found):
        raise click.BadParameter("numbers of tokens are 2 or more", param=parameter)
    return tuple(found)


_SIZES = dataclasses.asdict(Shape())


def _size(name: str, key: str, text: str) -> Callable[..., Any]:
    return click.option(
        f"--{name}", key, type=click.IntRange(min=1), default=_SIZES[key], show_default=True,
        help=text,
    )  # fmt: skip


@click.command("llm")
@click.option(
    "--recipe", "recipes", multiple=True, default=("w4a8",), show_default=True,
    help="A recipe to compile with; may be given several times.",
)  # fmt: skip
@click.option(
    "--cache", "caches", multiple=True, metavar="FORMAT",
    help="Formats of lowc's caches: i8, keys=i8,values=f16 …; several make several contenders.",
)  # fmt: skip
@click.option("--against", default="llama.cpp", show_default=True, help="llama.cpp, or nothing: ''")
@click.option(
    "--llama-python", envvar="LOWC_LLAMA_PYTHON", metavar="PATH", show_envvar=True,
    help="A Python that has llama-cpp-python and gguf. Default: this one.",
)  # fmt: skip
@click.option(
    "--gguf", "kind", type=click.Choice(KINDS),
    help="llama.cpp's weights. Default: q8_0 if those of the first recipe have 8 bits, else q4_0.",
)  # fmt: skip
@click.option("--prompts", default="128,512", show_default=True, callback=_numbers, metavar="N,…")
@click.option(
    "--contexts", default="128,512,2048", show_default=True, callback=_numbers, metavar="N,…",
    help="Tokens that are there when a step begins.",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(min=1), default=16, show_default=True, help="Steps of a block."
)
@click.option("--blocks", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 means all cores.")
@_size("hidden", "hidden_size", "Width of the model.")
@_size("layers", "num_hidden_layers", "Layers.")
@_size("heads", "num_attention_heads", "Heads of queries.")
@_size("kv-heads", "num_key_value_heads", "Heads of keys and values.")
@_size("feed-forward", "intermediate_size", "Width of the feed-forward network.")
@_size("vocabulary", "vocab_size", "Tokens that there are.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False),
    help="Make the files there and leave them; those that are there are taken as they are.",
)  # fmt: skip
@click.option("--prepare", is_flag=True, help="Make the files in --folder, and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False),
    help="Keep the result, with machine and date, as a JSON file in this folder.",
)  # fmt: skip
def llm_command(
    recipes: tuple[str, ...], caches: tuple[str, ...], against: str, llama_python: str | None,
    kind: str | None,
    prompts: tuple[int, ...], contexts: tuple[int, ...], steps: int, blocks: int, threads: int,
    folder: Path | None, prepare: bool, as_json: bool, keep: Path | None, **sizes: int,
) -> None:  # fmt: skip
    """Time a Llama of random weights, compiled by lowc, beside llama.cpp on the same weights.

    Each contender is a process of its own, with the same threads, prompts and steps; blocks of
    them alternate.  Times are medians of block medians.  The first token is timed from the moment
    when files begin to be loaded, libraries being there, after a prompt of 128 tokens; memory is
    the most that was resident, mapped files included.  Logits after that prompt are compared with
    PyTorch's in f32.
    """
    from ...compiler.recipe import cache_of

    names = tuple(part.strip() for part in against.split(",") if part.strip())
    check_names(names, PEERS)
    if prepare and folder is None:
        raise UserError("there is no folder for the files", hint="--folder FOLDER")
    for cache in caches:
        cache_of(cache)  # before files are made
    shape = Shape(**sizes, context=max(*prompts, *contexts, 2) + steps)
    python, version = llama_python or this_python(), ""
    if names:
        version = llama_version(python)
    threads, kind = threads or len(os.sched_getaffinity(0)), kind or kind_of(recipes)
    with ExitStack() as stack:
        if folder is None:
            made = tempfile.TemporaryDirectory(prefix="lowc-bench-")
            folder = Path(stack.enter_context(made))
        files = Files(folder, shape)
        files.prepare()
        reference = files.logits()
        started = [
            (f"lowc:{path.stem}", [sys.executable, "-m", f"{__package__}.llm_worker"], path)
            for path in [
                files.module(recipe, cache) for recipe in recipes for cache in caches or (None,)
            ]
        ]  # fmt: skip
        if names:
            started.append((f"llama.cpp:{kind}", [python, str(WORKER)], files.gguf(kind, python)))
        files.forget()
        if prepare:
            output.result(str(folder))
            return
        processes = [
            stack.enter_context(Process(command, name, file, threads, shape.context))
            for name, command, file in started
        ]
        others: dict[str, float | None] = {}
        rows = measure(processes, files, reference, prompts, contexts, steps, blocks, others)
    record = new_record(
        shape=dataclasses.asdict(shape), threads=threads, steps=steps, blocks=blocks,
        prompt=files.prompt, llama_cpp_python=version or None, rows=rows,
        other_cores=others,
    )  # fmt: skip
    if keep is not None:
        stem = "-".join(("llm", *(Path(recipe).stem for recipe in recipes)))
        output.remark(f"kept in {keep_record(record, keep, stem)}")
    if as_json:
        output.result_json(record)
        return
    llm_show.print_record(record)


def measure(
    processes: Sequence[Process], files: Files, reference: Any, prompts: Sequence[int],
    contexts: Sequence[int], steps: int, blocks: int, others: dict[str, float | None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row for each contender; `others` gets the cores that others took in each part."""
    from ...runtime.timing import Timing, interleave

    text = files.tokens(files.shape.context)
    rows = []
    for process in processes:
        output.remark(f"loading {process.name}")
        found = process.ask("load", tokens=text[: files.prompt])
        logits = np.array(found.pop("logits"))
        rows.append(
            {
                "name": process.name, "file_bytes": _bytes(process.file),
                "libraries_s": process.libraries_s, **found,
                "cosine": float(
                    logits @ reference / np.linalg.norm(logits) / np.linalg.norm(reference)
                ),
                "prefill": {}, "decode": {},
                "peak_first_token_bytes": process.ask("memory"),
            }
        )  # fmt: skip

    def timed(part: str, count: int, do: str, **given: Any) -> None:
        takers = {one.name: partial(one.ask, do, **given) for one in processes}
        load = OtherLoad([one.pid for one in processes])
        times: dict[str, Timing] = interleave(takers, blocks=blocks)
        others[f"{part} {count}"] = load.cores()
        for row in rows:
            row[part][str(count)] = _figures(times[row["name"]], count if do == "prefill" else 1)

    for count in prompts:
        output.remark(f"timing prompts of {count} tokens")
        for process in processes:
            process.ask("prefill", tokens=text[:count])
        timed("prefill", count, "prefill", tokens=text[:count])
    for process, row in zip(processes, rows, strict=True):
        row["peak_prompts_bytes"] = process.ask("memory")
    held = 0
    for count in contexts:
        output.remark(f"timing steps after {count} tokens")
        for process in processes:
            # What was filled for a smaller context is still there.
            process.ask("prefill", tokens=text[held:count], start=held)
        held = count
        timed("decode", count, "decode", start=count, steps=steps)
    for process, row in zip(processes, rows, strict=True):
        row["peak_bytes"] = process.ask("memory")
    return rows


def _figures(timing: Any, tokens: int) -> dict[str, Any]:
    return {
        "median_ms": timing.median * 1e3, "p10_ms": timing.p10 * 1e3, "p90_ms": timing.p90 * 1e3,
        "tokens_per_second": tokens / timing.median, "calls": timing.calls,
    }  # fmt: skip


def _bytes(file: Path) -> int:
    """Return the size of a model, and of its parameters if they lie beside it."""
    both = (file, file.with_suffix(".irpa"))
    return sum(path.stat().st_size for path in both if path.exists())
