"""Caches in few bits: what a compiled model keeps is what the definition keeps."""

import dataclasses
import json
import re

import lowc
import numpy as np
import pytest
from lowc.compiler.frontend import parse_module
from lowc.compiler.recipe import Cache, cache_of, load_recipe, parse_recipe
from lowc.errors import UserError
from lowc.passes import annotations
from lowc.passes.formats import caches, lmul
from lowc.passes.quantize_caches import QuantizeCaches
from lowc.passes.runner import Runner

torch = pytest.importorskip("torch")

POSITIONS, HEADS, WIDTH, GROUP = 70, 2, 5, 3
BITS = {"f16": (16, 16), "i8": (8, 8), "i4": (4, 4)}


class Attention(torch.nn.Module):
    """Attention of grouped queries over a cache, heads of an odd width."""

    def __init__(self):
        super().__init__()
        empty = torch.zeros(POSITIONS, HEADS, WIDTH)
        self.register_buffer("keys", empty, persistent=False)
        self.register_buffer("values", empty.clone(), persistent=False)

    def forward(self, x, positions):
        """Take queries, keys and values ``[tokens, heads, group + 2, width]``."""
        n, s = positions.shape[0], x.shape[0]
        self.keys[n - s : n], self.values[n - s : n] = x[:, :, GROUP], x[:, :, GROUP + 1]
        q = x[:, :, :GROUP].permute(1, 2, 0, 3).reshape(HEADS, -1, WIDTH)
        scores = torch.bmm(q, self.keys[:n].permute(1, 2, 0)) * 0.4
        return torch.bmm(torch.softmax(scores, -1), self.values[:n].transpose(0, 1))


class Read(Attention):
    """What is in the cache."""

    def forward(self, positions):
        n = positions.shape[0]
        return self.keys[:n] * 1.0, self.values[:n] * 1.0


def programs():
    n = torch.export.Dim("n", min=1, max=POSITIONS)
    s = torch.export.Dim("s", min=2, max=POSITIONS)

    def rows(count):
        return torch.zeros(count, HEADS, GROUP + 2, WIDTH)

    positions = torch.arange(7)

    def export(model, given, sizes):
        return torch.export.export(model, given, dynamic_shapes=sizes, strict=False)

    return {
        "many": export(Attention(), (rows(3), positions), ({0: s}, {0: n})),
        "one": export(Attention(), (rows(1), positions), ({}, {0: n})),
        "read": export(Read(), (positions,), ({0: n},)),
    }


@pytest.fixture(scope="module", params=BITS)
def compiled(request, tmp_path_factory):
    recipe = dataclasses.replace(load_recipe("f32"), cache=cache_of(request.param))
    place = tmp_path_factory.mktemp("caches") / "model.vmfb"
    artifact = lowc.compile(programs(), recipe, output=place)
    return request.param, artifact, lowc.load(artifact)


class Reference:
    """A cache by the definition."""

    def __init__(self, name):
        self.name, self.values = name, np.zeros((POSITIONS, HEADS, WIDTH), np.float32)
        self.rows = self.values.copy()
        self.blocks = caches.KeyBlocks(POSITIONS, HEADS, WIDTH)

    def write(self, start, x):
        keys, values = x[:, :, GROUP], x[:, :, GROUP + 1]
        self.values[start : start + len(x)] = caches.rounded(values, self.name)
        if self.name == "i4":
            self.blocks.write(start, keys)
        else:
            self.rows[start : start + len(x)] = caches.rounded(keys, self.name)

    def read(self, n):
        keys = self.blocks.read(n) if self.name == "i4" else self.rows[:n]
        return keys, self.values[:n]


def drawn(seed, count):
    random = np.random.default_rng(seed)
    # Channels of keys of very different sizes, as models have them; and a head that is all zeros.
    rows = random.normal(0, 1, (count, HEADS, GROUP + 2, WIDTH)).astype(np.float32)
    rows[:, 0, GROUP] *= np.float32([100, 1, 0.01, 1, 3])
    rows[::7, 1, GROUP + 1] = 0
    return rows


def mixed(x, keys, values):
    scores = np.einsum("shrw,nhw->hrsn", x[:, :, :GROUP].astype(np.float64), keys) * 0.4
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    found = np.einsum("hrsn,nhw->hrsw", powers / powers.sum(-1, keepdims=True), values)
    return found.reshape(HEADS, -1, WIDTH)


