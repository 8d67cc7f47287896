"""Fit what the parts of a time count (``passes/tiling/work.py``), for each form.

First with the least squares of relative errors, as if all parts were added, then by what they are:
with the least deviations of logarithms, from there and not far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import features, work
from ...passes.tiling.tree_ranker import form_key
from .measured import Table

Floats = NDArray[np.float64]
LEAST = 1e-3  # that a part counts, to begin with
NEAR = 0.03  # how much a logarithm that moves away counts beside one of a time
BEYOND = 0.1  # differences of logarithms beyond it are no squares any more
EVALUATIONS = 40


def fit_formulas(tables: Sequence[Table], rows: Sequence[Floats]) -> dict[str, tuple[float, ...]]:
    """Return for each form what each part counts, none less than 0; every product weighs alike."""
    found = {}
    for form in sorted({form_key(table.problem) for table in tables}):
        same = [i for i, table in enumerate(tables) if form_key(table.problem) == form]
        parts = np.concatenate([features.components(rows[i]) for i in same])
        seconds = np.concatenate([tables[i].seconds for i in same])
        weights = np.concatenate([np.full(len(rows[i]), len(rows[i]) ** -0.5) for i in same])
        counts = fit_counts(parts, seconds, weights)
        if counts.any():
            found[form] = tuple(float(count) for count in counts)
    return found


def fit_counts(parts: Floats, seconds: Floats, weights: Floats) -> Floats:
    """Return what each part of ``[tiles, parts]`` counts, for tiles of one form."""
    from scipy.optimize import least_squares, nnls

    relative = weights / seconds
    first, _ = nnls(parts * relative[:, None], weights)
    start = np.log(np.maximum(first, LEAST))
    logs = np.log(seconds)

    def off(asked: Floats) -> Floats:
        found = np.log(work.total(parts, np.exp(asked).tolist()) + 1e-12)
        return np.concatenate([(found - logs) * weights, NEAR * (asked - start)])

    fitted = least_squares(off, start, loss="soft_l1", f_scale=BEYOND, max_nfev=EVALUATIONS)
    counts: Floats = np.exp(fitted.x)
    return counts
