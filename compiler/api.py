"""``lowc.compile``: the whole road from a model to an artifact."""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from iree.compiler import ir
from numpy.typing import NDArray

from ..errors import LowcError, UserError
from ..passes import annotations, instruments
from ..passes.assign_forms import form_of
from ..passes.base import Pass, RemarkKind
from ..passes.count_operations import count, count_entries
from ..passes.forms import Form
from ..passes.runner import PassFailure, Runner, format_pipeline
from ..passes.select_tiles import SelectTiles
from ..passes.strip_annotations import StripAnnotations
from ..passes.tiling import attribute
from ..runtime import tree as trees
from ..runtime.manifest import Leaf, Manifest
from . import backend, call_time, planes, report
from .artifact import Artifact, Staging, embed_manifest, staging
from .entries import open_entries
from .frontend import Model, open_model
from .gpu_needs import needs_of
from .looked_up import looked_up
from .parameters import plan_parameters, write_parameters
from .pipeline import passes_for
from .recipe import Cache, Recipe, cache_of, load_recipe
from .target import Target, load_target
from .tile_choice import TileChoice, is_refusal, said_of_refused, with_tiles, without_tiles

Inputs = Iterable[Any] | str | os.PathLike[str]
Calibration = Inputs | Mapping[str, Inputs]
CALIBRATION_MEMORY = 1 << 30  # bytes
STAGES = ("import", "calibration", "allocation", "tiles", "passes", "parameters", "compile")


@dataclasses.dataclass(frozen=True)
class Limited:
    """Inputs of a calibration, and how many bytes what is summed up over them takes at most."""

    inputs: Calibration
    memory: int = CALIBRATION_MEMORY


def compile(  # noqa: A001, PLR0913  (the name that users expect, and all that they may say)
    model: Any,
    recipe: str | os.PathLike[str] | Recipe = "f32",
    target: str | Target = "cpu",
    *,
    calibration: Calibration | None = None,
    calibration_memory: int = CALIBRATION_MEMORY,
    output: str | os.PathLike[str] | None = None,
    save_temps: str | os.PathLike[str] | None = None,
    progress: Callable[[str], object] | None = None,
    kernels: bool = True,
    tiles: TileChoice | None = None,
    cache: str | Cache | None = None,
) -> Artifact:
    """Compile a model.

    Parameters
    ----------
    model : path or torch.export.ExportedProgram, or a mapping
        ``.pt2`` as ``torch.export.save`` writes it, ``.mlir``, ``.mlirbc``, or the program itself.
        ``{"prefill": …, "decode": …}`` makes each of several models an entry of one module, with
        every weight stored once and one state for all (``compiler/entries.py``).
    recipe : str, path or Recipe
        A built-in name (``f32``, ``w4a16`` …), a ``.toml`` file, or a :class:`Recipe`.
    target : str or Target
        ``cpu``, ``vulkan``, ``cuda``, or one of them with a chip: ``cpu:skylake-avx512``.
    calibration : iterable of input tuples, or path, optional
        Inputs for methods that look at activations, such as ``gptq``: what the model takes, once
        for each call, or a file of stacked inputs (``compiler/calibration.py``).  Of a model of
        several entries, those of some by their names: ``{"prefill": "prompts.npz"}``.
    calibration_memory : int, optional
        Bytes that what is summed up over a calibration takes at most, by default 1 GiB.  If that is
        too little for all matmuls at once, the model is compiled and run in rounds.
    output : path, optional
        Where the ``.vmfb`` goes; the ``.irpa`` goes beside it.  Without one, the files live in a
        temporary folder as long as the artifact does.
    save_temps : path, optional
        A folder for the IR after every pass and the module that ``iree-compile`` gets.
    progress : callable, optional
        Called with the name of each stage (:data:`STAGES`) as it begins.
    kernels : bool, optional
        False leaves every product to stock code generation, to compare with.
    tiles : TileChoice, optional
        How tiles are chosen (``compiler/tile_choice.py``); without it all products have their
        default ones.
    cache : str or Cache, optional
        Formats of key-value caches in the place of the recipe's: ``i8``, or ``keys=i8,values=f16``.

    Returns
    -------
    Artifact
        The files, and a report on every matmul.

    Raises
    ------
    UserError
        The model, recipe, target or calibration is at fault, or the machine (a full disk).
    InternalError
        A pass or a tool failed; the message says where the reproducer lies.
    """
    chosen, goal = load_recipe(recipe), load_target(target)
    if cache is not None:
        chosen = dataclasses.replace(chosen, cache=cache_of(cache))
    check_calibration(chosen, calibration)
    folder = None
    if output is None:
        folder = tempfile.TemporaryDirectory(prefix="lowc-artifact-")
        output = Path(folder.name) / "model.vmfb"
    temps = Path(save_temps) if save_temps is not None else None
    artifact = build(
        model,
        chosen,
        goal,
        Path(output),
        calibration=None if calibration is None else Limited(calibration, calibration_memory),
        temps=temps,
        progress=progress,
        kernels=kernels,
        tiles=tiles,
    )
    artifact._folder = folder  # noqa: SLF001
    return artifact


