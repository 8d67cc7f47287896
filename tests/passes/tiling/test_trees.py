"""Trees answered in NumPy, to the last bit as LightGBM answers them; and by LightGBM where not."""

import sys

import numpy as np
import pytest
from lowc.errors import UserError
from lowc.passes.tiling import forest, tree_text, trees

lightgbm = pytest.importorskip("lightgbm")
NAMES = tuple("abcdef")


def trained(leaves, objective="regression", rounds=7, seed=0):
    """Return a booster, and rows with many of a feature alike, as tiles of one product have."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(600, 6))
    x[:, 1], x[:, 2] = rng.integers(0, 4, 600), 3.5
    y = np.round(np.abs(x[:, 0] * x[:, 1] + np.sin(5 * x[:, 3])) + 0.1, 1).clip(0, 1)
    settings = {"verbosity": -1, "num_threads": 1, "num_leaves": leaves, "min_data_in_leaf": 3}
    ranks = objective == "lambdarank"
    data = lightgbm.Dataset(
        x, y.astype(int) if ranks else y, group=[30] * 20 if ranks else None,
        feature_name=list(NAMES),
    )  # fmt: skip
    return lightgbm.train({**settings, "objective": objective}, data, rounds), x


def files(*boosters):
    return [("model", one.model_to_string().encode()) for one in boosters]


@pytest.mark.parametrize("leaves", [2, 15, 16, 17, 32, 33, 64])
def test_forests_say_what_lightgbm_says(leaves):
    (one, x), (two, _) = trained(leaves), trained(leaves, "lambdarank", 4, 1)
    found = trees.load(files(one, two, one), NAMES)
    assert isinstance(found, forest.Forest)
    x[:40, 3] = 0.25
    for rows in (x[:1], x[:2], x[:3], x[:40], x[:65], x):
        expected = np.stack([booster.predict(rows) for booster in (one, two, one)])
        np.testing.assert_array_equal(found.predict(rows), expected)


@pytest.mark.parametrize("leaves", [2, 16, 33, 64])
def test_rows_that_have_most_in_common_walk(leaves, monkeypatch):
    """Whatever is decided for all of them at once: all but one feature, or all, or nothing."""
    monkeypatch.setattr(forest, "_ASKED", 1)
    booster, x = trained(leaves)
    found = trees.load(files(booster), NAMES)
    assert isinstance(found, forest.Forest)
    for differing in ([], [0], [1], [3], [0, 4], [*range(6)]):
        rows = np.repeat(x[5:6], 300, axis=0)
        rows[:, differing] = x[:300, differing]
        rows[-1, differing[:1]] = np.inf
        np.testing.assert_array_equal(found.predict(rows)[0], booster.predict(rows))


def test_a_value_at_a_threshold_goes_left():
    booster, x = trained(31)
    text, _ = tree_text.checked(booster.model_to_string(), NAMES)
    lines = [line for line in text.splitlines() if line.startswith("threshold=")]
    edges = np.unique([float(word) for line in lines for word in line.partition("=")[2].split()])
    rows = np.resize(x, (len(edges), 6))
    for place in range(6):
        rows[:, place] = edges
        expected = booster.predict(rows)
        np.testing.assert_array_equal(forest.Forest([text]).predict(rows)[0], expected)


def test_what_is_missing_counts_as_lightgbm_has_it():
    booster, x = trained(31)
    found = trees.load(files(booster), NAMES)
    assert isinstance(found, forest.Forest)
    x = np.where(np.random.default_rng(3).random(x.shape) < 0.3, np.nan, x)
    x[7], x[8, 0], x[9, 3] = np.nan, np.inf, -np.inf
    x[10], x[11], x[12] = 1e-36, -1.0000000180025095e-35, 1.1e-35  # the first two are its zero
    expected = booster.predict(x)
    np.testing.assert_array_equal(found.predict(x)[0], expected)
    alone = [found.predict(row[None])[0, 0] for row in x[:60]]
    np.testing.assert_array_equal(alone, expected[:60])


def test_trees_of_one_leaf_and_tables_in_parts(monkeypatch):
    booster, x = trained(31, rounds=20)
    alone = lightgbm.train(
        {"verbosity": -1, "min_data_in_leaf": 10_000}, lightgbm.Dataset(x, x[:, 0], feature_name=list(NAMES)), 1
    )  # fmt: skip
    monkeypatch.setattr(forest, "_MOST_BYTES", 20_000)
    found = forest.Forest([data.decode() for _, data in files(alone, booster)])
    assert len(found._blocks) > 2
    expected = np.stack([alone.predict(x), booster.predict(x)])
    np.testing.assert_array_equal(found.predict(x), expected)


@pytest.mark.parametrize(("leaves", "objective"), [(70, "regression"), (15, "poisson")])
def test_other_trees_are_lightgbm_s(leaves, objective, monkeypatch):
    booster, x = trained(leaves, objective)
    found = trees.load(files(booster), NAMES)
    assert not isinstance(found, forest.Forest)
    np.testing.assert_array_equal(found.predict(x)[0], booster.predict(x))
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(UserError, match="need LightGBM"):
        trees.load(files(booster), NAMES)


def test_trees_that_ask_for_missing_values_are_lightgbm_s():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6))
    y = x[:, 0].copy()
    x[::3, 0] = np.nan
    data = lightgbm.Dataset(x, y, feature_name=list(NAMES))
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, data, 3)
    found = trees.load(files(booster), NAMES)
    assert not isinstance(found, forest.Forest)
    np.testing.assert_array_equal(found.predict(x)[0], booster.predict(x))
