"""Eight architectures from PyTorch to a running module, with float and with 4-bit weights."""

from __future__ import annotations

from functools import cache

import lowc
import numpy as np
import pytest
import torch
from zoo.architectures import ARCHITECTURES, Sample, build
from zoo.comparison import (
    TOLERANCE,
    export,
    form_of,
    linear_layers,
    matmul_rows,
    run_and_compare,
    stored_parameters,
    with_rounded_weights,
)

NAMES = list(ARCHITECTURES)
pytestmark = pytest.mark.slow


@cache
def exported(name: str) -> tuple[Sample, torch.export.ExportedProgram]:
    """A sample and its program, made once for both recipes."""
    sample = build(name)
    return sample, export(sample.model, (), sample.inputs[0], sample.dynamic_shapes)


@cache
def compiled(name: str, recipe: str) -> lowc.Artifact:
    return lowc.compile(exported(name)[1], recipe)


def worst(module, reference, sample):
    return np.max([run_and_compare(module, reference, **inputs) for inputs in sample.inputs])


@pytest.mark.parametrize("name", NAMES)
def test_f32_is_exact(name):
    sample, artifact = build(name), compiled(name, "f32")
    assert worst(lowc.load(artifact), sample.model, sample) < TOLERANCE
    rows = matmul_rows(artifact)
    assert {row["form"] for row in rows.values()} == {"exact"}
    assert set(linear_layers(sample.model)) <= set(rows)


@pytest.mark.parametrize("name", NAMES)
def test_w4a16_is_the_model_with_rounded_weights(name):
    sample, module = build(name), lowc.load(compiled(name, "w4a16"))
    reference = with_rounded_weights(sample.model, form_of("w4a16"))
    assert worst(module, reference, sample) < TOLERANCE
    # The rounding is not lost in the tolerance: the model as it was is much further away.
    assert worst(module, sample.model, sample) > 10 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_w4a16_rounds_every_linear_layer_and_nothing_else(name):
    model, artifact = build(name).model, compiled(name, "w4a16")
    rows = matmul_rows(artifact)
    layers = set(linear_layers(model))
    left_out = {
        layer: rows[layer]["lowering"] if layer in rows else "no product has its name"
        for layer in layers
        if layer not in rows or rows[layer]["form"] != "dequant"
    }
    assert left_out == {}
    assert {row["name"] for row in rows.values() if row["form"] == "dequant"} == layers
    for layer in layers:
        assert "dequantised" in rows[layer]["lowering"] or "at run time" in rows[layer]["lowering"]
        assert rows[layer]["bits_per_weight"] < 10  # 4, scales and zeros, short groups
    kept = {row["name"]: row["lowering"] for row in rows.values() if row["form"] == "exact"}
    # Products of two computed values, by their rule, and convolutions, which no rounding takes yet.
    assert all(
        (":" in product and "rule '*:*'" in why)
        or ("linalg.conv" in why and "is no contraction" in why)
        for product, why in kept.items()
    ), kept


@pytest.mark.parametrize("name", NAMES)
def test_w4a16_stores_no_float_copy_of_a_rounded_weight(name):
    model = build(name).model
    stored = stored_parameters(compiled(name, "w4a16"))
    for layer in linear_layers(model):
        weight = model.get_submodule(layer).weight
        holders = [path for path, tensor in model.named_parameters(remove_duplicate=False)
                   if tensor is weight]  # fmt: skip
        # An embedding that shares its weight with the head goes on reading floats, once.
        assert sum(path in stored for path in holders) == (1 if len(holders) > 1 else 0), holders
