"""LightGBM's text, checked: genuine models pass and predict the same, damaged ones never reach it."""

import numpy as np
import pytest
from lowc.passes.tiling import tree_text

lightgbm = pytest.importorskip("lightgbm")
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = x[:, 0] + (x[:, 1] > 0) * x[:, 2]
    settings = {"verbosity": -1, "num_threads": 1, "num_leaves": 7, "min_data_in_leaf": 5}
    data = lightgbm.Dataset(x, y, feature_name=list(NAMES))
    booster = lightgbm.train({**settings, "objective": "regression"}, data, 5)
    return booster, booster.model_to_string(), x


def test_a_genuine_model_predicts_the_same(model):
    booster, text, x = model
    written, count = tree_text.checked(text, NAMES)
    again = lightgbm.Booster(model_str=written)
    assert count == 5
    np.testing.assert_array_equal(again.predict(x), booster.predict(x))
    x = np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, x)
    np.testing.assert_array_equal(again.predict(x), booster.predict(x))
    assert tree_text.checked(written, NAMES)[1] == 5


def test_a_ranking_model_predicts_the_same():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    data = lightgbm.Dataset(x, rng.integers(0, 3, 100), group=[20] * 5, feature_name=list(NAMES))
    settings = {"verbosity": -1, "num_threads": 1, "objective": "lambdarank", "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, data, 4)
    written, _ = tree_text.checked(booster.model_to_string(), NAMES)
    found = lightgbm.Booster(model_str=written).predict(x)
    np.testing.assert_array_equal(found, booster.predict(x))


@pytest.mark.parametrize(
    "objective",
    ["regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie",
     "cross_entropy", "cross_entropy_lambda", "rank_xendcg", "binary"],
)  # fmt: skip
def test_objectives_of_one_number_predict_the_same(objective):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    y = (x[:, 0] > 0).astype(float) + 1e-3 * (objective == "gamma")
    group = [20] * 5 if "rank" in objective else None
    data = lightgbm.Dataset(x, y, group=group, feature_name=list(NAMES))
    settings = {"verbosity": -1, "num_threads": 1, "objective": objective, "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, data, 4)
    written, _ = tree_text.checked(booster.model_to_string(), NAMES)
    found = lightgbm.Booster(model_str=written).predict(x)
    np.testing.assert_array_equal(found, booster.predict(x))


def test_whole_numbers_are_written_as_they_were_understood(model):
    line = line_of(model[1], "split_feature")
    again = line.replace("=", "=00", 1)
    assert line in tree_text.checked(model[1].replace(line, again, 1), NAMES)[0]


def line_of(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"{name}="))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("left_child", lambda w: ["99", *w[1:]], "no parent, or with two"),
        ("left_child", lambda w: ["0", *w[1:]], "before its parent"),
        ("right_child", lambda w: ["-99", *w[1:]], "no parent, or with two"),
        ("right_child", lambda w: w[:-1], "values of right_child"),
        ("split_feature", lambda w: ["3", *w[1:]], "asks for feature 3 of 3"),
        ("split_feature", lambda w: ["-1", *w[1:]], "asks for feature -1"),
        ("split_feature", lambda w: ["1.5", *w[1:]], "no whole number"),
        ("decision_type", lambda w: ["1", *w[1:]], "decision of kind 1"),
        ("threshold", lambda w: ["nan", *w[1:]], "threshold 'nan'"),
        ("threshold", lambda w: ["1e999", *w[1:]], "threshold '1e999'"),
        ("leaf_value", lambda w: [*w, "1"], "values of leaf_value"),
        ("num_leaves", lambda _: ["999999999"], "leaves, not 1 to"),
        ("num_leaves", lambda _: ["-1"], "leaves, not 1 to"),
        ("num_cat", lambda _: ["1"], "categories"),
        ("shrinkage", lambda _: ["x"], "shrinkage 'x'"),
        ("feature_names", lambda w: w[::-1], "other features"),
        ("num_class", lambda _: ["2"], "more than one number"),
        ("shrinkage", lambda _: ["1e999"], "shrinkage '1e999'"),
        ("objective", lambda _: ["a\\b"], "objective is 'a"),
        (
            "objective",
            lambda _: ["multiclass", "num_class:9"],
            "objective is 'multiclass num_class:9'",
        ),
        (
            "objective",
            lambda _: ["multiclassova", "num_class:9", "sigmoid:1"],
            "none that gives one",
        ),
        ("objective", lambda _: ["regression", "num_class:9"], "none that gives one"),
        ("objective", lambda _: ["binary", "sigmoid:0.0"], "none that gives one"),
        # Digits to Python, and 0 to LightGBM, which then finds node 0 to be its own child.
        ("left_child", lambda w: [chr(0x660 + int(w[0])), *w[1:]], "not ASCII"),
        ("leaf_value", lambda w: ["\uff11", *w[1:]], "not ASCII"),
        ("num_leaves", lambda w: [chr(0x660 + int(w[0]))], "not ASCII"),
    ],
)
def test_damage_is_named(model, name, change, said):
    line = line_of(model[1], name)
    words = change(line.partition("=")[2].split(" "))
    damaged = model[1].replace(line, f"{name}=" + " ".join(words), 1)
    assert damaged != model[1]
    with pytest.raises(tree_text.TreeError, match=said):
        tree_text.checked(damaged, NAMES)


def test_what_is_no_model_is_refused(model, monkeypatch):
    with pytest.raises(tree_text.TreeError, match="no end of its trees"):
        tree_text.checked(model[1][:600], NAMES)
    monkeypatch.setattr(tree_text, "MOST_TREES", 3)
    with pytest.raises(tree_text.TreeError, match="5 trees, more than 3"):
        tree_text.checked(model[1], NAMES)
    monkeypatch.setattr(tree_text, "MOST_BYTES", 100)
    with pytest.raises(tree_text.TreeError, match="larger"):
        tree_text.checked(model[1], NAMES)


def test_forests_that_average_are_refused(model):
    """Their text has the line `average_output`: added up, their trees would say too much."""
    _, _, x = model
    settings = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5, "verbosity": -1}
    data = lightgbm.Dataset(x, x[:, 0], feature_name=list(NAMES))
    text = lightgbm.train({**settings, "num_threads": 1}, data, 3).model_to_string()
    with pytest.raises(tree_text.TreeError, match="boosting=rf"):
        tree_text.checked(text, NAMES)
