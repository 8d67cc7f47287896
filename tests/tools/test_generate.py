"""``lowc generate`` and ``lowc.generate`` on a model whose next tokens are known: texts, ends, and mistakes."""

from __future__ import annotations

import io
import itertools
import signal
import subprocess
import sys

import lowc
import numpy as np
import pytest
from click.testing import CliRunner
from lowc.errors import UserError
from lowc.tools.cli import main
from lowc.tools.generate import generate_command

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
from tiny.chains import CONTEXT, chain  # noqa: E402

SIZE = 258
CALL, UNUSED = 256, 257
LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def _tokens(text):
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [LETTERS.index(one) for word, _ in byte_level.pre_tokenize_str(text) for one in word]


A, B, C, D, X, Y, N = _tokens("abcdxyn")
KANJI = _tokens("漢")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A text that goes on as a漢bc<call>dd…, one as xyxy…, and one whose logits are no numbers."""
    text = [A, *KANJI, B, C, CALL, D]
    following = {
        **dict(itertools.pairwise(text)),
        X: Y,
        Y: X,
        N: [0.0, np.nan] * (SIZE // 2),
    }
    return chain(tmp_path_factory.mktemp("chain") / "chain.vmfb", SIZE, following)


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer whose tokens are bytes; the file asks for padding and truncation."""
    words = tokenizers.Tokenizer(
        tokenizers.models.BPE({one: i for i, one in enumerate(LETTERS)}, [])
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    words.add_special_tokens(["<call>"])
    words.enable_padding(pad_id=X, pad_token="x", length=8)
    words.enable_truncation(2)
    words.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def _shown(model, tokenizer, *arguments, charset="utf-8"):
    ran = CliRunner(charset=charset).invoke(
        generate_command,
        [str(model.path), "--tokenizer", tokenizer, *arguments],
        catch_exceptions=False,
    )
    return ran.stdout, ran.stderr


def test_padding_and_truncation_of_the_file_are_not_for_prompts(model, tokenizer):
    shown, said = _shown(model, tokenizer, "--prompt", "xyxa", "--max-tokens", "4")
    assert shown == "漢b\n"
    assert said.startswith("4 tokens after 4: ")


def test_a_limit_inside_of_a_character_shows_its_beginning(model, tokenizer):
    assert _shown(model, tokenizer, "--prompt", "a", "--max-tokens", "2")[0] == "\ufffd\n"
    # What is held may end a stop string, too.
    assert (
        _shown(model, tokenizer, "--prompt", "a", "--max-tokens", "2", "--stop", "\ufffd")[0]
        == "\n"
    )


def test_a_special_token_ends_the_text_if_it_is_named(model, tokenizer):
    shown, said = _shown(model, tokenizer, "--prompt", "a", "--stop", "<call>")
    assert (shown, said.partition(":")[0]) == ("漢bc\n", "5 tokens after 1")
    assert _shown(model, tokenizer, "--prompt", "a", "--max-tokens", "8")[0] == "漢bcdd\n"


def test_no_token_has_no_time(model, tokenizer):
    assert _shown(model, tokenizer, "--prompt", "a", "--max-tokens", "0") == (
        "\n",
        "0 tokens after 1\n",
    )


def test_a_terminal_without_the_character_shows_another(model, tokenizer):
    shown, _ = _shown(model, tokenizer, "--prompt", "a", "--max-tokens", "4", charset="ascii")
    assert shown == "?b\n"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_prompt_that_is_not_utf_8_is_the_users(model, tokenizer, errors, capsys, monkeypatch):
    command = ["generate", str(model.path), "--tokenizer", tokenizer, "--prompt"]
    assert main([*command, "a\udcff"]) == 2
    assert "the prompt is not UTF-8" in capsys.readouterr().err
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8", errors=errors)
    )
    assert main([*command, "-"]) == 2
    assert "the prompt is no" in capsys.readouterr().err


def test_ctrl_c_ends_it_in_one_line(model, tmp_path):
    """Words are so long that the pipe is full long before the context is."""
    known = {f"w{number}": number for number in range(SIZE) if number not in (X, Y)}
    known |= {"x" * 4000: X, "y" * 4000: Y}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "words.json"))
    lowc_command = [
        sys.executable,
        "-c",
        "import sys; from lowc.tools.cli import main; sys.exit(main())",
    ]
    started = subprocess.Popen(
        [*lowc_command, "generate", model.path, "--tokenizer", tmp_path / "words.json", "--prompt", "x" * 4000],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A background shell has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    assert started.stdout.read(2) == " y"
    started.send_signal(signal.SIGINT)
    shown, said = started.communicate(timeout=120)
    assert started.returncode == 130
    assert said == "lowc: interrupted\n"
    assert len(shown) < 4000 * (CONTEXT - 1)


def test_logits_that_are_no_numbers_are_refused(model):
    for sampling in (None, lowc.Sampling(1.0, seed=1)):
        with pytest.raises(UserError, match=r"chain\.vmfb: no token can be chosen: .* is nan"):
            next(lowc.generate(model, [N], sampling=sampling))


def test_a_model_that_gives_the_logits_of_all_tokens_is_refused(tmp_path):
    every = chain(tmp_path / "every.vmfb", 8, {1: 2, 2: 3}, every=True)
    with pytest.raises(UserError, match=r"no language model .* logits \[1, vocabulary\]"):
        lowc.generate(every, [1, 2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stop": 5}, "stop is a collection of tokens, not 5"),
        ({"stop": "abc"}, "stop is a collection of tokens, not 'abc'"),
        ({"stop": ["a"]}, "a token of stop is a whole number of 0 or more, not 'a'"),
        ({"limit": "3"}, "a limit is a whole number of 0 or more, not '3'"),
        ({"limit": -1}, "a limit is a whole number of 0 or more, not -1"),
        ({"limit": 1.0}, "a limit is a whole number of 0 or more, not 1.0"),
        ({"sampling": {"top_k": 2}}, "sampling is a lowc.Sampling, not {'top_k': 2}"),
        ({"tokens": [[1], [2, 3]]}, "a prompt is a list"),
        ({"tokens": [1.5]}, "a prompt is a list"),
        ({"tokens": "text"}, "a prompt is a list"),
        ({"module": "x.vmfb"}, "a loaded module is needed, not 'x.vmfb'"),
    ],
)
def test_what_has_no_meaning_is_refused_at_once(model, arguments, words):
    with pytest.raises(UserError, match=words):
        lowc.generate(**{"module": model, "tokens": [A], **arguments})


def test_numbers_of_numpy_are_numbers(model):
    stop, limit = {np.int32(CALL)}, np.int64(9)
    assert list(lowc.generate(model, np.array([A]), stop=stop, limit=limit)) == [*KANJI, B, C]
    sampling = lowc.Sampling(np.float32(0.5), top_k=np.int64(1), seed=np.uint8(1))
    assert list(lowc.generate(model, [A], sampling=sampling, limit=1)) == KANJI[:1]
