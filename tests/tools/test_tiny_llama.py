"""The script that trains a small Llama: its tokenizer, its training, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest
from lowc.tools import tiny_llama
from lowc.tools.llama_model import Shape

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

TEXTS = ["def add(left, right):\n    return left + right\n", "class Ä:\n    pass\n"]
SHAPE = Shape(16, 1, 2, 1, 32, 300, context=24)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_llama.train_tokenizer(TEXTS * 20, SHAPE.vocab_size)


def test_the_tokenizer_gives_any_text_back(tokenizer):
    for text in (*TEXTS, "never seen: 漢字\t\x00"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    tokens = tiny_llama.tokens_of(tokenizer, TEXTS)
    end = tokenizer.token_to_id(tiny_llama.END)
    assert np.flatnonzero(tokens == end)[-1] == len(tokens) - 1
    assert list(tokens).count(end) == len(TEXTS)


def test_it_learns_and_what_is_saved_is_what_was_learnt(tokenizer, tmp_path):
    data = np.tile(tiny_llama.tokens_of(tokenizer, TEXTS), 4)
    model = tiny_llama.network(SHAPE)
    before = tiny_llama.bits_per_byte(model, data, 8, 1.0)
    tiny_llama.train(model, data, 60, 4, 8, 2e-2)
    assert tiny_llama.bits_per_byte(model, data, 8, 1.0) < 0.7 * before
    tiny_llama.save(model, SHAPE, tmp_path)
    saved = torch.export.load(tmp_path / "prefill.pt2").module()
    tokens = torch.from_numpy(data[:11])
    with torch.no_grad():
        wanted = model(tokens[None]).logits[0, -1:]
        np.testing.assert_allclose(saved(tokens, torch.arange(11)), wanted, atol=1e-5)
