"""Random products under random forms: the CPU, Vulkan and the NumPy reference against each other.

L-Mul, and integers with one group a row, give the same bits everywhere; where groups are added up
in f32, and where f32 is multiplied, results lie within a bound of the definition.
"""

from __future__ import annotations

import lowc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowc.compiler.device_targets import target_for
from lowc.passes.formats import activations, lmul, weights
from lowc.passes.forms import Form, round_up_group
from products.linear import compile_linear, integer_product, stored_weight, tolerance

INTEGERS = st.builds(
    lambda bits, group, symmetric, scale: Form(
        "dequant", f"i{bits}", group, symmetric, activations="i8", activation_scale=scale
    ),
    st.integers(2, 8), st.sampled_from([0, 32, 64]), st.booleans(),
    st.sampled_from(["group", "row"]),
)  # fmt: skip
FLOATS = st.builds(
    lambda bits, group, symmetric: Form("dequant", f"i{bits}", group, symmetric),
    st.integers(2, 8), st.sampled_from([0, 32, 64]), st.booleans(),
)  # fmt: skip
ADDED = st.builds(lambda bits: Form("lmul", mantissa_bits=bits), st.sampled_from([3, 4, 23]))
SIZES = st.tuples(
    st.one_of(st.none(), st.integers(1, 20)), st.integers(1, 70), st.integers(34, 150)
)


def expected(
    x: np.ndarray, weight: np.ndarray, form: Form
) -> tuple[np.ndarray, np.ndarray | float]:
    """What the definition says, and how far from it the result may be."""
    if form.form == "lmul":
        return lmul.matmul(x, weight.T.copy(), form.mantissa_bits, "finite"), 0.0
    if form.activations == "i8":
        wanted, bound = integer_product(x, weight, form)
        return (wanted, bound) if form.group else (one_group(x, weight, form), 0.0)
    stored = stored_weight(weight, form)
    return x.astype(np.float64) @ stored.T, tolerance(x, stored)


def one_group(x: np.ndarray, weight: np.ndarray, form: Form) -> np.ndarray:
    """What f32 makes of integers that are scaled once: each operation is rounded once."""
    whole = round_up_group(weight.shape[1])
    per_row = form.activation_scale == "row"
    rounded = activations.quantize(x, whole, per_row=per_row)
    stored = weights.quantize(
        weight, form.weights, whole, symmetric=form.symmetric, scales=form.scales
    )
    codes = stored.codes[:, 0].astype(np.int64)
    if stored.zeros is not None:
        codes = codes - stored.zeros.astype(np.int64)
    value = (rounded.codes[:, 0].astype(np.int64) @ codes.T).astype(np.float32)
    scales, own = stored.scales[:, 0], rounded.scales.reshape(-1, 1)
    return value * scales * own if per_row else value * (scales * own)


def targets() -> list[str]:
    """The CPU, what runs on every Vulkan device, and with more instructions what this one has."""
    own = target_for("vulkan")
    return ["cpu", "vulkan", *([own] if own != "vulkan" else [])]


@pytest.mark.vulkan
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(INTEGERS, FLOATS, ADDED), SIZES, st.integers(0, 2**32 - 1))
def test_products(tmp_path_factory, form, sizes, seed):
    m, n, k = sizes
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    # A number of rows that is known at run time only: less than a tile has, some, and several tiles.
    given = []
    for rows in (1, 5, 70) if m is None else (m,):
        x = generator.standard_normal((rows, k)).astype(np.float32)
        x[0, : k // 2] = 0
        given.append((x, *expected(x, weight, form)))
    for target in targets():
        folder = tmp_path_factory.mktemp("product")
        artifact = compile_linear(folder, weight, form, m, target)
        (row,) = artifact.report["matmuls"]
        assert "kernel" in row["lowering"] and "no kernel" not in row["lowering"], row
        module = lowc.load(artifact)
        for x, wanted, bound in given:
            found = module(x)
            assert found.shape == wanted.shape
            far = np.abs(found - wanted)
            assert (far <= bound).all(), (target, len(x), far.max())
