"""A matmul as clients describe it: its form by a short name, its shape, where it is to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...passes.formats.stored import STORED
from ...passes.forms import INTEGER_BITS, WEIGHT_BITS, cut_binary, round_up_group
from ...passes.kernels import tiles
from ...passes.tiling import families, space
from ...passes.tiling.problem import BACKENDS, Problem
from .faults import Fault, short

LARGEST = 1 << 20
MOST_BATCHES = 1 << 16
MOST_PRODUCTS = 1 << 48
# What menus offer; the bits of weights may be any from 2 to 8.
FORMS = (
    "f32", "lmul", "pam", "w4a16", "w8a16", "w2a8", "w3a8", "w4a8", "w8a8", "shift-add", "lut",
    "ternary",
)  # fmt: skip
# What the built-in recipes take: groups (0: all of K), and whether there are no zero points …
_GROUPS = {"w4a16": (16, False), "w8a16": (128, True), "w8a8": (0, True)}
_HALVES = ("w4a8",)  # those with scales of f16
# … groups, spans and bits of tables of look-ups (0: by the planes).
_TABLES = {"shift-add": (128, 128, 0), "lut": (64, 64, 8), "ternary": (0, 128, 7)}
_TABLE_BITS = {1: 6, 2: 6, 3: 7, 4: 8}
_PLANES = 2
MOST_PLANES = 8
Size = Annotated[int, Field(ge=1, le=LARGEST)]


class Matmul(BaseModel):
    """One product: batch x [m, k] x [k, n]."""

    model_config = ConfigDict(extra="forbid", strict=True)

    form: Annotated[
        str,
        Field(
            pattern=r"^(f32|lmul|pam|shift-add|lut|ternary|w[2-8]a(8|16))$",
            description="What each product is; w4a8: weights of 4 bits, activations of 8",
            examples=["f32", "w4a8"],
        ),
    ]
    shape: Annotated[
        list[Size], Field(min_length=3, max_length=4, description="[batch, m, n, k] or [m, n, k]")
    ]
    target: Annotated[
        str, Field(max_length=32, description="cpu, or a vector unit that a model is for")
    ] = "cpu"
    lowering: Annotated[
        Literal["kernel", "linalg"], Field(description="A kernel of lowc's own, or IREE's code")
    ] = "kernel"
    right: Annotated[
        Literal["weight", "activation"], Field(description="What the right operand is")
    ] = "weight"
    group: Annotated[
        int | None, Field(ge=1, le=LARGEST, description="Weights along k that share a scale")
    ] = None
    planes: Annotated[
        int, Field(ge=1, le=4, description="shift-add, lut: planes of signs, or bits")
    ] = _PLANES


def problem_of(matmul: Matmul, unit: str) -> Problem:
    """Return the problem that `matmul` is on `unit`.

    Raises
    ------
    Fault
        400 for a form that is not known, or a product that it cannot be.
    """
    sizes = [1] * (4 - len(matmul.shape)) + matmul.shape
    batch, m, n, k = sizes
    problem = Problem(
        lowering=matmul.lowering, unit=unit, batch=batch, m=m, n=n, k=k, **_facts(matmul, k, unit)
    )
    return check_problem(problem)


def check_problem(problem: Problem) -> Problem:
    """Return `problem` if it has a tile.

    Raises
    ------
    Fault
        400, when it is too large, or no kernel can be for it.

    Notes
    -----
    It takes up to seconds, because tiles are looked at: call it in a thread.
    """
    numbers = (*problem.sizes[1:], problem.group, problem.planes, problem.table_bits, problem.span)
    if any(number is not None and number > LARGEST for number in numbers):
        raise Fault(400, f"no number of a product may be more than {LARGEST}")
    if (problem.batch or 1) > MOST_BATCHES:
        raise Fault(400, f"a product has at most {MOST_BATCHES} batches")
    if problem.products > MOST_PRODUCTS or any(size == 0 for size in problem.sizes):
        raise Fault(400, f"no call has the sizes {problem.shape}")
    if problem.unit not in tiles.ISAS and problem.unit not in BACKENDS:
        raise Fault(400, f"there is no vector unit {short(problem.unit)}")
    if problem.scales not in _scales_of(problem):
        raise Fault(400, f"no {short(problem.form)} has scales in {short(problem.scales)}")
    if problem.lowering == "kernel" and (why := _mismatch(problem)):
        raise Fault(400, f"{short(str(problem))} is no product: {why}")
    with only_products(problem):
        space.default(problem)
    return problem


@contextlib.contextmanager
def only_products(problem: Problem) -> Iterator[None]:
    """Do what believes that a kernel can be for `problem`.

    Raises
    ------
    Fault
        400, when that fails: clients may put together what lowc's compiler never does.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        said = f"{problem} is no product for {problem.unit}: {type(error).__name__}: {error}"
        raise Fault(400, said[:300]) from None


