"""Move arrays between NumPy and a device."""

from __future__ import annotations

import math
from typing import Any

import iree.runtime as rt
import numpy as np

from ..errors import InternalError
from .devices import CPU, CPU_SYNC, CUDA, Device
from .dtypes import data_type
from .failures import IREE_ERRORS, short
from .fences import Done

# A small result is copied, because the results of a call can share one allocation, which even the
# smallest would keep alive.
COPY_BELOW = 1 << 16

_DEVICE_LOCAL, _USAGE = int(rt.MemoryType.DEVICE_LOCAL), int(rt.BufferUsage.DEFAULT)
_BYTE = np.dtype(np.uint8)
# DLPack's numbers of devices.
_DLPACK = {CPU: 1, CPU_SYNC: 1, CUDA: 2}


class DeviceArray:
    """An array that lies on a device; pass it to a module to save the copy at every call.

    It may be still to come: ``numpy.asarray`` and :meth:`wait` wait for it, passing it to a module
    on the same device does not.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
        Name of the element type, as in :mod:`lowc.runtime.dtypes`.
    device : Device
    """

    # No dataclass: a short call spends a tenth of its time on making one for its result.
    # Slots are emptied in the order of their names: memory of a GPU, and fences, must go before it.
    __slots__ = ("__weakref__", "_done", "_view", "device", "dtype")

    def __init__(self, view: Any, dtype: str, device: Device, done: Done | None = None) -> None:
        self._view = view
        self._done = done
        self.dtype = dtype
        self.device = device

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype!r}, device={self.device!r})"

    @property
    def view(self) -> Any:
        """IREE's ``HalBufferView``."""
        return self._view

    @property
    def done(self) -> Done | None:
        """The call that makes the array, if it was not waited for."""
        return self._done if self._done is not None and self._done.is_open else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each dimension."""
        return tuple(self._view.shape)

    def wait(self) -> None:
        """Return when the array is there.

        Raises
        ------
        InternalError
            When the call that makes it failed.
        """
        done = self.done
        if done is None:
            return
        try:
            done.wait()
        except IREE_ERRORS as error:
            raise InternalError(
                "running the module failed", where=done.where, detail=short(error)
            ) from error

    def __dlpack_device__(self) -> tuple[int, int]:
        if self.device.kind not in _DLPACK:
            raise BufferError(f"arrays on the device '{self.device.name}' have no DLPack form")
        return (_DLPACK[self.device.kind], self.device.ordinal)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule of the array's own memory, in the form before version 1.

        All that is waited for is done then, whatever the `stream`.

        Raises
        ------
        BufferError
            When a copy, another device, or one that DLPack has no number for is asked for.
        """
        own = self.__dlpack_device__()
        if dl_device is not None and tuple(map(int, dl_device)) != own:
            raise BufferError(f"the array lies on DLPack's device {own}, not on {dl_device}")
        if copy:
            raise BufferError("DLPack gives the array's own memory; numpy.array() makes a copy")
        self.wait()
        return self.device.hal.create_dlpack_capsule(self._view, *own)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.wait()
        array = download(self._view, self.dtype, self.device)
        return array if dtype is None else array.astype(dtype)


def upload(array: np.ndarray, dtype: str, device: Device) -> Any:
    """Copy a C-contiguous `array` of type `dtype` to `device`; return its ``HalBufferView``."""
    kind = data_type(dtype, "")
    if kind.carrier is not kind.numpy:
        array = array.view(kind.carrier)
    return device.hal.allocator.allocate_buffer_copy(
        memory_type=_DEVICE_LOCAL,
        allowed_usage=_USAGE,
        device=device.hal,
        buffer=array,
        element_type=kind.element,
    )


def download(view: Any, dtype: str, device: Device, *, copy: bool = False) -> np.ndarray:
    """Return the values of a ``HalBufferView`` as an array of type `dtype`.

    On a CPU the array is the device's memory, which it keeps alive; small arrays, those of a GPU,
    whose memory goes with the device, and all when `copy` is true, are copies.

    Raises
    ------
    InternalError
        When the view has another width than the type.
    """
    kind = data_type(dtype, "")
    shape = tuple(view.shape)
    size = math.prod(shape) * kind.numpy.itemsize
    if size == 0:
        return np.empty(shape, kind.numpy)
    if view.byte_length != size:
        raise InternalError(
            f"a result of shape {shape} has {view.byte_length} bytes, {dtype} needs {size}"
        )
    buffer = view.get_buffer()
    if not _is_mappable(buffer):
        buffer = _staged(buffer, device)
    flat: np.ndarray = buffer.map().asarray((buffer.byte_length(),), _BYTE)[:size]
    if copy or device.is_gpu or size < COPY_BELOW:
        flat = flat.copy()
    return flat.view(kind.numpy).reshape(shape)


def _is_mappable(buffer: Any) -> bool:
    visible, mapped = int(rt.MemoryType.HOST_VISIBLE), int(rt.BufferUsage.MAPPING_SCOPED)
    return bool(buffer.memory_type() & visible and buffer.allowed_usage() & mapped)


def _staged(source: Any, device: Device) -> Any:
    """Copy a device's buffer into one that the host can map.

    IREE's own way to do this imports the array's memory into the device, which Vulkan drivers
    refuse unless it begins on a page.
    """
    target = device.hal.allocator.allocate_buffer(
        memory_type=int(rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE),
        allowed_usage=int(rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED),
        allocation_size=source.byte_length(),
    )
    semaphore = device.hal.create_semaphore(0)
    device.hal.queue_copy(
        source,
        target,
        wait_semaphores=rt.HalFence.create_at(semaphore, 0),
        signal_semaphores=rt.HalFence.create_at(semaphore, 1),
    )
    semaphore.wait(1)
    return target
