"""Models that are fitted to records, their evaluation, and the report: on times that follow a formula."""

import dataclasses
import json

import numpy as np
import pytest
from lowc import UserError
from lowc.passes.tiling import choice, space
from lowc.tools.cli import main
from lowc.tools.report import cost_model
from lowc.tools.tune import baselines, evaluate, fit, fit_text, measured, trees
from lowc.tools.tune.store import Store
from tiny.measurements import HERE, records

pytest.importorskip("lightgbm")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def tables():
    return measured.tables(records())


@pytest.fixture(scope="module")
def held(tables):
    return evaluate.cross_validate(tables, lambda _: None, folds=3, rounds=40)


def test_no_shape_is_in_two_folds(tables):
    folds = evaluate.folds_of(tables)
    by_family = {}
    for table, fold in zip(tables, folds, strict=True):
        by_family.setdefault((table.problem.n, table.problem.k), set()).add(fold)
    assert all(len(found) == 1 for found in by_family.values())
    assert len(set(folds)) > 1


def test_held_out_products_are_ranked(tables, held):
    found = fit.metrics_of(held)
    assert set(found) >= {"all", "f32", "lmul", fit.WHOLE}
    assert found["all"]["products"] == found[fit.WHOLE]["products"] == len(tables)
    assert found["all"]["tau"] > 0.3
    assert found["all"]["mean_regret"] < found["all"]["default_regret"]
    assert len(held.predictions) == len(tables)


def test_an_unsure_prediction_leaves_the_default(tables, held):
    table, found = tables[0], held.predictions[0]
    better = dataclasses.replace(
        found, seconds=np.where(np.arange(len(found.seconds)) == 3, 0.5, 1.0)
    )
    sure = dataclasses.replace(better, spread=np.full_like(found.spread, 0.1))
    unsure = dataclasses.replace(better, spread=np.full_like(found.spread, 0.9))
    assert evaluate.decide(table, sure) == 3 and evaluate.decide(table, unsure) == table.default


def test_only_tiles_that_can_be_chosen_are_judged(tables):
    table = tables[0]
    mask = np.arange(len(table.seconds)) != 1
    assert evaluate.judged_part(table, whole=False).all()  # all of them are candidates
    wide = next(one for one in space.every(table.problem) if one not in set(table.tilings)
                and one not in set(space.candidates(table.problem)))  # fmt: skip
    grown = dataclasses.replace(
        table, tilings=(*table.tilings, wide), seconds=np.append(table.seconds, 1e-9),
        noise=np.append(table.noise, 0.0),
    )  # fmt: skip
    part = evaluate.judged_part(grown, whole=False)
    assert part.tolist() == [True] * len(table.seconds) + [False]
    assert grown.only(part).best == table.best and grown.best == 1e-9
    less = table.only(mask)
    assert less.default == 0 and less.tilings == (table.tilings[0], *table.tilings[2:])
    assert table.only(~mask).default == -1


def test_the_margin_of_a_fold_is_that_of_the_others(tables, held):
    """Where a product of a fold is what asks for the margin, that fold's margin is smaller."""
    where = evaluate.folds_of(tables, 3)
    assert len(held.nested) == len(tables)
    assert all(len({held.nested[i] for i, of in enumerate(where) if of == fold}) == 1
               for fold in set(where))  # fmt: skip
    said = [np.ones(len(table.seconds)) for table in tables]
    over = [table.seconds.max() / table.seconds[0] for table in tables]
    worst = int(np.argmax(over))
    assert over[worst] > 1.1
    said[worst][np.argmax(tables[worst].seconds)] = 0.2  # said to be five times as fast
    here, elsewhere = (
        evaluate._margin(tables, said, where, fold)
        for fold in (where[worst], next(of for of in where if of != where[worst]))
    )
    assert here == choice.LEAST_GAIN and elsewhere > np.log(5)


def test_other_tables_are_judged_by_what_was_learnt_without_their_family(tables, held):
    """Twice the times of the same products: the same predictions and margins, other errors."""
    slow = [dataclasses.replace(table, seconds=2 * table.seconds) for table in tables]
    both = evaluate.cross_validate(tables, lambda _: None, folds=3, rounds=40, others=slow)
    assert both.others.nested == both.nested == held.nested
    for one, other in zip(both.predictions, both.others.predictions, strict=True):
        assert one.seconds == pytest.approx(other.seconds)
    first, second = both.scores(), both.others.scores()
    assert [one.regret for one in first] == pytest.approx([one.regret for one in second])
    assert np.mean([one.percent_error for one in second]) > 0.4


