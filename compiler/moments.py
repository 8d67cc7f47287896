"""Run a model over the inputs of a calibration, and collect ``X^T X`` of what its matmuls read.

The model is compiled exact for this machine's CPU, with ``lowc-collect-moments``.  Matmuls that
read the same rows share a matrix, and matmuls that use one weight are summed up together.

A matrix is ``[K, K]``, f32 from a call and f64 in the sum over calls, and a large model has
hundreds of them.  So there is a budget: the sums are cut into rounds, each of which fits into it; a
round compiles the model once more, and runs it over all inputs.  The sums of a finished round lie
on disk.
"""

import functools
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from iree.compiler import ir
from numpy.typing import NDArray

from ..errors import UserError, nearest
from ..passes import annotations
from ..passes.assign_forms import AssignForms
from ..passes.base import RemarkKind
from ..passes.collect_moments import CollectMoments
from ..passes.forms import rules_to_text
from ..passes.name_matmuls import NameMatmuls
from ..passes.runner import Runner
from ..runtime import tree as trees
from ..runtime.module import Module, load
from . import accuracy, api, entries
from .calibration import read_calibration
from .frontend import Model, entry_function
from .recipe import Recipe
from .target import load_target

Matrix = NDArray[np.float64]

_CALL, _SUM = 4, 8  # bytes of a number in the result of a call, and in the sum


@dataclass(frozen=True)
class Moments:
    """``X^T X`` (f64 ``[K, K]``) by the name of the matmul, and why others have none.

    `calls` were made in each of `rounds`; the sums of several rounds are mapped from files.
    """

    of: dict[str, Matrix]
    refused: dict[str, str]
    calls: int
    rounds: int

    def facts(self) -> dict[str, int]:
        """Return what the report has of it."""
        return {"calls": self.calls, "rounds": self.rounds, "matmuls": len(self.of)}


@dataclass(frozen=True)
class Total:
    """A sum: the matmuls that want it with their weights, the results that it is of, and its K."""

    uses: tuple[tuple[str, str], ...]
    results: tuple[int, ...]
    size: int

    @property
    def names(self) -> tuple[str, ...]:
        """The matmuls."""
        return tuple(name for name, _ in self.uses)


def collect(model: Model, recipe: Recipe, calibration: api.Limited, folder: Path) -> Moments:
    """Measure what the methods of `recipe` want to know; `model` is not changed.

    Parameters
    ----------
    calibration : Limited
        The inputs as :func:`lowc.compile` takes them, and the bytes that matrices take at most.
    folder : path
        Where the sums of several rounds lie as long as they are needed.

    Raises
    ------
    UserError
        The inputs do not fit the model, there are none, or the file cannot be read; one matrix
        alone is beyond the budget.
    """
    inputs = _by_entry(model, calibration.inputs)
    parts = {}
    for name, given in inputs.items():
        own = folder / f"moments-of-{name}" if len(inputs) > 1 else folder
        own.mkdir(exist_ok=True)
        of_one = entries.alone(model, name) if model.others else model
        parts[name] = _collect(of_one, recipe, api.Limited(given, calibration.memory), own)
    if not model.others:
        return parts[next(iter(parts))]
    return _spread(model, recipe, parts, folder)


def _by_entry(model: Model, given: api.Calibration) -> dict[str, api.Inputs]:
    """Return the inputs of each entry that has some, by its name."""
    names = [interface.entry_point for interface in model.interfaces]
    if not isinstance(given, Mapping):
        if model.others:
            raise UserError(
                f"the model has several entries ({', '.join(names)}), and the calibration does not "
                "say which one its inputs are of",
                hint=f"--calibration {names[0]}=inputs.npz, or a mapping from entries to inputs",
            )
        return {names[0]: given}
    for name in given:
        if name not in names or not model.entries:
            raise UserError(
                f"the calibration has inputs of an entry '{name}', which the model does not have",
                hint=nearest(str(name), names) if model.entries else "leave its name out",
            )
    if not given:
        raise UserError("the calibration has inputs of no entry", hint=", ".join(names))
    return dict(given)


