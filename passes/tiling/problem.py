"""A product as the choice of its tile sees it: sizes, operand formats, and what it runs on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

Lowering = Literal["kernel", "linalg"]
# Unit → whose it is, as targets call it.
BACKENDS = {"spirv": "vulkan", "ptx": "cuda"}


@dataclass(frozen=True)
class Problem:
    """One product; two that are equal get the same tile.

    Attributes
    ----------
    form : str
        How it is calculated: ``f32``, ``lmul``, ``pam``; ``w4a16`` and its kin (weights in so many
        bits, f32 activations); ``w4a8`` and its kin (8-bit activations, multiplied as integers);
        by look-up ``shift-add`` (binary codes), ``lut`` (integers bit by bit) and ``ternary``.
    lowering : str
        ``kernel`` is one of lowc's own, ``linalg`` IREE's code generation.
    unit : str
        The vector unit, or the code of a GPU, as ``lowc-outline-kernels`` calls it.
    batch, m, n, k : int or None
        Sizes; None where they are known only at run time.
    own_batch : bool
        Whether each batch has a right operand of its own.
    weight : str
        What the right operand is stored in: ``f32``, ``bf16``, ``i4``, ``nf4`` …, or ``signs``.
    packs, prepares : bool
        Whether the right operand is packed by the kernel, which an activation is; whether the left
        one of an added product is prepared by it.
    group : int
        Weights along K that share a scale; 0 where there are none.
    symmetric, per_group : bool
        Whether weights have no zero points; whether 8-bit activations have a scale per group.
    planes, table_bits, span : int
        Planes of signs, bits of an entry of a table, and inputs that share a table's scale.
    shared : bool
        Whether all columns of a panel have the same scales.
    scales : str
        What a kernel reads scales of groups in: ``f32``, or ``f16`` with a factor for each column.
    """

    form: str
    lowering: Lowering
    unit: str
    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    own_batch: bool = False
    weight: str = "f32"
    packs: bool = False
    prepares: bool = True
    group: int = 0
    symmetric: bool = True
    per_group: bool = True
    planes: int = 0
    table_bits: int = 0
    span: int = 0
    shared: bool = False
    scales: str = "f32"

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None, int | None]:
        """(batch, m, n, k)."""
        return (self.batch, self.m, self.n, self.k)

    @property
    def shape(self) -> str:
        """``batch x M x N x K``; ``?`` is dynamic."""
        return "x".join("?" if size is None else str(size) for size in self.sizes)

    @property
    def is_static(self) -> bool:
        """Whether every size is known."""
        return None not in self.sizes

    @property
    def products(self) -> int:
        """Multiplications, or what stands for them; only of known sizes."""
        return (self.batch or 1) * (self.m or 1) * (self.n or 1) * (self.k or 1)

    @property
    def backend(self) -> str:
        """``cpu``, ``vulkan`` or ``cuda``."""
        return BACKENDS.get(self.unit, "cpu")

    def to_json(self) -> str:
        """Return the canonical text: sorted keys, and only fields that are not at their default."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not at their default: a field that is added changes no key."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or getattr(self, field.name) != field.default
        }

    @classmethod
    def from_json(cls, text: str) -> Problem:
        """Undo :meth:`to_json`.

        Raises
        ------
        ValueError
            When `text` is no problem: no JSON, a field too many or too few, or of another type.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("a problem is a JSON object")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(f"a problem has no field '{unknown[0]}'")
        for name, value in values.items():
            if not _fits(str(fields[name].type), value):
                raise ValueError(f"the field '{name}' of a problem cannot be {value!r}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"a problem lacks a field: {error}") from error

    @property
    def key(self) -> str:
        """A short name: the same for equal problems, another one for others."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.form} {self.shape}"


def _fits(type_: str, value: Any) -> bool:
    if type_ == "bool":
        return isinstance(value, bool)
    if type_ in ("int", "int | None"):
        is_size = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return is_size or (value is None and type_ != "int")
    return value in ("kernel", "linalg") if type_ == "Lowering" else isinstance(value, str)
