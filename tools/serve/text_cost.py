"""The text model of a folder as it is served: MLIR of kernels in, what LLVM makes of it out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...passes.tiling import model_files, text_model, tokens
from ...passes.tiling.text_model import Prediction, TextModel
from .faults import Fault
from .models import BATCH, TensorSpec

MOST_BYTES = 256 << 10  # of a text
MOST_TOGETHER = 1 << 20  # of those of a request
SUFFIX = "-text"


class TextCost:
    """One function's text a row; what the model has learnt no times for is NaN, and left out."""

    platform = "lowc-text"
    takes_long = True  # a text may be read for a second: never in the event loop

    def __init__(self, name: str, version: str, model: TextModel, unit: str) -> None:
        self.name, self.version = name, version
        self._model, self._unit = model, unit
        names = [field.name for field in dataclasses.fields(Prediction)]
        told = [one for one in names if model.knows_time or one != "seconds"]
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("mlir", "BYTES", (BATCH,)),)
        self.outputs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(one, "FP64", (BATCH,)) for one in told
        )

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the model says of each text.

        Raises
        ------
        Fault
            400 for what is no text of a function, 413 for a text that is too long, or for texts
            that are so together; several requests' are then asked about one by one.
        """
        if sum(map(len, inputs["mlir"])) > MOST_TOGETHER:
            raise Fault(413, f"the texts of a request have at most {MOST_TOGETHER} bytes")
        found = [self._one(bytes(text)) for text in inputs["mlir"]]
        return {
            spec.name: np.array([getattr(one, spec.name) for one in found], np.float64)
            for spec in self.outputs
        }

    def _one(self, raw: bytes) -> Prediction:
        if len(raw) > MOST_BYTES:
            raise Fault(413, f"a text has at most {MOST_BYTES} bytes")
        try:
            read = tokens.tokenize(raw.decode("utf-8"), self._unit)
        except UnicodeDecodeError:
            raise Fault(400, "the text is not UTF-8") from None
        except (ArithmeticError, ValueError):
            raise Fault(
                400, "a number in the text is none or too large, or its loops are nested too deep"
            ) from None
        if not read.operations:
            raise Fault(400, "there is no operation in the text")
        return self._model.predict(read)


def load_text_cost(folder: Path, name: str, version: str) -> TextCost:
    """Read the text model in a folder that ``lowc tune`` wrote.

    Raises
    ------
    UserError
        When there is none, or it is damaged.
    """
    loaded = model_files.read(folder)
    manifest = loaded.manifest
    if not manifest.text:
        raise UserError("the folder has no text model", where=str(folder))
    model = text_model.from_bytes(
        loaded.files[manifest.text], manifest.vocabulary, str(folder / manifest.text),
        knows_time=manifest.knows_time,
    )  # fmt: skip
    return TextCost(name, version, model, manifest.machine.unit)
