"""``lowc-name-matmuls``: give every matmul the name that recipes and reports use."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations
from .base import Pass, Refusal, RemarkKind
from .contraction import Contraction, Weight, defining, find_weight, match_product, module_path

_SEARCH_LIMIT = 400


@dataclass(frozen=True)
class NameMatmuls(Pass):
    """Find all contractions and convolutions and annotate each with name, kind and shape.

    The name is the module path in the PyTorch model, which the frontend keeps in the location; a
    weight without one is called after its parameter.  The products of two activations get
    ``:qk`` and ``:pv`` when the second of a pair reads the first, else an index.  Names are unique;
    where a module has several entries (``lowc.entry``) they end in that of theirs: ``fc@decode``.

    Before::

        %w = util.global.load @"fc.weight" : tensor<8x4xf32>
        %t = linalg.transpose ins(%w : …) outs(…) permutation = [1, 0]
        %y = linalg.matmul ins(%x, %t : tensor<2x4xf32>, tensor<4x8xf32>) …  loc("fc")

    After::

        %y = linalg.matmul {lowc.matmul = "fc", lowc.kind = "weight", lowc.shape = "2x8x4"} …
    """

    name: ClassVar[str] = "lowc-name-matmuls"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Annotate; change nothing else."""
        weighted: list[tuple[Contraction, str]] = []
        products: dict[tuple[str, str], list[Contraction]] = defaultdict(list)
        for op in annotations.operations(module):
            found = match_product(op)
            if isinstance(found, Refusal):
                continue
            weight = find_weight(found)
            path = module_path(op.location)
            if isinstance(weight, Weight):
                weighted.append((found, path or weight.symbol.removesuffix(".weight")))
            else:
                products[path or _enclosing_symbol(op), entry_suffix(op)].append(found)
        taken: Counter[str] = Counter()
        for found, name in weighted:
            self._annotate(found, unique(name, entry_suffix(found.op), taken), "weight", remark)
        for (path, entry), group in products.items():
            for found, suffix in zip(group, _product_suffixes(group), strict=True):
                self._annotate(found, unique(f"{path}:{suffix}", entry, taken), "product", remark)

    def _annotate(
        self, found: Contraction, name: str, kind: str, remark: Callable[..., None]
    ) -> None:
        op = found.op
        annotations.set_text(op, annotations.MATMUL, name)
        annotations.set_text(op, annotations.KIND, kind)
        annotations.set_text(op, annotations.SHAPE, found.shape_text())
        remark(RemarkKind.NOTE, op, name, f"{kind}, {found.shape_text()}")


def unique(name: str, entry: str, taken: Counter[str]) -> str:
    """Return `name` in its entry, with a number if it was given before; `taken` counts."""
    taken[name + entry] += 1
    count = taken[name + entry]
    return f"{name}{entry}" if count == 1 else f"{name}#{count - 1}{entry}"


def entry_suffix(op: Any) -> str:
    """Return ``@`` and the name of the entry that `op` is in, if a module has several."""
    parent = op.operation.parent
    while parent is not None and annotations.ENTRY not in parent.attributes:
        parent = parent.operation.parent
    return "" if parent is None else f"@{annotations.text(parent, 'sym_name')}"


def _product_suffixes(group: list[Contraction]) -> list[str]:
    if len(group) == 2 and _reads(group[1].operands, group[0].op.results[0]):
        return ["qk", "pv"]
    return [str(index) for index in range(len(group))]


def _reads(values: tuple[ir.Value, ...], wanted: ir.Value) -> bool:
    """Whether one of `values` is calculated from `wanted`, looking back a bounded way."""
    pending, seen = list(values), 0
    while pending and seen < _SEARCH_LIMIT:
        value = pending.pop(0)
        seen += 1
        if value == wanted:
            return True
        op = defining(value)
        if op is not None:
            pending.extend(op.operands)
    return False


def _enclosing_symbol(op: Any) -> str:
    parent = op.operation.parent
    while parent is not None and "sym_name" not in parent.attributes:
        parent = parent.operation.parent
    return annotations.text(parent, "sym_name") if parent is not None else "main"
