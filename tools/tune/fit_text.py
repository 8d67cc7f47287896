"""Train and judge the text model of a cost model, from a corpus of compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...passes.tiling import tokens
from ...passes.tiling.text_model import TextModel
from . import text_corpus
from .train_text import Example, train
from .trees import fold_of

EPOCHS = 40
LEAST = 100  # kernels
HELD = 5  # every fifth weight's shape is held out
Tell = Callable[[str], object]


@dataclass(frozen=True)
class TextPart:
    """A trained text model for a model's folder: its safetensors, its tokens, what it reached."""

    data: bytes
    vocabulary: tuple[str, ...]
    metrics: dict[str, Any]


def fit_text(corpus: Path, tell: Tell, epochs: int = EPOCHS) -> TextPart:
    """Train on four fifths of the weights' shapes of `corpus`, and measure on the others.

    Raises
    ------
    UserError
        When there are too few kernels, or PyTorch or safetensors is missing.
    """
    try:
        import torch  # noqa: F401
        from safetensors.numpy import save
    except ImportError as error:
        raise UserError(
            f"training the text model needs {error.name}, which is not installed",
            hint="pip install 'lowc[torch,tune]'",
        ) from error
    rows = list(text_corpus.read(corpus)) if corpus.exists() else []
    if len(rows) < LEAST:
        raise UserError(
            f"there are {len(rows)} kernels, fewer than {LEAST}", where=str(corpus),
            hint="'lowc tune --corpus FILE --kernels N' compiles more",
        )  # fmt: skip
    examples = [_example(row) for row in rows]
    held = [fold_of(weight_of(row["shape"]), HELD) == 0 for row in rows]
    learnt = [one for one, is_held in zip(examples, held, strict=True) if not is_held]
    tell(f"{len(learnt)} kernels to learn from, {sum(held)} held out")
    model, words = train(learnt, epochs, tell=tell)
    seen = {_tile(row) for row, is_held in zip(rows, held, strict=True) if not is_held}
    pairs = [(row, one) for row, one, is_held in zip(rows, examples, held, strict=True) if is_held]
    new = [(row, one) for row, one in pairs if _tile(row) not in seen]
    metrics = {"learnt": len(learnt), "held-out shapes": judge(model, pairs)}
    if new:
        metrics["of these, register tiles that were not seen"] = judge(model, new)
    return TextPart(save(dict(model.weights)), tuple(words), metrics)


def weight_of(shape: str) -> str:
    """Return ``NxK`` of ``batch x M x N x K``, or N where there is no K: the rows do not matter."""
    return "x".join(shape.split("x")[2:])


def _example(row: dict[str, Any]) -> Example:
    text = tokens.tokenize(row["text"], row["unit"])
    return Example(
        text, row["instructions"], row["code_bytes"], row["vector_registers"], row["spills"]
    )


def _tile(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["unit"], row["family"], row["register_tile"]


def judge(model: TextModel, pairs: Sequence[tuple[dict[str, Any], Example]]) -> dict[str, float]:
    """Return mean errors in fractions and registers, and how often "spills or not" is right."""
    said = [model.predict(one.text) for _, one in pairs]
    rows = [row for row, _ in pairs]

    def error(name: str) -> float:
        found = [getattr(one, name) / row[name] - 1 for one, row in zip(said, rows, strict=True)]
        return float(np.mean(np.abs(found)))

    asked = [(o, row) for o, row in zip(said, rows, strict=True) if row["spills"] is not None]
    right = [(one.has_spills > 0.5) == (row["spills"] > 0) for one, row in asked]
    registers = [
        abs(one.vector_registers - row["vector_registers"])
        for one, row in zip(said, rows, strict=True)
    ]
    return {
        "kernels": len(rows), "instructions MAPE": error("instructions"),
        "code size MAPE": error("code_bytes"), "registers, mean error": float(np.mean(registers)),
        "spills or not, right": float(np.mean(right)),
        "kernels that spill": float(np.mean([row["spills"] > 0 for _, row in asked])),
    }  # fmt: skip
