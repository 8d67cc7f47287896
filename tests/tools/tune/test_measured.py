"""Records as tables: rounds of other speed, and tiles that failed."""

import dataclasses

import pytest
from lowc.passes.tiling import space
from lowc.tools.tune import measured
from products.problems import problem as product
from tiny.measurements import HERE, problem, records

ONE = problem(64, 384, 384)
TILINGS = space.candidates(ONE)


def record(place, seconds, round_="a", **more):
    (first, *_) = records(1, [(64, 384, 384)], ["f32"])
    return dataclasses.replace(
        first, tiling=TILINGS[place].text, seconds=seconds, round=round_, **more
    )


def test_the_least_time_of_a_tile_and_the_order_of_the_space():
    found = [record(3, 3.0), record(0, 1.0), record(0, 2.0), record(0, 9.0), record(2, 4.0)]
    (table,) = measured.tables([*found, record(1, 5.0), record(4, 1.0, outcome="crash")])
    assert table.tilings == tuple(TILINGS[:4]) and table.default == 0
    assert table.seconds.tolist() == [1.0, 5.0, 4.0, 3.0] and table.best == 1.0
    assert table.family == "1x384x384" and table.machine == HERE


def test_a_tile_of_a_slower_round_only_is_brought_to_the_level_of_the_others():
    first = [record(i, 1.0 + i) for i in range(4)]
    second = [record(0, 2.0, "b"), record(4, 6.0, "b")]
    (table,) = measured.tables(first + second)
    assert table.seconds.tolist() == [1.0, 2.0, 3.0, 4.0, 3.0]


def test_rounds_that_differ_in_level_are_not_mixed():
    """The second round is faster by a fifth: each tile is where both rounds have it."""
    first = [record(i, 2.0 + i) for i in range(4)]
    second = [record(i, (2.0 + i) * 0.8, "b") for i in (0, 1, 4)]
    (table,) = measured.tables(first + second)
    assert table.seconds == pytest.approx([2.0, 3.0, 4.0, 5.0, 6.0])
    lonely = [record(5, 1e-6, "c")]  # nothing ties it to the others
    (table,) = measured.tables(first + second + lonely)
    assert len(table.seconds) == 5


def test_of_two_processes_the_middle_counts_for_each_tile():
    first = [record(i, 2.0 + i, spread=0.1, blocks=9) for i in range(4)]
    second = [record(i, 0.9 + 1.8 * i, "b", spread=0.01, blocks=9) for i in range(4)]
    (table,) = measured.tables(first + second)
    factor = (3 / 2.7 + 4 / 4.5) / 2
    wanted = [(2.0 + i + factor * (0.9 + 1.8 * i)) / 2 for i in range(4)]
    assert table.seconds == pytest.approx(wanted) and not table.is_pooled
    assert (table.noise > 0.1).all()  # the two do not say the same
    alike = [record(i, 0.95 + 1.9 * i, "c", spread=0.01, blocks=9) for i in range(4)]
    (table,) = measured.tables(second + alike)
    assert (table.noise < 0.01).all()  # but for their level they do


def test_a_round_in_which_all_took_longer_does_not_count():
    first = [record(i, 2.0 + i) for i in range(5)]
    slow = [record(i, (2.0 + i) * (1.2 if i % 2 else 1.5), "b") for i in range(5)]
    (table,) = measured.tables(first + slow)
    assert table.seconds.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert not table.is_pooled and (table.noise > 0.05).all()  # one of the two was disturbed
    (table,) = measured.tables(slow)  # there is nothing else
    assert table.seconds[0] == 3.0
    assert (table.rounds, table.dropped) == (1, 0)
    few = slow[:3]  # of so few one cannot say
    assert len(measured.undisturbed([{r.tiling: r for r in some} for some in (first, few)])) == 2


def test_disturbed_rounds_are_counted_and_can_be_judged():
    first = [record(i, 2.0 + i) for i in range(5)]
    slow = [record(i, (2.0 + i) * (1.2 if i % 2 else 1.5), "b") for i in range(6)]
    (table,) = measured.tables(first + slow)
    assert (table.rounds, table.dropped, len(table.tilings)) == (1, 1, 5)
    (table,) = measured.tables(first + slow, all_rounds=True)
    assert (table.rounds, table.dropped, len(table.tilings)) == (2, 0, 6)
    assert table.seconds[0] != 2.0  # both rounds have a say


def _families(*problems):
    """Return the families of products of which four tiles were measured, by form and K."""
    found = [
        dataclasses.replace(record(0, 1.0 + i), problem=one, tiling=tiling.text)
        for one in problems
        for i, tiling in enumerate(space.candidates(one)[:4])
    ]
    return {(t.problem.form, t.problem.k): t.family for t in measured.tables(found)}


def test_all_that_may_be_one_weight_is_held_out_together():
    """K of 513 and of 528 are 528 in groups of 16: no product of 528 may be learnt, and 513 judged."""
    floats = [problem(64, 384, k) for k in (513, 528, 544)]
    coded = [product("w4a16", "avx512", 1, 64, 384, k) for k in (528, 544)]
    found = _families(*floats, *coded)
    joined = {found["f32", 513], found["f32", 528], found["w4a16", 528]}
    assert joined == {"1x384x513"}
    assert found["f32", 544] == found["w4a16", 544] == "1x384x544"
    assert len(set(_families(*floats).values())) == 3  # nothing fills up


def test_what_two_groups_join_is_one_family():
    """528 is 513 in groups of 16, and 544 is 528 in groups of 32, in whatever order they come."""
    floats = [problem(64, 384, k) for k in (513, 528, 544)]
    coded = [
        product("w4a16", "avx512", 1, 64, 384, 528), product("w4a16", "avx512", 1, 64, 384, 544, group=32)
    ]  # fmt: skip
    for some in ([*floats, *coded], [*coded[::-1], *floats]):
        assert set(_families(*some).values()) == {"1x384x513"}


def test_products_of_one_process_have_the_noise_of_the_others():
    twice = [record(i, 1.0 + i, spread=0.01, blocks=9) for i in range(4)]
    twice += [record(i, (1.0 + i) * (1.1 if i % 2 else 0.9), "b") for i in range(4)]
    once = [dataclasses.replace(one, problem=problem(32, 64, 96)) for one in twice[:4]]
    found = {table.is_pooled: table for table in measured.tables(twice + once)}
    assert found[True].noise == pytest.approx(found[False].noise) and found[True].noise[0] > 0.05
    (alone,) = measured.tables(once)
    assert alone.is_pooled and alone.noise[0] < 0.01


def test_few_tiles_are_no_table_and_other_machines_are_apart():
    assert measured.tables([record(i, 1.0) for i in range(3)]) == []
    other = dataclasses.replace(HERE, name="B")
    both = [record(i, 1.0, machine=m) for i in range(4) for m in (HERE, other)]
    assert len(measured.tables(both)) == 2


def test_the_hash_is_of_the_data():
    first = measured.tables(records())
    assert measured.data_hash(first) == measured.data_hash(measured.tables(records()))
    assert measured.data_hash(first) != measured.data_hash(first[1:])
