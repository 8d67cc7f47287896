"""A Llama of random weights: the network is that of transformers, compiled it generates its tokens."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import lowc
import numpy as np
import pytest
from click.testing import CliRunner
from iree.runtime import ParameterIndex
from lowc.compiler.recipe import load_recipe
from lowc.errors import UserError
from lowc.passes.formats import activations
from lowc.passes.formats.weights import rounded
from lowc.tools import demo_llm
from lowc.tools.generate import generate_command
from lowc.tools.llama_model import Shape, build, export

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SHAPE = Shape(64, 1, 4, 2, 48, 96, context=40)
PROMPT = [3, 14, 15, 92, 65]


def _network():
    torch.manual_seed(0)
    return build(SHAPE)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    place = tmp_path_factory.mktemp("llama") / "llama.vmfb"
    artifact = lowc.compile(export(_network(), SHAPE), output=place)
    [row] = [one for one in artifact.report["matmuls"] if one["name"].endswith(":qk@decode")]
    assert "the cache read in place" in row["lowering"]
    return lowc.load(artifact)


def _greedy(count):
    """What transformers' own Llama of these weights says."""
    names = set(SHAPE.__dataclass_fields__) - {"context"}
    config = transformers.LlamaConfig(**{name: getattr(SHAPE, name) for name in names})
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(_network().state_dict())
    tokens = list(PROMPT)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def test_greedy_tokens_are_those_of_transformers_until_the_context_is_full(program):
    found = list(lowc.generate(program, PROMPT))
    # The last token needs no place in the caches.
    assert len(PROMPT) + len(found) == SHAPE.context + 1
    assert found == _greedy(len(found))
    # Caches begin anew, so a second text is the same, and a prompt of one token is no other case.
    assert list(itertools.islice(lowc.generate(program, PROMPT), 4)) == found[:4]
    longer = [*PROMPT, *found[:9]]
    assert list(lowc.generate(program, longer, limit=5)) == found[9:14]
    assert len(list(lowc.generate(program, PROMPT[:1], limit=3))) == 3


def test_a_prompt_can_come_in_parts(program):
    whole = program.prefill(np.array(PROMPT), np.arange(5))
    program.reset()
    program.prefill(np.array(PROMPT[:3]), np.arange(3))
    program.decode(np.array(PROMPT[3:4]), np.arange(4))
    np.testing.assert_allclose(program.decode(np.array(PROMPT[4:]), np.arange(5)), whole, atol=1e-5)


def test_a_prompt_in_pieces_is_continued_by_the_same_tokens(program):
    prompt = [*PROMPT, *PROMPT[::-1], *PROMPT]
    whole = list(lowc.generate(program, prompt, limit=12))
    for piece in (2, 4, 7, 14):
        assert list(lowc.generate(program, prompt, limit=12, piece=piece)) == whole


def test_what_caches_held_is_no_part_of_what_is_exported(tmp_path):
    network, tokens = _network(), torch.tensor(PROMPT)
    with torch.no_grad():
        network(tokens, torch.arange(5))
    artifact = lowc.compile(export(network, SHAPE), output=tmp_path / "llama.vmfb")
    assert not network.model.layers[0].self_attn.keys.any()
    index = ParameterIndex()
    index.load(str(artifact.path.with_suffix(".irpa")))
    # The archive says of caches that they are zeros; it has no bytes of them.
    assert {key.rpartition(".")[2] for key, one in index.items() if one.is_splat} == {
        "keys",
        "values",
    }


def test_more_tokens_than_positions_are_the_callers_mistake(program):
    with pytest.raises(
        UserError, match=r"refuses inputs of these sizes[\s\S]*depend on each other"
    ):
        program.prefill(np.arange(4), np.arange(2))


def test_sizes_have_a_least():
    for name, least in (("num_attention_heads", 1), ("vocab_size", 1), ("context", 3)):
        with pytest.raises(UserError, match=f"{name}: a size is {least} or more"):
            replace(SHAPE, **{name: least - 1})


def test_the_least_context_can_be_exported():
    shape = replace(SHAPE, context=3)
    assert list(export(build(shape), shape)) == ["prefill", "decode"]


def test_it_ends_at_a_stop_token_and_at_a_limit(program):
    found = list(lowc.generate(program, PROMPT, limit=8))
    place = found.index(found[5])
    assert list(lowc.generate(program, PROMPT, stop={found[5]})) == found[:place]
    assert list(lowc.generate(program, PROMPT, limit=0)) == []


def test_of_two_texts_on_one_module_the_first_ends_with_an_error(program):
    other = list(lowc.generate(program, PROMPT[:2], limit=6))
    first, second = lowc.generate(program, PROMPT), lowc.generate(program, PROMPT[:2], limit=6)
    next(first)
    begun = [next(second)]
    with pytest.raises(UserError, match=r"another text was begun[\s\S]*load it again"):
        next(first)
    assert begun + list(second) == other


