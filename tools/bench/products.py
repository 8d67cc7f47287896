"""The product that ``lowc bench matmul`` measures: its shape, its operands, its program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError

Float = NDArray[np.float32]
F32_BYTES = 4


@dataclass(frozen=True)
class Shape:
    """``batch`` products of an M x K by a K x N matrix."""

    batch: int
    m: int
    n: int
    k: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``BxMxNxK`` or ``MxNxK``.

        Raises
        ------
        UserError
            When the text is something else, or a size is 0.
        """
        hint = "such as 128x384x1536, or 12x128x64x128 with a batch"
        if not re.fullmatch(r"\d+(x\d+){2,3}", text):
            raise UserError(f"'{text}' is no shape BxMxNxK or MxNxK", hint=hint)
        sizes = [int(size) for size in text.split("x")]
        if 0 in sizes:
            raise UserError(f"'{text}' has a size of 0", hint=hint)
        return cls(*([1] * (4 - len(sizes)) + sizes))

    def __str__(self) -> str:
        return f"{self.batch}x{self.m}x{self.n}x{self.k}"

    @property
    def products(self) -> int:
        """Multiplications of numbers."""
        return self.batch * self.m * self.n * self.k


@dataclass(frozen=True)
class Product:
    """One matmul with its operands, the same for all contenders.

    With a weight it is ``x[m, k] . w[n, k]^T``; of two activations ``x[b, m, k] . y[b, k, n]``.
    """

    shape: Shape
    has_weight: bool

    @cached_property
    def operands(self) -> tuple[Float, Float]:
        """The two operands: normally distributed, seeded."""
        shape, generator = self.shape, np.random.default_rng(0)
        left = (shape.batch, shape.m, shape.k)
        right = (shape.batch, shape.k, shape.n)
        if self.has_weight:
            left, right = left[1:], (shape.n, shape.k)  # type: ignore[assignment]
        return (
            generator.standard_normal(left, np.float32),
            generator.standard_normal(right, np.float32),
        )

    @property
    def streamed_elements(self) -> int:
        """Elements of the right operand: what is read from memory when weights are rotated."""
        return self.shape.batch * self.shape.k * self.shape.n

    @property
    def other_elements(self) -> int:
        """Elements of the left operand and of the result."""
        return self.shape.batch * self.shape.m * (self.shape.k + self.shape.n)

    @property
    def bytes_f32(self) -> int:
        """Bytes of both operands and the result in f32."""
        return F32_BYTES * (self.streamed_elements + self.other_elements)

    def program(self) -> Any:
        """Return the ``torch.export.ExportedProgram``: a Linear without bias, or a bmm.

        Raises
        ------
        UserError
            When PyTorch is not installed.
        """
        try:
            import torch
        except ModuleNotFoundError as error:
            raise UserError("PyTorch is not installed", hint="pip install 'lowc[torch]'") from error

        left, right = map(torch.from_numpy, self.operands)
        if self.has_weight:
            linear = torch.nn.Linear(self.shape.k, self.shape.n, bias=False, device="meta")
            linear.weight = torch.nn.Parameter(right, requires_grad=False)
            return torch.export.export(linear, (left,))

        class Batch(torch.nn.Module):  # type: ignore[misc]
            def forward(self, x: Any, y: Any) -> Any:
                return torch.bmm(x, y)

        return torch.export.export(Batch(), (left, right))
