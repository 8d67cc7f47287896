"""Stream the parameters of a module into an ``.irpa`` archive.

Tensors that stay as they are go from the model's file to the archive by file handle, derived ones
block by block through a spool file.  Only a tensor that is stored with gaps, or whose layout cannot
be had by strides, is in memory as a whole, and one at a time.
"""

import errno
import hashlib
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import iree.runtime as rt
import ml_dtypes
import numpy as np
from iree.compiler import ir
from numpy.typing import NDArray

from ..errors import InternalError, UserError
from ..passes import annotations
from ..passes.parameters import parameter_key
from ..runtime.manifest import Parameters
from .derivations import Derivation, Part, derive
from .frontend import Model
from .program import Tensor

ALIGNMENT = 64
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

NUMPY_TYPES: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


@dataclass(frozen=True)
class Plan:
    """The parameters that a module reads.

    Originals by key, derived ones by derivation and part, and zeros: bytes by key.
    """

    originals: tuple[str, ...]
    derived: dict[Derivation, dict[str, tuple[str, int]]] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the module has no parameters."""
        return not (self.originals or self.derived or self.zeros)


def plan_parameters(module: ir.Module) -> Plan:
    """Read from the globals of `module` which parameters it needs."""
    originals: dict[str, None] = {}
    zeros: dict[str, int] = {}
    derived: dict[Derivation, dict[str, tuple[str, int]]] = defaultdict(dict)
    for op in module.body.operations:
        if op.operation.name != "util.global":
            continue
        if annotations.DERIVATION in op.attributes:
            values = annotations.from_attribute(op.attributes[annotations.DERIVATION])
            derivation, part = Derivation.from_attribute(values)
            key, size = annotations.text(op, "sym_name"), _bytes_of(op)
            derived[derivation][part] = (key, size)
        elif (found := parameter_key(op, mutable=True)) is not None:
            if annotations.ZEROS in op.attributes:
                zeros[found] = _bytes_of(op, least=8)  # a truth value is a byte
            else:
                originals[found] = None
    return Plan(tuple(originals), dict(derived), zeros)


def _bytes_of(op: Any, least: int = 1) -> int:
    """Return what a global takes, whose elements have `least` bits or more."""
    type_ = ir.RankedTensorType(ir.TypeAttr(op.attributes["type"]).value)
    bits = max(type_.element_type.width, least)
    return math.prod(type_.shape) * bits // 8


def write_parameters(
    plan: Plan,
    tensors: dict[str, Tensor],
    source: Path | None,
    output: Path,
    moments: Mapping[str, NDArray[np.float64]] | None = None,
) -> Parameters:
    """Write the archive `output`; return its name, size and hash.

    `moments` are those of the inputs of matmuls, for derivations that want them.

    Raises
    ------
    UserError
        When the disk is full, the source is gone, or a weight cannot be quantised.
    """
    if source is None:
        missing = next(iter((*plan.originals, *plan.zeros, *(d.source for d in plan.derived))))
        raise _no_file(missing)
    with _disk_errors(output), _Files(source) as files, _spool_beside(output) as spool:
        index = rt.ParameterIndex()
        index.reserve(len(plan.zeros) + len(plan.originals) + 3 * len(plan.derived))
        for key, size in plan.zeros.items():
            index.add_splat(key, b"\0", size)
        for key in plan.originals:
            tensor = _find(tensors, key)
            span = _plain_span(tensor)
            if span is not None:
                index.add_from_file_handle(key, files.of(tensor), span[1], span[0])
            else:
                start, size = spool.append(np.ascontiguousarray(view(tensor, source)))
                spool.entries.append((key, start, size))
        for derivation, parts in plan.derived.items():
            stored = view(_find(tensors, derivation.source), source)
            _spool_derived(spool, derive(stored, derivation, moments), derivation, parts)
        spool.flush()
        spooled = rt.FileHandle.wrap_fd(spool.file.fileno())
        for key, start, size in spool.entries:
            index.add_from_file_handle(key, spooled, size, start)
        try:
            index.create_archive_file(str(output))
        except (RuntimeError, ValueError) as error:
            if "disk space" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise InternalError(
                f"the archive cannot be written: {error}", where=str(output)
            ) from error
        output.chmod(0o666 & ~_umask())
        with output.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
    return Parameters(file=output.name, size=output.stat().st_size, sha256=digest)


class _Files(ExitStack):
    """Handles of the files that parameters lie in; most lie in `source`."""

    def __init__(self, source: Path) -> None:
        super().__init__()
        self._source = source
        self._handles: dict[Path, Any] = {}

    def of(self, tensor: Tensor) -> Any:
        """Return IREE's handle of the file that has the bytes of `tensor`."""
        path = tensor.file or self._source
        if path not in self._handles:
            opened = self.enter_context(path.open("rb"))
            self._handles[path] = rt.FileHandle.wrap_fd(opened.fileno())
        return self._handles[path]