def test_threads_get_their_own_text_or_an_error(program):
    prompts = [PROMPT, PROMPT[::-1]]
    wanted = [list(lowc.generate(program, prompt)) for prompt in prompts]

    def told(prompt):
        try:
            return list(lowc.generate(program, prompt))
        except UserError as error:
            return error.what

    with ThreadPoolExecutor(2) as threads:
        for _ in range(8):
            found = list(threads.map(told, prompts))
            # One of them began last.
            assert any(one == right for one, right in zip(found, wanted, strict=True))
            for one, right in zip(found, wanted, strict=True):
                assert one == right or "another text was begun" in one


def test_what_is_no_prompt_is_refused(program):
    for prompt, words in (([], "one token or more"), ([1] * 41, "41 tokens, .*context 40")):
        with pytest.raises(UserError, match=words):
            lowc.generate(program, prompt)
    with pytest.raises(UserError, match=r"input 'tokens'"):
        next(lowc.generate(program, [1, 96]))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of 96 words."""
    known = {f"w{number}": number for number in range(96)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    place = tmp_path_factory.mktemp("words") / "tokenizer.json"
    tokenizer.save(str(place))
    return str(place)


def test_the_command_prints_what_the_function_gives(program, words):
    text = " ".join(f"w{token}" for token in PROMPT)
    arguments = [str(program.path), "--tokenizer", words, "--prompt", text]
    found = [f"w{token}" for token in lowc.generate(program, PROMPT)]
    ran = CliRunner().invoke(generate_command, arguments, catch_exceptions=False)
    assert ran.stdout.split() == found
    assert "context of 40 tokens is full" in ran.stderr
    short = CliRunner().invoke(
        generate_command, [*arguments, "--stop", found[3]], catch_exceptions=False
    )
    assert short.stdout.split() == found[: found.index(found[3])]


def test_the_demo_counts_the_bits_that_pytorch_counts(program):
    rows = np.random.default_rng(0).integers(0, SHAPE.vocab_size, (2, 7))
    network, losses = _network(), []
    for row in torch.from_numpy(rows):
        for place in range(1, len(row)):
            with torch.no_grad():
                logits = network(row[:place], torch.arange(place))
            losses.append(float(torch.nn.functional.cross_entropy(logits[0], row[place])))
    wanted = np.mean(losses) / np.log(2)
    assert demo_llm.bits_per_token(program, rows) == pytest.approx(wanted, rel=1e-5)


def _rounded(weight, form):
    """What a weight ``[N, K]`` is where it is stored."""
    group = min(form.group or weight.shape[1], weight.shape[1])
    kept = {"symmetric": form.symmetric, "scales": form.scales}
    return group, rounded(weight, form.weights, group, **kept)


class Rounding(torch.nn.Module):
    """A linear layer of a form: PyTorch's product of weights and activations that were rounded."""

    def __init__(self, layer, form):
        super().__init__()
        self.group, weight = _rounded(layer.weight.detach().numpy(), form)
        self.weight, self.per_row = torch.from_numpy(weight), form.activation_scale == "row"

    def forward(self, x):
        found = activations.quantize(x.numpy(), self.group, per_row=self.per_row)
        scales = found.scales[..., None, None] if self.per_row else found.scales[..., None]
        values = (found.codes * scales).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
        return torch.nn.functional.linear(torch.from_numpy(values), self.weight)


@pytest.mark.parametrize("recipe", ["w8a8", "w4a8"])
def test_logits_in_few_bits_are_those_of_pytorch_with_rounded_operands(recipe, tmp_path):
    network, form = _network(), load_recipe(recipe).rules[-1].form
    artifact = lowc.compile(export(network, SHAPE), recipe, output=tmp_path / "llama.vmfb")
    module = lowc.load(artifact)
    layers = [n for n, one in network.named_modules() if isinstance(one, torch.nn.Linear)]
    exact = network(torch.tensor(PROMPT), torch.arange(5)).detach().numpy()
    table = network.model.embed_tokens.weight
    table.data = torch.from_numpy(_rounded(table.detach().numpy(), form)[1])
    assert {row["form"] for row in artifact.report["embeddings"]} == {"dequant"}
    for name in layers:
        network.set_submodule(name, Rounding(network.get_submodule(name), form))
    # Every linear layer of both entries has the form, and nothing is as it was exported but attention.
    forms = [row["form"] for row in artifact.report["matmuls"]]
    assert forms.count("dequant") == 2 * len(layers)
    with torch.no_grad():
        for place, entry in ((3, module.prefill), (4, module.decode), (5, module.decode)):
            tokens = np.array(PROMPT[:place] if place == 3 else PROMPT[place - 1 : place])
            wanted = network(torch.from_numpy(tokens), torch.arange(place)).numpy()
            found = entry(tokens, np.arange(place))
            np.testing.assert_allclose(found, wanted, atol=1e-3 * np.ptp(wanted))
    # 8 bits are within 3e-3 of f32: the result must be far nearer to what was rounded than to that.
    assert np.abs(found - wanted).max() < 0.1 * np.abs(found - exact).max()
