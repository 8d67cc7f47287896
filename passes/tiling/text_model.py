"""A small network over the text of a kernel, in NumPy: what LLVM will make of it, and its time.

A convolution over operations, as in "ML-driven Hardware Cost Model for MLIR" (arXiv 2302.11405)::

    x[op]  = sum of the embeddings of its tokens / sqrt(their number)
    h[op]  = relu(conv(relu(conv(x))))                       two convolutions along the operations
    a      = log(1 + sum over op of softplus(h[op] A))       what operations add to a quantity
    t      = log(sum over op of rounds[op] softplus(h[op] t)) and to the time, as often as they run
    y      = (a, t) + network(mean of h, largest h, a, t, log of the number of operations, …)

That a quantity is a sum over operations is the one thing that is built in: a kernel with more rows
than any that was seen is then no surprise.  It is trained by ``lowc tune --fit`` (``tools/tune``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .tokens import Tokens

Floats = NDArray[np.float32]

# Quantities that operations add up to, in this order, and then the time.
ADDED = ("instructions", "code_bytes", "spills")
# What the network says, in this order: logarithms of the first ones, log(1 + spills), and so on.
OUTPUTS = (*ADDED, "seconds", "vector_registers", "has_spills")
SHAPES = {
    "embedding": ("tokens", "width"),
    "conv1.weight": ("hidden", "width", "window"),
    "conv1.bias": ("hidden",),
    "conv2.weight": ("hidden", "hidden", "window"),
    "conv2.bias": ("hidden",),
    "added.weight": ("sums", "hidden"),
    "added.bias": ("sums",),
    "first.weight": ("inner", "features"),
    "first.bias": ("inner",),
    "last.weight": ("outputs", "inner"),
    "last.bias": ("outputs",),
}
SUMS = len(ADDED) + 1
MOST_REGISTERS = 32.0
MOST_TOKENS = 20_000
MOST_SIZES = {"window": 15, "width": 512, "hidden": 512, "inner": 512}


@dataclass(frozen=True)
class Prediction:
    """What the network says of one text; `seconds` is NaN for a model that has learnt no times."""

    instructions: float
    code_bytes: float
    vector_registers: float
    spills: float
    has_spills: float  # a probability
    seconds: float


@dataclass(frozen=True)
class TextModel:
    """A vocabulary, the arrays of :data:`SHAPES`, and whether it knows times."""

    vocabulary: Mapping[str, int]
    weights: Mapping[str, Floats]
    knows_time: bool = False

    def predict(self, text: Tokens) -> Prediction:
        """Return what the network says of a text with at least one operation."""
        hidden = self._hidden(text)
        y = self._outputs(hidden, text)
        spills = max(0.0, math.expm1(min(y[2], 30.0)))
        return Prediction(
            instructions=math.exp(min(y[0], 30.0)),
            code_bytes=math.exp(min(y[1], 30.0)),
            vector_registers=min(max(y[4], 0.0), 1.0) * MOST_REGISTERS,
            spills=spills,
            has_spills=1 / (1 + math.exp(-min(max(y[5], -30.0), 30.0))),
            seconds=math.exp(min(y[3], 30.0)) if self.knows_time else math.nan,
        )

    def _hidden(self, text: Tokens) -> Floats:
        ids, starts, shares = indices(text, self.vocabulary)
        rows = self.weights["embedding"][ids] * shares[:, None]
        x = np.add.reduceat(rows, starts, axis=0)
        for name in ("conv1", "conv2"):
            x = _convolved(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        return x

    def _outputs(self, hidden: Floats, text: Tokens) -> list[float]:
        w = self.weights
        parts = np.logaddexp(0, hidden @ w["added.weight"].T + w["added.bias"])
        rounds = np.asarray(text.rounds, np.float32)
        sums = [*np.log1p(parts[:, :-1].sum(axis=0)), math.log((parts[:, -1] @ rounds) + 1e-6)]
        features = np.concatenate(
            [hidden.mean(axis=0), hidden.max(axis=0), sums, scalars(text)]
        ).astype(np.float32)
        inner = np.maximum(w["first.weight"] @ features + w["first.bias"], 0)
        y = w["last.weight"] @ inner + w["last.bias"]
        y[:SUMS] += np.asarray(sums, np.float32)
        return [float(value) for value in y]


def scalars(text: Tokens) -> list[float]:
    """Return what is said of a whole text: logarithms of its length and of the workgroups."""
    groups = text.workgroups or 1
    return [math.log(len(text.operations)), math.log(groups), float(text.workgroups is None)]


def indices(
    text: Tokens, vocabulary: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the number of each token (0: unknown), where operations start, and tokens' shares."""
    ids = [vocabulary.get(token, 0) for tokens in text.operations for token in tokens]
    lengths = np.array([len(tokens) for tokens in text.operations])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    shares = np.repeat(1 / np.sqrt(lengths), lengths).astype(np.float32)
    return np.array(ids, np.int64), starts, shares


def _convolved(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return ``relu`` of a convolution along the first dimension; outside of it are zeros."""
    hidden, width, window = weight.shape
    half = window // 2
    padded = np.pad(x, ((half, half), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)
    columns = views.reshape(len(x), width * window)
    return np.maximum(columns @ weight.reshape(hidden, width * window).T + bias, 0)


def from_bytes(
    data: bytes, vocabulary: Sequence[str], where: str, *, knows_time: bool = False
) -> TextModel:
    """Return the model whose arrays are safetensors in `data`.

    Raises
    ------
    UserError
        When they are none, or not those of such a model; or safetensors is not installed.
    """
    try:
        import safetensors
        from safetensors.numpy import load
    except ImportError as error:
        raise UserError(
            "the text model needs safetensors, which is not installed",
            hint="pip install 'lowc[tune]'",
        ) from error
    if len(vocabulary) > MOST_TOKENS or len(set(vocabulary)) != len(vocabulary):
        raise UserError("the text model has too many tokens, or one twice", where=where)
    try:
        weights = load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"this is no safetensors file ({error})", where=where) from error
    why = check_shapes(weights, len(vocabulary))
    if why:
        raise UserError(f"this is no text model: {why}", where=where)
    return TextModel(vocabulary_of(vocabulary), weights, knows_time)


def check_shapes(weights: Mapping[str, NDArray[Any]], tokens: int) -> str:
    """Say what is wrong with the arrays of a model; "" if nothing is."""
    if sorted(weights) != sorted(SHAPES):
        return f"it holds the arrays {', '.join(sorted(weights))[:200]}"
    sizes = {"tokens": tokens, "outputs": len(OUTPUTS), "sums": SUMS}
    for name, dims in SHAPES.items():
        array = weights[name]
        if array.dtype != np.float32 or array.ndim != len(dims):
            return f"'{name}' is {array.dtype} with {array.ndim} dimensions"
        if not np.isfinite(array).all():
            return f"'{name}' has values that are no numbers"
        for dim, size in zip(dims, array.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                return f"'{name}' has the shape {array.shape}"
    for dim, most in MOST_SIZES.items():
        if not 1 <= sizes[dim] <= most:
            return f"its {dim} is {sizes[dim]}, not 1 to {most}"
    if sizes["features"] != 2 * sizes["hidden"] + SUMS + 3 or sizes["window"] % 2 == 0:
        return "its arrays do not fit each other"
    return ""


def vocabulary_of(tokens: Sequence[str]) -> dict[str, int]:
    """Return the number of each token; 0 stands for all others."""
    return {token: number for number, token in enumerate(tokens)}
