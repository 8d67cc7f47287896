"""Who one product is measured against, and how each is called.

A new peer is a function that takes a :class:`Setup` and returns a :class:`Contender`, and a line in
:data:`PEERS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError
from ...passes.forms import Form, Rule
from . import limits
from .limits import ADDITIONS, FMA, Demand
from .products import F32_BYTES, Float, Product

if TYPE_CHECKING:
    from ...compiler.frontend import Model

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
        return Demand(product.shape.products, arithmetic, streamed + other, touched)


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
    lowering : str
        What lowc's report says of the matmul.
    """

    name: str
    calls: tuple[Callable[[], Any], ...]
    array: Callable[[Any], Any]
    demand: Demand
    form: Form | None = None
    lowering: str = ""

    def rotating(self) -> Callable[[], Any]:
        """Return a function whose calls take turns among the copies."""
        if len(self.calls) == 1:
            return self.calls[0]
        turns = itertools.cycle(self.calls)

        def call() -> Any:
            return next(turns)()

        return call


def ours(setup: Setup) -> Contender:
    """Return the product under its form, by the whole road of ``lowc.compile``."""
    form = setup.rule.form
    label = "-".join(part for part in (form.form, form.weights) if part)
    return _compiled(setup, f"lowc:{label}", setup.rule, kernels=True)


def iree(setup: Setup) -> Contender:
    """Return stock IREE in f32, with the flags of the target."""
    return _compiled(setup, "iree:f32", Rule("*", Form()), kernels=False)


def iree_form(setup: Setup) -> Contender:
    """Return stock IREE on the rewritten product: lowc's form without lowc's kernels."""
    return _compiled(setup, f"iree:{setup.rule.form.form}", setup.rule, kernels=False)


def torch_f32(setup: Setup) -> Contender:
    """Return PyTorch in f32."""
    return _torch(setup, "torch", "float32", setup.demand(32, FMA))


def torch_bf16(setup: Setup) -> Contender:
    """Return PyTorch with operands and result in bfloat16.

    Some processors have instructions for it and others convert: only its bytes limit it.
    """
    return _torch(setup, "torch-bf16", "bfloat16", setup.demand(16, "", other_bytes=2))


# Name on the command line → who makes the contender.
PEERS: dict[str, Callable[[Setup], Contender]] = {
    "torch": torch_f32,
    "torch-bf16": torch_bf16,
    "iree": iree,
    "iree-form": iree_form,
}


def _torch(setup: Setup, name: str, dtype: str, demand: Demand) -> Contender:
    import torch

    torch.set_num_threads(setup.threads)
    kind = getattr(torch, dtype)
    left, right = (torch.from_numpy(operand).to(kind) for operand in setup.product.operands)
    multiply = torch.nn.functional.linear if setup.product.has_weight else torch.bmm

    def call(weight: Any) -> Callable[[], Any]:
        return lambda: multiply(left, weight)

    count = setup.copies(right.numel() * right.element_size())
    calls = tuple(call(right if i == 0 else right.clone()) for i in range(count))
    return Contender(name, calls, lambda result: result.float().numpy(), demand)


def _compiled(setup: Setup, name: str, rule: Rule, *, kernels: bool) -> Contender:
    from ...compiler.api import compile as compile_model
    from ...compiler.recipe import Recipe
    from ...runtime.module import load

    place = setup.folder / name.replace(":", "-")
    place.mkdir(exist_ok=True)
    artifact = compile_model(
        setup.model.copy(), Recipe(name, (rule,)), setup.target,
        output=place / "product.vmfb", kernels=kernels,
    )  # fmt: skip
    row = _matmul_row(artifact.report["matmuls"], rule.form)
    # A product of two activations is not stored: it has the bits of its operands, f32.
    bits = row["bits_per_weight"] or 8 * F32_BYTES
    count = setup.copies(setup.product.streamed_elements * bits / 8)
    on_cpu = setup.target.partition(":")[0] == "cpu"
    calls = []
    for i in range(count):
        # Files of their own: copies of one file would share its pages in memory.
        copy = artifact if i == 0 or not setup.product.has_weight else artifact.save(place / str(i))
        module = load(copy, verify=False, threads=setup.threads if on_cpu else None)
        calls.append(_module_call(module, setup.product))
    is_added = rule.form.form in ("lmul", "pam")
    demand = setup.demand(bits, ADDITIONS if is_added else FMA)

    def read(results: Any) -> Any:
        return np.asarray(results[0])

    return Contender(name, tuple(calls), read, demand, rule.form, row["lowering"])


def _module_call(module: Any, product: Product) -> Callable[[], Any]:
    left, right = product.operands
    inputs: tuple[Float, ...] = (left,) if product.has_weight else (left, right)
    bound: Callable[[], Any] = module.bound(*inputs)
    return bound


def _matmul_row(rows: list[dict[str, Any]], form: Form) -> dict[str, Any]:
    """Return the report on the one matmul, and refuse one that did not get its form."""
    if not rows:
        raise UserError("lowc found no matmul in the product", hint="sizes above 1")
    # A pass that refuses a matmul leaves "exact (the reason)" behind.
    lowering = rows[0]["lowering"]
    if form.form != "exact" and (not lowering or lowering.startswith("exact")):
        raise UserError(
            f"the product did not get the form '{form.form}': {lowering or 'no reason is known'}",
            hint="another form, shape or --activations",
        )
    return rows[0]