def test_what_is_written_is_read_as_it_is_defined(compiled):
    """Prompts, steps across blocks, and a text that is cut short and goes on otherwise."""
    name, _, module = compiled
    module.reset()
    reference = Reference(name)
    plan = [
        (0, 40),
        *((at, 1) for at in range(40, 66)),
        (66, 4),
        (50, 3),
        (53, 1),
        (20, 1),
        (21, 45),
    ]
    for seed, (start, count) in enumerate(plan):
        x, n = drawn(seed, count), start + count
        found = (module.one if count == 1 else module.many)(x, np.arange(n))
        reference.write(start, x)
        keys, values = reference.read(n)
        np.testing.assert_allclose(found, mixed(x, keys, values), atol=2e-5 * np.abs(values).max())
        for got, wanted in zip(module.read(np.arange(n)), (keys, values), strict=True):
            if name != "i4":
                np.testing.assert_array_equal(got, wanted)
            else:  # Whether a code's value is rounded once or twice is open; a step is far more.
                np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def test_reset_empties_the_cache(compiled):
    _, _, module = compiled
    module.many(drawn(0, 40), np.arange(40))
    module.reset()
    for found in module.read(np.arange(POSITIONS)):
        np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize(("tokens", "positions"), [(70, 69), (70, 5), (3, 2)])
