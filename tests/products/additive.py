"""Added products in tests: recipes for them, and results beside the definition."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from lowc.compiler.recipe import Recipe
from lowc.passes.forms import Form, Rule

TARGETS = ["cpu", pytest.param("vulkan", marks=pytest.mark.vulkan)]
DTYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16),
          "bf16": np.dtype(ml_dtypes.bfloat16)}  # fmt: skip


def rules(forms):
    """One rule for the matmuls of each name, and one for the multiplications below it."""
    found = []
    for name, form in forms.items():
        found += [Rule(pattern, form) for pattern in (name, f"{name}:*")]
    return Recipe("test", tuple(found))


def lm(**options):
    return Form("lmul", **options)


def check_sum(found, expected):
    """Equal bit for bit; a NaN may be any."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    bits = np.dtype(f"u{found.dtype.itemsize}")
    nan = np.isnan(expected.astype(np.float32))
    assert (np.isnan(found.astype(np.float32)) == nan).all()
    wrong = (found.view(bits) != expected.view(bits)) & ~nan
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size}: {found[wrong][:4]} {expected[wrong][:4]}"
    )