def _spread(model: Model, recipe: Recipe, parts: Mapping[str, Moments], folder: Path) -> Moments:
    """Return the moments of the matmuls of all entries: those of one weight are added up.

    A weight that only entries without inputs read has none.  Sums of several entries lie on disk
    where those of one did.
    """
    names: dict[str, list[str]] = defaultdict(list)  # by their weight
    refused: dict[str, str] = {}
    for interface in model.interfaces:
        totals, why = plan(entries.alone(model, interface.entry_point), recipe)
        refused |= why
        for total in totals:
            for name, weight in total.uses:
                names[weight].append(name)
    found: dict[str, Matrix] = {}
    sums: dict[tuple[int, ...], Matrix] = {}  # weights of the same rows share one
    for users in names.values():
        there = [part.of[name] for part in parts.values() for name in users if name in part.of]
        different = {id(matrix): matrix for matrix in there}
        if not different:
            refused |= dict.fromkeys(users, "no entry that has inputs reads its weight")
            continue
        key = tuple(different)
        if key not in sums:
            first, *rest = different.values()
            sums[key] = _added(first, rest, folder / f"moments-of-all-{len(sums)}.npy")
        found |= dict.fromkeys(users, sums[key])
    calls = sum(part.calls for part in parts.values())
    return Moments(found, refused, calls, max(part.rounds for part in parts.values()))


def _added(first: Matrix, rest: Sequence[Matrix], path: Path) -> Matrix:
    """Return the sum of matrices, written to `path` if one of them is mapped from a file."""
    if not rest:
        return first
    added: Matrix = sum(rest, start=np.array(first))
    is_mapped = any(isinstance(matrix, np.memmap) for matrix in (first, *rest))
    return _spilled(added, path) if is_mapped else added


def _collect(model: Model, recipe: Recipe, calibration: api.Limited, folder: Path) -> Moments:
    """Do the work of :func:`collect` for a model of one entry."""
    totals, refused = plan(model, recipe)
    rounds = cut(totals, calibration.memory)
    inputs = calibration.inputs
    if len(rounds) > 1 and not isinstance(inputs, (str, os.PathLike)):
        inputs = list(inputs)  # they may be there to be read once
    found: dict[str, Matrix] = {}
    calls = 0
    for number, part in enumerate(rounds):
        sums, calls = _round(model, recipe, inputs, part)
        if len(rounds) > 1:
            sums = {
                total: _spilled(matrix, folder / f"moments-{number}-{place}.npy")
                for place, (total, matrix) in enumerate(sums.items())
            }
        found |= {name: matrix for total, matrix in sums.items() for name in total.names}
    return Moments(found, refused, calls, len(rounds))


def plan(model: Model, recipe: Recipe) -> tuple[list[Total], dict[str, str]]:
    """Return the sums that `recipe` wants, and why some matmuls have none; compiles nothing."""
    copy = model.copy()
    forms = AssignForms(rules=rules_to_text(recipe.rules))
    runner = Runner([NameMatmuls(), forms, *_measures()])
    runner.run(copy.module)
    refused = {
        remark.subject: remark.message
        for remark in runner.remarks
        if remark.pass_name == CollectMoments.name and remark.kind is RemarkKind.REFUSED
    }
    function = entry_function(copy.module)
    text = annotations.text(function, annotations.MOMENTS)
    uses: list[list[list[str]]] = json.loads(text) if text else []
    types = function.type.results[len(function.type.results) - len(uses) :]
    sizes = [ir.RankedTensorType(type_).shape[0] for type_ in types]
    return _totals(uses, sizes), refused


def cut(totals: Sequence[Total], budget: int) -> list[list[Total]]:
    """Return rounds of sums, in their order, that take at most `budget` bytes each.

    There is one round at least, as inputs are checked by running them.
    """
    rounds: list[list[Total]] = [[]]
    for total in totals:
        needed = memory([total])
        if needed > budget:
            raise UserError(
                f"the moments of '{total.names[0]}' ({total.size} x {total.size}) take "
                f"{_mebibytes(needed)} MiB, more than the {budget >> 20} MiB that they may",
                hint=f"--calibration-memory {_mebibytes(needed)}, or a form without a calibration "
                "for this matmul",
            )
        if memory([*rounds[-1], total]) > budget:
            rounds.append([])
        rounds[-1].append(total)
    return rounds


