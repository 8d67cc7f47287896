"""Cost models of ``lowc tune`` as they are served: features of tiles in, times of calls out."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from ...passes.tiling import features, model_files, tree_ranker
from ...passes.tiling.tree_ranker import TreeRanker
from .faults import Fault
from .models import BATCH, TensorSpec

_BEYOND = 100.0  # the logarithm of seconds


class CostModel:
    """The trees of a model's folder, for the machine that they were trained on.

    Rows are tiles of any products: ``features``, and ``form``, whose own formula the trees correct,
    as ``w4a8/kernel`` or ``f32/linalg``.  ``seconds`` are of a call, ``spread`` is how far the
    models of times disagree about its logarithm, ``score`` is higher for faster tiles of a product.
    The model of one form takes ``features`` only.
    """

    platform = "lowc-trees"

    def __init__(
        self, name: str, version: str, ranker: TreeRanker, *, form: str = "", family: str = ""
    ) -> None:
        self.name, self.version, self.ranker = name, version, ranker
        self.form, self._family = form, family
        rows = TensorSpec("features", "FP64", (BATCH, len(features.NAMES)))
        forms = TensorSpec("form", "BYTES", (BATCH,))
        self.inputs: tuple[TensorSpec, ...] = (rows,) if form else (rows, forms)
        self.outputs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(output, "FP64", (BATCH,)) for output in ("seconds", "spread", "score")
        )

    @property
    def unit(self) -> str:
        """The vector unit that it is for."""
        return self.ranker.manifest.machine.unit

    def is_for(self, unit: str) -> bool:
        """Whether it is for a vector unit: its own, or one of its family (``avx512…``)."""
        return unit == self.unit or (bool(self._family) and unit.startswith(self._family))

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs for ``features`` and ``form``.

        Raises
        ------
        Fault
            400 for features that no product has.
        """
        rows = inputs["features"]
        forms = inputs.get("form", np.array([self.form.encode()] * len(rows), object))
        members, levels, ranks = self.ranker.said(rows)
        # Of a product the compiler takes the mean level over its tiles; a row stands for itself.
        logs = members.mean(axis=0) + np.mean(levels, axis=0)
        for form in set(forms):
            of_form = forms == form
            formula = self.ranker.manifest.formulas.get(bytes(form).decode("utf-8", "replace"))
            with np.errstate(all="ignore"):
                logs[of_form] += tree_ranker.base_of(rows[of_form], formula)
        if not (np.abs(logs) < _BEYOND).all():
            raise Fault(400, f"model '{self.name}': no product has such features")
        score = np.mean(ranks, axis=0) if len(ranks) else -logs
        return {"seconds": np.exp(logs), "spread": members.std(axis=0), "score": score}


# The parts of one model share its trees.
_rankers: WeakValueDictionary[Hashable, TreeRanker] = WeakValueDictionary()


def load_cost_model(
    folder: Path, name: str, version: str, *, form: str = "", family: str = ""
) -> CostModel:
    """Read a folder that ``lowc tune`` wrote; `family` is how names of its units begin.

    Raises
    ------
    UserError
        When it is damaged, or of another lowc.
    """
    facts = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    key = (folder, *((one, at.st_ino, at.st_mtime_ns, at.st_size) for one, at in facts))
    ranker = _rankers.get(key)
    if ranker is None:
        loaded = model_files.read(folder)
        ranker = TreeRanker(loaded, loaded.manifest.machine, str(folder))
        _rankers[key] = ranker
    return CostModel(name, version, ranker, form=form, family=family)
