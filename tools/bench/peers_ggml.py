"""llama.cpp as a peer: its matrix product in the blocks of GGUF files, by the ggml inside it.

A block is 32 weights along K with an f16 scale (Q4_1: and an f16 offset); activations are rounded
to 8 bits by blocks as long.  Layouts: ``block_q4_0``, ``block_q4_1``, ``block_q8_0`` in ggml's
``ggml-common.h``.  The weight is stored in the order that llama.cpp would give it when it loads a
file, interleaved over 8 rows where it has such a kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...passes.forms import Form
from . import limits
from .contender import Contender, Offer, Setup
from .peers_torch import INT8_TOLERANCE

BLOCK = 32
F32 = 0
# ggml's number of the type, and the bits of a weight with its share of the block's values.
TYPES = {"q4_0": (2, 4 + 16 / BLOCK), "q4_1": (3, 4 + 32 / BLOCK), "q8_0": (8, 8 + 16 / BLOCK)}


def _few_bits(setup: Setup, name: str) -> Contender:
    """Return the product with the form's own codes in ggml's blocks."""
    shape, quantized = setup.product.shape, setup.quantized
    if setup.group % BLOCK or shape.k % setup.group:
        raise UserError(f"its blocks are {BLOCK} weights: it takes groups and K in multiples of it")
    if setup.form.weights == "i8" and quantized.zeros is not None:
        raise UserError("it has no 8-bit weights with zero points")
    kind = "q8_0" if setup.form.weights == "i8" else "q4_0"
    kind = kind if quantized.zeros is None else "q4_1"
    number, bits = TYPES[kind]
    stored = _blocks(kind, quantized, shape.n, setup.group)
    library = _library()
    demand = setup.demand(bits, limits.arithmetic(setup.form))
    copies = range(setup.copies(demand.streamed))
    products = [_Product(library, setup, number, stored) for _ in copies]
    order = "interleaved" if products[0].is_interleaved else "as in the file"
    return Contender(
        f"{name}:{kind}", tuple(product.run for product in products), lambda call: call(), demand,
        weights=setup.form, tolerance=INT8_TOLERANCE, lowering=f"weights {order}",
    )  # fmt: skip


def _blocks(kind: str, quantized: Any, n: int, group: int) -> NDArray[np.uint8]:
    """Return the weight as blocks ``[n, K / 32]`` of bytes; a long group is several blocks."""

    def per_block(values: Any) -> NDArray[np.float16]:
        spread = np.repeat(values.reshape(n, -1), group // BLOCK, axis=1)
        return np.asarray(spread, np.float16)[..., None]

    codes = quantized.codes.reshape(n, -1, BLOCK)
    parts = [per_block(quantized.scales).view(np.uint8)]
    if kind == "q8_0":
        return np.concatenate([*parts, codes.view(np.uint8)], -1)
    if kind == "q4_0":
        codes = codes + 8
    else:
        offset = -quantized.zeros.astype(np.float32) * quantized.scales
        parts.append(per_block(offset).view(np.uint8))
    nibbles = codes.astype(np.uint8)
    half = BLOCK // 2
    return np.concatenate([*parts, nibbles[..., :half] | nibbles[..., half:] << 4], -1)


class _Product:
    """One ``ggml_mul_mat`` with its tensors, on ggml's backend for CPUs."""

    def __init__(self, library: Any, setup: Setup, kind: int, stored: NDArray[np.uint8]) -> None:
        self.library, shape = library, setup.product.shape
        self.backend = library.ggml_backend_cpu_init()
        library.ggml_backend_cpu_set_n_threads(self.backend, setup.threads)
        device = library.ggml_backend_get_device(self.backend)
        self.contexts: list[int] = []
        self.buffers: list[int] = []
        for order in [*_extra_buffer_types(library, device), None]:
            weights, inner = self._context(), self._context()
            weight = library.ggml_new_tensor_2d(weights, kind, shape.k, shape.n)
            left = library.ggml_new_tensor_2d(inner, F32, shape.k, shape.m)
            self.result = library.ggml_mul_mat(inner, weight, left)
            self.is_interleaved = order is not None
            if self._reserve(weights, order) and library.ggml_backend_dev_supports_op(
                device, self.result
            ):
                break
            self._free_tensors()
        else:
            raise UserError("ggml has no kernel for it, or no memory")
        if not self._reserve(inner, None):
            raise UserError("ggml has no memory for the operands")
        self._write(weight, stored)
        self._write(left, setup.product.operands[0])
        self.graph = library.ggml_new_graph(inner)
        library.ggml_build_forward_expand(self.graph, self.result)
        self.found = np.empty((shape.m, shape.n), np.float32)

    def __del__(self) -> None:
        """Give the memory back: a run of several shapes has many of these."""
        self._free_tensors()
        self.library.ggml_backend_free(self.backend)

    def _context(self) -> int:
        """Return a context for the descriptions of some tensors; their values lie elsewhere."""
        context: int = self.library.ggml_init(_InitParams(1 << 20, None, True))
        self.contexts.append(context)
        return context

    def _reserve(self, context: int, order: int | None) -> bool:
        """Reserve memory for a context's tensors, stored in ggml's `order`; say if it did."""
        if order is None:
            buffer = self.library.ggml_backend_alloc_ctx_tensors(context, self.backend)
        else:
            buffer = self.library.ggml_backend_alloc_ctx_tensors_from_buft(context, order)
        if buffer:
            self.buffers.append(buffer)
        return bool(buffer)

    def _free_tensors(self) -> None:
        for buffer in self.buffers:
            self.library.ggml_backend_buffer_free(buffer)
        for context in self.contexts:
            self.library.ggml_free(context)
        self.buffers, self.contexts = [], []

    def _write(self, tensor: int, values: NDArray[Any]) -> None:
        values = np.ascontiguousarray(values)
        self.library.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)

    def run(self) -> Callable[[], NDArray[np.float32]]:
        """Multiply; return what reads the result."""
        if self.library.ggml_backend_graph_compute(self.backend, self.graph):
            raise UserError("ggml could not calculate the product")
        return self._read

    def _read(self) -> NDArray[np.float32]:
        found = self.found
        self.library.ggml_backend_tensor_get(self.result, found.ctypes.data, 0, found.nbytes)
        return found


