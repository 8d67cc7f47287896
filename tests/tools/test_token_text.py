"""Text from tokens as they come, and the tokens that end a text."""

from __future__ import annotations

import pytest
from lowc.errors import UserError
from lowc.tools import tiny_llama
from lowc.tools.token_text import ENDS, TokenText, ending_tokens, tokens_of

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import decoders, models, pre_tokenizers  # noqa: E402


def _bytewise():
    """A tokenizer whose tokens are the 256 bytes, as byte-level byte pairs begin."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>", "<call>"])
    return tokenizer


def _with_spaces():
    """A tokenizer like those of SentencePiece: words with a space ahead, and bytes."""
    pieces = ["<unk>", "▁a", "▁b", "c", *(f"<0x{number:02X}>" for number in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer, vocabulary


def _told(tokenizer, prompt, tokens):
    text = TokenText(tokenizer, prompt)
    return [text.add(token) for token in tokens], text.rest()


def test_a_character_is_shown_when_it_is_whole_and_its_beginning_at_the_end():
    tokenizer = _bytewise()
    tokens = tokenizer.encode("x漢é").ids
    assert _told(tokenizer, [], tokens) == (["x", "", "", "漢", "", "é"], "")
    assert _told(tokenizer, tokens[:1], tokens[1:3]) == (["", ""], "\ufffd")
    # A character that is never whole takes nothing with it that follows.
    broken = [*tokens[1:3], *tokenizer.encode("ab").ids, tokens[1]]
    assert _told(tokenizer, [], broken) == (["", "", "\ufffda", "b", ""], "\ufffd")


def test_the_first_space_after_the_prompt_is_kept():
    tokenizer, known = _with_spaces()
    a, b, c = known["▁a"], known["▁b"], known["c"]
    assert _told(tokenizer, [a], [b, c, b]) == ([" b", "c", " b"], "")
    assert _told(tokenizer, [], [b, c, b]) == (["b", "c", " b"], "")


def test_an_unfinished_character_leaves_the_one_before_it_as_it_is():
    tokenizer, known = _with_spaces()
    tokens = [known[f"<0x{byte:02X}>"] for byte in "é漢".encode()]
    assert _told(tokenizer, [known["c"]], tokens) == (["", "é", "", "", "漢"], "")
    assert _told(tokenizer, [known["c"]], tokens[:3]) == (["", "é", ""], "\ufffd")


def test_special_tokens_end_a_text_and_others_do_not():
    tokenizer = _bytewise()
    usual = tokenizer.token_to_id("<|im_end|>")
    assert ending_tokens(tokenizer, ()) == {usual}
    # "a" is a token too, but one that is in the text.
    assert ending_tokens(tokenizer, ["<call>", "a", "\udcff"]) == {
        usual,
        tokenizer.token_to_id("<call>"),
    }
    assert tiny_llama.END in ENDS


def test_a_prompt_that_has_no_tokens_is_refused():
    with pytest.raises(UserError, match="not UTF-8"):
        tokens_of(_bytewise(), "a\udcff", "tokenizer.json")
    unknown = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="?"))
    with pytest.raises(
        UserError, match=r"tokenizer.json: the tokenizer cannot encode the prompt \(.*UNK"
    ):
        tokens_of(unknown, "b", "tokenizer.json")
