"""Run a model over the inputs of a calibration, and collect ``X^T X`` of what its matmuls read.

The model is compiled exact for this machine's CPU, with ``lowc-collect-moments``; the matmuls that
use one weight are summed up together.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..passes.collect_moments import CollectMoments
from ..runtime import tree as trees
from ..runtime.module import Module, load
from . import accuracy, api
from .calibration import read_calibration
from .frontend import Model
from .recipe import Recipe
from .target import load_target


@dataclass(frozen=True)
class Moments:
    """``X^T X`` (f64 ``[K, K]``) by the name of the matmul, and why others have none."""

    of: dict[str, NDArray[np.float64]]
    refused: dict[str, str]


def collect(model: Model, recipe: Recipe, calibration: api.Calibration) -> Moments:
    """Measure what the methods of `recipe` want to know; `model` is rewritten: pass a copy of it.

    Parameters
    ----------
    calibration : iterable of input tuples, or path
        As for :func:`lowc.compile`.

    Raises
    ------
    UserError
        The inputs do not fit the model, there are none, or the file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="lowc-calibration-") as folder:
        path = Path(folder) / "model.vmfb"
        artifact = api.build(model, recipe, load_target("cpu"), path, measures=[CollectMoments()])
        found = _sums(load(path, verify=False), calibration)
    return Moments(found, _refusals(artifact.report["remarks"]))


def _sums(module: Module, calibration: api.Calibration) -> dict[str, NDArray[np.float64]]:
    measured: list[list[str]] = module.manifest.report.get("moments", [])
    totals: dict[str, Any] = defaultdict(float)
    count = 0
    for outputs in _runs(module, calibration):
        count += 1
        # Uses of one weight have one sum; a use may stand for several results.
        for (_, weight), moments in zip(measured, outputs, strict=True):
            totals[weight] = totals[weight] + np.asarray(moments, np.float64)
    if not count:
        raise UserError("the calibration has no inputs", hint="some dozens of samples are usual")
    return {name: totals[weight] for name, weight in measured}


def _runs(module: Module, calibration: api.Calibration) -> Iterator[list[Any]]:
    """Yield the moments of each call."""
    manifest = module.manifest
    count = len(manifest.report.get("moments", []))
    module.reset()
    if isinstance(calibration, (str, os.PathLike)):
        for inputs in read_calibration(calibration, manifest):
            yield _last(accuracy.call(module, inputs), count)
        return
    for number, given in enumerate(calibration):
        if not isinstance(given, (tuple, list)):
            raise UserError(
                f"a {type(given).__name__} is no tuple of inputs",
                where=f"calibration, sample {number + 1}",
                hint="pass an iterable of tuples, one for each call: [(x,), (y,)]",
            )
        outputs = trees.flatten(manifest.out_tree, module(*given), "output")
        yield _last(list(outputs), count)


def _last(outputs: list[Any], count: int) -> list[Any]:
    return outputs[len(outputs) - count :]


def _refusals(remarks: Iterable[dict[str, Any]]) -> dict[str, str]:
    wanted = [
        remark
        for remark in remarks
        if remark["pass"] == CollectMoments.name and remark["kind"] == "refused"
    ]
    return {remark["subject"]: remark["message"] for remark in wanted}
