"""Products by signed digits: the integers are those of a multiplication, bit for bit."""

import dataclasses

import lowc
import numpy as np
import pytest
import torch
from lowc.compiler.recipe import load_recipe
from lowc.errors import UserError
from lowc.passes.forms import Form, Rule
from products.linear import compile_linear, integer_product

DIGITS = Rule.from_dict({"match": "*", "form": "signed-digits"}, "test").form


def multiplied(form):
    """Return the form that multiplies the same integers."""
    return dataclasses.replace(form, form="dequant")


def run(folder, weight, form, x, m=None, **options):
    folder.mkdir()
    artifact = compile_linear(folder, weight, form, m, **options)
    return artifact, lowc.load(artifact)(x)


@pytest.mark.slow
def test_every_pair_of_bytes_is_multiplied_exactly(tmp_path):
    numbers = np.arange(-127, 128, dtype=np.float32)
    # Scales are 1, since 127 is the largest number of every row.
    both = np.zeros((len(numbers), 64), np.float32)
    both[:, 0], both[:, 1] = numbers, 127
    _, found = run(tmp_path / "all", both, DIGITS, both)
    assert np.array_equal(found, np.outer(numbers, numbers) + 127**2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "group", "scale"), [("i8", 0, "row"), ("i4", 64, "group"), ("i5", 64, "row")]
)
def test_results_are_those_of_the_multiplication_to_the_bit(tmp_path, weights, group, scale):
    form = dataclasses.replace(DIGITS, weights=weights, group=group, activation_scale=scale)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((33, 150)).astype(np.float32)
    x = rng.standard_normal((5, 150)).astype(np.float32)
    artifact, found = run(tmp_path / "digits", weight, form, x)
    other, wanted = run(tmp_path / "multiplied", weight, multiplied(form), x, kernels=False)
    assert np.array_equal(found, wanted)
    row, usual = artifact.report["matmuls"][0], other.report["matmuls"][0]
    assert "canonical signed digits; stock code generation" in row["lowering"]
    # As many bits are stored; what was multiplied is shifted and added, and scales stay.
    assert row["bits_per_weight"] == usual["bits_per_weight"]
    counted, before = row["operations"], usual["operations"]
    products = before["muli.i8"]
    assert products >= 33 * 150 and "muli.i8" not in counted
    assert counted["mulf.f32"] == before["mulf.f32"]
    assert counted["addi.i32"] + counted["subi.i32"] == products * (2 * form.bits + 2)


@pytest.mark.vulkan
@pytest.mark.parametrize(
    ("weights", "group", "scale"), [("i8", 0, "row"), ("i4", 32, "group"), ("i3", 32, "row")]
)
def test_vulkan(tmp_path, weights, group, scale):
    form = dataclasses.replace(DIGITS, weights=weights, group=group, activation_scale=scale)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 70)).astype(np.float32)
    x = rng.standard_normal((5, 70)).astype(np.float32)
    artifact, found = run(tmp_path / "digits", weight, form, x, target="vulkan")
    (row,) = artifact.report["matmuls"]
    assert "canonical signed digits" in row["lowering"], row
    expected, bound = integer_product(x, weight, multiplied(form))
    assert (np.abs(found - expected) <= bound).all()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["vulkan", "vulkan:rdna3", "cuda"])
def test_gpus_compile_the_recipe(tmp_path, target):
    program = torch.export.export(torch.nn.Linear(64, 24).eval(), (torch.ones(3, 64),))
    artifact = lowc.compile(program, "signed-digits", target, output=tmp_path / "m.vmfb")
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "signed-digits" and "canonical signed digits" in row["lowering"], row


def test_a_recipe_has_the_numbers_of_w8a8():
    digits, usual = (load_recipe(name).rules[-1].form for name in ("signed-digits", "w8a8"))
    assert multiplied(digits) == usual


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"weights": "nf4"}, "weights = 'nf4' is unknown"),
        ({"activations": "f32"}, "activations = 'f32' is unknown"),
        ({"group": 17}, "group = 17 is not 16, 32, 48 or a multiple of 64"),
        ({"symmetric": False}, "form 'signed-digits' takes no 'symmetric'"),
    ],
)
def test_what_is_no_form(keys, what):
    with pytest.raises(UserError, match=what):
        Rule.from_dict({"match": "*", "form": "signed-digits", **keys}, "test")


def test_the_form_writes_what_it_reads():
    assert Form(**DIGITS.to_dict()) == DIGITS
