"""Load a compiled module and call it: arrays in, the output tree of the exported program out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np

from ..errors import InternalError, LowcError, UserError
from . import gpu_facts
from . import tree as trees
from .binding import Binder
from .buffers import DeviceArray, download, upload
from .convert import array_of, check_bound, to_array
from .devices import AUTO, CPU, CPU_SYNC, CUDA, VULKAN, Device, check_threads, fitting, open_device
from .dtypes import data_type, name_of
from .failures import IREE_ERRORS, short, start_error, wrong_device
from .fences import Done, Timeline, takes_fences
from .manifest import RESET_POINT, Leaf, Manifest
from .parameters import check_archive, parameters_module
from .pool_calls import PoolCalls
from .shapes import ShapeChecker, refuse_empty
from .short_calls import devices_to_try, fastest
from .signature import Signature
from .vmfb import artifact_path, check_file, read_module


def load(
    artifact: Any, device: str = AUTO, *, verify: bool = True, threads: int | None = None
) -> Module:
    """Load a ``.vmfb`` that lowc compiled, with the ``.irpa`` beside it if it has one.

    One that was compiled from a mapping of models is a :class:`.program.Program`, whose entries are
    called by name: ``module.prefill(…)``.

    Parameters
    ----------
    artifact : str, os.PathLike, or object with ``path``
        The ``.vmfb``, or what :func:`lowc.compile` returned.
    device : str
        ``auto`` (what the module was compiled for; of a CPU the calling thread alone, where calls
        are so short that it is faster), or a name as in :mod:`lowc.runtime.devices`.
    verify : bool
        Whether to compare the SHA-256 of the parameters too, which reads them all once.
    threads : int, optional
        Worker threads of the device ``cpu``; one per core by default, or as many as a
        container's CPU quota allows.  With ``auto``, at most so
        many.

    Raises
    ------
    UserError
        When a file is missing, foreign, damaged, or does not fit the other or the device.
    InternalError
        When IREE fails to start the module for another reason.
    """
    path = artifact_path(artifact)
    check_file(path)
    instance = rt.VmInstance()
    vm_module, manifests = read_module(path, instance)
    manifest = manifests[0]
    name = (manifest.device or CPU) if device == AUTO else device
    extra = []
    if manifest.parameters is not None:
        archive = path.with_name(manifest.parameters.file)
        check_archive(archive, manifest.parameters, verify=verify)
        looked_up, on_cpu = manifest.parameters.looked_up, name in (CPU, CPU_SYNC)
        extra.append(parameters_module(archive, instance, looked_up, in_place=on_cpu))

    names: Sequence[str] = (name,)
    if device == AUTO and name == CPU:
        check_threads(CPU, threads)
        names = devices_to_try(manifest)

    def started(name: str) -> Module:
        # Of the calling thread a number of threads was not asked for: it says how many may be.
        is_chosen = name == CPU_SYNC and device == AUTO
        if name in (VULKAN, CUDA) and manifest.needs:
            name = fitting(name, manifest.needs)
        opened = open_device(name, threads=None if is_chosen else threads)
        if why := gpu_facts.lacking(opened.facts, manifest.needs):
            raise wrong_device(path, manifest, opened.name, why)
        hal = rt.create_hal_module(instance, opened.hal)
        try:
            context = rt.VmContext(instance, [hal, *extra, vm_module])
        except IREE_ERRORS as error:
            raise start_error(path, manifest, opened, error) from error
        if manifest.entries or len(manifests) > 1:
            from .program import Program  # which is a kind of module

            return Program(path, manifests, opened, context, vm_module)
        return Module(path, manifest, opened, context, vm_module)

    return fastest([started(name) for name in names])


_VIEW = rt.HalBufferView


class Shared:
    """How calls of all entries of a module run: one after another, on one device."""

    def __init__(self, path: Path, device: Device, context: Any, entry: Any) -> None:
        self.timeline = Timeline(device.hal, str(path)) if takes_fences(entry) else None
        self.lock = threading.Lock()
        self.pool = PoolCalls(device, context) if device.kind == CPU else None
        # Which text the caches hold, and the turn to look and go on with it (generation.py).
        self.text: object = None
        self.turn = threading.Lock()


class Module:
    """A loaded model.  Call it like the model that was exported.

    Calls from several threads are right: they run one after another, each using all workers of
    the device.  A module is of use only in the process that loaded it, not in a fork.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    device : Device
    signature : Signature
        Names, shapes and data types; ``print(module.signature)`` shows them.
    """

    def __init__(
        self, path: Path, manifest: Manifest, device: Device, context: Any, vm_module: Any,
        shared: Shared | None = None,
    ) -> None:  # fmt: skip
        """Take what was loaded, and what the entries of a module have in common if it has several.

        Then calls run one by one, whichever entry they are of.
        """
        entry = _function(path, vm_module, manifest.entry_point)
        # Attributes go in the order in which they came: what belongs to a GPU before it.
        self.shared = shared or Shared(path, device, context, entry)
        self._timeline = self.shared.timeline
        self.path = path
        self.manifest = manifest
        self.device = device
        self.signature = Signature.of(manifest)
        self._context = context
        self._vm_module = vm_module
        self._entry = entry
        self._reset = _function(path, vm_module, RESET_POINT) if manifest.has_state else None
        self._binder = Binder(manifest)
        self._tensors_out = [leaf for leaf in manifest.outputs if not leaf.literal]
        self._guard = _Guard(path, _varying_sizes(manifest))
        self._lock, self._pool = self.shared.lock, self.shared.pool
        # Takes a function, its arguments and the list of its results.
        self._invoke: Callable[[Any, Any, Any], None]
        self._invoke = context.invoke if self._pool is None else self._pool.invoke

    def __repr__(self) -> str:
        return f"<lowc module {self.path} on {self.device.name}>"

    @property
    def report(self) -> dict[str, Any]:
        """What the compiler did per matmul, as recorded in the module."""
        return self.manifest.report

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Inputs are arrays, tensors of PyTorch, or anything with ``__array__`` or ``__dlpack__``, by
        position or by name; what lies on another device is copied by way of the host.  The result
        is nested like the model's, with NumPy arrays as leaves.

        Raises
        ------
        UserError
            When an input is missing, unexpected, of the wrong nesting, shape or data type, or
            indexes a table outside of it (device arrays are not looked into), or when sizes that
            vary do not suit each other; on a GPU also when such a size is 0.
        InternalError
            When running the model fails.
        """
        values = self._checked(args, kwargs)
        with self._guard, self._lock:
            results, done = self._run(self._views(values), _pending(values))
            if done is not None:
                done.wait()
            # A result may be the state's own memory, which the next call changes.
            arrays = iter(
                [
                    download(view, leaf.dtype, self.device, copy=self.manifest.has_state)
                    for view, leaf in zip(results, self._tensors_out, strict=True)
                ]
            )
        leaves = (leaf.value if leaf.literal else next(arrays) for leaf in self.manifest.outputs)
        return trees.unflatten(self.manifest.out_tree, leaves)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """Start the model, and return its results as arrays on the device that are still to come.

        They are nested as those of a call.  Calls of a module run one after another, and a result
        can be passed on, to this module or to another one on the same device, without waiting for
        it; ``numpy.asarray`` waits.  A CPU's calls are done when this returns.  If the model has
        state, a result may be the state's own memory, which the next call changes.

        A model that gives an input back changed, such as a cache with a new row, may change an
        array on the device that it is given: use the result in its place.

        Raises
        ------
        UserError, InternalError
            As calling the module does; what fails on a GPU is raised where the result is waited
            for.
        """
        values = self._checked(args, kwargs)
        with self._guard, self._lock:
            results, done = self._run(self._views(values), _pending(values))
        arrays = iter(self._on_device(results, done))
        leaves = (leaf.value if leaf.literal else next(arrays) for leaf in self.manifest.outputs)
        return trees.unflatten(self.manifest.out_tree, leaves)

    def bound(self, *args: Any, **kwargs: Any) -> Callable[[], list[DeviceArray]]:
        """Check these inputs and bring them to the device once; return a call that only runs.

        Each call gives the tensors of the result, in order, as they lie on the device: what is
        left for a measurement, or a server, is the model itself.  They stay as they are when it
        is called again, unless the model has state: then a result may be the state's own memory,
        which the next call changes.

        Raises
        ------
        UserError, InternalError
            As calling the module does.
        """
        return self._bound(self._checked(args, kwargs))

    def bound_to_zeros(self) -> Callable[[], list[DeviceArray]]:
        """Return what :meth:`bound` does for inputs of zeros; all sizes must be fixed."""
        leaves = [leaf for leaf in self.manifest.inputs if not leaf.literal]
        return self._bound(
            [(leaf, np.zeros(leaf.shape, data_type(leaf.dtype, "").numpy)) for leaf in leaves]
        )

    def _bound(self, values: list[tuple[Leaf, Any]]) -> Callable[[], list[DeviceArray]]:
        with self._guard, self._lock:
            views = self._views(values)
        if self.device.is_gpu:
            return _OnGpu(views, _pending(values), self)
        arguments, run = _arguments(views), self.runner()
        device, dtypes = self.device, [leaf.dtype for leaf in self._tensors_out]
        taken = list(enumerate(dtypes))

        def call() -> list[DeviceArray]:
            results = run(arguments)
            return [
                DeviceArray(results.get_as_object(i, _VIEW), dtype, device) for i, dtype in taken
            ]

        return call

    def runner(self) -> Callable[[Any], Any]:
        """Return what runs the model on a CPU, and no more: lists of IREE's, of buffer views.

        It takes arguments that were checked, and gives the results.

        Raises
        ------
        UserError
            In a process that was forked after the module was loaded.
        """
        # Of the shortest calls all this takes a quarter, since weights drive it out of the caches.
        invoke, function, lock, guard = self._invoke, self._entry, self._lock, self._guard
        guard.refuse_fork()
        process, count = os.getpid(), len(self._tensors_out)

        def run(arguments: Any) -> Any:
            if os.getpid() != process:
                guard.refuse_fork()
            results = rt.VmVariantList(count)
            try:
                with lock:
                    invoke(function, arguments, results)
            except IREE_ERRORS as error:
                raise guard.failure(error) from error
            if results.size != count:
                raise self._miscounted(results)
            return results

        return run

    def reset(self) -> None:
        """Put the model's state back to what it was when loaded; without state, do nothing."""
        if self._reset is not None:
            with self._guard, self._lock:
                done = self._call(self._reset, [], rt.VmVariantList(0))
                if done is not None:
                    done.wait()

    def to_device(self, array: Any) -> DeviceArray:
        """Copy an array to the module's device, to pass it to many calls without a copy each.

        A call may write into it if the model gives it back changed (:meth:`start`).
        """
        converted = array_of(array, "the array")
        name = name_of(converted.dtype)
        with self._guard, self._lock:
            view = upload(converted, name, self.device)
        return DeviceArray(view, name, self.device)

    def run_views(self, views: list[Any], pending: list[Done]) -> list[DeviceArray]:
        """Run the model on buffer views of the device that were checked, and wait for it."""
        with self._guard, self._lock:
            results, done = self._run(views, pending)
            if done is not None:
                done.wait()
        return self._on_device(results)

    # -- inside ------------------------------------------------------------------------------------

    def _checked(self, args: Any, kwargs: Any) -> list[tuple[Leaf, Any]]:
        """Return the inputs in order, each an array that fits or already on the device."""
        values = [
            (leaf, self._input(leaf, value)) for leaf, value in self._binder.bind(args, kwargs)
        ]
        checker = ShapeChecker(self.manifest.ranges)
        checker.check((leaf, tuple(value.shape)) for leaf, value in values)
        for leaf, value in values:
            if self.device.is_gpu:
                refuse_empty(leaf, tuple(value.shape), self.device.name)
            if not isinstance(value, DeviceArray):
                check_bound(leaf, value)
        return values

    def _views(self, values: list[tuple[Leaf, Any]]) -> list[Any]:
        """Bring the inputs to the device that are not there."""
        return [
            value.view if isinstance(value, DeviceArray) else upload(value, leaf.dtype, self.device)
            for leaf, value in values
        ]

    def _run(self, views: list[Any], pending: list[Done]) -> tuple[list[Any], Done | None]:
        """Run the model, or start it; return the results' buffer views, and when they are there."""
        results = rt.VmVariantList(len(self._tensors_out))
        done = self._call(self._entry, views, results, pending)
        if results.size != len(self._tensors_out):
            raise self._miscounted(results)
        return [results.get_as_object(i, _VIEW) for i in range(results.size)], done

    def _call(
        self, function: Any, views: list[Any], results: Any, pending: Sequence[Done] = ()
    ) -> Done | None:
        arguments = _arguments(views)
        if self._timeline is None:
            for done in pending:
                done.wait()
            self._invoke(function, arguments, results)
            return None
        return self._timeline.invoke(
            lambda given: self._invoke(function, given, results), arguments, pending
        )

    def _on_device(self, views: list[Any], done: Done | None = None) -> list[DeviceArray]:
        return [
            DeviceArray(view, leaf.dtype, self.device, done)
            for view, leaf in zip(views, self._tensors_out, strict=True)
        ]

    def _input(self, leaf: Leaf, value: Any) -> Any:
        where = f"input '{leaf.name}'"
        if isinstance(value, DeviceArray):
            if value.device is not self.device:  # it is waited for, and goes by way of the host
                return to_array(np.asarray(value), leaf.dtype, where)
            if value.dtype != leaf.dtype:
                raise UserError(f"expected {leaf.dtype}, got {value.dtype}", where=where)
            return value
        return to_array(value, leaf.dtype, where)

    def _miscounted(self, results: Any) -> InternalError:
        return InternalError(
            f"the module gave {results.size} results, its manifest names {len(self._tensors_out)}",
            where=str(self.path),
        )


