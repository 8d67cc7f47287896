"""Any LightGBM model as it is served: rows of features in, one number for each out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...passes.tiling import tree_text
from .models import BATCH, TensorSpec

FILE = "model.txt"


class Boosted:
    """A model of LightGBM; `text` was checked.

    Raises
    ------
    UserError
        When LightGBM does not take it.
    """

    platform = "lightgbm"

    def __init__(self, name: str, version: str, text: str, width: int) -> None:
        import lightgbm

        self.name, self.version = name, version
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("features", "FP64", (BATCH, width)),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("predict", "FP64", (BATCH,)),)
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise UserError(
                f"LightGBM cannot read the model ({error})", where=f"{name} {version}"
            ) from error

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return ``predict`` for ``features``."""
        found = self._booster.predict(inputs["features"], num_threads=1)
        return {"predict": np.asarray(found, np.float64)}


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
    if path.stat().st_size > tree_text.MOST_BYTES:
        raise UserError("the model is too large", where=str(path))
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
        raise UserError("the model is not the one of its manifest", where=str(path))
    try:
        text, _ = tree_text.checked(data.decode("ascii"), features)
    except (tree_text.TreeError, UnicodeDecodeError) as error:
        raise UserError(f"it is no model that can be served: {error}", where=str(path)) from error
    return Boosted(name, version, text, len(features))