def check_calibration(recipe: Recipe, calibration: Calibration | None) -> None:
    """Raise a UserError unless `recipe` gets the calibration that it needs, and no other."""
    if calibration is not None and not recipe.takes_inputs:
        raise UserError(
            f"the recipe '{recipe.name}' has no method that uses calibration data",
            hint="leave calibration out",
        )
    if calibration is None and recipe.needs_inputs:
        raise UserError(
            f"the recipe '{recipe.name}' has a method that needs inputs of a calibration",
            hint="--calibration inputs.npz, lowc.compile(…, calibration=[(x,), …]), or "
            'method = "rtn" (form binary: "auto")',
        )


def build(  # noqa: PLR0913  (its own, and those of compile)
    model: Any,
    recipe: Recipe,
    target: Target,
    output: Path,
    *,
    calibration: Limited | None = None,
    temps: Path | None = None,
    progress: Callable[[str], object] | None = None,
    measures: Sequence[Pass | str] = (),
    kernels: bool = True,
    tiles: TileChoice | None = None,
) -> Artifact:
    """Do the work of :func:`compile`.

    Without `calibration`, methods that need it do what they can without.  `measures` are passes
    that run when forms are assigned and nothing is rewritten yet; the manifest has what they add to
    the entry function's results.
    """
    with staging(output.absolute()) as stage:
        road = _Road(recipe, target, stage, temps, progress or (lambda _stage: None))
        road.measures, road.kernels, road.calibration = measures, kernels, calibration
        road.tiles = tiles
        artifact = road.travel(model)
        stage.publish()
    return artifact