def _find(tensors: dict[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise UserError(f"the module reads the parameter '{key}', which the model does not hold")
    return tensors[key]


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return NumPy's type for PyTorch's name of it."""
    return np.dtype(NUMPY_TYPES.get(dtype, dtype))


def read(model: Model, key: str) -> NDArray[Any]:
    """Return the parameter `key` of `model` as it is stored, mapped: nothing is read yet.

    Raises
    ------
    UserError
        The model has no such parameter, or no file holds it.
    """
    if model.source is None:
        raise _no_file(key)
    return view(_find(model.tensors, key), model.source)


def _no_file(key: str) -> UserError:
    return UserError(
        f"the module reads the parameter '{key}', which no file holds",
        hint="MLIR with named parameters cannot be compiled yet; a .pt2 brings them along",
    )


def _plain_span(tensor: Tensor) -> tuple[int, int] | None:
    """Return (offset, bytes) in the file when the tensor is contiguous there, else None."""
    expected = 1
    for size, stride in zip(reversed(tensor.sizes), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return None
        expected *= size
    itemsize = numpy_type(tensor.dtype).itemsize
    size = math.prod(tensor.sizes) * itemsize
    return (tensor.offset + tensor.storage_offset * itemsize, size) if size else None


def view(tensor: Tensor, source: Path) -> NDArray[Any]:
    """Map the tensor's bytes in the file as an array; reads nothing yet."""
    dtype = numpy_type(tensor.dtype)
    if not math.prod(tensor.sizes):
        return np.zeros(tensor.sizes, dtype)
    count = tensor.nbytes // dtype.itemsize
    flat = np.memmap(
        tensor.file or source, mode="r", dtype=np.uint8, offset=tensor.offset, shape=tensor.nbytes
    )
    storage = flat[: count * dtype.itemsize].view(dtype)
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(
        storage[tensor.storage_offset :], tensor.sizes, strides, writeable=False
    )


def _spool_derived(
    spool: "_Spool",
    made: Iterator[Part],
    derivation: Derivation,
    parts: dict[str, tuple[str, int]],
) -> None:
    places = {part: spool.allocate(size) for part, (_, size) in parts.items()}
    written = dict.fromkeys(parts, 0)
    for part, data in made:
        if part not in parts:  # nothing reads it any more
            continue
        spool.write_at(places[part] + written[part], data)
        written[part] += data.nbytes
    for part, (key, size) in parts.items():
        if written[part] != size:
            raise InternalError(
                f"the derived parameter '{key}' has {written[part]} bytes, its type {size}"
            )
        spool.entries.append((key, places[part], size))


@dataclass
class _Spool:
    """A temporary file that parts of derived tensors are written into."""

    file: Any
    end: int = 0
    entries: list[tuple[str, int, int]] = field(default_factory=list)

    def allocate(self, size: int) -> int:
        start = self.end
        self.end += -(-size // ALIGNMENT) * ALIGNMENT
        return start

    def write_at(self, offset: int, data: NDArray[Any]) -> None:
        view = memoryview(np.ascontiguousarray(data).view(np.uint8).reshape(-1).data)
        while view:
            count = os.pwrite(self.file.fileno(), view, offset)
            view, offset = view[count:], offset + count

    def append(self, data: NDArray[Any]) -> tuple[int, int]:
        start = self.allocate(data.nbytes)
        self.write_at(start, data.reshape(-1))
        return start, data.nbytes

    def flush(self) -> None:
        self.file.truncate(self.end)


@contextmanager
def _spool_beside(output: Path) -> Iterator[_Spool]:
    with tempfile.TemporaryFile(dir=output.parent, prefix=".lowc-spool-") as file:
        yield _Spool(file)


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                "the disk is full", where=str(output), hint="free some space or write elsewhere"
            ) from error
        raise UserError(
            f"{error.strerror or error}", where=str(error.filename or output)
        ) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