def test_more_tokens_than_positions_leave_the_cache_as_it_is(compiled, tokens, positions):
    """PyTorch's slice that begins before the tensor is empty then; nothing is written anywhere."""
    _, _, module = compiled
    module.reset()
    module.many(drawn(0, 40), np.arange(40))
    module.one(drawn(1, 1), np.arange(41))
    before = module.read(np.arange(POSITIONS))
    assert np.isfinite(module.many(drawn(2, tokens), np.arange(positions))).all()
    for found, wanted in zip(module.read(np.arange(POSITIONS)), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_rows_that_are_no_numbers_keep_to_themselves(compiled):
    name, _, module = compiled
    module.reset()
    x = drawn(1, 2)
    x[0, 0, GROUP + 1, 2] = np.inf
    x[1, 1, GROUP + 1, 1] = np.nan
    reference = Reference(name)
    reference.write(0, x)
    module.many(x, np.arange(2))
    found = module.read(np.arange(2))[1]
    wanted = reference.read(2)[1]
    assert np.isnan(wanted).sum() == (1 if name == "f16" else 2 * WIDTH)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_report_says_what_a_cache_takes(compiled):
    name, artifact, _ = compiled
    rows = {row["role"]: row for row in artifact.report["caches"]}
    assert [rows[role]["format"] for role in ("keys", "values")] == [name, name]
    whole = POSITIONS * HEADS * WIDTH * 4
    blocks, half = -(-POSITIONS // caches.BLOCK), -(-WIDTH // 2)
    sizes = {
        "f16": [whole // 2] * 2,
        "i8": [POSITIONS * HEADS * (WIDTH + 4)] * 2,
        "i4": [
            blocks * HEADS * half * (caches.BLOCK + 16) + caches.BLOCK * HEADS * half * 8 + 4,
            POSITIONS * HEADS * (half + 8),
        ],
    }[name]
    assert [rows[role]["bytes"] for role in ("keys", "values")] == sizes
    assert all(row["bytes_f32"] == whole for row in rows.values())
    # Zeros take no room in the archive.
    assert artifact.report["bytes"]["model.irpa"] <= 4096


def test_lmul_multiplies_what_is_read(tmp_path):
    """Both products by L-Mul, over a cache of 8 bits: prompts, and steps."""
    models = {name: model for name, model in programs().items() if name != "read"}
    place = tmp_path / "model.vmfb"
    artifact = lowc.compile(models, "lmul-attention", cache="i8", output=place)
    assert {row["form"] for row in artifact.report["matmuls"]} == {"lmul"}
    module, reference = lowc.load(artifact), Reference("i8")

    def by_lmul(a, b):
        return lmul.matmul(a.astype(np.float32), b, 4)

    for start, count in ((0, 33), (33, 1), (34, 1), (35, 20)):
        x, n = drawn(start, count), start + count
        x[:, 0, GROUP] /= np.float32([100, 1, 0.01, 1, 3])  # scores that a softmax can tell apart
        reference.write(start, x)
        found = (module.one if count == 1 else module.many)(x, np.arange(n))
        keys, values = (part.transpose(1, 0, 2) for part in reference.read(n))
        q = x[:, :, :GROUP].transpose(1, 2, 0, 3).reshape(HEADS, -1, WIDTH)

        def attend(product, q=q, keys=keys, values=values):
            scores = product(q, keys.transpose(0, 2, 1)) * np.float32(0.4)
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            return product(powers / powers.sum(-1, keepdims=True), values)

        # An operand at the edge of a step of 4 bits may fall on its other side: rounding before it.
        error = np.abs(found - attend(by_lmul))
        assert np.quantile(error, 0.9) < 1e-5 and error.max() < 0.1
        assert np.quantile(np.abs(found - attend(np.matmul)), 0.5) > 1e-3


class Part(torch.nn.Module):
    """Attention over a part of the heads and channels of a cache; `keep` cuts it."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep
        empty = torch.zeros(64, 4, 32)
        self.register_buffer("keys", empty, persistent=False)
        self.register_buffer("values", empty.clone(), persistent=False)

    def forward(self, q, k, v, positions):
        n = positions.shape[0]
        self.keys[n - 1 : n], self.values[n - 1 : n] = k, v
        keys, values = self.keep(self.keys, n), self.keep(self.values, n)
        scores = torch.bmm(q, keys.permute(1, 2, 0)) * 0.4
        return torch.bmm(torch.softmax(scores, -1), values.transpose(0, 1))


PARTS = {
    "whole": lambda cache, n: cache[:n],
    "channels": lambda cache, n: cache[:n, :, :16],
    "heads": lambda cache, n: cache[:n, :2],
    "heads_of_all": lambda cache, _n: cache[:, :2],
    "positions_of_heads": lambda cache, n: cache[:, :2][:n],
}


@pytest.mark.parametrize("name", BITS)
def test_heads_and_channels_that_are_not_read_are_not_read_by_the_kernel(name):
    """It steps over whole rows: for parts of them there is the portable way, and a reason."""
    torch.manual_seed(0)
    n = torch.export.Dim("n", min=1, max=64)
    models, given = {part: Part(keep) for part, keep in PARTS.items()}, {}
    rows = torch.zeros(1, 4, 32)
    for part, keep in PARTS.items():
        _, heads, width = keep(torch.zeros(64, 4, 32), 5).shape
        given[part] = torch.randn(heads, 3, width)
    programs = {
        part: torch.export.export(
            model, (given[part], rows, rows.clone(), torch.arange(7)),
            dynamic_shapes=({}, {}, {}, {0: n}), strict=False,
        )
        for part, model in models.items()
    }  # fmt: skip
    artifact = lowc.compile(programs, dataclasses.replace(load_recipe("f32"), cache=cache_of(name)))
    module = lowc.load(artifact)
    for part, model in models.items():
        module.reset()
        for place in range(5):
            k, v = torch.randn(1, 4, 32), torch.randn(1, 4, 32)
            # The newest block of keys in 4 bits is what was given.
            kept = [
                torch.from_numpy(caches.rounded(one.numpy(), form))
                for one, form in ((k, "f32" if name == "i4" else name), (v, name))
            ]
            wanted = model(given[part], *kept, torch.arange(place + 1)).numpy()
            found = module[part](given[part].numpy(), k.numpy(), v.numpy(), np.arange(place + 1))
            assert np.abs(found - wanted).max() < 1e-4, (part, place)
    lowerings = {row["name"]: row["lowering"] for row in artifact.report["matmuls"]}
    by_kernel = {key.partition("@")[2] for key, how in lowerings.items() if "attention" in how}
    assert "whole" in by_kernel and not by_kernel & {"channels", "heads"}
    why = "attention has no kernel: not all heads and channels of its caches are read"
    said = [one for one in artifact.report["remarks"] if why in one["message"]]
    assert {one["subject"].partition("@")[2] for one in said} >= {"channels", "heads"}


TEXT = """
util.global private mutable @keys {lowc.zeros} = #flow.parameter.named<"model"::"keys"> : tensor<SHAPE>
func.func @main(%new: tensor<1x2x16xf32>, %q: tensor<2x3x16xf32>, %at: index) -> tensor<2x3x40xf32> {
  %c = util.global.load @keys : tensor<SHAPE>
  %zero = arith.constant 0.0 : f32
  %d = tensor.insert_slice %new into %c[%at, 0, 0] [1, 2, 16] [1, 1, 1] : tensor<1x2x16xf32> into tensor<SHAPE>
  util.global.store %d, @keys : tensor<SHAPE>
  %e = tensor.empty() : tensor<2x16x40xf32>
  %k = linalg.transpose ins(%d : tensor<SHAPE>) outs(%e : tensor<2x16x40xf32>) permutation = [1, 2, 0]
  %es = tensor.empty() : tensor<2x3x40xf32>
  %z = linalg.fill ins(%zero : f32) outs(%es : tensor<2x3x40xf32>) -> tensor<2x3x40xf32>
  %s = linalg.batch_matmul {lowc.matmul = "a:qk", lowc.kind = "product"} ins(%q, %k : tensor<2x3x16xf32>, tensor<2x16x40xf32>) outs(%z : tensor<2x3x40xf32>) -> tensor<2x3x40xf32>
  return %s : tensor<2x3x40xf32>
}
""".replace("SHAPE", "40x2x16xf32")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((" {lowc.zeros}", ""), "not known to begin as zeros"),
        (("store %d", "store %x"), "all of it is written at once"),
        (("[1, 2, 16] [1, 1, 1] : tensor<1x2x16xf32>", "[1, 2, 8] [1, 1, 1] : tensor<1x2x8xf32>"),
         "no whole rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_in_rows_stays_f32_and_says_why(change, why):
    text = TEXT.replace(*change)
    if "x8xf32" in text:
        text = text.replace("%new: tensor<1x2x16xf32>", "%new: tensor<1x2x8xf32>")
    text = text.replace(
        "  util.global.store %x",
        "  %x = util.optimization_barrier %d : tensor<40x2x16xf32>\n  util.global.store %x",
    )
    module = parse_module(text, "caches")
    runner = Runner([QuantizeCaches(keys="i8")])
    runner.run(module)
    [remark] = [one for one in runner.remarks if one.pass_name == QuantizeCaches.name]
    assert why in remark.message
    assert "i8" not in str(module).replace("not i8", "")


def test_a_load_that_nobody_uses_goes_with_the_cache():
    text = TEXT.replace(
        "  return", "  %dead = util.global.load @keys : tensor<40x2x16xf32>\n  return"
    )
    module = parse_module(text, "caches")
    Runner([QuantizeCaches(keys="i8")]).run(module)
    assert "@keys :" not in str(module) and "@keys.i8.codes" in str(module)


def test_a_cache_of_other_elements_is_named_and_says_why():
    text = TEXT.replace("xf32", "xf16").replace(": f32", ": f16")
    module = parse_module(text, "caches")
    runner = Runner([QuantizeCaches(keys="i8")])
    runner.run(module)
    [row] = json.loads(annotations.text(module.operation, annotations.CACHES))
    assert row["why"] == "not i8: its elements are f16"
    assert (row["format"], row["bytes"], row["bytes_f32"]) == ("f16", 2560, 5120)
    [remark] = [one for one in runner.remarks if one.pass_name == QuantizeCaches.name]
    assert remark.message == "the cache stays f16: its elements are f16"


def test_a_cache_that_no_attention_reads_is_none():
    module = parse_module(TEXT.replace('"a:qk"', '"a:0"'), "caches")
    runner = Runner([QuantizeCaches(keys="i8", values="i8")])
    runner.run(module)
    assert "xi8" not in str(module)
    assert [str(remark) for remark in runner.remarks] == [
        f"{role} in i8: of what the model keeps none was recognised as {role} of attention "
        "[lowc-quantize-caches]"
        for role in ("keys", "values")
    ]


def test_recipes_choose_formats():
    rules = '[[rules]]\nmatch = "*"\nform = "exact"\n'
    recipe = parse_recipe('[cache]\nkeys = "i8"\nvalues = "i4"\n' + rules, "r", "r.toml")
    assert recipe.cache == Cache("i8", "i4") == cache_of("values=i4,keys=i8")
    assert parse_recipe(rules, "r", "r.toml").cache == Cache() == cache_of("f32")
    assert cache_of(" i8 ") == Cache("i8", "i8")
    for text, words in (
        ('[cache]\nkeys = "i9"\n', r"r.toml:1.*keys = 'i9' is no format of a cache"),
        ('[cache]\nkey = "i8"\n', r"the key 'key' of cache is unknown.*did you mean 'keys'"),
        ("cache = 8\n", "cache is a table"),
    ):
        with pytest.raises(UserError) as caught:
            parse_recipe(text + rules, "r", "r.toml")
        assert re.search(words, str(caught.value).replace("\n", " ")), caught.value
    for given, words in (
        ("i3", "'i3' is no format"),
        ("key=i8", "did you mean 'keys'"),
        ("keys=i8,values", "values = '' is no format"),
        ("keys=i8,keys=i4", "keys is there twice"),
        ("i8,i4", "(?s)'i8,i4' does not say of what.*keys=i8,values=i4"),
        (8, "a int is no format"),
    ):
        with pytest.raises(UserError, match=words):
            cache_of(given)
