"""Recipes: built-in ones load, and each mistake is named with its line and the nearest word."""

import lowc
import pytest
from lowc.compiler.recipe import Budget, built_in_names, load_recipe, parse_recipe
from lowc.passes.forms import Form, Rule, first_match, rules_from_text, rules_to_text

GOOD = '[[rules]]\nmatch = "*"\nform = "dequant"\nweights = "i4"\n'
BINARY = '[[rules]]\nmatch = "*"\nform = "binary"\nplanes = 2\n'
LUT = '[[rules]]\nmatch = "*"\nform = "lut"\nweights = "i4"\n'
MISTAKES = {
    "not TOML": ("rules = [", "not valid TOML", ""),
    "no rules": ('description = "x"\n', "no [[rules]]", ""),
    "unknown top key": ('rulez = 1\n' + GOOD, "'rulez' is unknown", "did you mean 'rules'?"),
    "unknown key": (GOOD + "grup = 32\n", "'grup' is unknown", "did you mean 'group'?"),
    "unknown form": (
        GOOD.replace('"dequant"', '"dequent"'), "form = 'dequent' is unknown",
        "did you mean 'dequant'?",
    ),
    "unknown weights": (GOOD.replace("i4", "i44"), "weights = 'i44' is unknown", "'i4'"),
    "wrong type": (GOOD + 'group = "32"\n', "has the type str, not int", ""),
    "boolean as number": (GOOD + "group = true\n", "has the type bool, not int", ""),
    "impossible group": (GOOD + "group = 20\n", "group = 20 is not", "16, 32, 64"),
    "negative group": (GOOD + "group = -16\n", "group = -16 is not", ""),
    "no match": ('[[rules]]\nform = "exact"\n', "no 'match'", ""),
    "no form": ('[[rules]]\nmatch = "*"\n', "no 'form'", "exact"),
    "exact with weights": (
        '[[rules]]\nmatch = "*"\nform = "exact"\nweights = "i4"\n', "takes no 'weights'", "",
    ),
    "a zero point of floats": (
        GOOD.replace("i4", "nf4") + "symmetric = false\n", "weights = 'nf4' have no zero point", "'i4'",
    ),
    "error feedback of floats": (
        GOOD.replace("i4", "nf4") + 'method = "gptq"\n',
        "method = 'gptq' needs integer weights, not 'nf4'", 'method = "rtn"',
    ),
    "an unknown method": (
        GOOD + 'method = "gptk"\n', "method = 'gptk' is unknown", "did you mean 'gptq'?",
    ),
    "i8 activations with float weights": (
        GOOD.replace("i4", "f8E4M3FN") + 'activations = "i8"\n',
        "activations = 'i8' need integer weights, not 'f8E4M3FN'", 'activations = "f32"',
    ),
    "unknown activations": (GOOD + 'activations = "i4"\n', "activations = 'i4' is unknown", "i8"),
    "a scale of what stays float": (
        GOOD + 'activation-scale = "group"\n', "activations = 'f32' have no scale", '"i8"',
    ),
    "unknown scale": (
        GOOD + 'activations = "i8"\nactivation-scale = "rows"\n',
        "activation-scale = 'rows' is unknown", "did you mean 'row'?",
    ),
    "scales of another format": (
        GOOD + 'scales = "f61"\n', "scales = 'f61' is unknown", "did you mean 'f16'?",
    ),
    "scales of weights that have others": (
        GOOD + 'scales = "power"\n', "scales = 'power' is unknown", "",
    ),
    "scales of look-ups": (LUT + 'scales = "f16"\n', "form 'lut' takes no 'scales'", "group"),
    "no planes": (BINARY.replace("planes = 2", ""), "the rule has no 'planes'", "paper"),
    "too many planes": (BINARY.replace("2", "5"), "planes = 5 is not 1 to 4", ""),
    "too many terms": (BINARY + "terms = 4\n", "terms = 4 is not 1 to 3", ""),
    "negative outputs": (BINARY + "outputs = -1\n", "outputs = -1 is negative", "all of N"),
    "a group that is no part of a word": (BINARY + "group = 48\n", "group = 48 is not 1, 2", "128"),
    "a negative group of signs": (BINARY + "group = -32\n", "group = -32 is not 1, 2", ""),
    "unknown tables": (BINARY + 'tables = "i9"\n', "tables = 'i9' is unknown", "'i"),
    "a span of no tables": (BINARY + "span = 48\n", "span = 48 is not 16, 32, 64 or 128", "64"),
    "a span of inputs that are added": (
        BINARY + 'tables = "none"\nspan = 32\n', "tables = 'none' have no span", "leave span out",
    ),
    "planes of activations": (
        '[[rules]]\nmatch = "*"\nform = "bipolar"\nplanes = 5\n', "planes = 5 is not 1 to 4",
        "1 is the sign alone",
    ),
    "no planes of activations": (
        '[[rules]]\nmatch = "*"\nform = "bipolar"\nplanes = 0\n', "planes = 0 is not 1 to 4",
        "1 is the sign alone",
    ),
    "scales of activations": (
        '[[rules]]\nmatch = "*"\nform = "bipolar"\nscales = "f16"\n',
        "scales = 'f16' is unknown", "power",
    ),
    "a group shorter than a table": (BINARY + "group = 2\n", "group = 2 is too short", "none"),
    "a span in two groups": (BINARY + "group = 96\n", "group = 96 is no multiple of span = 64", ""),
    "rounded to nearest signs": (BINARY + 'method = "rtn"\n', "method = 'rtn' is unknown", "bcq"),
    "look-up of nothing": (LUT + 'tables = "none"\n', "tables = 'none' is no look-up", "dequant"),
    "look-up of 8 bits": (LUT.replace("i4", "i8"), "weights = 'i8' is unknown", "i4"),
    "look-up in short groups": (LUT + "group = 2\n", "group = 2 is too short", ""),
    "binary codes of look-up": (LUT + 'method = "bcq"\n', "method = 'bcq' is unknown", "rtn"),
    "ternary packing": (
        '[[rules]]\nmatch = "*"\nform = "ternary"\npacking = "tris"\n', "packing = 'tris' is unknown", "'trits",
    ),
    "trits without tables": (
        '[[rules]]\nmatch = "*"\nform = "ternary"\ntables = "none"\npacking = "trits"\n',
        "packing = 'trits' is for look-ups", "packing",
    ),
    "ternary tables": (
        '[[rules]]\nmatch = "*"\nform = "ternary"\ntables = "i4"\n', "tables = 'i4' is unknown", "'i",
    ),
    "a list of planes of activations": (
        'average-planes = 1.5\n[[rules]]\nmatch = "*"\nform = "bipolar"\nplanes = [1, 2]\n',
        "a list of planes is for weights", "planes = 1",
    ),
    "planes of powers": (
        '[[rules]]\nmatch = "*"\nform = "shift"\nplanes = 2\n', "takes no 'planes'", "",
    ),
    "a choice without a budget": (
        BINARY.replace("2", "[2, 3]"), "a list of planes needs 'average-planes'", "average-planes = 3",
    ),
    "a budget without a choice": (
        "average-planes = 2\n" + BINARY, "average-planes is for rules with a list", "[2, 3, 4]",
    ),
    "a budget that is no number": (
        'average-planes = "3"\n' + BINARY.replace("= 2", "= [2, 3]"), "'3' is no number", "",
    ),
    "a budget below all choices": (
        "average-planes = 1.5\n" + BINARY.replace("= 2", "= [2, 3]"),
        "average-planes = 1.5 is not 2 to 3", "",
    ),
    "a budget by something else": (
        'average-planes = 2\nallot-by = "input"\n' + BINARY.replace("= 2", "= [2, 3]"),
        "allot-by = 'input' is unknown", "inputs",
    ),
    "allotting without a budget": (
        'allot-by = "inputs"\n' + BINARY, "allot-by is for a budget", "average-planes = 3",
    ),
    "no calibration, and a half plane": (
        'average-planes = 2.5\nallot-by = "inputs"\n' + BINARY.replace("= 2", "= [2, 3]"),
        "all would get 2.5 planes", 'allot-by = "any"',
    ),
    "a choice of too many planes": (
        "average-planes = 2\n" + BINARY.replace("= 2", "= [2, 5]"), "planes = [2, 5] is no list", "",
    ),
    "a choice of nothing": (
        "average-planes = 2\n" + BINARY.replace("= 2", "= []"), "planes = [] is no list", "",
    ),
    "a choice of planes in another form": (
        "average-planes = 2\n" + GOOD + "planes = [1, 2]\n", "takes no 'planes'", "weights",
    ),
    "weights of signs": (BINARY + 'weights = "i4"\n', "takes no 'weights'", "planes"),
    "a rule is no table": ("rules = [1]\n", "a rule is a table", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", built_in_names())
def test_built_in_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.rules and recipe.description
    assert rules_from_text(rules_to_text(recipe.rules), "x") == recipe.rules


def test_w4a16_leaves_products_alone():
    rules = load_recipe("w4a16").rules
    assert first_match(rules, "encoder.0.attention:qk").form.form == "exact"
    assert first_match(rules, "encoder.0.attention.query").form.form == "dequant"


@pytest.mark.parametrize(("name", "bits", "scale"), [("w4a8", 4, "group"), ("w8a8", 8, "row")])
def test_recipes_of_integer_products(name, bits, scale):
    rules = load_recipe(name).rules
    form = first_match(rules, "encoder.0.attention.query").form
    assert (form.bits, form.activations, form.activation_scale) == (bits, "i8", scale)
    assert first_match(rules, "encoder.0.attention:pv").form.form == "exact"


@pytest.mark.parametrize("planes", [2, 3, 4])
def test_recipes_of_shift_add(planes):
    rules = load_recipe(f"shiftadd-{planes}").rules
    form = first_match(rules, "encoder.0.attention.query").form
    tables = {2: "i6", 3: "i7", 4: "i8"}[planes]
    assert (form.form, form.planes, form.terms, form.tables) == ("binary", planes, 3, tables)
    assert (form.group, form.span, form.method) == (128, 128, "auto")
    assert first_match(rules, "encoder.0.attention:pv").form.form == "exact"


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_recipes_of_look_up(bits):
    rules = load_recipe(f"lut-{bits}").rules
    form = first_match(rules, "encoder.0.attention.query").form
    assert (form.form, form.bits, form.tables, form.symmetric) == ("lut", bits, "i8", False)
    assert first_match(rules, "encoder.0.attention:pv").form.form == "exact"


def test_the_ternary_recipe():
    form = first_match(load_recipe("ternary").rules, "encoder.0.attention.query").form
    assert (form.form, form.tables, form.to_dict()) == (
        "ternary", "i7", {"form": "ternary", "tables": "i7", "span": 128, "packing": "bits"},
    )  # fmt: skip


def test_defaults_of_a_form():
    rule = parse_recipe(BINARY, "mine", "mine.toml").rules[0]
    assert (rule.form.group, rule.form.method) == (128, "auto")
    assert parse_recipe(GOOD, "mine", "mine.toml").rules[0].form.group == 32
    # Without tables no span has to fit.
    text = BINARY + 'tables = "none"\ngroup = 96\n'
    assert parse_recipe(text, "mine", "mine.toml").rules[0].form.group == 96


def test_a_budget_of_planes():
    text = "average-planes = 2.5\n" + GOOD + BINARY.replace("= 2", "= [3, 2, 4]")
    recipe = parse_recipe(text, "mine", "mine.toml")
    assert recipe.budget == Budget(2.5, ((1, (2, 3, 4)),))
    assert recipe.rules[1].form.planes == 4
    with pytest.raises(lowc.UserError) as caught:
        parse_recipe(text.replace("2.5", "1"), "mine", "mine.toml")
    assert caught.value.where == "mine.toml:1"
    with pytest.raises(lowc.UserError) as caught:
        parse_recipe(text.replace("4]", "0]"), "mine", "mine.toml")
    assert caught.value.where == "mine.toml:9"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    text, what, hint = MISTAKES[name]
    with pytest.raises(lowc.UserError) as caught:
        parse_recipe(text, "mine", "mine.toml")
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert caught.value.where.startswith("mine.toml")


def test_the_line_is_that_of_the_key():
    text = '# first\n[[rules]]\nmatch = "a"\nform = "exact"\n\n' + GOOD + "\ngrup = 1\n"
    with pytest.raises(lowc.UserError) as caught:
        parse_recipe(text, "mine", "mine.toml")
    assert caught.value.where == "mine.toml:11"


def test_first_match_wins():
    rules = (Rule("a.*", Form()), Rule("*", Form("dequant", "i8", 64)))
    assert first_match(rules, "a.b").form.form == "exact"
    assert first_match(rules, "b").form.weights == "i8"


def test_unknown_name_and_missing_file(tmp_path):
    with pytest.raises(lowc.UserError, match=r"no recipe 'w4a61'\n.*did you mean 'w4a16'"):
        load_recipe("w4a61")
    with pytest.raises(lowc.UserError, match=r"missing\.toml: the recipe file does not exist"):
        load_recipe(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(lowc.UserError, match="cannot be read"):
        load_recipe(tmp_path / "binary.toml")


def test_scales_of_f16_are_said_and_those_of_f32_are_not():
    """What was written before there were any reads as it did."""
    rules = parse_recipe(GOOD + 'scales = "f16"\n' + GOOD, "two", "two.toml").rules
    assert [rule.form.scales for rule in rules] == ["f16", "f32"]
    assert rules[0].to_dict()["scales"] == "f16" and "scales" not in rules[1].to_dict()
    assert rules_from_text(rules_to_text(rules), "test") == rules
    assert [rule.form.scales for rule in load_recipe("w4a8").rules] == ["f32", "f16", "f16"]
