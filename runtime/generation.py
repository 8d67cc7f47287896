"""Generate tokens with a language model of two entries, without PyTorch.

The module has the entries ``prefill(tokens, positions)`` for two tokens or more and
``decode(tokens, positions)`` for one; both give the logits ``[1, vocabulary]`` of the token that
comes next, and keep keys and values of the last of these positions (``tools/llama_model.py`` has a
model that is exported so).  Or they keep nothing, and take caches behind these two inputs, and
give them behind the logits: those begin as zeros, and stay on the device from call to call.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .dtypes import kind_of
from .feeding import PIECE, Feeder
from .module import Module
from .program import Program
from .sampling import Sampler, Sampling, whole

__all__ = ["Sampling", "context_of", "generate"]


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
    if not isinstance(module, Module):
        raise UserError(
            f"a loaded module is needed, not {reprlib.repr(module)}",
            hint="lowc.generate(lowc.load('model.vmfb'), tokens)",
        )
    found = module.entries if isinstance(module, Program) else {}
    entries = [found.get(name) for name in ("prefill", "decode")]
    sizes = {None if entry is None else _interface(entry) for entry in entries}
    if None in sizes or len(sizes) != 1:
        raise UserError(
            "this is no language model with entries prefill(tokens, positions) and "
            "decode(tokens, positions), which give logits [1, vocabulary], each followed by the "
            "same caches or by none",
            where=str(module.path),
            hint="lowc compile prefill=a.pt2 decode=b.pt2; lowc.tools.llama_model exports them",
        )
    return entries[0], entries[1]  # type: ignore[return-value]


def _interface(entry: Module) -> tuple[Any, ...] | None:
    """Return how many logits an entry gives, and shapes and types of the caches that it takes.

    None if it is no entry of a language model.
    """
    inputs, outputs = entry.signature.inputs, entry.signature.outputs
    if [(len(leaf.shape), kind_of(leaf.dtype)) for leaf in inputs[:2]] != [(1, "int")] * 2:
        return None
    if len(outputs) != len(inputs) - 1 or kind_of(outputs[0].dtype) != "float":
        return None
    taken, given = (
        tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)
        for leaves in (inputs[2:], outputs[1:])
    )
    if taken != given or any(isinstance(size, str) for shape, _ in taken for size in shape):
        return None
    match outputs[0].shape:
        case (1, int(size)) if size > 0:
            return size, taken
    return None


def generate(
    module: Module,
    tokens: Sequence[int] | NDArray[Any],
    *,
    limit: int | None = None,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
    piece: int = PIECE,
) -> Iterator[int]:
    """Yield the tokens that follow `tokens`, each as soon as it is chosen.

    The caches begin anew with the first of them, and hold one text: of two that are made at a time,
    by one thread or by several, the one that began first ends with an error.

    It ends with a token of `stop`, which is not given, after `limit` tokens, or when the caches are
    full: then :func:`context_of` tokens are there, prompt included.

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
    piece : int, optional
        The most tokens of the prompt that the model is given at a time, two or more: fewer take
        less memory.

    Raises
    ------
    UserError
        A module that is no such model, no token or too many, a token that the model has not,
        logits that are no numbers, or another text that was begun on the module meanwhile.
    """
    context = context_of(module)
    prompt = _prompt(tokens)
    if prompt.size > context:
        raise UserError(
            f"the prompt has {prompt.size} tokens, the model's context {context}",
            hint="shorten the prompt, or export the model with a longer context",
        )
    if sampling is not None and not isinstance(sampling, Sampling):
        raise UserError(
            f"sampling is a lowc.Sampling, not {reprlib.repr(sampling)}",
            hint="lowc.Sampling(temperature=0.8, top_k=40)",
        )
    sampler = Sampler(sampling or Sampling(), str(module.path))
    most = None if limit is None else whole(limit, "a limit")
    if whole(piece, "a piece") < 2:
        raise UserError(f"a piece of a prompt is of two tokens or more, not {piece}")
    feeder = Feeder(*_entries(module), context, piece)
    return _generate(module, feeder, prompt, context, most, sampler, _stops(stop))


def _prompt(tokens: Any) -> NDArray[np.int64]:
    try:
        prompt = np.asarray(tokens)
    except ValueError:  # lists of several lengths
        prompt = np.empty(0)
    if prompt.ndim != 1 or not prompt.size or prompt.dtype.kind not in "iu":
        raise UserError("a prompt is a list of one token or more, each a whole number")
    return prompt.astype(np.int64)


def _stops(stop: Any) -> frozenset[int]:
    try:
        tokens = None if isinstance(stop, str | bytes) else list(stop)
    except TypeError:
        tokens = None
    if tokens is None:
        raise UserError(f"stop is a collection of tokens, not {reprlib.repr(stop)}")
    return frozenset(whole(token, "a token of stop") for token in tokens)


def _generate(
    module: Module, feeder: Feeder, prompt: NDArray[np.int64], context: int, limit: int | None,
    sampler: Sampler, stop: frozenset[int],
) -> Iterator[int]:  # fmt: skip
    given, count, held = prompt, 0, 0
    shared, text = module.shared, object()
    while limit is None or count < limit:
        for size in feeder.pieces(given.size):
            with shared.turn:
                if not held:
                    shared.text = text
                if shared.text is not text and not feeder.carries_caches:
                    raise UserError(
                        "another text was begun on this module, whose caches hold one",
                        where=str(module.path),
                        hint="load it again for a second one",
                    )
                logits = feeder.call(given[:size], held + size)
                given, held = given[size:], held + size
                if not given.size:  # before another text's call may change the logits
                    token = sampler.choose(logits)
        if token in stop:
            return
        yield token
        count += 1
        if held == context:
            return
        given = np.array([token])
