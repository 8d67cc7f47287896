"""Planes per layer: the best choice of all, within the budget."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.compiler.allocation import Layer, allocate, relative_errors
from lowc.errors import UserError
from lowc.passes.formats.binary_codes import BinaryCodes

PLANES = (2, 3, 4)
BITS = {planes: float(planes) for planes in PLANES}


@st.composite
def networks(draw):
    layers = []
    for number in range(draw(st.integers(1, 5))):
        errors = draw(st.lists(st.floats(1e-6, 1), min_size=3, max_size=3))
        stored = draw(st.sampled_from([0.0, 0.25, 0.5]))
        layers.append(
            Layer(
                f"layer {number}", draw(st.integers(1, 50)), dict(zip(PLANES, errors, strict=True)),
                {planes: planes + stored for planes in PLANES},
            )
        )  # fmt: skip
    return layers


def total(layers, planes):
    return sum(layer.errors[planes[layer.name]] for layer in layers)


def average(layers, planes):
    bits = sum(layer.weights * layer.bits[planes[layer.name]] for layer in layers)
    return bits / sum(layer.weights for layer in layers)


@given(layers=networks(), budget=st.floats(2.5, 4.6))
@settings(max_examples=60, deadline=None)
def test_nothing_within_the_budget_is_better(layers, budget):
    found = allocate(layers, budget)
    assert average(layers, found) <= budget + 1e-6
    for chosen in itertools.product(PLANES, repeat=len(layers)):
        other = {layer.name: planes for layer, planes in zip(layers, chosen, strict=True)}
        if average(layers, other) <= budget:
            assert total(layers, found) <= total(layers, other) + 1e-6


def test_bits_go_where_they_help():
    steep, flat = {2: 0.5, 3: 0.1, 4: 0.02}, {2: 0.2, 3: 0.15, 4: 0.12}
    layers = [Layer("flat", 100, flat, BITS), Layer("steep", 100, steep, BITS)]
    assert allocate(layers, 3) == {"flat": 2, "steep": 4}
    assert allocate(layers, 2) == {"flat": 2, "steep": 2}
    assert allocate(layers, 4) == {"flat": 4, "steep": 4}
    # A large layer takes its share of the budget: the small one alone can have more.
    layers[1] = Layer("steep", 1000, steep, BITS)
    assert allocate(layers, 2.5) == {"flat": 4, "steep": 2}


def test_budgets_that_are_met_exactly():
    layers = [Layer(str(n), 7, {2: 1.0, 3: 0.1}, {2: 2.1, 3: 3.1}) for n in range(10)]
    found = allocate(layers, 2.1 + 0.3)
    assert sorted(found.values()) == [2] * 7 + [3] * 3


def test_tiny_errors_count():
    layers = [Layer("a", 1, {2: 3e-12, 3: 1e-12}, BITS), Layer("b", 1, {2: 9e-12, 3: 1e-12}, BITS)]
    assert allocate(layers, 2.5) == {"a": 2, "b": 3}


def test_a_budget_that_is_too_small():
    with pytest.raises(UserError, match=r"1.9 bits per weight on average are too few") as caught:
        allocate([Layer("a", 5, {2: 1.0}, {2: 2.25})], 1.9)
    assert "take 2.25 at least" in caught.value.what


def test_no_layers():
    assert allocate([], 2) == {}


def test_errors_are_parts_of_the_layer():
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((12, 40)).astype(np.float32)
    x = generator.standard_normal((90, 10)) @ generator.standard_normal((10, 40))
    formats = {planes: BinaryCodes(planes, 20) for planes in PLANES}
    alone = relative_errors(weight, formats)
    for planes, error in alone.items():
        assert error == pytest.approx(relative_errors(weight * 8, formats)[planes])
        assert 0 < error < 0.2
    seen = relative_errors(weight, formats, x.T @ x)
    assert all(seen[planes] < 0.5 * alone[planes] for planes in PLANES)
    for errors in (alone, seen):
        assert errors[2] > errors[3] > errors[4]


def test_a_weight_of_zeros_loses_nothing():
    zeros = np.zeros((4, 8), np.float32)
    assert relative_errors(zeros, {2: BinaryCodes(2, 8)}) == {2: 0.0}
