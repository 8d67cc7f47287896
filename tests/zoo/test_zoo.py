"""Eight architectures from PyTorch to a running module, with float and with 4-bit weights."""

from __future__ import annotations

from functools import cache

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

import lowc

NAMES = list(ARCHITECTURES)
pytestmark = pytest.mark.slow


@cache
def exported(name: str) -> tuple[Sample, torch.export.ExportedProgram]:
    """A sample and its program, made once for both recipes."""
    sample = build(name)
    return sample, export(sample.model, (), sample.inputs[0], sample.dynamic_shapes)


def worst(module, reference, sample):
    return max(run_and_compare(module, reference, **inputs) for inputs in sample.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_f32_is_exact(name, tmp_path):
    sample, program = exported(name)
    artifact = lowc.compile(program, "f32", output=tmp_path / "model.vmfb")
    assert worst(lowc.load(artifact), sample.model, sample) < TOLERANCE
    assert {row["form"] for row in artifact.report["matmuls"]} == {"exact"}
    assert set(linear_layers(sample.model)) <= set(matmul_rows(artifact))


@pytest.mark.parametrize("name", NAMES)
def test_w4a16_is_the_model_with_rounded_weights(name, tmp_path):
    sample, program = exported(name)
    artifact = lowc.compile(program, "w4a16", output=tmp_path / "model.vmfb")
    module = lowc.load(artifact)
    reference = with_rounded_weights(sample.model, form_of("w4a16"))
    assert worst(module, reference, sample) < TOLERANCE
    # The rounding is not lost in the tolerance: the model as it was is much further away.
    assert worst(module, sample.model, sample) > 10 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_w4a16_rounds_every_linear_layer(name, tmp_path):
    sample, program = exported(name)
    rows = matmul_rows(lowc.compile(program, "w4a16", output=tmp_path / "model.vmfb"))
