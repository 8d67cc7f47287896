"""Any LightGBM model as it is served: rows of features in, one number for each out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...passes.tiling import model_files, tree_text, trees
from ...passes.tiling.trees import Trees
from .models import BATCH, TensorSpec

FILE = "model.txt"


class Boosted:
    """One model of `trees`, of rows of `width` features."""

    platform = "lightgbm"

    def __init__(self, name: str, version: str, found: Trees, width: int) -> None:
        self.name, self.version, self._trees = name, version, found
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("features", "FP64", (BATCH, width)),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("predict", "FP64", (BATCH,)),)

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return ``predict`` for ``features``."""
        return {"predict": self._trees.predict(inputs["features"])[0]}


def load_boosted(folder: Path, name: str, version: str, manifest: dict[str, Any]) -> Boosted:
    """Read ``model.txt`` in `folder`; its manifest has its ``sha256`` and its ``features``.

    Raises
    ------
    UserError
        When it is not what the manifest says, or no model that may be given to LightGBM.
    """
    path, features = folder / FILE, manifest.get("features")
    if not isinstance(features, list) or not all(isinstance(one, str) for one in features):
        raise UserError("the manifest needs 'features', a list of names", where=str(folder))
    data = model_files.contents(path, tree_text.MOST_BYTES)
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
        raise UserError("the model is not the one of its manifest", where=str(path))
    return Boosted(name, version, trees.load([(str(path), data)], features), len(features))
