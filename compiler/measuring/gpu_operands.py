"""Operands of the kernels for GPUs: their shapes, and numbers for products that are timed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...passes.formats import activations, gpu_rows, panels
from ...passes.formats.floats import F32
from ...passes.formats.lmul import constant, prepare
from ...passes.forms import WEIGHT_BITS
from ...passes.kernels.dequant_threads import DequantThreads
from ...passes.kernels.few_rows_gpu import FewRowsGpu
from ...passes.kernels.integer_rows_gpu import IntegerRowsGpu
from ...passes.kernels.integer_tiles_gpu import IntegerTilesGpu
from ...passes.tiling import families
from ...passes.tiling.problem import Problem
from ...passes.tiling.tilings import Tiling

Array = NDArray[Any]
Shape = tuple[str, tuple[int, ...], str]  # part, sizes, element type in MLIR


def shapes(problem: Problem, kernel: Any) -> list[Shape]:
    """Return part, shape and element type of each operand, in the order of the bindings.

    Rows of 8-bit activations are what another dispatch makes of f32: for CUDA records, for Vulkan
    whole numbers, and their scales behind the weight.
    """
    batch, m, n, k = (size or 0 for size in problem.sizes)
    own = batch if problem.own_batch else 1
    if isinstance(kernel, DequantThreads):
        rows: list[Shape] = [("rows", (batch, m, k), "i32" if kernel.is_whole else "f32")]
        head, columns = (own, kernel.panels), kernel.tile.columns
        weight = _weight(problem, (*head, kernel.words, columns), (*head, kernel.groups, columns))
        count = kernel.groups if kernel.scaled == "group" else 1
        scales: list[Shape] = [("x_scales", (batch, m, count), "f32")]
        return [*rows, *weight, *(scales if kernel.scaled != "none" else [])]
    if isinstance(kernel, (FewRowsGpu, IntegerTilesGpu)):
        groups, padded = gpu_rows.groups_of(k, problem.group), gpu_rows.padded(k, problem.group)
        words = padded * WEIGHT_BITS[problem.weight] // 32
        weight = _weight(problem, (own, n, words), (own, n, groups))
        if families.is_dequant(problem.form):
            return [("rows", (batch, m, padded), "f32"), *weight]
        rounded: IntegerRowsGpu = kernel.rows  # type: ignore[union-attr]
        return [("records", (batch * m, rounded.words), "i32"), *weight]
    columns = kernel.tile.columns
    return [
        ("rows", (batch, m, k), "i32"), ("panels", (own, -(-n // columns), k, columns), "i32"),
    ]  # fmt: skip


def _weight(problem: Problem, codes: tuple[int, ...], values: tuple[int, ...]) -> list[Shape]:
    found: list[Shape] = [("codes", codes, "i32"), ("scales", values, "f32")]
    return found if problem.symmetric else [*found, ("zeros", values, "i8")]


class GpuData:
    """Operands of `problem`, drawn from `seed`: the same product whatever the tile."""

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self.problem = problem
        rng = np.random.default_rng(seed)
        batch, m, n, k = (size or 1 for size in problem.sizes)
        own = batch if problem.own_batch else 1
        self._x = rng.standard_normal((batch, m, k), np.float32)
        self._laid_out: dict[int, list[Array]] = {}
        if problem.form in families.ADDED:
            self._w = rng.standard_normal((own, k, n), np.float32)
            return
        most = 1 << WEIGHT_BITS[problem.weight]
        groups = -(-k // problem.group)
        size = (own, n, groups, min(problem.group, k))
        self._codes = rng.integers(0, most, size, np.uint8)
        self._scales = rng.random(size[:3], np.float32) / most
        self._zeros = rng.integers(0, most, size[:3], np.uint8)

    def operands(self, tiling: Tiling) -> list[Array]:
        """Return the arrays that the function of `tiling` takes, in order."""
        kernel = families.kernel_of(self.problem, tiling)
        in_panels = not isinstance(kernel, (FewRowsGpu, IntegerTilesGpu))
        key = kernel.tile.columns if in_panels else 0
        if key not in self._laid_out:
            # A large weight in another layout may be gigabytes: the last one is kept.
            self._laid_out = {key: self._layout(kernel)}
        return self._laid_out[key]

    def _layout(self, kernel: Any) -> list[Array]:
        if isinstance(kernel, DequantThreads):
            return self._threads(kernel)
        if isinstance(kernel, (FewRowsGpu, IntegerTilesGpu)):
            return self._rows(kernel)
        less = np.uint32(constant(F32, 0, offset=self.problem.form == "lmul"))
        left = (prepare(self._x, F32.mantissa_bits) - less).view(np.int32)
        right = [prepare(one, F32.mantissa_bits) for one in self._w]
        return [left, np.stack([_in_panels(one, kernel.tile.columns) for one in right])]

    def _threads(self, kernel: DequantThreads) -> list[Array]:
        problem, columns = self.problem, kernel.tile.columns
        words = [panels.pack_panels(one, kernel.bits, columns) for one in self._codes]
        found: list[Array] = [
            np.stack([one.reshape(len(one), -1, columns) for one in words]).view("i4"),
            np.stack([panels.pack_group_values(one, columns, np.float32) for one in self._scales]),
        ]
        if not problem.symmetric:
            zeros = [panels.pack_group_values(one, columns, np.uint8) for one in self._zeros]
            found.append(np.stack(zeros).view(np.int8))
        if kernel.scaled == "none":
            return [self._x, *found]
        rounded = self._rounded(per_row=kernel.scaled == "row")
        batch, m, k = self._x.shape
        codes = rounded.codes.reshape(batch, m, k)
        scales = rounded.scales.reshape(batch, m, -1)
        return [codes.astype(np.int32 if kernel.is_whole else np.float32), *found, scales]

    def _rows(self, kernel: Any) -> list[Array]:
        """Return rows of pieces, which CUDA's kernels read; symmetric codes are signed there."""
        problem, bits = self.problem, WEIGHT_BITS[self.problem.weight]
        codes: Array = self._codes
        is_float = families.is_dequant(problem.form)
        if problem.symmetric:
            codes = (codes.astype(np.int16) - (1 << bits - 1)).astype(np.int8)
        if is_float:
            words = [gpu_rows.pack_floats(one, bits, kernel.span) for one in codes]
        else:
            words = [gpu_rows.pack_integers(one, bits) for one in codes]
        count = gpu_rows.groups_of(problem.k or 1, problem.group)
        found: list[Array] = [np.stack(words).view(np.int32), _filled(self._scales, count)]
        if not problem.symmetric:
            found.append(_filled(self._zeros, count).view(np.int8))
        if is_float:
            padded = gpu_rows.padded(problem.k or 1, problem.group)
            x = np.pad(self._x, [(0, 0), (0, 0), (0, padded - self._x.shape[2])])
            return [x, *found]
        return [self._records(kernel.rows), *found]

    def _records(self, rows: IntegerRowsGpu) -> Array:
        rounded = self._rounded(per_row=not rows.per_group)
        count = self._x.shape[0] * self._x.shape[1]
        codes = rounded.codes.reshape(count, -1)
        record = np.zeros((count, rows.words), np.int32)
        filled = np.pad(codes, [(0, 0), (0, rows.padded - codes.shape[1])])
        record[:, : rows.first_scale] = np.ascontiguousarray(filled).view(np.int32)
        scales = rounded.scales.reshape(count, -1)
        record[:, rows.first_scale : rows.first_scale + scales.shape[1]] = scales.view(np.int32)
        if rows.has_sums:
            sums = -rounded.codes.astype(np.int32).sum(axis=-1).reshape(count, -1)
            record[:, rows.first_sum : rows.first_sum + sums.shape[1]] = sums
        return record

    def _rounded(self, *, per_row: bool) -> activations.Activations:
        batch, m, k = self._x.shape
        group = min(self.problem.group, k)
        return activations.quantize(self._x.reshape(batch * m, k), group, per_row=per_row)


def _in_panels(bits: Array, columns: int) -> Array:
    """Return ``[K, N]`` as panels ``[N / columns, K, columns]``, filled up with zeros."""
    k, n = bits.shape
    padded = np.zeros((k, -(-n // columns) * columns), bits.dtype)
    padded[:, :n] = bits
    return np.ascontiguousarray(padded.reshape(k, -1, columns).transpose(1, 0, 2)).view("i4")


def _filled(values: Array, groups: int) -> Array:
    """Return values of groups ``[own, N, G]`` with those of groups that fill a row up: zeros."""
    return np.pad(values, [(0, 0), (0, 0), (0, groups - values.shape[2])])
