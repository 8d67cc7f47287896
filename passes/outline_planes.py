"""What kernels of products by planes of signs share: a plan, why there is none, and the weight.

Signed sums (``outline_signed_sums.py``) and look-ups (``outline_tables.py``) read the same codes,
in panels of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from iree.compiler import ir

from . import add_operands, dispatch_records
from .base import Refusal
from .contraction import dims_of
from .epilogues import Chain
from .matrices import Matrices

# Of the derivation of a weight: all that its codes depend on.
_CODING = ("planes", "group", "outputs", "terms", "coding", "rounds", "bits", "symmetric")

Product = TypeVar("Product")
Kernel = TypeVar("Kernel")


@dataclass(frozen=True)
class Plan(Generic[Product, Kernel]):
    """A product, the kernel that makes it, and what that does with the sums."""

    product: Product
    kernel: Kernel
    chain: Chain | Refusal


def sizes_of(matrices: Matrices) -> tuple[int, int | None, int, int] | Refusal:
    """Return batch, M, N and K of a product, or say why no kernel takes its weight."""
    batch, m, n, k = matrices.batch, matrices.m, matrices.n, matrices.k
    if batch is None or n is None or k is None:
        return Refusal("the shape of its weight is not known")
    if 0 in (batch, m, n, k):
        return Refusal("one of its sizes is 0")
    stored = dims_of(matrices.maps["columns"])
    if stored != tuple(sorted(stored)):
        return Refusal("its weight is stored in another order than that of the result")
    return batch, m, n, k


def load_weight(
    module: ir.Module,
    signs: ir.Value,
    shape: Sequence[int],
    panels: dict[str, Any],
    parts: Sequence[tuple[str, Sequence[int], ir.Type]],
) -> list[ir.Value]:
    """Load the weight that `signs` came from as a kernel reads it.

    `panels` says how codes lie in panels; `shape` and `parts` are as
    :func:`.dispatch_records.load_weight` has them.
    """
    stored = add_operands.derivation_of(signs)
    derivation = {**{key: stored[key] for key in _CODING if key in stored}, **panels}
    return dispatch_records.load_weight(module, signs, shape, derivation, parts)
