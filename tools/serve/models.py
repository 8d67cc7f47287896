"""What is served: a model's name, its tensors, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .faults import Fault, short

BATCH = -1


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, data type, and shape, whose first size is :data:`BATCH`: any."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what metadata says."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class Model(Protocol):
    """A model that can be served.

    Attributes
    ----------
    name, version : str
        What requests call it.
    platform : str
        What it is, for metadata.
    inputs, outputs : tuple of TensorSpec
        Their first size is the batch: rows do not depend on each other.
    """

    name: str
    version: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs for checked inputs; each has as many rows as they have."""


def metadata(model: Model, versions: list[str]) -> dict[str, Any]:
    """Return what the protocol tells of a model."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": model.platform,
        "inputs": [spec.to_dict() for spec in model.inputs],
        "outputs": [spec.to_dict() for spec in model.outputs],
    }


def check_declared(
    model: Model, most_rows: int, name: str, datatype: str, shape: tuple[int, ...]
) -> None:
    """Check what a client declares of one input, before an array is made of its elements.

    Raises
    ------
    Fault
        400 for what `model` does not take, 413 for more than `most_rows` rows.
    """
    spec = next((one for one in model.inputs if one.name == name), None)
    if spec is None:
        raise Fault(400, f"model '{model.name}' has no input {short(name)}")
    if datatype != spec.datatype:
        raise Fault(
            400, f"input '{name}' is {datatype}, model '{model.name}' takes {spec.datatype}"
        )
    if len(shape) != len(spec.shape) or shape[1:] != spec.shape[1:]:
        raise Fault(
            400,
            f"input '{name}' has shape {list(shape)}, model '{model.name}' takes"
            f" {list(spec.shape)}",
        )
    if shape[0] > most_rows:
        raise Fault(413, f"{shape[0]} rows are more than the {most_rows} allowed")


def check_inputs(model: Model, given: dict[str, np.ndarray], datatypes: dict[str, str]) -> int:
    """Return the number of rows if `given` is what `model` takes.

    Raises
    ------
    Fault
        400, which says what is missing, too many, or of another kind.
    """
    rows = -1
    for spec in model.inputs:
        array = given.get(spec.name)
        if array is None:
            raise Fault(400, f"model '{model.name}': input '{spec.name}' is missing")
        if datatypes[spec.name] != spec.datatype:
            raise Fault(
                400,
                f"input '{spec.name}' is {datatypes[spec.name]}, model '{model.name}' takes"
                f" {spec.datatype}",
            )
        fits = len(array.shape) == len(spec.shape) and array.shape[1:] == spec.shape[1:]
        if not fits:
            raise Fault(
                400,
                f"input '{spec.name}' has shape {list(array.shape)}, model '{model.name}' takes"
                f" {list(spec.shape)}",
            )
        if rows not in (-1, array.shape[0]):
            raise Fault(400, f"model '{model.name}': inputs have different numbers of rows")
        rows = array.shape[0]
    if unknown := sorted(set(given) - {spec.name for spec in model.inputs}):
        raise Fault(400, f"model '{model.name}' has no input '{unknown[0]}'")
    if rows < 1:
        raise Fault(400, f"model '{model.name}': there are no rows")
    return rows
