"""The budget of planes in a recipe: where planes go, what the report says, and what is refused."""

import dataclasses

import lowc
import numpy as np
import pytest
import torch
from lowc.compiler import planes
from lowc.compiler.analysis import analyse
from lowc.compiler.frontend import open_model
from lowc.compiler.recipe import Budget, Recipe, parse_recipe
from lowc.passes.forms import Form, Rule

BUDGET = """
average-planes = 2.5

[[rules]]
match = "*"
form = "binary"
planes = [1, 2, 3, 4]
group = 64
tables = "none"
"""


class Net(torch.nn.Module):
    """A layer whose weights are signs already, one that is random, and one too small to code."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.signs, self.random = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))
        self.small = torch.nn.Linear(64, 2, bias=False)
        self.narrow = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.signs.weight.copy_(self.signs.weight.sign() / 8)

    def forward(self, x):
        return self.narrow(self.small(self.random(torch.relu(self.signs(x)))))


@pytest.fixture(scope="module")
def exported():
    return torch.export.export(Net().eval(), (torch.ones(3, 64),))


def recipe_of(average=2.55, **changes):
    recipe = parse_recipe(BUDGET, "mine", "mine.toml")
    rule = recipe.rules[0]
    rules = (Rule("*", dataclasses.replace(rule.form, **changes)),)
    return dataclasses.replace(recipe, rules=rules, budget=Budget(average, recipe.budget.choices))


def test_planes_go_where_they_help(exported):
    artifact = lowc.compile(exported, recipe_of())
    found = artifact.report["planes"]
    # One plane says all of the signs; what is left over goes to the random weights.
    assert found["of"] == {"signs": 1, "random": 4, "small": found["of"]["small"]}
    sizes = {"signs": 64 * 64, "random": 64 * 64, "small": 2 * 64}
    spent = sum(sizes[name] * number for name, number in found["of"].items())
    assert (
        found["average"] == pytest.approx(spent / sum(sizes.values())) and found["average"] <= 2.55
    )
    rows = {row["name"]: row for row in artifact.report["matmuls"]}
    for name, number in found["of"].items():
        assert rows[name]["lowering"].startswith(f"{number} plane")
    # What cannot be coded is said, and spends nothing.
    assert rows["narrow"]["form"] == "exact" and "too small" in rows["narrow"]["lowering"]
    note = next(n for n in artifact.report["notes"] if n.startswith("planes of signs: 1 in 1, "))
    assert "0 of 3 matmuls measured on inputs" in note
    assert not any("earlier rules decide" in n for n in artifact.report["notes"])


class Apart(torch.nn.Module):
    """A layer of random weights, and one whose weights are signs for the later half of `k` inputs."""

    def __init__(self, k):
        super().__init__()
        torch.manual_seed(0)
        self.partly, self.fully = (torch.nn.Linear(k, 64, bias=False) for _ in range(2))
        with torch.no_grad():
            self.partly.weight[:, k // 2 :] = self.partly.weight[:, k // 2 :].sign() / 8

    def forward(self, x, y):
        return self.partly(x), self.fully(y)


def apart(k):
    """Return the program, and inputs that meet the signs: what is random meets zeros."""
    program = torch.export.export(Apart(k).eval(), (torch.ones(3, k), torch.ones(3, k)))
    x, y = (np.random.default_rng(n).standard_normal((3, k)).astype(np.float32) for n in (0, 1))
    x[:, : k // 2] = 0
    return program, x, y


def test_inputs_say_which_weights_matter():
    program, x, y = apart(64)
    recipe = recipe_of(2.5, group=32, method="auto")
    by_weight = analyse(program, recipe)["matmuls"]
    assert {row["name"]: row["lowering"][0] for row in by_weight} == {"partly": "2", "fully": "3"}
    found = lowc.compile(program, recipe, calibration=[(x, y)]).report["planes"]
    assert found["of"] == {"partly": 1, "fully": 4} and found["calibrated"] == 2
    # Inputs that meet what is random: the layers are alike.
    found = lowc.compile(program, recipe, calibration=[(np.roll(x, 32, axis=1), y)])
    assert found.report["planes"]["of"] != {"partly": 1, "fully": 4}


def test_a_budget_that_goes_by_inputs_is_spent_with_a_calibration_alone():
    program, x, y = apart(256)
    text = BUDGET.replace("2.5", '3\nallot-by = "inputs"').replace("group = 64", "group = 128")
    recipe = parse_recipe(text, "mine", "mine.toml")
    found = lowc.compile(program, recipe, calibration=[(x, y)]).report["planes"]
    assert found["of"]["partly"] < 3 < found["of"]["fully"]
    alone = lowc.compile(program, recipe).report
    assert "planes" not in alone
    assert {row["lowering"][0] for row in alone["matmuls"]} == {"3"}
    assert {row["lowering"][0] for row in analyse(program, recipe)["matmuls"]} == {"3"}


@pytest.mark.parametrize("average", [1, 4])
def test_the_ends_leave_no_choice(exported, average):
    found = analyse(exported, recipe_of(float(average)))
    rows = {row["name"]: row["lowering"][0] for row in found["matmuls"] if row["form"] == "binary"}
    # One plane already says all of the signs.
    assert rows == {"signs": rows["signs"], "random": str(average), "small": str(average)}


def test_uses_of_one_weight_have_the_same_planes():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 64)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    artifact = lowc.compile(
        torch.export.export(Twice().eval(), (torch.ones(3, 64),)), recipe_of(3.5)
    )
    assert artifact.report["planes"]["of"] == {"layer": 3, "layer#1": 3}


def test_two_rules_cannot_differ_about_one_weight():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    program = torch.export.export(Tied().eval(), (torch.ones(3, 64),))
    rule = parse_recipe(BUDGET, "mine", "mine.toml").rules[0]
    rules = (Rule("b", rule.form), Rule("*", rule.form))
    same = Recipe("mine", rules, budget=Budget(2, ((0, (1, 2)), (1, (1, 2)))))
    assert lowc.compile(program, same).report["planes"]["of"] == {"a": 2, "b": 2}
    other = dataclasses.replace(same, budget=Budget(2, ((0, (4,)), (1, (1, 2)))))
    with pytest.raises(lowc.UserError, match="'a' and 'b' share a weight, and their rules differ"):
        lowc.compile(program, other)


def test_other_rules_and_names_with_brackets(exported):
    rules = (Rule("small", Form()), Rule("*", recipe_of().rules[0].form))
    recipe = Recipe("mine", rules, budget=Budget(2.5, ((1, (2, 3)),)))
    with open_model(exported) as model:
        found = planes.allot(model, recipe, {})
    assert found.planes == {"signs": 2, "random": 3}
    assert [rule.match for rule in found.recipe.rules] == ["small", "signs", "random", "*"]
    assert found.recipe.budget is None
    decided = planes.decided(recipe, {"a[0]*": 2, "small": 3})
    # What another rule decides for is left to it; the open rule has nothing left.
    assert [(rule.match, rule.form.planes) for rule in decided.rules] == [
        ("small", 0), ("a[[]0][*]", 2),
    ]  # fmt: skip


def test_a_budget_that_some_weight_cannot_keep(exported):
    recipe = Recipe("mine", recipe_of().rules, budget=Budget(1.5, ((0, (2, 3)),)))
    with pytest.raises(
        lowc.UserError, match=r"1\.5 bits per weight on average are too few"
    ) as caught:
        lowc.compile(exported, recipe)
    assert caught.value.where == "recipe 'mine'"


def test_a_weight_that_is_not_finite():
    net = Net().eval()
    with torch.no_grad():
        net.random.weight[3, 5] = torch.nan
    with pytest.raises(lowc.UserError, match="cannot be stored anew") as caught:
        lowc.compile(torch.export.export(net, (torch.ones(3, 64),)), recipe_of())
    assert caught.value.where == "parameter 'random.weight'"