class _InitParams(ctypes.Structure):
    """ggml's ``struct ggml_init_params``."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool),
    )  # fmt: skip


def _extra_buffer_types(library: Any, device: int) -> list[int]:
    """Return where ggml stores weights in orders of its own."""
    registry = library.ggml_backend_dev_backend_reg(device)
    name = b"ggml_backend_dev_get_extra_bufts"
    address = library.ggml_backend_reg_get_proc_address(registry, name)
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    found: list[int] = []
    while listed and listed[len(found)]:
        found.append(listed[len(found)])
    return found


_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_POINTER, (_InitParams,)),
    "ggml_free": (None, (_POINTER,)),
    "ggml_new_tensor_2d": (_POINTER, (_POINTER, _INT, ctypes.c_int64, ctypes.c_int64)),
    "ggml_mul_mat": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_new_graph": (_POINTER, (_POINTER,)),
    "ggml_build_forward_expand": (None, (_POINTER, _POINTER)),
    "ggml_backend_cpu_init": (_POINTER, ()),
    "ggml_backend_free": (None, (_POINTER,)),
    "ggml_backend_buffer_free": (None, (_POINTER,)),
    "ggml_backend_cpu_set_n_threads": (None, (_POINTER, _INT)),
    "ggml_backend_get_device": (_POINTER, (_POINTER,)),
    "ggml_backend_dev_backend_reg": (_POINTER, (_POINTER,)),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, (_POINTER, _POINTER)),
    "ggml_backend_reg_get_proc_address": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "ggml_backend_alloc_ctx_tensors": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_tensor_set": (None, (_POINTER, _POINTER, _SIZE, _SIZE)),
    "ggml_backend_tensor_get": (None, (_POINTER, _POINTER, _SIZE, _SIZE)),
    "ggml_backend_graph_compute": (_INT, (_POINTER, _POINTER)),
}


class _Library:
    """The functions of :data:`_SIGNATURES`, from the shared objects of ggml."""

    def __init__(self, folder: Path) -> None:
        opened = [
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            for name in ("ggml-base", "ggml-cpu")
            for path in sorted(folder.glob(f"libggml*{name.removeprefix('ggml')}.so"))
        ]
        for name, (result, arguments) in _SIGNATURES.items():
            function = next((getattr(one, name) for one in opened if hasattr(one, name)), None)
            if function is None:
                raise UserError(f"this version of llama-cpp-python has no {name}")
            function.restype, function.argtypes = result, list(arguments)
            setattr(self, name, function)


@cache
def _library() -> Any:
    """Return the ggml of llama-cpp-python, without loading the rest of it."""
    found = util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise UserError("llama.cpp is not installed", hint="pip install llama-cpp-python builds it")
    return _Library(Path(found.origin).parent / "lib")


def _takes(form: Form) -> bool:
    return form.form == "dequant" and form.weights in ("i4", "i8") and form.activations == "i8"


OFFERS = (Offer("llama.cpp", _takes, _few_bits),)
