"""Generate tokens with a language model of two entries, without PyTorch.

The module has the entries ``prefill(tokens, positions)`` for two tokens or more and
``decode(tokens, positions)`` for one; both give the logits ``[1, vocabulary]`` of the token that
comes next, and keep keys and values of the last of these positions (``tools/llama_model.py`` has a
model that is exported so).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .module import Module
from .program import Program


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from logits.

    Attributes
    ----------
    temperature : float
        Logits are divided by it; 0 takes the most likely token always.
    top_k : int
        Only the most likely so many are drawn from; 0 is all.
    top_p : float
        Only the most likely ones that together have this probability are drawn from.
    seed : int or None
        Draws the same tokens again; None draws others each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no temperature, number or probability."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"a temperature is 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top-k is 0 or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is above 0 and at most 1, not {self.top_p}")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"a seed is 0 or more, not {self.seed}")


class Sampler:
    """Chooses tokens as `sampling` says, one after the other."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[Any]) -> int:
        """Return a token, given logits ``[vocabulary]``; of equal ones the first."""
        how = self.sampling
        if how.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")
        if how.top_k:
            order = order[: how.top_k]
        scaled = (logits[order].astype(np.float64) - float(logits[order[0]])) / how.temperature
        weights = np.exp(scaled)
        weights /= weights.sum()
        if how.top_p < 1:
            # The first one whose sum reaches p is in.
            count = int(np.searchsorted(np.cumsum(weights), how.top_p)) + 1
            order, weights = order[:count], weights[:count] / weights[:count].sum()
        return int(self._random.choice(order, p=weights))


def context_of(module: Module) -> int:
    """Return how many tokens fit into the caches of `module`.

    Raises
    ------
    UserError
        The module is no language model with the entries prefill and decode.
    """
    decode = _entries(module)[1]
    [size] = decode.signature.inputs[1].shape
    _, most = decode.signature.ranges.get(str(size), (None, None))
    if most is None:
        raise UserError(
            f"how many tokens fit is not known: '{size}' has no largest value",
            where=str(module.path),
            hint="export it with torch.export.Dim(…, max=…)",
        )
    return most


def _entries(module: Module) -> tuple[Module, Module]:
    found = module.entries if isinstance(module, Program) else {}
    entries = [found.get(name) for name in ("prefill", "decode")]
    for entry in entries:
        inputs = [] if entry is None else entry.signature.inputs
        if entry is None or [len(leaf.shape) for leaf in inputs] != [1, 1]:
            raise UserError(
                "this is no language model with entries prefill(tokens, positions) and "
                "decode(tokens, positions)",
                where=str(module.path),
                hint="lowc compile prefill=a.pt2 decode=b.pt2; lowc.tools.llama_model exports them",
            )
    return entries[0], entries[1]  # type: ignore[return-value]


def generate(
    module: Module,
    tokens: Sequence[int] | NDArray[Any],
    *,
    limit: int | None = None,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Yield the tokens that follow `tokens`, each as soon as it is chosen.

    The caches begin anew.  It ends with a token of `stop`, which is not given, after `limit`
    tokens, or when the caches are full: then :func:`context_of` tokens are there, prompt included.

    Parameters
    ----------
    module : Program
        What :func:`lowc.load` gave for a module with the entries ``prefill`` and ``decode``.
    tokens : sequence of int
        The prompt, one token at least.
    limit : int, optional
        The most tokens to give.
    sampling : Sampling, optional
        How they are chosen; by default the most likely one is.
    stop : collection of int
        Tokens that end the text.

    Raises
    ------
    UserError
        A module that is no such model, no token or too many, or a token that the model has not.
    """
    prompt = np.asarray(tokens)
    if prompt.ndim != 1 or not prompt.size or prompt.dtype.kind not in "iu":
        raise UserError("a prompt is a list of one token or more")
    context = context_of(module)
    if prompt.size > context:
        raise UserError(
            f"the prompt has {prompt.size} tokens, the model's context {context}",
            hint="shorten the prompt, or export the model with a longer context",
        )
    sampler = Sampler(sampling or Sampling())
    return _generate(module, prompt.astype(np.int64), context, limit, sampler, frozenset(stop))


def _generate(
    module: Module, prompt: NDArray[np.int64], context: int, limit: int | None, sampler: Sampler,
    stop: frozenset[int],
) -> Iterator[int]:  # fmt: skip
    prefill, decode = _entries(module)
    positions = np.arange(context)
    given, count = prompt, 0
    held = prompt.size
    while limit is None or count < limit:
        entry = decode if given.size == 1 else prefill
        token = sampler.choose(entry(given, positions[:held])[0])
        if token in stop:
            return
        yield token
        count += 1
        held += 1
        if held > context:
            return
        given = np.array([token])
