"""Who one product is measured against.

A peer is a library with what it offers for a form; those in other files than this one are no code
of IREE's.  A new one is an :class:`Offer` in a line of :data:`PEERS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...compiler.recipe import load_recipe
from ...compiler.target import Target, load_target
from ...errors import LowcError, UserError
from ...passes.forms import Form, Rule
from ...runtime.timing import time_interleaved
from .. import output
from . import peers_ggml, peers_onnx, peers_torch
from .contender import EXACT, Contender, Offer, Setup
from .limits import arithmetic
from .opponents import STOCK_FLAG_SETS
from .products import F32_BYTES, Float, Product


def contenders(setup: Setup, name: str) -> Iterator[Contender | tuple[str, str]]:
    """Yield what the peer `name` offers for the form, or a name and why it does not take part."""
    if setup.form.form in SIGN_FORMS and name in LIBRARIES:
        setup = setup.with_integers()
    offers = [offer for offer in PEERS[name] if offer.takes(setup.form)]
    if not offers:
        yield name, f"it has nothing for the form '{setup.form.form}' with these weights"
    for offer in offers:
        output.remark(f"preparing {offer.name}")
        try:
            yield offer.make(setup, offer.name)
        except LowcError as error:
            yield offer.name, error.what


def ours(setup: Setup) -> Contender:
    """Return the product under its form, by the whole road of ``lowc.compile``."""
    target = load_target(setup.target)
    return _compiled(setup, f"lowc:{_label(setup.form)}", setup.rule, target, kernels=True)


def _stock(setup: Setup, name: str) -> Contender:
    """Return stock IREE on the rewritten product: lowc's form without lowc's kernels."""
    target = load_target(setup.target)
    name = f"{name}:{setup.form.form}"
    return _compiled(setup, name, setup.rule, target, kernels=False)


def _best_stock(setup: Setup, name: str) -> Contender:
    """Return stock IREE under the fastest of several sets of flags.

    Few-bit weights are multiplied in lowc's portable form, anything else in f32.
    """
    is_few_bits = setup.form.form == "dequant"
    rule = setup.rule if is_few_bits else Rule("*", EXACT)
    name = f"{name}:{_label(setup.form)}" if is_few_bits else f"{name}:f32"
    target = load_target(setup.target)
    if target.device != "cpu":
        return _compiled(setup, name, rule, target, kernels=False)
    found: dict[str, Contender] = {}
    failures: dict[str, str] = {}
    # Copies that take turns are for the winner alone.
    alone = dataclasses.replace(setup, rotate=False)
    for flags_name, flags in STOCK_FLAG_SETS.items():
        label = flags_name.partition(":")[2]
        try:
            flagged = target.with_flags(flags)
            found[label] = _compiled(alone, f"{name}-{label}", rule, flagged, kernels=False)
        except LowcError as error:
            failures[label] = error.what
    if not found:
        raise UserError(next(iter(failures.values())))
    calls = {label: contender.calls[0] for label, contender in found.items()}
    times = time_interleaved(calls, blocks=3, block_seconds=0.03)
    best = min(times, key=lambda label: times[label].median)
    winner = target.with_flags(STOCK_FLAG_SETS[f"iree:{best}"])
    contender = _compiled(setup, name, rule, winner, kernels=False)
    tried = ", ".join(f"{label} {times[label].median * 1e3:.3g} ms" for label in times)
    tried += "".join(f"; {label} does not compile" for label in failures)
    return dataclasses.replace(contender, lowering=f"flags {best}, the best of {tried}")


def _own_integers(setup: Setup, name: str) -> Contender:
    """Return lowc's product of 4-bit weights and 8-bit activations: what other forms replace."""
    rule = load_recipe("w4a8").rules[-1]
    return _compiled(setup, name, rule, load_target(setup.target), kernels=True)


def _own_floats(setup: Setup, name: str) -> Contender:
    """Return lowc's product in f32: what a form must be faster than, or save energy beside."""
    return _compiled(setup, name, Rule("*", EXACT), load_target(setup.target), kernels=True)


def _always(form: Form) -> bool:
    return True


# Forms that no library has; those with as many bits stand beside them.
SIGN_FORMS = ("binary", "ternary")
LIBRARIES = ("onnxruntime", "openvino", "llama.cpp")


# Name on the command line → what it offers.
PEERS: dict[str, tuple[Offer, ...]] = {
    "torch": peers_torch.OFFERS,
    "torch-bf16": peers_torch.BF16_OFFERS,
    "onnxruntime": peers_onnx.ONNXRUNTIME_OFFERS,
    "openvino": peers_onnx.OPENVINO_OFFERS,
    "llama.cpp": peers_ggml.OFFERS,
    "iree": (Offer("iree", _always, _best_stock),),
    "iree-form": (Offer("iree", _always, _stock),),
    "w4a8": (Offer("lowc:w4a8", _always, _own_integers),),
    "f32": (Offer("lowc:f32", _always, _own_floats),),
}


def _label(form: Form) -> str:
    activations = "a8" if form.activations == "i8" else ""
    planes = str(form.planes) if form.form == "binary" else ""
    tables = form.tables if form.form in SIGN_FORMS else ""
    parts = (form.form, form.weights, planes, tables, activations)
    return "-".join(part for part in parts if part)


def _compiled(setup: Setup, name: str, rule: Rule, target: Target, *, kernels: bool) -> Contender:
    from ...compiler.api import compile as compile_model
    from ...compiler.recipe import Recipe
    from ...runtime.module import load

    place = setup.folder / name.replace(":", "-")
    place.mkdir(exist_ok=True)
    artifact = compile_model(
        setup.model.copy(), Recipe(name, (rule,)), target,
        output=place / "product.vmfb", kernels=kernels,
    )  # fmt: skip
    row = _matmul_row(artifact.report["matmuls"], rule.form)
    # A product of two activations is not stored: it has the bits of its operands, f32.
    bits = row["bits_per_weight"] or 8 * F32_BYTES
    count = setup.copies(setup.product.streamed_elements * bits / 8)
    on_cpu = target.device == "cpu" and setup.device != "cpu-sync"
    calls = []
    for i in range(count):
        # Files of their own: copies of one file would share its pages in memory.
        copy = artifact if i == 0 or not setup.product.has_weight else artifact.save(place / str(i))
        threads = setup.threads if on_cpu else None
        module = load(copy, setup.device, verify=False, threads=threads)
        calls.append(_module_call(module, setup.product))
    demand = setup.demand(bits, arithmetic(rule.form))

    def read(results: Any) -> Any:
        return np.asarray(results[0])

    return Contender(name, tuple(calls), read, demand, form=rule.form, lowering=row["lowering"])


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
            hint="another form or shape, or a weight",
        )
    return rows[0]
