"""A pass that changes nothing: it lists the products whose tile could be chosen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from iree.compiler import ir

from ...passes import annotations
from ...passes.select_tiles import SelectTiles, products


@dataclass(frozen=True)
class ListProducts(SelectTiles):
    """Note every product by its matmul's name, where ``lowc-select-tiles`` would choose its tile.

    Attributes
    ----------
    found : dict of str to str
        Name of a matmul to its problem as JSON.
    """

    found: dict[str, str] = field(default_factory=dict, compare=False)
    name: ClassVar[str] = SelectTiles.name

    def run(self, module: ir.Module, _remark: Callable[..., None]) -> None:
        """Look at all products."""
        for op, problem in products(module, self.unit, kernels=self.kernels):
            self.found[annotations.text(op, annotations.MATMUL)] = problem.to_json()
