"""What takes part in the measurement of one product: what all share, and one that is timed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...passes.forms import Form, Rule
from . import limits
from .limits import Demand
from .products import F32_BYTES, Product

if TYPE_CHECKING:
    from ...compiler.frontend import Model
    from ...passes.formats.integer import Quantized

EXACT = Form()
# Beyond that, loading the copies takes longer than measuring.
MAX_COPIES = 512


@dataclass(frozen=True)
class Setup:
    """What all contenders share: the product, imported once, and how it is run."""

    product: Product
    rule: Rule
    model: Model
    target: str
    threads: int
    folder: Path
    rotate: bool
    device: str = "auto"

    @property
    def form(self) -> Form:
        """The form of the product."""
        return self.rule.form

    @property
    def group(self) -> int:
        """Weights that share a scale: a group of all of K is as long as K."""
        return min(self.form.group or self.product.shape.k, self.product.shape.k)

    def with_integers(self) -> Setup:
        """Return the same product over integers of as many bits, for those who know no other codes.

        Planes of signs, of form ``binary`` or ``ternary``, are taken as bits, and activations are
        rounded to 8 bits.
        """
        form = self.form
        bits = 2 if form.form == "ternary" else form.planes
        given = Form("dequant", f"i{bits}", form.group, symmetric=False, activations="i8")
        return dataclasses.replace(self, rule=dataclasses.replace(self.rule, form=given))

    @cached_property
    def quantized(self) -> Quantized:
        """The weight ``[N, K]`` in the few bits of the form: the same codes for all contenders."""
        from ...passes.formats.weights import quantize

        form, weight = self.form, self.product.operands[1]
        return quantize(
            weight, form.weights, self.group, symmetric=form.symmetric, scales=form.scales
        )

    def copies(self, weight_bytes: float) -> int:
        """Return how many copies of the right operand take turns.

        Raises
        ------
        UserError
            When the operand is so small that too many would be needed to leave the caches.
        """
        if not self.rotate:
            return 1
        needed = limits.CACHES_TO_FILL * limits.cache_bytes()
        count = math.floor(needed / weight_bytes) + 1
        if count > MAX_COPIES:
            raise UserError(
                f"a weight of {weight_bytes / 1e6:.3g} MB would need {count} copies to fill "
                f"{needed / 1e6:.0f} MB, at most {MAX_COPIES} are made",
                where=f"--rotate, {self.product.shape}",
                hint="a larger N or K",
            )
        return count

    def demand(self, bits: float, arithmetic: str, other_bytes: int = F32_BYTES) -> Demand:
        """Return what one call needs with `bits` per element of the right operand.

        The other operand and the result take `other_bytes` per element.
        """
        product = self.product
        streamed = product.streamed_elements * bits / 8
        other = product.other_elements * other_bytes
        touched = streamed * self.copies(streamed) + other
        return Demand(product.shape.products, arithmetic, streamed + other, touched, streamed)


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes
    ----------
    name : str
    calls : tuple of callable
        One for each copy of the right operand; all give the same.
    array : callable
        Makes a NumPy array of what a call gives; not timed.
    demand : Demand
        What a call needs at least, for the limit.
    form : Form or None
        The form whose definition the result must match; None for those that compute as they like.
    weights : Form
        For those: the form whose stored weights they multiply by.
    tolerance : float
        For those: how far the result may be from the exact product of these weights, relatively.
    is_rougher : bool
        Whether they round activations to fewer bits than the form does.
    lowering : str
        What lowc's report says of the matmul, or what there is to say of a peer.
    """

    name: str
    calls: tuple[Callable[[], Any], ...]
    array: Callable[[Any], Any]
    demand: Demand
    form: Form | None = None
    weights: Form = EXACT
    tolerance: float = math.inf
    is_rougher: bool = False
    lowering: str = ""

    def rotating(self) -> Callable[[], Any]:
        """Return a function whose calls take turns among the copies."""
        if len(self.calls) == 1:
            return self.calls[0]
        turns = itertools.cycle(self.calls)

        def call() -> Any:
            return next(turns)()

        return call


@dataclass(frozen=True)
class Offer:
    """One way in which a library multiplies: its row's name, the forms that it is for, and how."""

    name: str
    takes: Callable[[Form], bool]
    make: Callable[[Setup, str], Contender]
