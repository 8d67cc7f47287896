"""What a recipe does to a model: the damage of each layer alone, and the errors of the outputs."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..passes.shadow_matmuls import ShadowMatmuls
from ..runtime import tree as trees
from .api import Calibration, Limited, build, check_calibration
from .recipe import Recipe, load_recipe
from .target import Target, load_target

if TYPE_CHECKING:
    from ..runtime.module import Module
    from .artifact import Artifact

Array = np.ndarray[Any, Any]
MAX_RANKED_ROWS = 2000  # similarities of all pairs: 2 million numbers


@dataclass(frozen=True)
class LayerError:
    """What the form of one matmul does to its result, given the inputs of the f32 model.

    Attributes
    ----------
    relative_rms : float
        Root of the sum of squared errors over that of squared exact values.
    slope : float
        The factor that, times the exact result, comes nearest to the approximate one.
    scatter : float
        The relative error that is left when the slope is divided out.
    """

    name: str
    kind: str
    shape: str
    form: str
    relative_rms: float
    slope: float
    scatter: float


@dataclass(frozen=True)
class OutputErrors:
    """Errors of float outputs over all calls; a row is what one index of the first dimension has.

    ``rank_correlation`` is Spearman's between the cosine similarities of all pairs of rows; it is
    None where outputs are no embeddings, or fewer than three.
    """

    rows: int
    max_abs: float
    relative_l2: float
    mean_cosine: float
    min_cosine: float
    rank_correlation: float | None


def shadow(
    model: Any,
    recipe: str | os.PathLike[str] | Recipe,
    target: str | Target,
    output: Path,
    progress: Callable[[str], object] | None = None,
    calibration: Calibration | None = None,
) -> Artifact:
    """Compile `model` exact, with every matmul beside it in the form that `recipe` gives it.

    The last output of the module are the sums that :func:`layer_errors` reads.  When the recipe
    changes no matmul that can be measured, there is no such output.

    Parameters
    ----------
    model : path, ExportedProgram or Model
        As for :func:`lowc.compile`, and so is `calibration`.
    """
    chosen = load_recipe(recipe)
    check_calibration(chosen, calibration)
    # Elementwise products are no layers: they stay exact, so that layers see exact inputs.
    rules = tuple(rule for rule in chosen.rules if rule.form.of == "matmul")
    return build(
        model,
        dataclasses.replace(chosen, rules=rules),
        load_target(target),
        output,
        calibration=None if calibration is None else Limited(calibration),
        progress=progress,
        measures=[ShadowMatmuls()],
    )


def measured_layers(module: Module) -> list[str]:
    """Return the names of the matmuls that a module made by :func:`shadow` measures, in order."""
    return list(module.manifest.report.get("shadows", []))


def layer_errors(module: Module, calls: Sequence[list[Any]]) -> list[LayerError]:
    """Run a module made by :func:`shadow` on the inputs of all `calls`; worst layers first."""
    names = measured_layers(module)
    if not names:
        return []
    sums = np.zeros((len(names), 3))
    module.reset()
    for inputs in calls:
        *_, last = call(module, inputs)
        sums += last
    rows = {row["name"]: row for row in module.manifest.report["matmuls"]}
    found = [_layer_error(rows[name], *map(float, sums[i])) for i, name in enumerate(names)]
    # What is not a number is the worst of all.
    return sorted(found, key=lambda layer: _rank_of(layer.relative_rms), reverse=True)


def _rank_of(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _layer_error(
    row: dict[str, Any], squared: float, exact: float, times_exact: float
) -> LayerError:
    if exact == 0:
        relative, slope, scatter = (math.inf, math.nan, math.inf) if squared else (0.0, 1.0, 0.0)
    else:
        relative = math.sqrt(squared / exact)
        excess = times_exact / exact
        slope = 1 + excess
        # sum (form - slope * exact)^2, which rounding can bring below zero
        scatter = math.sqrt(max(squared / exact - excess * excess, 0.0)) / (abs(slope) or 1.0)
    is_exact = row["lowering"].startswith("exact")
    form = "exact" if is_exact else row["requested"]
    return LayerError(row["name"], row["kind"], row["shape"], form, relative, slope, scatter)


def call(module: Module, inputs: Sequence[Any]) -> list[Any]:
    """Call `module` with one array per tensor of its inputs; return its outputs, flat."""
    manifest = module.manifest
    tensors = iter(inputs)
    leaves = iter([leaf.value if leaf.literal else next(tensors) for leaf in manifest.inputs])
    args = trees.unflatten(manifest.args_tree, leaves)
    kwargs = trees.unflatten(manifest.kwargs_tree, leaves)
    return list(trees.flatten(manifest.out_tree, module(*args, **kwargs), "output"))


@dataclass
class Comparison:
    """Compares outputs with the expected ones, call after call.

    Parameters
    ----------
    rank : bool
        Whether rows of any shape are embeddings; else those of the first two-dimensional output
        are.
    """

    rank: bool = False
    _cosines: list[Array] = field(default_factory=list)
    _max_abs: float = 0.0
    _squared: float = 0.0
    _norm: float = 0.0
    _embeddings: list[tuple[Array, Array]] = field(default_factory=list)

    def add(self, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Take the flat outputs of one call."""
        is_first = True
        for a, b in _float_pairs(found, expected):
            rows_a, rows_b = _rows(a), _rows(b)
            difference = rows_a - rows_b
            if difference.size:
                # np.maximum hands NaN on, max() does not.
                self._max_abs = float(np.maximum(self._max_abs, np.abs(difference).max()))
            self._squared += float(np.sum(difference * difference))
            self._norm += float(np.sum(rows_b * rows_b))
            self._cosines.append(cosines(rows_a, rows_b))
            if is_first and (self.rank or b.ndim == 2):
                self._embeddings.append((rows_a, rows_b))
                is_first = False

    def errors(self) -> OutputErrors | None:
        """Return the errors so far; None when no output holds floats."""
        if not self._cosines:
            return None
        cosine = np.concatenate(self._cosines)
        relative = math.sqrt(self._squared / self._norm) if self._norm else math.inf
        return OutputErrors(
            rows=len(cosine),
            max_abs=self._max_abs,
            relative_l2=relative if self._squared else 0.0,
            mean_cosine=float(cosine.mean()),
            min_cosine=float(cosine.min()),
            rank_correlation=self._rank_correlation(),
        )

    def _rank_correlation(self) -> float | None:
        if not self._embeddings or len({b.shape[1] for _, b in self._embeddings}) > 1:
            return None
        sides = zip(*self._embeddings, strict=True)
        found, expected = (np.concatenate(side)[:MAX_RANKED_ROWS] for side in sides)
        if len(found) < 3 or not np.isfinite(found).all():
            return None
        upper = np.triu_indices(len(found), 1)
        return spearman(_similarity(found)[upper], _similarity(expected)[upper])


def _float_pairs(found: Sequence[Any], expected: Sequence[Any]) -> Iterator[tuple[Array, Array]]:
    for a, b in zip(found, expected, strict=True):
        wanted = np.asarray(b)
        if wanted.dtype.kind in "fV" and isinstance(b, np.ndarray):  # V: bfloat16 and the like
            yield np.asarray(a).astype(np.float64), wanted.astype(np.float64)


def _rows(array: Array) -> Array:
    if array.ndim < 2:
        return array.reshape(1, -1)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def cosines(a: Array, b: Array) -> Array:
    """Return the cosine between the rows of `a` and `b`; 1 for two rows of zeros, 0 for one."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    safe = np.where(norms == 0, 1.0, norms)
    return np.where(both_zero, 1.0, np.sum(a * b, axis=1) / safe)


def _similarity(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norms == 0, 1.0, norms)
    return unit @ unit.T


def spearman(a: Array, b: Array) -> float | None:
    """Return the rank correlation of two vectors; None when all of one are equal."""
    ranks = [_ranks(values) for values in (a, b)]
    left, right = (rank - rank.mean() for rank in ranks)
    norm = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / norm if norm else None


def _ranks(values: Array) -> Array:
    """Return the rank of each value, equal ones sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]
