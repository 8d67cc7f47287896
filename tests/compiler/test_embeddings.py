"""Tables that are looked up in few bits: to the bit what the stored codes mean, and stored once."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
from lowc.compiler.recipe import parse_recipe
from lowc.errors import UserError
from lowc.passes.formats.weights import rounded
from lowc.passes.forms import round_up_group

torch = pytest.importorskip("torch")

ROWS = 40
# Name of the table: columns, its type, and how it is stored.
TABLES = {
    "nibbles": (64, torch.float32, "i4", 32, True),
    "zeros": (72, torch.float32, "i4", 16, False),
    "whole": (72, torch.float32, "i8", 0, True),
    "short": (72, torch.float32, "i3", 32, True),
    "table": (64, torch.float32, "nf4", 32, True),
    "halves": (64, torch.float16, "i4", 64, True),
    "half_scales": (64, torch.float32, "i4", 32, True, "f16"),
}


def _keys(weights, group, symmetric, scales="f32", **more):
    more = {"weights": f'"{weights}"', "group": group, "symmetric": str(symmetric).lower(), **more}
    more["scales"] = f'"{scales}"'
    return "".join(f"{key} = {value}\n" for key, value in more.items())


def _rule(match, keys, *, of="embedding"):
    return f'[[rules]]\nmatch = "{match}"\nof = "{of}"\nform = "dequant"\n{keys}\n'


def _meant(table, weights, group, symmetric, scales="f32"):
    """What the codes of a table stand for, in f32."""
    weight = table.weight.detach().float().numpy()
    whole = round_up_group(weight.shape[1])
    group = min(group or whole, whole)
    return rounded(weight, weights, group, symmetric=symmetric, scales=scales)


class Tables(torch.nn.Module):
    """Rows of every table, and of one that no rule is for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name, (columns, dtype, *_) in TABLES.items():
            self.add_module(name, torch.nn.Embedding(ROWS, columns, dtype=dtype))
        self.exact = torch.nn.Embedding(ROWS, 8)
        self.register_buffer("turns", torch.randn(ROWS, 64))

    def forward(self, tokens):
        found = {name: getattr(self, name)(tokens) for name in (*TABLES, "exact")}
        return found | {"turns": self.turns[tokens]}


@pytest.fixture(scope="module")
def looked_up():
    model, tokens = Tables(), torch.from_numpy(np.random.default_rng(0).integers(0, ROWS, (2, 7)))
    n = torch.export.Dim("n", max=9)
    program = torch.export.export(model, (tokens,), dynamic_shapes=({1: n},))
    rules = "".join(_rule(name, _keys(*form)) for name, (_, _, *form) in TABLES.items())
    artifact = lowc.compile(program, parse_recipe(rules, "tables", "tables.toml"))
    return model, tokens.numpy(), artifact, lowc.load(artifact)(tokens)


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_what_their_codes_mean(looked_up, name):
    model, tokens, _, found = looked_up
    _, dtype, *form = TABLES[name]
    wanted = torch.from_numpy(_meant(getattr(model, name), *form)).to(dtype).numpy()[tokens]
    assert found[name].dtype == wanted.dtype
    np.testing.assert_array_equal(found[name], wanted)


def test_what_no_rule_is_for_stays_and_so_does_what_is_no_embedding(looked_up):
    model, tokens, artifact, found = looked_up
    np.testing.assert_array_equal(found["exact"], model.exact.weight.detach().numpy()[tokens])
    np.testing.assert_array_equal(found["turns"], model.turns.numpy()[tokens])
    rows = {row["name"]: row for row in artifact.report["embeddings"]}
    assert list(rows) == [*TABLES, "exact"]
    assert rows["exact"]["form"] == "exact" and rows["exact"]["bits_per_weight"] == 32
    assert rows["nibbles"]["bits_per_weight"] == 5 and rows["nibbles"]["shape"] == f"{ROWS}x64"
    assert rows["zeros"]["lowering"] == "rows of i4 codes, made floats where looked up"


def test_the_model_keeps_none_of_the_tables_that_are_in_few_bits(looked_up):
    _, _, artifact, _ = looked_up
    parameters = artifact.path.with_suffix(".irpa").stat().st_size
    codes = sum(ROWS * columns for columns, *_ in TABLES.values())
    assert parameters < codes * 1.5 + ROWS * (8 + 64) * 4 + 4096


@pytest.mark.vulkan
def test_codes_in_words_mean_the_same_on_vulkan():
    torch.manual_seed(0)
    names = ("nibbles", "zeros", "whole")
    model = torch.nn.ModuleDict({name: torch.nn.Embedding(ROWS, TABLES[name][0]) for name in names})
    model.forward = lambda tokens: tuple(one(tokens) for one in model.values())
    tokens = np.random.default_rng(0).integers(0, ROWS, 5)
    rules = "".join(_rule(name, _keys(*TABLES[name][2:])) for name in names)
    program = torch.export.export(model, (torch.from_numpy(tokens),))
    artifact = lowc.compile(program, parse_recipe(rules, "tables", "tables.toml"), "vulkan")
    for name, found in zip(names, lowc.load(artifact)(tokens), strict=True):
        np.testing.assert_array_equal(found, _meant(model[name], *TABLES[name][2:])[tokens])


