"""One inference request, whichever way it came: its tensors, its model, its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .faults import Fault
from .models import Model, TensorSpec, check_inputs
from .repository import Served

# Bytes of a body that is read in a thread, so that the event loop goes on accepting.
LARGE = 64 << 10
# Checks the name, data type and shape of an input; raises Fault.
Check = Callable[[str, str, tuple[int, ...]], None]


@dataclass
class Request:
    """What a client asks, as arrays.

    Attributes
    ----------
    id : str
        The client's own name for it, given back.
    inputs, datatypes : dict
        Name to array, and to the data type that the client declared.
    outputs : dict or None
        Names of wanted outputs and whether each is wanted in binary; None is all of them.
    binary : bool
        Whether outputs that are not named are wanted in binary.
    """

    id: str = ""
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    datatypes: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, bool] | None = None
    binary: bool = False

    def add(self, name: str, datatype: str, array: np.ndarray) -> None:
        """Add an input.

        Raises
        ------
        Fault
            400, when it is there already.
        """
        if name in self.inputs:
            raise Fault(400, f"input '{name}' is given twice")
        self.inputs[name] = array
        self.datatypes[name] = datatype


@dataclass(frozen=True)
class Answer:
    """What a model says: (spec, array, whether in binary) of each wanted output."""

    model: Model
    request: Request
    outputs: list[tuple[TensorSpec, np.ndarray, bool]]


async def infer(served: Served, request: Request, most_rows: int) -> Answer:
    """Answer `request` by a model.

    Raises
    ------
    Fault
        400 for inputs that it does not take, 413 for too many rows, 429 when too many wait.
    """
    wanted, rows = _checked(served.model, request, most_rows)
    return _answer(served, request, wanted, await served.batcher.predict(request.inputs, rows))


def infer_at_once(served: Served, request: Request, most_rows: int) -> Answer | None:
    """Answer as :func:`infer` does if that takes little and nobody else is asking, else None."""
    wanted, rows = _checked(served.model, request, most_rows)
    outputs = served.batcher.at_once(request.inputs, rows)
    return None if outputs is None else _answer(served, request, wanted, outputs)


_Wanted = list[tuple[TensorSpec, bool]]


def _checked(model: Model, request: Request, most_rows: int) -> tuple[_Wanted, int]:
    wanted = _wanted(model, request)
    rows = check_inputs(model, request.inputs, request.datatypes)
    if rows > most_rows:
        raise Fault(413, f"{rows} rows are more than the {most_rows} allowed")
    return wanted, rows


def _answer(
    served: Served, request: Request, wanted: _Wanted, outputs: dict[str, np.ndarray]
) -> Answer:
    found = [(spec, outputs[spec.name], binary) for spec, binary in wanted]
    return Answer(served.model, request, found)


def _wanted(model: Model, request: Request) -> _Wanted:
    if request.outputs is None:
        return [(spec, request.binary) for spec in model.outputs]
    known: Mapping[str, TensorSpec] = {spec.name: spec for spec in model.outputs}
    for name in request.outputs:
        if name not in known:
            raise Fault(400, f"model '{model.name}' has no output '{name}'")
    return [(known[name], binary) for name, binary in request.outputs.items()]
