"""Train the network over the text of kernels (``passes/tiling/text_model.py``), in PyTorch.

Several texts at a time, one behind the other with nothing between them but enough zeros that no
window sees two.  What the network is asked: logarithms of instructions, code bytes, spills and
seconds (where there are any), registers as a share of all, and whether there are spills.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import text_model
from ...passes.tiling.text_model import ADDED, MOST_REGISTERS, OUTPUTS, SUMS, TextModel
from ...passes.tiling.tokens import Tokens

WIDTH, HIDDEN, WINDOW, INNER = 48, 64, 5, 64
GAP = 2 * (WINDOW // 2)  # zeros between texts
BATCH = 12
LEAST_SEEN = 4  # times that a token is in the texts, to have a place of its own
RATE = 2e-3
# How much each output counts, in the order of OUTPUTS.
LOSSES = (4.0, 4.0, 0.3, 1.0, 4.0, 1.0)


@dataclass(frozen=True)
class Example:
    """A text and what is known of it; None what is not."""

    text: Tokens
    instructions: int
    code_bytes: int
    vector_registers: int
    spills: int | None
    seconds: float | None = None

    @property
    def goals(self) -> tuple[float, ...]:
        """What the network shall say, in the order of OUTPUTS; NaN where that is not known."""
        spills = math.nan if self.spills is None else math.log1p(self.spills)
        return (
            math.log(self.instructions), math.log(self.code_bytes), spills,
            math.log(self.seconds) if self.seconds else math.nan,
            self.vector_registers / MOST_REGISTERS,
            math.nan if self.spills is None else float(self.spills > 0),
        )  # fmt: skip


def vocabulary(examples: Sequence[Example]) -> list[str]:
    """Return the tokens that are seen often enough, the unknown one first, in a fixed order."""
    seen: Counter[str] = Counter()
    for example in examples:
        for tokens in example.text.operations:
            seen.update(tokens)
    return ["<unk>", *sorted(token for token, count in seen.items() if count >= LEAST_SEEN)]


def train(
    examples: Sequence[Example], epochs: int, seed: int = 0, tell: Callable[[str], object] = print
) -> tuple[TextModel, list[str]]:
    """Train a network on `examples`; return it and its vocabulary."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # its operations are short: on two threads they took ten times as long
    words = vocabulary(examples)
    numbers = text_model.vocabulary_of(words)
    knows_time = any(example.seconds for example in examples)
    prepared = [_prepare(example, numbers) for example in examples]
    network = _network(len(words), np.array([example.goals for example in examples]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    steps = epochs * -(-len(prepared) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    rng = random.Random(seed)
    for epoch in range(epochs):
        rng.shuffle(prepared)
        total = 0.0
        for start in range(0, len(prepared), BATCH):
            part = prepared[start : start + BATCH]
            optimizer.zero_grad()
            loss = _loss(network, part)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(part)
        tell(f"epoch {epoch + 1} of {epochs}: loss {total / len(prepared):.4f}")
    return TextModel(numbers, _arrays(network), knows_time), words


def _prepare(example: Example, numbers: dict[str, int]) -> dict[str, Any]:
    import torch

    ids, starts, shares = text_model.indices(example.text, numbers)
    return {
        "ids": torch.from_numpy(ids), "starts": torch.from_numpy(starts),
        "shares": torch.from_numpy(shares), "length": len(starts),
        "rounds": torch.tensor(example.text.rounds, dtype=torch.float32),
        "scalars": torch.tensor(text_model.scalars(example.text), dtype=torch.float32),
        "goals": torch.tensor(example.goals, dtype=torch.float32),
    }  # fmt: skip


def _network(tokens: int, goals: NDArray[np.float64]) -> Any:
    """Return modules by the names of ``text_model.SHAPES``; biases start at what is usual."""
    from torch import nn

    network = nn.ModuleDict({
        "embedding": nn.EmbeddingBag(tokens, WIDTH, mode="sum"),
        "conv1": nn.Conv1d(WIDTH, HIDDEN, WINDOW, padding=WINDOW // 2),
        "conv2": nn.Conv1d(HIDDEN, HIDDEN, WINDOW, padding=WINDOW // 2),
        "added": nn.Linear(HIDDEN, SUMS),
        "first": nn.Linear(2 * HIDDEN + SUMS + 3, INNER),
        "last": nn.Linear(INNER, len(OUTPUTS)),
    })  # fmt: skip
    nn.init.zeros_(network["last"].weight)
    nn.init.zeros_(network["last"].bias)
    for place in range(len(ADDED) + 1, len(OUTPUTS)):
        known = goals[:, place][~np.isnan(goals[:, place])]
        if len(known):
            nn.init.constant_(network["last"].bias[place], float(known.mean()))
    if np.isfinite(goals[:, SUMS - 1]).any():
        usual = float(np.nanmean(goals[:, SUMS - 1]))
        nn.init.constant_(network["last"].bias[SUMS - 1], usual - 8.0)
    return network


def _forward(network: Any, part: list[dict[str, Any]]) -> Any:
    """Return ``[texts, outputs]``."""
    import torch

    hidden, pieces, at = [], [], 0
    for one in part:
        bag = network["embedding"](one["ids"], one["starts"], per_sample_weights=one["shares"])
        hidden += [bag, bag.new_zeros(GAP, WIDTH)]
        pieces.append((at, one["length"]))
        at += one["length"] + GAP
    x = torch.cat(hidden).T[None]
    inside = torch.zeros(at, 1)
    for start, length in pieces:
        inside[start : start + length] = 1
    x = torch.relu(network["conv1"](x)) * inside.T[None]
    x = torch.relu(network["conv2"](x))[0].T
    parts = torch.nn.functional.softplus(network["added"](x))
    found = []
    for (start, length), one in zip(pieces, part, strict=True):
        h, p = x[start : start + length], parts[start : start + length]
        time = torch.log((p[:, -1] * one["rounds"]).sum() + 1e-6)
        sums = torch.cat([torch.log1p(p[:, :-1].sum(dim=0)), time[None]])
        given = torch.cat([h.mean(dim=0), h.amax(dim=0), sums, one["scalars"]])
        y = network["last"](torch.relu(network["first"](given)))
        found.append(torch.cat([y[:SUMS] + sums, y[SUMS:]]))
    return torch.stack(found)


def _loss(network: Any, part: list[dict[str, Any]]) -> Any:
    import torch
    from torch.nn import functional

    said, goals = _forward(network, part), torch.stack([one["goals"] for one in part])
    total = said.new_zeros(())
    for place, weight in enumerate(LOSSES):
        known = ~torch.isnan(goals[:, place])
        if not known.any():
            continue
        a, b = said[known, place], goals[known, place]
        if OUTPUTS[place] == "has_spills":
            one = functional.binary_cross_entropy_with_logits(a, b)
        else:
            one = functional.smooth_l1_loss(a, b, beta=0.1)
        total = total + weight * one
    return total


def _arrays(network: Any) -> dict[str, NDArray[np.float32]]:
    """Return the weights by the names of ``text_model.SHAPES``."""
    found = {
        name.replace("embedding.weight", "embedding"): value.detach().numpy().copy()
        for name, value in network.named_parameters()
    }
    return {name: found[name] for name in text_model.SHAPES}