class _Road:
    def __init__(
        self, recipe: Recipe, target: Target, stage: Staging, temps: Path | None, progress: Any
    ) -> None:
        self.recipe, self.target, self.stage, self.temps = recipe, target, stage, temps
        self.progress = progress
        self.measures: Sequence[Pass | str] = ()
        self.kernels = True
        self.calibration: Limited | None = None
        self.facts: dict[str, Any] = {}
        self.tiles: TileChoice | None = None
        self.selection: SelectTiles | None = None
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = list(target.notes)
        self.refused: tuple[str, ...] = ()  # products whose chosen tiles IREE does not take

    def travel(self, model: Any) -> Artifact:
        begun = self._begin("import")
        opened = open_entries(model) if isinstance(model, Mapping) else open_model(model)
        with opened as imported:
            self._end("import", begun)
            self._check_entries(imported)
            if _has_float64(imported):
                self.target = self.target.with_float64()
            moments = self._moments(imported)
            self._allot(imported, moments)
            self.selection = self._select(imported)
            said, timing = self._passes(imported, moments)
            forms = _summed_by_iree(imported.module)
            # Sums of codes have no order, but on GPUs their bodies ask for the loop's number.
            takes_apart = any(form.stores_codes for form in forms) and self.target.gpu
            if takes_apart or any(form.form in _ORDERED for form in forms):
                self.target = self.target.with_sums_in_order()
            else:
                self.target = self.target.with_sums_in_any_order()
            manifests = self._parameters(imported, said, moments)
            manifest = self._backend(imported, manifests)[0]
        sizes = {path.name: path.stat().st_size for path in self._files()}
        facts = (
            (without_tiles(said, self.refused) if manifest.entries else manifest.report)
            | self.facts
            | {
                "notes": [*imported.notes, *self.notes],
                "bytes": sizes,
                "seconds": self.seconds,
                "pass_seconds": dict(timing.rows),
            }
        )
        return Artifact(self.stage.output, manifest, facts)

    def _files(self) -> list[Path]:
        return [path for path in (self.stage.module, self.stage.parameters) if path.exists()]

    def _begin(self, name: str) -> float:
        self.progress(name)
        return time.perf_counter()

    def _end(self, name: str, begun: float) -> None:
        self.seconds[name] = time.perf_counter() - begun

    def _check_entries(self, model: Model) -> None:
        """Refuse what is done to one entry alone."""
        if self.measures and model.others:
            raise UserError(
                f"several entries ({', '.join(model.entries)}) cannot be measured together yet",
                hint="measure one of them alone",
            )

    def _moments(self, model: Model) -> Mapping[str, NDArray[np.float64]]:
        if self.calibration is None:
            return {}
        from .moments import collect  # it compiles the model too, with this module

        begun = self._begin("calibration")
        found = collect(model, self.recipe, self.calibration, self.stage.folder)
        self.facts["calibration"] = found.facts()
        self.notes += [
            f"{name}: rounded without the calibration; {why}" for name, why in found.refused.items()
        ]
        self._end("calibration", begun)
        return found.of

    def _allot(self, model: Model, moments: Mapping[str, NDArray[np.float64]]) -> None:
        """Spend the recipe's budget of planes, if it has one."""
        budget = self.recipe.budget
        if budget is None:
            return
        if budget.by_inputs and not moments:
            return  # the average for all, as the rules have it
        begun = self._begin("allocation")
        found = planes.allot(model, self.recipe, moments)
        self.recipe = found.recipe
        self.notes.append(found.describe())
        self.facts["planes"] = found.facts()
        self._end("allocation", begun)

    def _passes(
        self, model: Model, moments: Mapping[str, NDArray[np.float64]]
    ) -> tuple[dict[str, Any], instruments.Timing]:
        begun = self._begin("passes")
        exported = count_entries(model.module) if model.entries else count(model.module)
        timing = instruments.Timing()
        hooks: list[Any] = [timing]
        if self.temps is not None:
            hooks.append(instruments.DumpIR(self.temps))
        runner = Runner(self._elements(), hooks)
        try:
            runner.run(model.module)
        except PassFailure as failure:
            raise self._with_reproducer(
                failure.cause,
                failure.input_ir,
                ["lowc", "opt", "{input}", f"--pass-pipeline={format_pipeline([failure.element])}"],
            ) from failure
        said = report.facts(model.module, runner.remarks, exported, moments)
        self._say_uncalibrated(said["matmuls"])
        self.notes += [
            f"{remark.subject}: {remark.message}"
            for remark in runner.remarks
            if remark.kind is RemarkKind.WARNING
        ]
        self._end("passes", begun)
        return said, timing

    def _say_uncalibrated(self, rows: Sequence[Mapping[str, Any]]) -> None:
        without = [row["name"] for row in rows if row["calibrated"] is False]
        if self.calibration is None and without:
            self.notes.append(
                f"the codes of {len(without)} matmuls follow from the weights alone; with inputs "
                "(--calibration) they would lose less"
            )

    def _elements(self) -> list[Pass | str]:
        return passes_for(
            self.recipe, self.target, self.measures, kernels=self.kernels, tiles=self.selection
        )

    def _select(self, model: Model) -> SelectTiles | None:
        """Return the pass that chooses tiles, when they have been measured; None for defaults."""
        if self.tiles is None:
            return None
        begun = self._begin("tiles")

        def before(chosen: SelectTiles) -> ir.Module:
            self.selection = chosen
            elements = self._elements()
            copied = model.copy().module
            Runner(elements[: elements.index(chosen)]).run(copied)
            return copied

        found = self.tiles.selection(self.target, before, kernels=self.kernels)
        self._end("tiles", begun)
        return found

    def _parameters(
        self, model: Model, said: dict[str, Any], moments: Mapping[str, NDArray[np.float64]]
    ) -> list[Manifest]:
        """Write the archive; return the manifests of all entries, each with its own report."""
        begun = self._begin("parameters")
        plan = plan_parameters(model.module)
        written = None
        if not plan.is_empty:
            written = write_parameters(
                plan, model.tensors, model.source, self.stage.parameters, moments
            )
            written = dataclasses.replace(written, looked_up=looked_up(model.module))
        self._end("parameters", begun)
        function = model.function(model.interface)
        measured = {
            key: json.loads(annotations.text(function, name))
            for key, name in (("shadows", annotations.SHADOWS), ("moments", annotations.MOMENTS))
            if annotations.text(function, name)
        }
        # What is measured is called by us, and has one entry.
        entries = () if self.measures else model.entries
        names = [interface.entry_point for interface in model.interfaces] if model.entries else []
        reports = [report.of_entry(said, name, names) for name in names] or [said]
        first = dataclasses.replace(
            _with_measures(model.interface, function, measured),
            inputs=_with_bounds(model.interface, function),
            recipe=self.recipe.name,
            target=self.target.name,
            device=self.target.device,
            needs=needs_of(model.module, self.target.gpu) if self.target.gpu else {},
            entries=entries,
            # An entry runs where the others do, so none decides what is tried out.
            serial_microseconds=None
            if model.entries
            else call_time.serial_microseconds(said["energy"]),
            parameters=written,
            versions=_versions(),
            report=reports[0] | measured,
        )
        others = [
            dataclasses.replace(
                first,
                **{name: getattr(interface, name) for name in _OF_ENTRY},
                inputs=_with_bounds(interface, model.function(interface)),
                report=told,
            )
            for interface, told in zip(model.others, reports[1:], strict=True)
        ]
        return [first, *others]

    def _backend(self, model: Model, manifests: Sequence[Manifest]) -> Sequence[Manifest]:
        """Generate code; return the manifests that are in it.

        Where it is refused and tiles were chosen, these are left out: IREE takes its own.
        """
        begun = self._begin("compile")
        module = model.module
        with module.context:
            told, chosen = attribute.told(module), attribute.chosen(module)
        Runner([StripAnnotations()]).run(module)
        try:
            try:
                self._generate(model, manifests)
            except LowcError as error:
                if not chosen or not is_refusal(error):
                    raise
                with module.context:
                    for operations in chosen.values():
                        attribute.take_back(operations)
                told = {name: tile for name, tile in told.items() if name not in chosen}
                self.refused = tuple(chosen)
                manifests = [
                    dataclasses.replace(one, report=without_tiles(one.report, self.refused))
                    for one in manifests
                ]
                self._generate(model, manifests)
                self.notes.append(said_of_refused(self.refused, error))
        except LowcError as error:
            text = module.operation.get_asm(enable_debug_info=True)
            named = with_tiles(error, told)
            raise self._with_reproducer(named, text, backend.replay_command(self.target)) from error
        self._end("compile", begun)
        return manifests

    def _generate(self, model: Model, manifests: Sequence[Manifest]) -> None:
        module = model.module
        for manifest in manifests:
            embed_manifest(module, model.function(manifest), manifest)
        source = self.stage.folder / "module.mlirbc"
        with source.open("wb") as file:
            module.operation.write_bytecode(file)
        if self.temps is not None:
            (self.temps / "module.mlir").write_text(instruments.readable_ir(module))
        self.notes += backend.compile_module(source, self.stage.module, self.target)

    def _with_reproducer(self, error: LowcError, text: str, command: list[str]) -> LowcError:
        reproducer = backend.write_reproducer(text, command, self.temps)
        hint = f"{error.hint}\n  {reproducer}" if error.hint else str(reproducer)
        return type(error)(error.what, where=error.where, hint=hint, detail=error.detail)


