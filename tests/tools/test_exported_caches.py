"""Caches in the forms that people export them in: inputs and outputs, and transformers' own."""

import lowc
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.buffers import DeviceArray
from lowc.tools.llama_model import Shape, build

torch = pytest.importorskip("torch")

SHAPE = Shape(64, 1, 4, 2, 48, 96, context=40)
PROMPT = [3, 14, 15, 92, 65]


def network():
    torch.manual_seed(0)
    return build(SHAPE)


class Carried(torch.nn.Module):
    """The Llama with caches that it takes and gives back, as it was before and after."""

    def __init__(self):
        super().__init__()
        self.network = network()
        for layer in self.network.model.layers:
            for name in ("keys", "values"):
                delattr(layer.self_attn, name)

    def forward(self, tokens, positions, caches):
        carried = [one.clone() for one in caches]
        for layer, keys, values in zip(
            self.network.model.layers, carried[::2], carried[1::2], strict=True
        ):
            layer.self_attn.keys, layer.self_attn.values = keys, values
        logits = self.network(tokens, positions)
        for layer in self.network.model.layers:
            del layer.self_attn.keys, layer.self_attn.values
        return logits, carried


def empty():
    shape = (SHAPE.context, SHAPE.num_key_value_heads, SHAPE.head)
    return [torch.zeros(shape) for _ in range(2 * SHAPE.num_hidden_layers)]


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    n = torch.export.Dim("n", min=1, max=SHAPE.context)
    s = torch.export.Dim("s", min=2, max=SHAPE.context)
    programs = {
        name: torch.export.export(
            Carried(), (torch.zeros(count, dtype=torch.int64), torch.arange(5), empty()),
            dynamic_shapes=(sizes, {0: n}, [{}] * len(empty())), strict=False,
        )
        for name, count, sizes in (("prefill", 3, {0: s}), ("decode", 1, {}))
    }  # fmt: skip
    place = tmp_path_factory.mktemp("carried") / "model.vmfb"
    return lowc.compile(programs, output=place)


@pytest.fixture(scope="module")
def wanted():
    """The tokens that PyTorch chooses until the context is full."""
    model, tokens = network(), list(PROMPT)
    with torch.no_grad():
        given = torch.tensor(PROMPT)
        while len(tokens) <= SHAPE.context:
            tokens.append(int(model(given, torch.arange(len(tokens)))[0].argmax()))
            given = torch.tensor(tokens[-1:])
    return tokens[len(PROMPT) :]


def test_caches_that_are_inputs_and_outputs_are_carried_on(carried, wanted):
    assert not carried.manifest.has_state
    said = [row["lowering"] for row in carried.report["matmuls"] if ":qk@decode" in row["name"]]
    assert all("the cache read in place" in text for text in said)
    module = lowc.load(carried)
    assert list(lowc.generate(module, PROMPT)) == wanted
    # No state: two texts do not disturb each other.
    first, second = lowc.generate(module, PROMPT), lowc.generate(module, PROMPT)
    assert [next(first), next(second), next(first), next(second)] == [
        *wanted[:1] * 2,
        *wanted[1:2] * 2,
    ]


def test_caches_stay_on_the_device(carried):
    module = lowc.load(carried)
    caches = [module.prefill.to_device(one.numpy()) for one in empty()]
    _logits, caches = module.prefill.start(np.array(PROMPT), np.arange(5), caches)
    assert all(isinstance(one, DeviceArray) for one in caches)
    before = [np.array(np.asarray(one)) for one in caches]
    # What is given may be used up: IREE writes the new rows in its place.
    _, more = module.decode.start(np.array([1]), np.arange(6), caches)
    for old, new in zip(before, more, strict=True):
        np.testing.assert_array_equal(np.asarray(new)[:5], old[:5])
        assert np.asarray(new)[5].any() and not old[5].any()


class Shrinking(torch.nn.Module):
    """No language model: its cache comes back smaller."""

    def forward(self, tokens, positions, cache):
        return torch.ones(1, 8) * (tokens.sum() + positions[-1]), cache[1:] + 1.0


def test_caches_that_come_back_otherwise_are_refused(tmp_path):
    given = (torch.zeros(2, dtype=torch.int64), torch.arange(5), torch.zeros(4, 2))
    program = torch.export.export(Shrinking(), given)
    module = lowc.load(lowc.compile({"prefill": program, "decode": program}))
    with pytest.raises(UserError, match="each followed by the same caches or by none"):
        lowc.generate(module, PROMPT)


@pytest.mark.slow
def test_the_static_cache_module_of_transformers_generates_its_tokens(tmp_path):
    """``TorchExportableModuleWithStaticCache``: buffers by ``index_copy_``, one token at a time."""
    transformers = pytest.importorskip("transformers")
    executorch = pytest.importorskip("transformers.integrations.executorch")
    names = set(SHAPE.__dataclass_fields__) - {"context"}
    sizes = {name: getattr(SHAPE, name) for name in names}
    config = transformers.LlamaConfig(max_position_embeddings=SHAPE.context, **sizes)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    given = {"batch_size": 1, "max_cache_len": SHAPE.context}
    model.generation_config = transformers.GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config=given
    )
    exportable = executorch.TorchExportableModuleWithStaticCache(model, **given)
    with torch.no_grad():
        program = torch.export.export(
            exportable, (), {"input_ids": torch.tensor([[3]]), "cache_position": torch.tensor([0])},
            strict=True,
        )  # fmt: skip
    torch.export.save(program, tmp_path / "model.pt2")
    tokens = list(PROMPT)
    plain = transformers.LlamaForCausalLM(config).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        while len(tokens) < SHAPE.context:
            tokens.append(int(plain(torch.tensor([tokens])).logits[0, -1].argmax()))

    def logits(cache):
        """What it says of each of the tokens; twice, since a reset begins anew."""
        artifact = lowc.compile(tmp_path / "model.pt2", cache=cache)
        assert [row["format"] for row in artifact.report["caches"]] == [cache] * 2
        module = lowc.load(artifact)
        for _ in range(2):
            found = [
                module(input_ids=np.array([[token]]), cache_position=np.array([place]))
                for place, token in enumerate(tokens[:-1])
            ]
            module.reset()
        return np.concatenate(found)[:, 0]

    found = logits("f32")
    assert list(found.argmax(-1)[len(PROMPT) - 1 :]) == tokens[len(PROMPT) :]
    # Caches of rows [1, heads, tokens, width], written element by element, can be in few bits too.
    rounded = logits("i8")
    assert 0 < np.abs(rounded - found).max() < 4e-3 * np.ptp(found)
