"""A language model from nothing: ``make demo-llm``, or ``python -m lowc.tools.demo_llm [FOLDER]``.

Trains a small Llama with its tokenizer on the sources of Python's own library (``tiny_llama.py``),
exports it, compiles it under five recipes, and shows for each the code that it writes and how many
bits it takes for a byte of files that it has not seen.  Recipes whose methods look at activations
get rows that it was trained on.  All files stay in FOLDER.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import output, standalone, tiny_llama

RECIPES = ("f32", "w8a8", "w4a8", "lmul-k4", "shiftadd-3")
PROMPT = "def read_file(path):\n"
CALIBRATED = 128  # rows of a calibration
ROWS = 16  # of tokens that the compiled models are judged by, each fed token by token


@click.command("demo_llm")
@click.argument("folder", type=click.Path(path_type=Path), default="build/demo-llm")
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True)
@tiny_llama.sizes
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--prompt", default=PROMPT, help="What the models continue.")
@click.option("--tokens", type=click.IntRange(min=1), default=80, show_default=True)
def demo_llm(
    folder: Path, steps: int, batch: int, length: int, width: int, layers: int, vocabulary: int,
    context: int, recipes: tuple[str, ...], prompt: str, tokens: int,
) -> None:  # fmt: skip
    """Train a small Llama, compile it under some recipes, and show what each of them writes."""
    import lowc

    from .generate import read_tokenizer

    begun = time.perf_counter()
    shape = tiny_llama.shape_of(width, layers, vocabulary, max(context, length))
    made = tiny_llama.make(folder, shape, steps, batch, length)
    rows = tiny_llama.rows_of(made.unseen, length, ROWS)
    words = read_tokenizer(folder / "tokenizer.json")
    models = {name: str(folder / f"{name}.pt2") for name in ("prefill", "decode")}
    lines = []
    for recipe in recipes:
        _say(begun, f"compiling with recipe {recipe}")
        place = folder / f"{Path(recipe).stem}.vmfb"
        artifact = lowc.compile(
            models, recipe=recipe, output=place, calibration=calibration_of(recipe, made, length)
        )
        module = lowc.load(artifact)
        text, speed = write(module, words, prompt, tokens)
        output.result(f"\n--- {recipe} ---\n{text}\n")
        _say(begun, f"reading {rows.size:,} tokens with recipe {recipe}")
        bits = bits_per_token(module, rows) / made.bytes_a_token
        size = sum(path.stat().st_size for path in artifact.files)
        lines.append([recipe, output.size_text(size), f"{bits:.3f}", f"{speed:.0f}"])
    output.result("")
    headers = ["recipe", "files", "bits a byte", "tokens/s"]
    output.table(headers, lines, right=headers[1:])
    output.result(
        f"\nOn {tiny_llama.EVALUATED} rows PyTorch takes {made.bits:.3f} bits a byte, on "
        f"{ROWS} of them the recipes what is said above.  Files are in {folder}."
    )
    _say(begun, "done")


def calibration_of(recipe: str, made: tiny_llama.Made, length: int) -> Any:
    """Return prompts by the entry that reads them; None for a recipe that takes no inputs."""
    from ..compiler.recipe import load_recipe

    if not load_recipe(recipe).takes_inputs:
        return None
    rows = tiny_llama.rows_of(made.seen, length, CALIBRATED)[:, :-1]
    return {"prefill": [(row, np.arange(length)) for row in rows]}


def write(module: Any, words: Any, prompt: str, count: int) -> tuple[str, float]:
    """Return the prompt with up to `count` tokens after it, and how many came in a second."""
    import lowc

    from ..runtime.generation import Sampling

    end = words.token_to_id(tiny_llama.END)
    sampling = Sampling(temperature=0.6, top_k=20, seed=1)
    asked = words.encode(prompt).ids
    begun = time.perf_counter()
    found = list(
        itertools.islice(lowc.generate(module, asked, sampling=sampling, stop={end}), count)
    )
    seconds = time.perf_counter() - begun
    return words.decode([*asked, *found]), len(found) / seconds


def bits_per_token(module: Any, rows: np.ndarray[Any, Any]) -> float:
    """Return the mean bits of the tokens of `rows` ``[rows, length + 1]`` but the first of each."""
    positions, bits = np.arange(rows.shape[1]), []
    for row in rows:
        for place, token in enumerate(row[1:]):
            logits = module.decode(row[place : place + 1], positions[: place + 1])[0]
            logits = logits.astype(np.float64) - logits.max()
            bits.append(math.log(np.exp(logits).sum()) - float(logits[token]))
    return float(np.mean(bits)) / math.log(2)


def _say(begun: float, text: str) -> None:
    output.remark(f"[{time.perf_counter() - begun:5.0f} s] {text}")


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    return standalone.run(demo_llm, "demo_llm", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