class Tied(torch.nn.Module):
    """A table that is also the weight of a product."""

    def __init__(self, columns, rows):
        super().__init__()
        self.table = torch.nn.Embedding(rows, columns)
        self.head = torch.nn.Linear(columns, rows, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens)
        return x, self.head(x)


@pytest.mark.parametrize(
    ("columns", "rows", "form", "activations"),
    [
        (64, 100, ("i4", 32, True), "i8"), (72, 50, ("i4", 16, False), "f32"),
        (200, 70, ("i8", 0, True), "i8"), (64, 100, ("i4", 32, True, "f16"), "i8"),
        (72, 50, ("i4", 16, False, "f16"), "f32"),
    ],
)  # fmt: skip
def test_a_tied_table_is_looked_up_in_the_panels_of_the_product(columns, rows, form, activations):
    torch.manual_seed(0)
    model, tokens = Tied(columns, rows), np.random.default_rng(0).integers(0, rows, (2, 5))
    rules = _rule("*", _keys(*form))
    rules += _rule("*", _keys(*form, activations=f'"{activations}"'), of="matmul")
    artifact = lowc.compile(
        torch.export.export(model, (torch.from_numpy(tokens),)), parse_recipe(rules, "tied", "tied")
    )
    assert "kernel" in artifact.report["matmuls"][0]["lowering"]  # every vector unit has one
    [row] = artifact.report["embeddings"]
    assert "in the panels of a product" in row["lowering"]
    wanted = _meant(model.table, *form)[tokens]
    np.testing.assert_array_equal(lowc.load(artifact)(tokens)[0], wanted)


def test_a_tied_table_with_other_scales_has_rows_of_its_own():
    torch.manual_seed(0)
    model, tokens = Tied(64, 100), np.random.default_rng(0).integers(0, 100, (2, 5))
    rules = _rule("*", _keys("i4", 32, True))
    rules += _rule("*", _keys("i4", 32, True, "f16", activations='"i8"'), of="matmul")
    program = torch.export.export(model, (torch.from_numpy(tokens),))
    artifact = lowc.compile(program, parse_recipe(rules, "tied", "tied"))
    assert "rows of i4 codes" in artifact.report["embeddings"][0]["lowering"]
    wanted = _meant(model.table, "i4", 32, True)[tokens]
    np.testing.assert_array_equal(lowc.load(artifact)(tokens)[0], wanted)


def test_tables_of_models_that_generate_are_in_few_bits_under_built_in_recipes(tmp_path):
    torch.manual_seed(0)
    model, tokens = Tied(64, 48), np.array([3, 47, 0])
    program = torch.export.export(model, (torch.from_numpy(tokens),))
    artifact = lowc.compile({"one": program, "two": program}, "w4a8", output=tmp_path / "two.vmfb")
    assert [row["name"] for row in artifact.report["embeddings"]] == ["table@one", "table@two"]
    wanted = _meant(model.table, "i4", 32, True, "f16")[tokens]
    module = lowc.load(artifact)
    for entry in (module.one, module.two):
        np.testing.assert_array_equal(entry(tokens)[0], wanted)
    assert artifact.path.with_suffix(".irpa").stat().st_size < 64 * 64 + 4096  # 64 columns of codes
    # One that does not generate keeps its table as it is.
    alone = lowc.compile(program, "w4a8", output=tmp_path / "one.vmfb")
    assert [row["form"] for row in alone.report["embeddings"]] == ["exact"]
    assert "rule" not in "".join(alone.report["notes"])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('form = "lut"\nweights = "i4"\nof = "embedding"', "'lut' takes no 'of'|not for form 'lut'"),
        ('form = "lmul"\nof = "embedding"', "of = 'embedding' is not for form 'lmul'"),
        ('form = "exact"\nof = "elementwise"', "of = 'elementwise' is not for form 'exact'"),
        ('form = "dequant"\nweights = "i4"\nof = "embeding"', "of = 'embeding' is unknown"),
        ('form = "dequant"\nweights = "i4"\nactivations = "i8"\nof = "embedding"', "no activations"),
        ('form = "dequant"\nweights = "i4"\nmethod = "gptq"\nof = "embedding"', "no activations"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_are_refused(rule, words):
    with pytest.raises(UserError, match=words):
        parse_recipe(f'[[rules]]\nmatch = "*"\n{rule}\n', "wrong", "wrong.toml")