def test_the_margin_can_be_less_of_the_disagreement(held):
    loose = held.with_factors((0.0,))
    assert {one.spread_factor for one in loose.nested} == {0.0}
    assert min(one.spread_factor for one in held.nested) >= min(evaluate.FACTORS)
    assert held.with_factors(evaluate.FACTORS).nested == held.nested


@pytest.mark.slow
def test_rows_are_split_by_several_seeds(tables):
    found = evaluate.gpperf_split(tables[:8], (0, 1))
    assert {len(values) for values in found.values()} == {2}
    assert found["trees"][0] != found["trees"][1]


@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_baselines_predict_held_out_products(tables, name):
    found = evaluate.cross_validate_baseline(name, tables[:12], folds=2)
    scores = found.scores()
    assert len(scores) == 12 and all(np.isfinite(one.percent_error) for one in scores)
    if name in ("roofline", "alpha-FLOPs"):  # they see no tiles
        assert all(one.regret == one.default_regret for one in scores)


def test_formulas_find_what_times_are_made_of(tables):
    rows = [trees.rows_of(table) for table in tables]
    formulas = trees.fit_formulas(tables, rows)
    assert set(formulas) == {"f32/kernel", "lmul/kernel"}
    predict = baselines.formula(tables)
    errors = [np.abs(predict(table) / table.seconds - 1).mean() for table in tables]
    assert np.mean(errors) < 0.3 and min(min(one) for one in formulas.values()) >= 0


def test_too_few_records_are_refused(tmp_path):
    with pytest.raises(UserError, match="of 0 products, fewer than 10"):
        fit.fit([], tmp_path, lambda _: None)
    with pytest.raises(UserError, match="of 0 products, fewer than 4"):
        fit.fit([], tmp_path, lambda _: None, backend="vulkan")
    few = list(records(shapes=[(64, 64, 96)]))
    with pytest.raises(UserError, match="of 2 products"):
        fit.fit(few, tmp_path, lambda _: None)
    same = list(records(shapes=[(m, 64, 96) for m in range(1, 13)], forms=("f32",)))
    with pytest.raises(UserError, match="too few shapes"):
        trees.train(measured.tables(same))


def test_the_machine_with_the_most_products_is_taken(tables):
    other = dataclasses.replace(HERE, name="B")
    some = [dataclasses.replace(table, machine=other) for table in tables[:3]]
    said = []
    kept, machine = fit.of_one_machine([*some, *tables], said.append)
    assert machine == HERE and len(kept) == len(tables) and "of 2 machines" in said[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("store") / "s.sqlite"
    with Store(str(place)) as opened:
        opened.add(
            records(
                8,
                shapes=[
                    (m, n, k)
                    for m in (16, 64, 128)
                    for n, k in ((64, 96), (384, 384), (1000, 200), (250, 768))
                ],
            )
        )
    return str(place)


@pytest.mark.slow
def test_the_command_line(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOWC_MODELS", str(tmp_path / "home"))
    assert main(["tune", "--store", store, "--fit", "home"]) == 0
    said = capsys.readouterr().err
    assert "24 products" in said and "the default" in said
    folder = tmp_path / "home" / HERE.key
    assert main(["report", "cost-model", "--model", str(folder)]) == 0
    assert cost_model.TREES in capsys.readouterr().out
    assert main(["report", "cost-model", "--store", store, "--plots", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["models"]) == {
        *(f"{cost_model.TREES}{how}" for how in ("", ", no margin", ", any margin", ", all rounds")),
        *baselines.BASELINES,
        *(f"{name}, with a margin" for name in baselines.BASELINES),
    }  # fmt: skip
    assert set(found[fit.WHOLE]) == {cost_model.TREES, *baselines.BASELINES}
    assert found["products"] == 24 and found["learning curve"]
    assert found["rounds"] == found["products of one round"] == 24 and not found["dropped rounds"]
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {
        f"{n}.png" for n in ("predicted", "regret", "learning-curve", "importance", "landscape")
    }
    with Store(tmp_path / "empty.sqlite"):
        pass
    assert main(["report", "cost-model", "--store", str(tmp_path / "empty.sqlite")]) == 2
    assert "fewer than 10" in capsys.readouterr().err


def test_kernels_of_one_weight_are_held_out_together():
    assert fit_text.weight_of("1x7x384x96") == fit_text.weight_of("1xdx384x96") == "384x96"
    assert fit_text.weight_of("12x128x77") == "77"
