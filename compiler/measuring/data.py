"""Numbers for products that are timed: one weight for all tiles, laid out as each reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...passes.formats import key_panels, panels, sign_panels, tables
from ...passes.formats.binary_codes import Coded
from ...passes.formats.floats import F32
from ...passes.formats.lmul import constant, prepare
from ...passes.formats.stored import STORED, encode, pack_panels
from ...passes.forms import WEIGHT_BITS
from ...passes.tiling import families
from ...passes.tiling.problem import Problem
from ...passes.tiling.tilings import KernelTiling, Tiling
from .gpu_operands import GpuData
from .portable import TERMS, shapes

Array = NDArray[Any]


def data_of(problem: Problem) -> Data | GpuData:
    """Return what is drawn for `problem`."""
    is_gpu = problem.lowering == "kernel" and problem.backend != "cpu"
    return GpuData(problem) if is_gpu else Data(problem)


class Data:
    """Operands of `problem`, drawn from `seed`; layouts that tiles share are made once."""

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self.problem, self.rng = problem, np.random.default_rng(seed)
        self._weight = self._drawn()
        self.rows = self._rows()
        self._laid_out: dict[tuple[int, int], list[Array]] = {}

    def operands(self, tiling: Tiling) -> list[Array]:
        """Return the arrays that the function of `tiling` takes, in order."""
        key = (0, 0)  # as the model has it
        if isinstance(tiling, KernelTiling) and not self.problem.packs:
            key = (tiling.tile.columns, tiling.tile.lanes)
        if key not in self._laid_out:
            # A large weight in another layout may be gigabytes: the last one is kept.
            self._laid_out = {key: self._layout(*key)}
        return [self.rows, *self._laid_out[key]]

    @property
    def _is_linalg(self) -> bool:
        return self.problem.lowering == "linalg"

    @property
    def _own(self) -> int:
        return (self.problem.batch or 1) if self.problem.own_batch else 1

    def _floats(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape, np.float32)

    def _rows(self) -> Array:
        batch, m, _, k = (size or 1 for size in self.problem.sizes)
        x = self._floats(batch, m, k)
        if self._is_linalg and self.problem.form in families.TABLES:
            return x
        if families.is_integer(self.problem.form) or self.problem.form in families.TABLES:
            return x.reshape(batch * m, k)
        if self.problem.form in families.ADDED and (self._is_linalg or not self.problem.prepares):
            less = np.uint32(constant(F32, 0, offset=self.problem.form == "lmul"))
            return (prepare(x, F32.mantissa_bits) - less).view(np.int32)
        return x

    def _drawn(self) -> list[Array]:
        """Return the weight: codes and what belongs to them ``[own, N, …]``, or ``[own, K, N]``."""
        problem, own = self.problem, self._own
        n, k = problem.n or 1, problem.k or 1
        if self._is_linalg and problem.form in families.TABLES:
            return self._signs_and_terms()
        if problem.form in families.TABLES:
            groups = -(-k // problem.group)
            shape = (own, n, problem.planes, groups * problem.group)
            signs = self.rng.integers(0, 2, shape, np.uint8).astype(np.bool_)
            columns = 1 if problem.shared else n
            scales = 2.0 ** -self.rng.integers(3, 9, (own, columns, groups, problem.planes))
            scales = np.broadcast_to(scales, (own, n, groups, problem.planes))
            return [signs, scales, self.rng.integers(0, 4, (own, n, groups), np.uint8)]
        if families.is_integer(problem.form) or families.is_dequant(problem.form):
            groups, most = -(-k // problem.group), 1 << WEIGHT_BITS[problem.weight]
            codes = self.rng.integers(0, most, (own, n, groups, problem.group), np.uint8)
            scales = self.rng.random((own, n, groups), np.float32) / most
            return [codes, scales, self.rng.integers(0, most, (own, n, groups), np.uint8)]
        return [self._floats(own, k, n)]

    def _layout(self, columns: int, lanes: int) -> list[Array]:
        problem = self.problem
        if self._is_linalg and problem.form in families.ADDED:
            return [prepare(self._weight[0], F32.mantissa_bits).view("i4")]
        if problem.packs or self._is_linalg:
            return self._weight
        if problem.form in families.TABLES:
            return self._signs(columns)
        if len(self._weight) > 1:
            return self._coded(columns)
        if problem.form == families.FLOAT:
            return [np.stack([panels.float_panels(one, columns) for one in self._weight[0]])]
        stored = STORED[problem.weight]
        bits = [
            prepare(one, F32.mantissa_bits)
            if stored.name == "f32"
            else encode(one, stored, F32.mantissa_bits)[0]
            for one in self._weight[0]
        ]
        return [np.stack([pack_panels(one, stored, columns, lanes) for one in bits]).view("i4")]

    def _signs_and_terms(self) -> list[Array]:
        """Return words of signs, and scales of powers of two: bytes of exponents plus 96."""
        (_, signs, _), (_, terms, _) = shapes(self.problem)[1:]
        scales = np.zeros(terms, np.int32)
        for term in range(TERMS):  # each less than the one before it
            exponents = self.rng.integers(88 - 8 * term, 96 - 8 * term, terms, np.int32)
            scales |= exponents << 8 * term
        words = self.rng.integers(0, 1 << 32, signs, np.uint32).view(np.int32)
        return [words, scales]

    def _signs(self, columns: int) -> list[Array]:
        problem, (signs, scales, zeros) = self.problem, self._weight
        rows = families.table_rows(problem)
        whole = rows.spans * problem.span
        if rows.by_four:
            found: list[Array] = [
                sign_panels.pack_words(one, columns, whole // 32) for one in signs
            ]
        else:
            keys = [tables.keys(Coded(one, np.zeros(0, np.uint8))) for one in signs]
            found = [key_panels.pack_keys(one, columns, whole // 4) for one in keys]
        panels_of = [np.stack(found).view("i4")]
        kind = families.TABLES[problem.form]
        if kind == "planes" and problem.shared:
            panels_of.append(np.stack([np.float32(one[::columns, ..., None]) for one in scales]))
        elif kind == "planes":
            words = [key_panels.pack_scales(one, columns) for one in scales]
            panels_of.append(np.stack(words).view("i4"))
        elif kind == "bits":
            halves = [one[..., 0] for one in scales]
            of_groups = [panels.pack_group_values(one, columns, np.float32) for one in halves]
            panels_of.append(np.stack(of_groups))
            if not problem.symmetric:
                of_zeros = [panels.pack_group_values(one, columns, np.uint8) for one in zeros]
                panels_of.append(np.stack(of_zeros).view(np.int8))
        return panels_of

    def _coded(self, columns: int) -> list[Array]:
        problem, (codes, scales, zeros) = self.problem, self._weight
        bits, has_halves = WEIGHT_BITS[problem.weight], families.has_halves(problem)
        words = [panels.pack_panels(one, bits, columns) for one in codes]
        found = [
            np.stack([one.reshape(len(one), -1, columns) for one in words]).view("i4"),
            np.stack(
                [
                    panels.pack_group_values(one, columns, np.float16 if has_halves else np.float32)
                    for one in scales
                ]
            ),
        ]
        if has_halves:  # kernels read their patterns
            found[1] = found[1].view(np.int16)

        if not problem.symmetric:
            of_groups = [panels.pack_group_values(one, columns, np.uint8) for one in zeros]
            found.append(np.stack(of_groups).view(np.int8))
        if has_halves:
            found.append(np.ones((len(codes), len(words[0]), columns), np.float32))
        return found


def useless(wanted: Array) -> str:
    """Say why nothing can be compared with the first tile's result; "" if it can."""
    if not np.isfinite(wanted).all():
        return "the first tile's results, which others are compared with, are not all finite"
    return "" if np.any(wanted) else "the first tile's results, all others' measure, are all 0"


def difference(found: Array, wanted: Array, problem: Problem) -> str:
    """Say how a tile's result differs from another's beyond rounding; "" if it does not.

    Sums of added products are in one order whatever the tile: their bits are the same; but IREE's
    own choice for Vulkan adds in another one.
    """
    if problem.form in families.ADDED and (problem.lowering, problem.backend) != (
        "linalg", "vulkan",
    ):  # fmt: skip
        differ = int((found.view(np.uint32) != wanted.view(np.uint32)).sum())
        return f"{differ} of {found.size} results have other bits" if differ else ""
    far = float(np.abs(found - wanted).max()) if np.isfinite(found).all() else np.inf
    scale = float(np.abs(wanted).max())
    return f"it is off by {far:.3g}, results are up to {scale:.3g}" if far > 1e-4 * scale else ""
