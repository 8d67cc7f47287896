"""What a compiled module says about itself.

The manifest travels inside the ``.vmfb`` as the reflection attribute ``lowc.manifest`` of its entry
function, as JSON.  :func:`Manifest.from_json` treats it as hostile.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UserError
from . import tree as trees
from .dtypes import data_type

FORMAT = 1
REFLECTION_KEY = "lowc.manifest"
ENTRY_POINT = "main"
RESET_POINT = "reset"
PARAMETER_SCOPE = "model"

Dimension = int | str  # a fixed size, or the symbol of a dynamic one


@dataclass(frozen=True)
class Leaf:
    """One tensor (or fixed value) of the inputs or outputs.

    ``shape`` counts elements; a string is the symbol of a dynamic dimension.  ``dtype`` is
    PyTorch's name (``float32``, ``bfloat16``, ``bool`` …).  A leaf with ``literal`` set is no
    tensor: the exported program was specialised on that value.  A leaf with ``below`` set indexes
    a table of that size: its values must be in ``[0, below)``.
    """

    name: str
    shape: tuple[Dimension, ...] = ()
    dtype: str = ""
    literal: bool = False
    value: Any = None
    below: int | None = None

    def __str__(self) -> str:
        if self.literal:
            return f"{self.name}={self.value!r}"
        dims = ", ".join(str(dim) for dim in self.shape)
        return f"{self.name}{': ' if self.name else ''}{self.dtype}[{dims}]"


@dataclass(frozen=True)
class Parameters:
    """The parameter archive beside the module: file name, size in bytes, SHA-256.

    ``looked_up`` are the keys of parameters that calls read in places only.
    """

    file: str
    size: int
    sha256: str
    looked_up: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything that loading and calling a module needs to know; see the module docstring.

    ``serial_microseconds`` is about how long one thread takes for a call, None where it is not
    known.  ``entries`` are the names of all entries, in order, of a module that was made of a
    mapping, and none of another.  ``needs`` is what a GPU must have, as in :mod:`.gpu_facts`.
    """

    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    args_tree: Any
    kwargs_tree: Any
    out_tree: Any
    argument_names: tuple[str, ...]
    ranges: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    recipe: str = ""
    target: str = ""
    device: str = ""
    needs: dict[str, Any] = field(default_factory=dict)
    entry_point: str = ENTRY_POINT
    entries: tuple[str, ...] = ()
    has_state: bool = False
    serial_microseconds: float | None = None
    parameters: Parameters | None = None
    versions: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read a manifest; `where` names the file in errors.

        Raises
        ------
        UserError
            When the text is not a manifest of a format that this version reads.
        """
        try:
            data = json.loads(text)
            version = data.pop("format")
            if version != FORMAT:
                raise UserError(
                    f"the module's manifest has format {version}, this lowc reads {FORMAT}",
                    where=where,
                    hint="compile the model again",
                )
            data["inputs"] = tuple(_leaf(leaf) for leaf in data["inputs"])
            data["outputs"] = tuple(_leaf(leaf) for leaf in data["outputs"])
            data["argument_names"] = tuple(data["argument_names"])
            data["entries"] = tuple(data.get("entries", ()))
            data["ranges"] = {name: tuple(ends) for name, ends in data["ranges"].items()}
            if data["parameters"] is not None:
                given = data["parameters"]
                looked_up = tuple(given.get("looked_up", ()))
                data["parameters"] = Parameters(**{**given, "looked_up": looked_up})
            manifest = cls(**data)
            manifest._check()
            manifest._check_sizes(where)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"the module's manifest is damaged ({type(error).__name__}: {error})",
                where=where,
                hint="compile the model again",
            ) from error
        return manifest

    def _check(self) -> None:
        given = trees.leaf_count(self.args_tree) + trees.leaf_count(self.kwargs_tree)
        if given != len(self.inputs) or trees.leaf_count(self.out_tree) != len(self.outputs):
            raise ValueError("trees and leaves differ in number")
        if self.parameters is not None and "/" in self.parameters.file.replace("\\", "/"):
            raise ValueError("the parameter file is not beside the module")
        looked_up = () if self.parameters is None else self.parameters.looked_up
        if not all(isinstance(key, str) for key in looked_up):
            raise ValueError("the key of a parameter is no text")
        if not all(isinstance(name, str) for name in (*self.entries, self.entry_point)):
            raise ValueError("the name of an entry is no text")
        if self.entries and self.entry_point not in self.entries:
            raise ValueError("the entry is none of the module's")
        estimate = self.serial_microseconds
        if estimate is not None and not (isinstance(estimate, int | float) and estimate >= 0):
            raise ValueError("the estimate of a call's time is no time")
        sizes, features = self.needs.get("subgroups", []), self.needs.get("features", [])
        numbers = [*sizes, self.needs.get("chip", 0)]
        if not all(isinstance(n, int) for n in numbers) or not all(
            isinstance(name, str) for name in features
        ):
            raise ValueError("what it needs of a GPU is not readable")

    def _check_sizes(self, where: str) -> None:
        for leaf in (*self.inputs, *self.outputs):
            if not all(isinstance(size, str) or _is_size(size) for size in leaf.shape):
                raise ValueError("a size of a tensor is no size")
            if not leaf.literal:
                data_type(leaf.dtype, where)
        for least, most in self.ranges.values():
            ends = [end for end in (least, most) if end is not None]
            if not all(_is_size(end) for end in ends) or ends != sorted(ends):
                raise ValueError("the range of a size is none")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _leaf(data: dict[str, Any]) -> Leaf:
    return Leaf(**{**data, "shape": tuple(data["shape"])})
