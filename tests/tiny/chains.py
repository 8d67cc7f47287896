"""A language model of a table: which token follows on which, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import lowc
import numpy as np
import torch

CONTEXT = 40


def chain(place: Path, size: int, following: Mapping[int, int | Sequence[float]], *, every=False):
    """Compile a model of `size` tokens, and load it.

    Token t is followed by ``following[t]`` (or has these logits ``[size]``), another one by itself.
    With `every`, logits are ``[1, s, size]``, those of all tokens that are given.
    """
    table = np.eye(size, dtype=np.float32)
    for token, after in following.items():
        table[token] = np.eye(size)[after] if isinstance(after, int) else after

    class Chain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.from_numpy(table))

        def forward(self, tokens, positions):
            last = tokens[None] if every else tokens[-1:]
            return torch.nn.functional.embedding(last, self.table) + 0 * positions[-1].float()

    n = torch.export.Dim("n", min=1, max=CONTEXT)
    s = torch.export.Dim("s", min=2, max=CONTEXT)
    programs = {
        "prefill": torch.export.export(
            Chain(),
            (torch.zeros(3, dtype=torch.int64), torch.arange(5)),
            dynamic_shapes=({0: s}, {0: n}),
        ),
        "decode": torch.export.export(
            Chain(),
            (torch.zeros(1, dtype=torch.int64), torch.arange(5)),
            dynamic_shapes=({}, {0: n}),
        ),
    }
    return lowc.load(lowc.compile(programs, output=place))
