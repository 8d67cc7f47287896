"""Choose the number of planes of each layer, so that all together take no more bits than asked for.

An integer programme, with x[l, p] in {0, 1} telling whether layer l gets p planes::

    minimise    sum over l, p of error[l, p] x[l, p]
    so that     sum over p of x[l, p] = 1                                     for every layer
                sum over l, p of weights[l] bits[l, p] x[l, p] <= budget * sum of weights[l]

The errors are measured: layers are coded with each number of planes, and what counts is the part of
a layer's output (``tr((W - Q) H (W - Q)^T) / tr(W H W^T)``), or of its weight, that is lost.  Only
parts can be added up: normalisation makes the size of most outputs mean nothing.  What they are
weighted by is the caller's (``planes.py``).  ShiftAddLLM
multiplies an importance score of the layer by a loss that depends on the number of planes alone;
the score stands for the error that is measured here, and the product assumes that all layers gain
alike from one more plane, which the fit of their codes belies.

Source: ShiftAddLLM (arXiv 2406.05981) for the programme; solved by HiGHS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError, UserError
from ..passes.formats import binary_codes
from ..passes.formats.binary_codes import BinaryCodes
from . import feedback


@dataclass(frozen=True)
class Layer:
    """A layer: how many `weights` it has, and by number of planes the error and bits per weight."""

    name: str
    weights: int
    errors: Mapping[int, float]
    bits: Mapping[int, float]


def allocate(layers: Sequence[Layer], budget: float) -> dict[str, int]:
    """Return the planes of each layer, by its name, at most `budget` bits per weight on average.

    Raises
    ------
    UserError
        The budget is below what all layers take with their fewest planes; SciPy is missing.
    """
    if not layers:
        return {}
    choices = [(number, planes) for number, layer in enumerate(layers) for planes in layer.errors]
    error = np.array([layers[number].errors[planes] for number, planes in choices])
    if not np.isfinite(error).all():
        raise InternalError("the errors of the layers are not all numbers")
    bits = np.array([layers[number].weights * layers[number].bits[p] for number, p in choices])
    belongs = np.array([[number == n for n, _ in choices] for number in range(len(layers))])
    weights = sum(layer.weights for layer in layers)
    fewest = (
        sum(layer.weights * min(layer.bits[p] for p in layer.errors) for layer in layers) / weights
    )
    if fewest > budget * (1 + 1e-12):
        raise UserError(
            f"{budget:g} bits per weight on average are too few: the layers take {fewest:.4g} at "
            "least",
            hint="allow more bits, or fewer planes",
        )
    chosen = _solve(error, belongs, bits / weights, budget)
    return {layers[n].name: planes for (n, planes), x in zip(choices, chosen, strict=True) if x}


def relative_errors(
    weight: NDArray[Any],
    formats: Mapping[int, BinaryCodes],
    moments: NDArray[Any] | None = None,
) -> dict[int, float]:
    """Return the lost part of a layer ``[N, K]`` for each number of planes.

    With `moments` (``X^T X``, ``[K, K]``) the weight is coded with error feedback, without descent,
    and the part is that of the output; without, both look at the weight alone.
    """
    measured = np.eye(weight.shape[1]) if moments is None else moments
    prepared = None if moments is None else feedback.Feedback.of(moments)
    whole = feedback.output_error(weight, np.zeros_like(weight), measured)
    found = {}
    for planes, fmt in formats.items():
        coded = (
            binary_codes.encode(weight, fmt)
            if prepared is None
            else feedback.binary(weight, prepared, fmt, descents=0)
        )
        value = binary_codes.decode(coded, fmt, weight.shape[1])
        lost = feedback.output_error(weight, value, measured)
        found[planes] = lost / whole if whole else 0.0
    return found


def _solve(
    error: NDArray[np.float64], belongs: NDArray[np.bool_], bits: NDArray[np.float64], budget: float
) -> NDArray[np.bool_]:
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ModuleNotFoundError as missing:
        raise UserError(
            "allocating bits to layers needs SciPy, which is not installed",
            hint="pip install 'lowc[calibrate]'",
        ) from missing
    result = milp(
        error / (error.max() or 1),  # tolerances of the solver are absolute
        integrality=np.ones(len(error)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(belongs.astype(float), 1, 1),
            LinearConstraint(bits[None], ub=budget * (1 + 1e-12)),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise InternalError(f"the bits of the layers could not be allocated: {result.message}")
    chosen: NDArray[np.bool_] = result.x > 0.5
    return chosen