# What manifests of one module do not have in common, beside their inputs and reports.
_OF_ENTRY = (
    "outputs", "args_tree", "kwargs_tree", "out_tree", "argument_names", "ranges", "entry_point",
)  # fmt: skip


def _has_float64(model: Model) -> bool:
    leaves = [leaf for one in model.interfaces for leaf in (*one.inputs, *one.outputs)]
    dtypes = [leaf.dtype for leaf in leaves]
    return "float64" in (*dtypes, *(tensor.dtype for tensor in model.tensors.values()))


# Sums of added or shifted products: their definition has an order.
_ORDERED = {"lmul", "pam", "binary", "ternary", "shift", "lut", "bipolar"}


def _summed_by_iree(module: ir.Module) -> set[Form]:
    """Return the forms of rewritten products whose sums IREE generates.

    lowc's kernels add in the order of their form whatever IREE is told.
    """
    return {
        form_of(op)
        for op in annotations.matmuls(module)
        # A product that was refused its form is as the model has it.
        if op.name.startswith("linalg.") and annotations.PRODUCT in op.attributes
    }


def _with_bounds(interface: Manifest, function: Any) -> tuple[Leaf, ...]:
    """Return the inputs with the table sizes that ``lowc-clamp-indices`` found."""
    text = annotations.text(function, annotations.INDEX_BOUNDS) or "[]"
    below = dict(json.loads(text))
    numbers = iter(range(len(interface.inputs)))
    return tuple(
        leaf if leaf.literal else dataclasses.replace(leaf, below=below.get(next(numbers)))
        for leaf in interface.inputs
    )


def _with_measures(interface: Manifest, function: Any, measured: dict[str, list[Any]]) -> Manifest:
    """Return the interface with what passes measure as its last outputs.

    ``lowc-shadow-matmuls`` adds one table, ``lowc-collect-moments`` one matrix for each activation.
    """
    names = [annotations.SHADOWS] if "shadows" in measured else []
    names += [f"{annotations.MOMENTS} {uses[0][0]}" for uses in measured.get("moments", [])]
    if not names:
        return interface
    types = [ir.RankedTensorType(type_) for type_ in function.type.results[-len(names) :]]
    leaves = [
        Leaf(name, tuple(type_.shape), "float32") for name, type_ in zip(names, types, strict=True)
    ]
    children = [interface.out_tree, *[trees.LEAF] * len(leaves)]
    return dataclasses.replace(
        interface,
        outputs=(*interface.outputs, *leaves),
        out_tree={"type": "tuple", "children": children},
    )


def _versions() -> dict[str, str]:
    names = ("lowc", "iree-base-compiler", "iree-base-runtime", "torch", "torch-mlir", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
