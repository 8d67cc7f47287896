"""``lowc generate``: continue a text with a compiled language model, token by token."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from . import output
from .streamed_text import StoppedText
from .token_text import TokenText, ending_tokens, tokens_of


@click.command("generate")
@click.argument("module")
@click.option("--tokenizer", required=True, metavar="FILE", help="Its tokenizer.json.")
@click.option("--prompt", required=True, help="The text to continue; - reads it from stdin.")
@click.option(
    "--max-tokens", type=click.IntRange(min=0), metavar="N",
    help="The most tokens to add. Default: until the context is full.",
)  # fmt: skip
@click.option(
    "--temperature", type=float, default=0.0, show_default=True,
    help="0 takes the most likely token.",
)  # fmt: skip
@click.option("--top-k", type=int, default=0, show_default=True, help="Of the best K; 0 is all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Of the best with sum P.")
@click.option("--seed", type=int, help="Draws the same text again.")
@click.option(
    "--stop", multiple=True, metavar="TEXT",
    help="End before TEXT, or a special token of that name; may be repeated.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cpu-sync, vulkan or cuda."
)
def generate_command(
    module: str,
    tokenizer: str,
    prompt: str,
    max_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    device: str,
) -> None:
    """Continue a text with MODULE (.vmfb), and print what comes as it comes.

    MODULE is a language model with the entries prefill and decode:
    lowc compile prefill=a.pt2 decode=b.pt2.
    """
    from ..runtime.generation import Sampling, context_of, generate
    from ..runtime.module import load

    sampling = Sampling(temperature, top_k, top_p, seed)
    words = read_tokenizer(Path(tokenizer))
    tokens = tokens_of(words, _standard_input() if prompt == "-" else prompt, tokenizer)
    loaded = load(module, device=device)
    ends = ending_tokens(words, stop)
    made = generate(loaded, tokens, limit=max_tokens, sampling=sampling, stop=ends)
    text, pieces = StoppedText(stop), TokenText(words, tokens)
    began, count, first = time.perf_counter(), 0, 0.0
    for token in made:
        count += 1
        first = first or time.perf_counter() - began
        _show(text.add(pieces.add(token)))
        if text.is_stopped:
            break
    _show(text.add(pieces.rest()) + text.rest() + "\n")
    seconds = time.perf_counter() - began
    context = context_of(loaded)
    if len(tokens) + count > context:
        output.remark(f"the model's context of {context} tokens is full")
    said = f"{count} token{'' if count == 1 else 's'} after {len(tokens)}"
    if count:
        said += f": the first in {first:.3f} s"
    if count > 1:
        said += f", the others {(count - 1) / (seconds - first):.1f} a second"
    output.remark(said)


def read_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a ``tokenizer.json``, which keeps a text's length as it is.

    Raises
    ------
    UserError
        The package is missing, or the file is none.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            "the package 'tokenizers' is not installed", hint="pip install tokenizers"
        ) from error
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except FileNotFoundError:
        raise UserError("the file does not exist", where=str(path)) from None
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", where=str(path)) from error
    except Exception as error:  # the package has no class of its own
        raise UserError(
            f"this is no tokenizer ({str(error)[:200]})", where=str(path),
            hint="a tokenizer.json, as the package 'tokenizers' writes it",
        ) from error  # fmt: skip
    # What a file says of these is for training.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"the prompt is no text in {error.encoding}", where="standard input"
        ) from error


def _show(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