def memory(totals: Sequence[Total]) -> int:
    """Return the bytes that the matrices of a round take: its sums, and the results of a call."""
    of_sums = sum(_SUM * total.size**2 for total in totals)
    results = {number: total.size for total in totals for number in total.results}
    return of_sums + sum(_CALL * size**2 for size in results.values())


def _mebibytes(size: int) -> int:
    return -(-size >> 20)


def _measures(only: Iterable[str] | None = None) -> list[Any]:
    # Views of one activation are one value then.
    return ["cse", CollectMoments(None if only is None else tuple(only))]


def _totals(uses: Sequence[Sequence[Sequence[str]]], sizes: Sequence[int]) -> list[Total]:
    """Return the sums, given the ``[matmul, weight]`` that each result is for."""
    by_weight: dict[str, list[int]] = defaultdict(list)
    for number, readers in enumerate(uses):
        for _, weight in readers:
            by_weight[weight].append(number)
    found: dict[tuple[int, ...], list[tuple[str, str]]] = defaultdict(list)
    for readers in uses:
        for name, weight in readers:
            found[tuple(by_weight[weight])].append((name, weight))
    return [Total(tuple(of), results, sizes[results[0]]) for results, of in found.items()]


def _round(
    model: Model, recipe: Recipe, inputs: api.Inputs, wanted: Sequence[Total]
) -> tuple[dict[Total, Matrix], int]:
    """Return the sums of a round, and how many calls there were."""
    names = [name for total in wanted for name in total.names]
    with tempfile.TemporaryDirectory(prefix="lowc-calibration-") as folder:
        path = Path(folder) / "model.vmfb"
        measures = _measures(names)
        api.build(model.copy(), recipe, load_target("cpu"), path, measures=measures)
        module = load(path, verify=False)
        uses: list[list[list[str]]] = module.manifest.report.get("moments", [])
        places = _places(uses, wanted)
        sums = {total: np.zeros((total.size, total.size)) for total in wanted}
        calls = 0
        for call in _calls(module, inputs):
            results = call()
            measured = results[len(results) - len(uses) :]
            for total, numbers in places.items():
                for number in numbers:
                    sums[total] += np.asarray(measured[number])
            calls += 1
            del results, measured  # before the next call makes others
    if not calls:
        raise UserError("the calibration has no inputs", hint="some dozens of samples are usual")
    return sums, calls


def _places(
    uses: Sequence[Sequence[Sequence[str]]], wanted: Sequence[Total]
) -> dict[Total, tuple[int, ...]]:
    """Return the results of a round's module that each sum is of."""
    found = {frozenset(total.names): total.results for total in _totals(uses, [0] * len(uses))}
    return {total: found[frozenset(total.names)] for total in wanted}


def _calls(module: Module, calibration: api.Inputs) -> Iterator[Callable[[], list[Any]]]:
    """Yield what makes each call and returns its outputs, flat."""
    manifest = module.manifest
    module.reset()
    if isinstance(calibration, (str, os.PathLike)):
        for inputs in read_calibration(calibration, manifest):
            yield functools.partial(accuracy.call, module, inputs)
        return
    for number, given in enumerate(calibration):
        if not isinstance(given, (tuple, list)):
            raise UserError(
                f"a {type(given).__name__} is no tuple of inputs",
                where=f"calibration, sample {number + 1}",
                hint="pass an iterable of tuples, one for each call: [(x,), (y,)]",
            )
        yield functools.partial(_call, module, given)


def _call(module: Module, given: Sequence[Any]) -> list[Any]:
    return list(trees.flatten(module.manifest.out_tree, module(*given), "output"))


def _spilled(matrix: Matrix, path: Path) -> Matrix:
    """Write `matrix` to the file `path`; return it mapped from there.

    Raises
    ------
    UserError
        When the disk is full.
    """
    try:
        np.save(path, matrix)
    except OSError as error:
        raise UserError(
            f"the sums of the calibration cannot be written ({error.strerror or error})",
            where=str(path.parent),
        ) from error
    mapped: Matrix = np.load(path, mmap_mode="r")
    return mapped
