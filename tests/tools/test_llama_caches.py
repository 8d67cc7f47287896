"""A Llama with caches in few bits: logits are PyTorch's with caches that were rounded."""

import lowc
import numpy as np
import pytest
from click.testing import CliRunner
from lowc.passes.formats import caches
from lowc.tools.compile import compile_command
from lowc.tools.llama_model import Shape, build, export

torch = pytest.importorskip("torch")

# Heads of 32, so that halves of them are whole vectors everywhere.
SHAPE = Shape(128, 1, 4, 2, 48, 96, context=80)
TEXT = np.random.default_rng(0).integers(0, SHAPE.vocab_size, SHAPE.context)
PROMPT = 37  # in the second block of keys
# What a cache of the format may differ by in logits, of their range: codes that fall on the other
# side of one half, since sums come in another order.
BOUNDS = {"keys=f16,values=i8": 1e-3, "i4": 4e-3}
# One layer of 80 x 2 x 32; scales of i8 are of tokens and heads.
SAID = {
    "keys=f16,values=i8": [
        "keys in f16, 10.2 KB in the place of 20.5 KB",
        "values in i8, 5.8 KB in the place of 20.5 KB",
    ],
    "i4": ["keys in i4, 12.8 KB", "values in i4, 3.8 KB"],
}


def network():
    torch.manual_seed(0)
    return build(SHAPE)


class Stored:
    """A cache that is written and read as a tensor, in a format."""

    def __init__(self, name, is_key):
        self.shape = (SHAPE.context, SHAPE.num_key_value_heads, SHAPE.head)
        self.blocks = caches.KeyBlocks(*self.shape) if is_key and name == "i4" else None
        self.name, self.rows = name, np.zeros(self.shape, np.float32)

    def __setitem__(self, place, rows):
        if self.blocks is not None:
            self.blocks.write(place.start, rows.numpy())
        else:
            self.rows[place] = caches.rounded(rows.numpy(), self.name)

    def __getitem__(self, place):
        found = self.rows[place] if self.blocks is None else self.blocks.read(place.stop)
        return torch.from_numpy(np.array(found))


def rounding(keys, values):
    """The network with caches in these formats."""
    found = network()
    for layer in found.model.layers:
        for name, format_ in (("keys", keys), ("values", values)):
            delattr(layer.self_attn, name)
            setattr(layer.self_attn, name, Stored(format_, name == "keys"))
    return found


def logits(prefill, decode):
    """Logits after a prompt, and after each of the tokens that follow it."""
    parts = [prefill(TEXT[:PROMPT], np.arange(PROMPT))]
    for n in range(PROMPT + 1, SHAPE.context + 1):
        parts.append(decode(TEXT[n - 1 : n], np.arange(n)))
    return np.concatenate(parts)


def in_pytorch(model):
    def call(tokens, positions):
        with torch.no_grad():
            return model(torch.from_numpy(tokens), torch.from_numpy(positions)).numpy()

    return logits(call, call)


@pytest.mark.parametrize("cache", BOUNDS)
def test_logits_are_those_of_pytorch_with_the_rounded_cache(cache, tmp_path):
    files, place = [], str(tmp_path / "llama.vmfb")
    for name, program in export(network(), SHAPE).items():
        torch.export.save(program, tmp_path / f"{name}.pt2")
        files.append(f"{name}={tmp_path / name}.pt2")
    ran = CliRunner().invoke(
        compile_command, [*files, "--cache", cache, "-o", place], catch_exceptions=False
    )
    assert all(f"cache: {words}" in ran.output for words in SAID[cache]), ran.output
    module = lowc.load(place)
    said = [row["lowering"] for row in module.decode.report["matmuls"] if ":" in row["name"]]
    assert len(said) == 2 and all("read in place" in text for text in said)

    keys, values = cache.split(",") if "," in cache else (cache, cache)
    keys, values = keys.removeprefix("keys="), values.removeprefix("values=")
    found = logits(module.prefill, module.decode)
    wanted, exact = in_pytorch(rounding(keys, values)), in_pytorch(network())
    error = np.abs(found - wanted).max()
    assert error < BOUNDS[cache] * np.ptp(wanted)
    # The result is far nearer to the rounded cache's than that is to f32.
    assert error < 0.5 * np.abs(wanted - exact).max()
    # A second text finds nothing of the first, and tokens come out.
    assert np.array_equal(logits(module.prefill, module.decode), found)
    assert len(list(lowc.generate(module, TEXT[:5], limit=3))) == 3
