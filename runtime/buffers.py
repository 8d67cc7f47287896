"""Move arrays between NumPy and a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import iree.runtime as rt
import numpy as np

from ..errors import InternalError
from .devices import Device
from .dtypes import data_type, name_of

# A small result is copied, because the results of a call can share one allocation, which even the
# smallest would keep alive.
COPY_BELOW = 1 << 16


@dataclass(frozen=True)
class DeviceArray:
    """An array that lies on a device; pass it to a module to save the copy at every call."""

    shape: tuple[int, ...]
    dtype: str
    device: Device
    view: Any = field(repr=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = download(self.view, self.dtype, self.device)
        return array if dtype is None else array.astype(dtype)


def upload(array: np.ndarray, device: Device) -> DeviceArray:
    """Copy a C-contiguous `array` to `device`."""
    name = name_of(array.dtype)
    kind = data_type(name, "")
    # Buffers know nothing of bfloat16 and its like, so such an array goes as unsigned integers.
    view = device.hal.allocator.allocate_buffer_copy(
        memory_type=rt.MemoryType.DEVICE_LOCAL,
        allowed_usage=rt.BufferUsage.DEFAULT,
        device=device.hal,
        buffer=array.view(kind.carrier),
        element_type=kind.element,
    )
    return DeviceArray(array.shape, name, device, view)


def download(view: Any, dtype: str, device: Device, *, copy: bool = False) -> np.ndarray:
    """Return the values of a ``HalBufferView`` as an array of type `dtype`.

    On a device that shares the host's memory the array is that memory, which it keeps alive; small
    arrays, and all when `copy` is true, are copies.

    Raises
    ------
    InternalError
        When the view has another width than the type.
    """
    kind = data_type(dtype, "")
    shape = tuple(view.shape)
    size = int(np.prod(shape, dtype=np.int64)) * kind.numpy.itemsize
    if size == 0:
        return np.empty(shape, kind.numpy)
    if view.byte_length != size:
        raise InternalError(
            f"a result of shape {shape} has {view.byte_length} bytes, {dtype} needs {size}"
        )
    buffer = view.get_buffer()
    raw = rt.HalBufferView(buffer, [buffer.byte_length()], int(rt.HalElementType.UINT_8))
    flat = rt.DeviceArray(device.hal, raw).to_host()[:size]
    if copy or size < COPY_BELOW:
        flat = flat.copy()
    return flat.view(kind.numpy).reshape(shape)
