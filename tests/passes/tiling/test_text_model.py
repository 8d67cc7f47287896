"""The text model in NumPy: it says what the same network says in PyTorch, and refuses other arrays."""

import numpy as np
import pytest
from lowc import UserError
from lowc.passes.tiling import text_model, tokens
from lowc.tools.tune import train_text
from safetensors.numpy import save

TEXTS = [
    "func.func @f() {\n" + "  %1 = arith.addf %0, %0 : vector<16xf32>\n" * count + "  return\n}"
    for count in (1, 3, 9, 20, 40)
]


def examples():
    found = []
    for place, text in enumerate(TEXTS):
        read = tokens.tokenize(text, "avx512", 2 + place)
        count = 10 * len(read.operations)
        found.append(train_text.Example(read, count, 6 * count, 3, place % 2, 1e-6 * count))
    return found


@pytest.fixture(scope="module")
def trained():
    return train_text.train(examples(), epochs=2, tell=lambda _: None)


@pytest.mark.slow
def test_numpy_says_what_pytorch_says(trained):
    import torch

    model, words = trained
    network = train_text._network(len(words), np.array([one.goals for one in examples()]))
    arrays = {("embedding.weight" if k == "embedding" else k): v for k, v in model.weights.items()}
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    prepared = [train_text._prepare(one, dict(model.vocabulary)) for one in examples()]
    with torch.no_grad():
        wanted = train_text._forward(network, prepared).numpy()
    for one, row in zip(examples(), wanted, strict=True):
        found = model._outputs(model._hidden(one.text), one.text)
        np.testing.assert_allclose(found, row, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_it_comes_back_from_safetensors(trained):
    model, words = trained
    again = text_model.from_bytes(save(dict(model.weights)), words, "x", knows_time=True)
    text = examples()[2].text
    assert again.predict(text) == model.predict(text)
    assert model.predict(text).seconds > 0 and 0 <= model.predict(text).vector_registers <= 32


def arrays(tokens_=4, hidden=3, width=2, window=5):
    sizes = {"tokens": tokens_, "width": width, "hidden": hidden, "window": window, "inner": 2,
             "sums": text_model.SUMS, "features": 2 * hidden + text_model.SUMS + 3,
             "outputs": len(text_model.OUTPUTS)}  # fmt: skip
    return {
        name: np.zeros([sizes[dim] for dim in dims], np.float32)
        for name, dims in text_model.SHAPES.items()
    }


def test_an_untrained_model_knows_no_time():
    model = text_model.from_bytes(save(arrays()), ["<unk>", "a", "b", "c"], "x")
    found = model.predict(examples()[0].text)
    assert np.isnan(found.seconds) and found.instructions > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.pop("last.bias"), "it holds the arrays"),
        (lambda a: a.update({"last.bias": np.zeros(7, np.float32)}), "'last.bias' has the shape"),
        (lambda a: a.update({"last.bias": np.zeros(6)}), "'last.bias' is float64"),
        (lambda a: a.update({"last.bias": np.full(6, np.nan, np.float32)}), "no numbers"),
        (lambda a: a.update(arrays(tokens_=5)), "'embedding' has the shape"),
        (lambda a: a.update({"first.weight": np.zeros((2, 99), np.float32)}), "do not fit"),
        (lambda a: a.update(arrays(window=17)), "its window is 17, not 1 to 15"),
        (lambda a: a.update(arrays(hidden=513)), "its hidden is 513, not 1 to 512"),
        (lambda a: a.update(arrays(width=513)), "its width is 513, not 1 to 512"),
    ],
)
def test_other_arrays_are_refused(change, text):
    given = arrays()
    change(given)
    with pytest.raises(UserError, match=text):
        text_model.from_bytes(save(given), ["<unk>", "a", "b", "c"], "text.safetensors")


def test_what_is_no_safetensors_is_refused():
    with pytest.raises(UserError, match="no safetensors file"):
        text_model.from_bytes(b"\x80\x04garbage", ["<unk>"], "text.safetensors")
    with pytest.raises(UserError, match="one twice"):
        text_model.from_bytes(save(arrays()), ["a", "a", "b", "c"], "text.safetensors")
