"""What is measured: products of each form, and which of their tiles, in which order.

All tiles of all products would take days.  Of each product there is the default and a sample of the
others: in turn from those that can be chosen, from all legal ones, and of what a model thinks best.
It is drawn by the product's own name: a larger sample has the smaller one in it, so that what was
measured stays of use, and a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from ...errors import UserError, nearest
from ...passes.forms import cut_binary, round_up_group
from ...passes.kernels.tiles import ISAS
from ...passes.tiling import choice, space
from ...passes.tiling.choice import Ranker
from ...passes.tiling.problem import BACKENDS, Lowering, Problem
from ...passes.tiling.tilings import Tiling

TURNS = (0, 1, 0, 1, 2)  # candidates, other legal tiles, what a model thinks best
_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)")
MOST_SIZE = 1 << 20
FORMS = ("f32", "lmul", "w4a8", "w8a8", "shift-add", "w4a16")
STANDARD = FORMS[:5]
OF_GPUS = ("lmul", "w4a8", "w8a8", "w4a16")  # which have kernels there
PORTABLE = ("f32", "lmul", "shift-add")  # which can stay with IREE's code generation alone
_GPU_GROUP = 32  # of w4a16 there
_BINARY_GROUP, _BINARY_PLANES, _TABLE_BITS = 128, 3, 7  # as in the recipe shiftadd-3


@dataclass(frozen=True)
class Round:
    """Tiles of one product that are compiled together and take turns; the first is the default."""

    problem: Problem
    tilings: tuple[Tiling, ...]

    @property
    def name(self) -> str:
        """A name for files: the product, and which tiles."""
        texts = " ".join(tiling.text for tiling in self.tilings)
        return f"{self.problem.key}-{hashlib.sha256(texts.encode()).hexdigest()[:8]}"


def shapes_of(kind: str) -> list[tuple[int, int, int, int]]:
    """Return the shapes of ``weights`` or ``activations`` in ``shapes.toml``."""
    text = (resources.files(__package__) / "shapes.toml").read_text()
    return [parse_shape(shape) for shape in tomllib.loads(text)[kind]]


def parse_shape(text: str) -> tuple[int, int, int, int]:
    """Return batch, M, N and K of ``1x128x384x384``.

    Raises
    ------
    UserError
        When it is none, or a size is 0 or too large.
    """
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise UserError(f"'{text}' is no shape", hint="batch x M x N x K: 1x128x384x384")
    batch, m, n, k = map(int, found.groups())
    if not all(1 <= size <= MOST_SIZE for size in (batch, m, n, k)):
        raise UserError(f"sizes of '{text}' are to be 1 to {MOST_SIZE}")
    return batch, m, n, k


def usual_forms(unit: str, lowering: Lowering) -> tuple[str, ...]:
    """Return the forms that are measured unless others are asked for."""
    if lowering == "linalg":
        return PORTABLE[1:2] if unit not in BACKENDS else PORTABLE
    return OF_GPUS if unit in BACKENDS else STANDARD


def problem_of(
    form: str, unit: str, shape: tuple[int, int, int, int], lowering: Lowering = "kernel"
) -> Problem:
    """Return the product that the recipes make of a weight of `shape`; a batch is two activations.

    Raises
    ------
    UserError
        When `form` is none that has a weight of such a shape.
    """
    if form not in FORMS:
        raise UserError(f"there is no form '{form}' to measure", hint=nearest(form, FORMS))
    batch, _, _, k = shape
    is_product = batch > 1
    if lowering == "linalg":
        if form not in PORTABLE:
            raise UserError(
                f"'{form}' is not one contraction", hint=", ".join(f"--form {f}" for f in PORTABLE)
            )
        if form == "shift-add":
            if is_product:
                raise UserError(f"'{form}' is a form of products with a weight", hint="batch 1")
            group, _ = cut_binary(k, _BINARY_GROUP, None)
            return Problem(form, lowering, unit, *shape, weight="signs", group=group,
                           planes=_BINARY_PLANES)  # fmt: skip
        return Problem(form, lowering, unit, *shape, own_batch=is_product)
    if unit in BACKENDS:
        return _problem_of_gpu(form, unit, shape)
    if form in ("f32", "lmul"):
        return Problem(form, "kernel", unit, *shape, own_batch=is_product, packs=is_product)
    if is_product:
        raise UserError(f"'{form}' is a form of products with a weight", hint="batch 1")
    if form == "w4a8":
        scales = "f16" if ISAS[unit].halves else "f32"
        return Problem(
            form, "kernel", unit, *shape, own_batch=True, weight="i4", group=32, scales=scales
        )
    if form == "w8a8":
        return Problem(
            form, "kernel", unit, *shape, own_batch=True, weight="i8", group=round_up_group(k),
            per_group=False,
        )  # fmt: skip
    if form == "w4a16":
        return Problem(form, "kernel", unit, batch, shape[1], shape[2], -(-k // 16) * 16,
                       weight="i4", group=16, symmetric=False)  # fmt: skip
    group, span = cut_binary(k, _BINARY_GROUP, _BINARY_GROUP)
    return Problem(
        form, "kernel", unit, *shape, own_batch=True, weight="signs", group=group,
        planes=_BINARY_PLANES, table_bits=_TABLE_BITS, span=span,
    )  # fmt: skip


def _problem_of_gpu(form: str, unit: str, shape: tuple[int, int, int, int]) -> Problem:
    """Return the product as the kernels for GPUs see it: K in whole groups for Vulkan."""
    if form not in OF_GPUS:
        raise UserError(
            f"'{form}' has no kernels for GPUs", hint="--lowering linalg, or " + ", ".join(OF_GPUS)
        )
    batch, m, n, k = shape
    if form == "lmul":
        return Problem(form, "kernel", unit, *shape, own_batch=batch > 1, prepares=False)
    if batch > 1:
        raise UserError(f"'{form}' is a form of products with a weight", hint="batch 1")
    is_vulkan = unit == "spirv"
    group = round_up_group(k) if form == "w8a8" else _GPU_GROUP
    whole = -(-k // group) * group if is_vulkan else k
    return Problem(
        form, "kernel", unit, batch, m, n, whole, own_batch=not is_vulkan,
        weight=f"i{form[1]}", group=group, per_group=form != "w8a8",
    )  # fmt: skip


def problems(
    forms: Sequence[str], unit: str, shapes: Sequence[str] = (), lowering: Lowering = "kernel"
) -> list[Problem]:
    """Return the products to measure: of the given shapes, or those of ``shapes.toml``.

    Shapes are outermost: where a run is stopped, every form has about as many.
    """
    chosen = [parse_shape(text) for text in shapes]
    if not chosen:
        weights, activations = shapes_of("weights"), shapes_of("activations")
        each = max(1, len(weights) // len(activations))
        for place, shape in enumerate(weights):
            chosen.append(shape)
            if place % each == each - 1 and activations:
                chosen.append(activations.pop(0))
    found = []
    for shape in chosen:
        takes = [form for form in forms if shape[0] == 1 or form in ("f32", "lmul")]
        if shapes and not takes:
            takes = list(forms)  # the error says why
        found += [problem_of(form, unit, shape, lowering) for form in takes]
    return found


def sample(problem: Problem, count: int, best: Sequence[Tiling] = ()) -> tuple[Tiling, ...]:
    """Return the default and ``count - 1`` others, all if there are fewer or `count` is 0.

    Of five others, two are drawn from the candidates, two from the rest of the legal tiles, and one
    is the next of `best`; what one has no more of, the others give.
    """
    chosen = space.candidates(problem)
    first = chosen[0]
    rest = space.every(problem)[len(chosen) :]
    if not count:
        return space.every(problem)
    # By hashes, not by the random module: the same on every version of Python.
    drawn = [sorted(some, key=lambda tiling: _hash(problem, tiling)) for some in (chosen[1:], rest)]
    places = [iter(some) for some in (*drawn, best)]
    found: dict[Tiling, None] = {first: None}
    for turn in itertools.cycle(TURNS):
        order = [places[turn], *places]
        one = next((tiling for place in order for tiling in place if tiling not in found), None)
        if one is None or len(found) >= count:
            break
        found[one] = None
    return tuple(found)


def _hash(problem: Problem, tiling: Tiling) -> str:
    return hashlib.sha256(f"{problem.key} {tiling.text}".encode()).hexdigest()


def rounds(
    chosen: Sequence[Problem],
    count: int,
    measured: Collection[tuple[str, str]],
    size: int,
    ranker: Ranker | None = None,
) -> Iterator[Round]:
    """Yield what is to be measured yet, in rounds of up to `size` tiles.

    `measured` are (problem, tile).  Every round has the default, which ties them together; what
    `ranker` thinks best is part of the sample.
    """
    for problem in chosen:
        best = choice.choose(problem, ranker, count).best if ranker is not None else ()
        first, *others = sample(problem, count, best)
        rest = [one for one in others if (problem.key, one.text) not in measured]
        if not rest and (problem.key, first.text) not in measured:
            yield Round(problem, (first,))
        each = max(1, size - 1)
        for start in range(0, len(rest), each):
            yield Round(problem, (first, *rest[start : start + each]))
