"""Trees of model files: checked, then answered in NumPy, or by LightGBM where that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from . import tree_text
from .forest import Forest

Floats = NDArray[np.float64]


class Trees(Protocol):
    """Some models of trees."""

    def predict(self, rows: Floats) -> Floats:
        """Return ``[models, rows]``, what each model says of ``[rows, features]``, all finite."""


class _Boosters:
    """LightGBM's own."""

    def __init__(self, boosters: Sequence[Any]) -> None:
        self._boosters = boosters

    def predict(self, rows: Floats) -> Floats:
        """Return ``[models, rows]``."""
        return np.stack([booster.predict(rows, num_threads=1) for booster in self._boosters])


def load(files: Sequence[tuple[str, bytes]], features: Sequence[str]) -> Trees:
    """Return the models that `files`, as (where, contents), are, of rows of such `features`.

    Raises
    ------
    UserError
        When one is damaged or about other features, or needs LightGBM, which is not installed.
    """
    texts = [_checked(data, features, where) for where, data in files]
    try:
        return Forest(texts)
    except ValueError:
        names = [where for where, _ in files]
        return _Boosters([*map(_booster, texts, names)])


def _checked(data: bytes, features: Sequence[str], where: str) -> str:
    try:
        text, count = tree_text.checked(data.decode("ascii"), features)
    except (tree_text.TreeError, UnicodeDecodeError) as error:
        raise UserError(
            f"this is no model that lowc can use: {error}", where=where,
            hint="fit it again with 'lowc tune --fit'",
        ) from error  # fmt: skip
    if not count:
        raise UserError("the model has no trees", where=where)
    return text


def _booster(text: str, where: str) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise UserError(
            "trees of this kind need LightGBM, which is not installed", where=where,
            hint="pip install 'lowc[tune]'; without it products have their default tiles",
        ) from error  # fmt: skip
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise UserError(f"LightGBM cannot read the model ({error})", where=where) from error