def _mismatch(problem: Problem) -> str:
    """Say which facts of a kernel's product do not go together; "" if all do."""
    form, weight = problem.form, problem.weight
    if form == families.FLOAT:
        return "" if weight == "f32" else "weights of f32 are f32"
    if form in families.ADDED:
        return "" if weight in STORED else f"its weights cannot be {short(weight)}"
    if form in families.TABLES:
        numbers = (problem.k, problem.group, problem.planes, problem.table_bits, problem.span)
        if not all(numbers) or problem.planes > MOST_PLANES:
            return f"it needs K, a group, a span, table bits, and 1 to {MOST_PLANES} planes"
        return "" if weight == "signs" else "its weights are signs"
    if not (families.is_integer(form) or families.is_dequant(form)):
        return f"there is no form {short(form)}"
    known = INTEGER_BITS if families.is_integer(form) else WEIGHT_BITS
    if form[1:].partition("a")[0] != str(known.get(weight)):
        return f"its weights cannot be {short(weight)}"
    if not problem.k or not problem.n:
        return "its weight's sizes are not known"
    return "" if problem.group and problem.group % 16 == 0 else "a group is a multiple of 16"


def _scales_of(problem: Problem) -> tuple[str, ...]:
    """Return what scales of groups of `problem` may be in; "f32" is said where there are none."""
    has_scales = families.is_integer(problem.form) or families.is_dequant(problem.form)
    isa = tiles.ISAS.get(problem.unit)
    is_read = problem.lowering != "kernel" or (isa is not None and isa.halves)
    return ("f32", "f16") if has_scales and problem.group and is_read else ("f32",)


def _facts(matmul: Matmul, k: int, unit: str) -> dict[str, Any]:
    """Return what a form adds to sizes, as the built-in recipes have it."""
    form, is_weight = matmul.form, matmul.right == "weight"
    if form == families.FLOAT or form in families.ADDED:
        return {"form": form, "own_batch": not is_weight, "packs": not is_weight}
    if not is_weight:
        raise Fault(400, f"{form} needs a weight on the right")
    if form in families.TABLES:
        return _looked_up(matmul, k)
    if matmul.group is not None and matmul.group != round_up_group(matmul.group):
        raise Fault(400, "a group is 16, 32, 48 or a multiple of 64")
    bits, activations = form[1:].split("a")
    is_integer = activations == "8"
    usual, symmetric = _GROUPS.get(form, (32, is_integer))
    per_row = is_integer and not (matmul.group or usual)
    group = min(matmul.group or usual or round_up_group(k), round_up_group(k))
    has_halves = form in _HALVES and unit in tiles.ISAS and tiles.ISAS[unit].halves
    return {
        "form": form, "weight": f"i{bits}", "group": group, "symmetric": symmetric,
        "own_batch": is_integer, "per_group": not per_row,
        "scales": "f16" if has_halves else "f32",
    }  # fmt: skip


def _looked_up(matmul: Matmul, k: int) -> dict[str, Any]:
    form = matmul.form
    usual, span, table_bits = _TABLES[form]
    planes = 2 if form == "ternary" else matmul.planes
    group, span = cut_binary(k, matmul.group or usual, span)
    return {
        "form": form, "own_batch": True, "weight": "signs", "group": group, "planes": planes,
        "table_bits": table_bits or _TABLE_BITS[planes], "span": span, "symmetric": form != "lut",
    }  # fmt: skip
