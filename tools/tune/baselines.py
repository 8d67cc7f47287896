"""What learned models are compared with: a roofline, alpha-FLOPs, a random forest, a neighbour.

Each is fitted on some tables and predicts the seconds of others, as the models of ``trees.py`` do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...passes.tiling import features
from ...passes.tiling.tree_ranker import base_of, form_key
from .formulas import fit_formulas
from .measured import Table
from .trees import rows_of

Floats = NDArray[np.float64]
Predictor = Callable[[Table], Floats]
_AT = {name: place for place, name in enumerate(features.NAMES)}


def form_of(table: Table) -> tuple[str, str]:
    """Return what the constants of formulas are fitted for: form and lowering."""
    return table.problem.form, table.problem.lowering


def _by_form(tables: Sequence[Table]) -> dict[tuple[str, str], list[Table]]:
    found: dict[tuple[str, str], list[Table]] = defaultdict(list)
    for table in tables:
        found[form_of(table)].append(table)
    return found


def roofline(tables: Sequence[Table]) -> Predictor:
    """``max(products / rate, bytes / bandwidth)``, times one number for each form.

    It knows nothing of tiles: all of a product take the same time, and the default is chosen.
    """
    factors = {
        form: float(
            np.median(np.concatenate([np.log(t.seconds) - np.log(_bound(t)) for t in same]))
        )
        for form, same in _by_form(tables).items()
    }

    def predict(table: Table) -> Floats:
        factor = factors.get(form_of(table), 0.0)
        return np.full(len(table.seconds), _bound(table) * np.exp(factor))

    return predict


def _bound(table: Table) -> float:
    problem, machine = table.problem, table.machine
    rate = machine.multiply_rate or features.MULTIPLY_RATE
    compute = problem.products * features.cost(problem) / rate
    memory = 2 ** float(rows_of(table)[0, _AT["log_memory"]])
    return max(compute, memory)


def formula(tables: Sequence[Table]) -> Predictor:
    """Fit a sum of the components of a time, which know tiles, for each form; trees add to it."""
    fitted = fit_formulas(tables, [rows_of(table) for table in tables])

    def predict(table: Table) -> Floats:
        return np.exp(base_of(rows_of(table), fitted.get(form_key(table.problem))))

    return predict


def alpha_flops(tables: Sequence[Table]) -> Predictor:
    """Alpha-FLOPs (arXiv 2107.11949), its three constants fitted for each form; knows no tiles."""
    constants = {form: _fit_alpha(same) for form, same in _by_form(tables).items()}

    def predict(table: Table) -> Floats:
        log_scale, beta, gamma = constants.get(form_of(table), (0.0, 0.02, 0.99))
        return np.full(len(table.seconds), np.exp(log_scale + _log_alpha(table, beta, gamma)))

    return predict


def _log_alpha(table: Table, beta: float, gamma: float) -> float:
    p = table.problem
    spatial = (p.m or 1) * (p.batch or 1)
    return float(np.log(features.alpha_flops(spatial, p.n or 1, p.k or 1, beta, gamma)))


def _fit_alpha(tables: Sequence[Table]) -> tuple[float, float, float]:
    """Return the scale's logarithm, beta and gamma with the least squares of logarithms of time."""
    y = np.array([np.log(np.median(table.seconds)) for table in tables])
    best, found = np.inf, (0.0, 0.02, 0.99)
    for beta in (0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        for gamma in np.linspace(0.0, 1.0, 21):
            x = np.array([_log_alpha(table, beta, float(gamma)) for table in tables])
            scale = float(np.mean(y - x))
            rest = float(np.sum((y - x - scale) ** 2))
            if rest < best:
                best, found = rest, (scale, beta, float(gamma))
    return found


def gpperf_features(table: Table) -> Floats:
    """Return GPPerf's columns: m, n, k, FLOPs, bytes, their ratio, and a workgroup's tile."""
    p = table.problem
    m, n, k = (float(size or 1) for size in (p.m, p.n, p.k))
    rows = rows_of(table)
    chunk, block = 2 ** rows[:, _AT["log_row_chunk"]], 2 ** rows[:, _AT["log_k_block"]]
    across = rows[:, _AT["panels"]] * rows[:, _AT["vectors"]] * rows[:, _AT["lanes"]]
    flops, moved = 2 * m * n * k, 4 * (m * k + k * n + m * n)
    shared = np.tile([m, n, k, flops, moved, flops / moved], (len(rows), 1))
    return np.column_stack([shared, chunk, across, block])


def forest() -> Any:
    """Return GPPerf's regressor: scaled columns, 100 trees of depth 6."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    trees = RandomForestRegressor(n_estimators=100, max_depth=6, random_state=42, n_jobs=1)
    return make_pipeline(StandardScaler(), MultiOutputRegressor(trees))


def gpperf(tables: Sequence[Table]) -> Predictor:
    """GPPerf's random forest, for each form: its columns, raw seconds, clipped at 1 and 99 %."""
    fitted = {}
    for form, same in _by_form(tables).items():
        x = clipped(np.concatenate([gpperf_features(table) for table in same]))
        y = clipped(np.concatenate([table.seconds for table in same])[:, None])
        fitted[form] = forest().fit(x, y)

    def predict(table: Table) -> Floats:
        if form_of(table) not in fitted:
            return np.full(len(table.seconds), 1.0)
        found = fitted[form_of(table)].predict(gpperf_features(table))
        return np.asarray(found, float).reshape(-1)

    return predict


def clipped(values: Floats) -> Floats:
    """Clip every column to its 1st and 99th percentile."""
    low, high = np.percentile(values, [1, 99], axis=0)
    return np.clip(values, low, high)


def neighbour(tables: Sequence[Table]) -> Predictor:
    """Take the time over its estimate of the nearest measured tile of the same form."""
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = {}
    for form, same in _by_form(tables).items():
        x = np.concatenate([rows_of(table) for table in same])
        y = np.log(np.concatenate([table.seconds for table in same])) - x[:, features.ESTIMATE]
        nearest = make_pipeline(StandardScaler(), KNeighborsRegressor(n_neighbors=1))
        fitted[form] = nearest.fit(x, y)

    def predict(table: Table) -> Floats:
        rows = rows_of(table)
        if form_of(table) not in fitted:
            return np.exp(rows[:, features.ESTIMATE])
        found = fitted[form_of(table)].predict(rows)
        return np.exp(rows[:, features.ESTIMATE] + np.asarray(found, float))

    return predict


BASELINES: dict[str, Callable[[Sequence[Table]], Predictor]] = {
    "roofline": roofline,
    "formula with tiles": formula,
    "alpha-FLOPs": alpha_flops,
    "random forest (GPPerf)": gpperf,
    "nearest neighbour": neighbour,
}
