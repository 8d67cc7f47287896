"""llama.cpp as a peer of ``lowc bench matmul``: the blocks of its weights, and its product."""

from importlib import util

import numpy as np
import pytest
from lowc.errors import UserError
from lowc.passes.formats.integer import GroupedInteger, dequantize, quantize
from lowc.passes.forms import Form, Rule
from lowc.tools.bench import check, peers, peers_ggml
from lowc.tools.bench.contender import Contender, Setup
from lowc.tools.bench.products import Product, Shape

FORMS = {
    "q4_0": Form("dequant", weights="i4", group=32, activations="i8"),
    "q4_0, long groups": Form("dequant", weights="i4", group=64, activations="i8"),
    "q4_1": Form("dequant", weights="i4", group=32, symmetric=False, activations="i8"),
    "q8_0": Form("dequant", weights="i8", group=0, activations="i8", activation_scale="row"),
}


def decoded(kind, blocks):
    """The values ``[n, K]`` of blocks, as ggml's ``dequantize_row_*`` have them."""
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    if kind == "q8_0":
        return (blocks[..., 2:].view(np.int8) * scale).reshape(len(blocks), -1)
    packed = blocks[..., -16:]
    codes = np.concatenate([packed & 15, packed >> 4], -1).astype(np.float32)
    if kind == "q4_0":
        return ((codes - 8) * scale).reshape(len(blocks), -1)
    least = blocks[..., 2:4].copy().view(np.float16).astype(np.float32)
    return (codes * scale + least).reshape(len(blocks), -1)


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0"])
@pytest.mark.parametrize("group", [32, 96])
def test_blocks_hold_the_codes(kind, group):
    weight = np.random.default_rng(0).standard_normal((5, 192)).astype(np.float32)
    fmt = GroupedInteger(8 if kind == "q8_0" else 4, group, kind != "q4_1")
    quantized = quantize(weight, fmt)
    blocks = peers_ggml._blocks(kind, quantized, 5, group)
    assert blocks.shape == (5, 6, {"q4_0": 18, "q4_1": 20, "q8_0": 34}[kind])
    assert blocks.dtype == np.uint8
    wanted = dequantize(quantized, 192)
    # Scales are f16 there: 2^-11 of the largest code, and as much of the offset.
    assert np.abs(decoded(kind, blocks) - wanted).max() <= 2.0**-10 * np.abs(weight).max()


def setup(form, k=128):
    return Setup(
        Product(Shape(1, 3, 40, k), has_weight=True), Rule("*", form), None, "cpu", 1, None, False
    )  # fmt: skip


@pytest.mark.skipif(not util.find_spec("llama_cpp"), reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_its_product(form):
    (contender,) = peers.contenders(setup(form), "llama.cpp")
    assert isinstance(contender, Contender)
    sample = check.Sample.of(setup(form).product)
    found = sample.take(contender.array(contender.calls[0]()))
    assert check.relative_error(found, check.product(form, sample)) < contender.tolerance


def test_what_it_has_no_blocks_for():
    ragged = Form("dequant", weights="i4", group=48, activations="i8")
    ((name, why),) = peers.contenders(setup(ragged, 96), "llama.cpp")
    assert name == "llama.cpp" and "blocks are 32 weights" in why
    zeros = Form("dequant", weights="i8", group=32, symmetric=False, activations="i8")
    ((_, why),) = peers.contenders(setup(zeros), "llama.cpp")
    assert "zero points" in why
    ((_, why),) = peers.contenders(setup(Form()), "llama.cpp")
    assert "nothing for the form 'exact'" in why


def test_it_may_be_missing(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    peers_ggml._library.cache_clear()
    with pytest.raises(UserError, match=r"llama\.cpp is not installed"):
        peers_ggml._library()
