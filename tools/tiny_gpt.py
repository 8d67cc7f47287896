"""Train a small GPT on Python's own library: ``python -m lowc.tools.tiny_gpt [FOLDER]``.

A language model over bytes, made in minutes on two cores, to see what cheap arithmetic does to one:
few bits per weight damage a model that generates text in other ways than an encoder.  FOLDER
(``build/tiny-gpt``) gets

* ``tiny-gpt.pt2``: ``tokens`` i64 ``[8, 128]`` to logits f32 ``[8, 128, 256]``;
* ``tiny-gpt-inputs.npz``: bytes of modules that it was not trained on, for
  ``lowc report accuracy --inputs … --next-token``;
* ``tiny-gpt-calibration.npz``: bytes that it was trained on, for ``lowc compile --calibration``.

The network is GPT-2's (layer norm first, GELU, learned positions; bytes in and out have tables of
their own), the data the ``.py`` files of the running Python's standard library, sorted by name;
every tenth file is held back.  Weights are drawn from a fixed seed.
"""

from __future__ import annotations

import math
import sys
import sysconfig
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..errors import UserError
from . import output, standalone
from .library_texts import library_files

if TYPE_CHECKING:
    import torch

BATCH, CONTEXT, BYTES = 8, 128, 256
HELD_BACK = 10  # every tenth file
EVALUATED, CALIBRATED = 256, 128  # rows of CONTEXT bytes
SEED = 0
WARM_UP = 50  # steps


@dataclass(frozen=True)
class Shape:
    """The network: `layers` blocks of `width`, with `heads`."""

    width: int = 256
    layers: int = 4
    heads: int = 4


def read_library(limit: int | None = None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the bytes to train on and those held back, u8, at most `limit` of each.

    Raises
    ------
    UserError
        The standard library has no sources here (some distributions ship byte code alone).
    """
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, path in enumerate(library_files()):
        parts[number % HELD_BACK == 0].append(path.read_bytes())
    found = [np.frombuffer(b"".join(part), np.uint8)[:limit] for part in parts]
    if min(map(len, found)) < CONTEXT * max(EVALUATED, CALIBRATED):
        where = sysconfig.get_paths()["stdlib"]
        raise UserError("Python's library has no sources to train on", where=where)
    return found[0], found[1]


def build(shape: Shape) -> torch.nn.Module:
    """Return the network with random weights."""
    import torch
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            width = shape.width
            self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, length, width = x.shape
            heads = (rows, length, shape.heads, width // shape.heads)
            q, k, v = (
                part.view(heads).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, -1)
            )
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
            hidden: torch.Tensor = self.down(nn.functional.gelu(self.up(self.after(x))))
            return x + hidden

    class Gpt(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bytes = nn.Embedding(BYTES, shape.width)
            self.places = nn.Parameter(torch.zeros(CONTEXT, shape.width))
            self.blocks = nn.ModuleList(Block() for _ in range(shape.layers))
            self.norm, self.head = nn.LayerNorm(shape.width), nn.Linear(shape.width, BYTES)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.bytes(tokens) + self.places
            for block in self.blocks:
                x = block(x)
            logits: torch.Tensor = self.head(self.norm(x))
            return logits

    torch.manual_seed(SEED)
    model = Gpt()
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            deep = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(weight, 0, 0.02 / (math.sqrt(2 * shape.layers) if deep else 1))
    return model


def train(
    model: torch.nn.Module, data: np.ndarray[Any, Any], steps: int, batch: int, rate: float
) -> float:
    """Train for `steps` with AdamW and a cosine schedule; return the last bits per byte."""
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    generator = np.random.default_rng(SEED)
    model.train()
    begun, loss_value = time.perf_counter(), math.nan
    for step in range(steps):
        fraction = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate * fraction
        starts = generator.integers(0, len(data) - CONTEXT - 1, batch)
        rows = np.stack([data[start : start + CONTEXT + 1] for start in starts]).astype(np.int64)
        tokens = torch.from_numpy(rows)
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loss_value = float(loss.detach()) / math.log(2)
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - begun
            done = f"step {step:5d} of {steps}, {seconds:.0f} s"
            output.remark(f"{done}: {loss_value:.3f} bits a byte")
    model.eval()
    return loss_value


def rows_of(data: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return `count` rows of bytes ``i64 [count, CONTEXT]``, spread over `data`."""
    starts = np.linspace(0, len(data) - CONTEXT, count).astype(np.int64)
    return np.stack([data[start : start + CONTEXT] for start in starts]).astype(np.int64)


def export(model: torch.nn.Module, path: Path) -> None:
    """Write `model` as ``.pt2`` for ``tokens`` of [BATCH, CONTEXT]."""
    import torch

    example = torch.zeros(BATCH, CONTEXT, dtype=torch.int64)
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (example,), strict=False), path)


@click.command("tiny_gpt")
@click.argument("folder", type=click.Path(path_type=Path), default="build/tiny-gpt")
@click.option("--steps", type=click.IntRange(min=1), default=1200, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--width", type=click.IntRange(min=16), default=256, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True)
def tiny_gpt(folder: Path, steps: int, batch: int, width: int, layers: int) -> None:
    """Train a small language model over bytes and save it, with inputs, in FOLDER."""
    if width % Shape.heads:
        raise UserError(f"--width {width} is no multiple of {Shape.heads} heads")
    warnings.filterwarnings("ignore")
    training, held_back = read_library()
    output.remark(f"{len(training):,} bytes to train on, {len(held_back):,} held back")
    model = build(Shape(width, layers))
    train(model, training, steps, batch, 2e-3)
    folder.mkdir(parents=True, exist_ok=True)
    export(model, folder / "tiny-gpt.pt2")
    np.savez(folder / "tiny-gpt-inputs.npz", tokens=rows_of(held_back, EVALUATED))
    np.savez(folder / "tiny-gpt-calibration.npz", tokens=rows_of(training, CALIBRATED))
    output.result(str(folder / "tiny-gpt.pt2"))


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    return standalone.run(tiny_gpt, "tiny_gpt", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
