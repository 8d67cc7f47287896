"""Say whether a pickle holds tensors and plain values only, without loading it.

A pickle names the functions that loading it imports and calls.  PyTorch tries its restricted
loader on example inputs first, and falls back to a full one when that refuses; a pickle that names
nothing but the functions below is harmless to both.

Source: ``torch/_weights_only_unpickler.py`` of PyTorch 2.13, less what lowc has no use for.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator

MAX_PICKLE_BYTES = 4 << 20

_STORAGES = "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble"
_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool "
    "complex32 complex64 complex128 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz "
    "float8_e8m0fnu float4_e2m1fn_x2"
)
_REBUILDERS = (
    "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
    "_rebuild_parameter_with_state"
)
HARMLESS = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch Tensor",
        "torch device",
        "torch.nn.parameter Parameter",
        "torch.serialization _get_layout",
        "torch.storage UntypedStorage",
        "torch._tensor _rebuild_from_type_v2",
        "__builtin__ complex",
        "__builtin__ set",
        "__builtin__ bytearray",
        "_codecs encode",
    }
    | {f"torch {name}Storage" for name in _STORAGES.split()}
    | {f"torch {name}" for name in _DTYPES.split()}
    | {f"torch._utils {name}" for name in _REBUILDERS.split()}
)
# Other ways than GLOBAL to come by a function; PyTorch's restricted loader has none of them.
_OTHER_LOOKUPS = frozenset(["STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"])


def unsafe_part(pickle: bytes) -> str | None:
    """Return what loading `pickle` would import and should not, in words, or None."""
    return next((found for found in _lookups(pickle) if found is not None), None)


def _lookups(pickle: bytes) -> Iterator[str | None]:
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name == "GLOBAL":
                yield None if argument in HARMLESS else f"'{argument}'"
            elif opcode.name in _OTHER_LOOKUPS:
                yield f"a computed global ({opcode.name})"
    except (ValueError, IndexError, OverflowError, EOFError, struct.error) as error:
        yield f"an unreadable pickle ({error})"
