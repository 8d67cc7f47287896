"""Train a small Llama on Python's own library: ``python -m lowc.tools.tiny_llama [FOLDER]``.

FOLDER (``build/tiny-llama``) gets ``tokenizer.json``, byte pairs of the same sources, and
``prefill.pt2`` and ``decode.pt2``, the entries of the model (``llama_model.py``); then it says how
well the model predicts files that it was not trained on, in bits per byte.  In that folder::

    lowc compile prefill=prefill.pt2 decode=decode.pt2 -o llama.vmfb
    lowc generate llama.vmfb --tokenizer tokenizer.json --prompt "def main("

The data are the ``.py`` files of the running Python's standard library, sorted by name; every tenth
file is held back.  Training runs in ``LlamaForCausalLM`` of ``transformers``.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..errors import UserError
from . import llama_model, output, standalone
from .library_texts import library_files
from .llama_model import Shape

if TYPE_CHECKING:
    import torch

HELD_BACK = 10  # every tenth file
END = "<|endoftext|>"
SEED = 0
WARM_UP = 50  # steps, of many
EVALUATED = 64  # rows
PRINTED = 100  # steps between two lines
# Option, the least that makes sense, default.
_SIZES = (
    ("--batch", 1, 8), ("--length", 8, 128), ("--width", 16, 256), ("--layers", 1, 4),
    ("--vocabulary", 300, 2048), ("--context", 8, 512),
)  # fmt: skip


def read_library() -> tuple[list[str], list[str]]:
    """Return the texts to train on and those held back.

    Raises
    ------
    UserError
        The standard library has no sources here (some distributions ship byte code alone).
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for number, path in enumerate(library_files()):
        text = path.read_text(encoding="utf-8", errors="ignore")
        parts[number % HELD_BACK == 0].append(text)
    if not all(parts):
        raise UserError("Python's library has no sources to train on")
    return parts


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Return a tokenizer of `size` byte pairs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return all texts as tokens, i64, each with the end after it."""
    end = tokenizer.token_to_id(END)
    encoded = tokenizer.encode_batch(list(texts))
    return np.concatenate([np.array([*one.ids, end], np.int64) for one in encoded])


def network(shape: Shape) -> Any:
    """Return the network of `transformers` of this shape, with random weights."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    sizes = dataclasses.asdict(shape)
    sizes["max_position_embeddings"] = sizes.pop("context")
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))


def train(
    model: Any, data: np.ndarray[Any, Any], steps: int, batch: int, length: int, rate: float
) -> None:
    """Train for `steps` with AdamW and a cosine schedule, on rows of `length` tokens."""
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    generator = np.random.default_rng(SEED)
    model.train()
    begun, warm_up = time.perf_counter(), min(WARM_UP, steps // 8 + 1)
    for step in range(steps):
        fraction = min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate * fraction
        starts = generator.integers(0, len(data) - length - 1, batch)
        loss = _loss(model, np.stack([data[start : start + length + 1] for start in starts]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % PRINTED == 0 or step == steps - 1:
            seconds = time.perf_counter() - begun
            bits = float(loss.detach()) / math.log(2)
            output.remark(f"step {step} of {steps}, {seconds:.0f} s: {bits:.3f} bits a token")
    model.eval()


def _loss(model: Any, rows: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    tokens = torch.from_numpy(rows)
    logits = model(tokens[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def rows_of(data: np.ndarray[Any, Any], length: int, count: int) -> np.ndarray[Any, Any]:
    """Return `count` rows ``[count, length + 1]`` from all over the tokens `data`."""
    starts = np.linspace(0, len(data) - length - 1, count).astype(np.int64)
    return np.stack([data[start : start + length + 1] for start in starts])


def bits_per_byte(
    model: Any, data: np.ndarray[Any, Any], length: int, bytes_a_token: float
) -> float:
    """Return the bits that `model` takes for a byte of `data`, on some rows of it."""
    import torch

    with torch.no_grad():
        losses = [float(_loss(model, row[None])) for row in rows_of(data, length, EVALUATED)]
    return float(np.mean(losses)) / math.log(2) / bytes_a_token


def save(model: Any, shape: Shape, folder: Path) -> None:
    """Write the two entries of a network of `transformers`."""
    import torch

    ours = llama_model.build(shape)
    ours.load_state_dict(model.state_dict())
    for name, program in llama_model.export(ours, shape).items():
        torch.export.save(program, folder / f"{name}.pt2")


def sizes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how large a network is trained, and on how much at a time."""
    for name, least, default in reversed(_SIZES):
        kind = click.IntRange(min=least)
        command = click.option(name, type=kind, default=default, show_default=True)(command)
    return command


@click.command("tiny_llama")
@click.argument("folder", type=click.Path(path_type=Path), default="build/tiny-llama")
@click.option("--steps", type=click.IntRange(min=1), default=800, show_default=True)
@sizes
def tiny_llama(
    folder: Path,
    steps: int,
    batch: int,
    length: int,
    width: int,
    layers: int,
    vocabulary: int,
    context: int,
) -> None:
    """Train a small Llama and its tokenizer, and save both in FOLDER."""
    shape = shape_of(width, layers, vocabulary, context)
    made = make(folder, shape, steps, batch, length)
    output.result(f"{folder}: {made.bits:.3f} bits a byte of files that it has not seen")


@dataclasses.dataclass(frozen=True)
class Made:
    """What is known of a trained model: bits per byte, and tokens i64, seen in training and not."""

    bits: float
    seen: np.ndarray[Any, Any]
    unseen: np.ndarray[Any, Any]
    bytes_a_token: float


def shape_of(width: int, layers: int, vocabulary: int, context: int) -> Shape:
    """Return the shape of a small Llama of this width."""
    heads = 4
    return Shape(width, layers, heads, heads // 2, width * 11 // 4, vocabulary, context)


def make(folder: Path, shape: Shape, steps: int, batch: int, length: int) -> Made:
    """Train tokenizer and model, and save both in `folder`."""
    warnings.filterwarnings("ignore")
    training, held_back = read_library()
    tokenizer = train_tokenizer(training, shape.vocab_size)
    if (found := tokenizer.get_vocab_size()) != shape.vocab_size:
        raise UserError(f"the sources have {found} byte pairs only", hint=f"--vocabulary {found}")
    data, unseen = tokens_of(tokenizer, training), tokens_of(tokenizer, held_back)
    each = len("".join(held_back).encode()) / len(unseen)
    output.remark(
        f"{len(data):,} tokens to train on, {len(unseen):,} held back, {each:.2f} bytes each"
    )
    model = network(shape)
    train(model, data, steps, batch, length, 1e-3)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save(model, shape, folder)
    return Made(bits_per_byte(model, unseen, length, each), data, unseen, each)


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    return standalone.run(tiny_llama, "tiny_llama", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