def _function(path: Path, vm_module: Any, name: str) -> Any:
    function = vm_module.lookup_function(name)
    if function is None:
        raise UserError(
            f"the module has no function '{name}', which its manifest names",
            where=str(path),
            hint="compile the model again",
        )
    return function


def _varying_sizes(manifest: Manifest) -> list[str]:
    sizes = (size for leaf in manifest.inputs for size in leaf.shape)
    return sorted({size for size in sizes if isinstance(size, str)})


class _Guard:
    """Refuse a forked process, and put IREE's errors into words.

    It takes no lock: a signal handler that raises (Ctrl-C) can do so inside of ``__enter__``, after
    which nothing would release it.  Python's own locks are taken in C, between two signals.
    """

    def __init__(self, path: Path, sizes: Sequence[str]) -> None:
        self._path, self._sizes = path, sizes
        self._process = os.getpid()

    def refuse_fork(self) -> None:
        """Raise a UserError in a process that was forked after the module was loaded."""
        if os.getpid() != self._process:
            raise UserError(
                "the module was loaded before this process was forked, and its threads are gone",
                where=str(self._path),
                hint="load it in the new process, or start that with 'spawn'",
            )

    def failure(self, error: Exception) -> LowcError:
        """Return what to raise for an error of IREE's."""
        # An assertion of the model's own, such as that two sizes it was exported with agree.
        if self._sizes and str(error).partition("FAILED_PRECONDITION")[1]:
            return UserError(
                "the model refuses inputs of these sizes",
                where=str(self._path),
                hint=f"sizes that vary ({', '.join(self._sizes)}) may depend on each other: "
                "print(module.signature), and see what the exported model says of its inputs",
                detail=short(error),
            )
        return InternalError(
            "running the module failed", where=str(self._path), detail=short(error)
        )

    def __enter__(self) -> None:
        self.refuse_fork()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, IREE_ERRORS):
            raise self.failure(error) from error


class _OnGpu:
    """What :meth:`Module.bound` gives for a GPU."""

    # Slots are emptied in the order of their names: memory of a GPU, and fences, must go before it.
    __slots__ = ("_pending", "_views", "module")

    def __init__(self, views: list[Any], pending: list[Done], module: Module) -> None:
        self._views, self._pending, self.module = views, pending, module

    def __call__(self) -> list[DeviceArray]:
        """Run the model, and wait for it."""
        return self.module.run_views(self._views, self._pending)


def _pending(values: list[tuple[Leaf, Any]]) -> list[Done]:
    """Return what has to be done before inputs that lie on the device are there."""
    found = [value.done for _, value in values if isinstance(value, DeviceArray)]
    return [done for done in found if done is not None]


def _arguments(views: list[Any]) -> Any:
    arguments = rt.VmVariantList(len(views))
    for view in views:
        arguments.push_ref(view)
    return arguments
