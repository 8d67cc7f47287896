"""What tiles make a product do: who gets how much, which rows collide, what counts how."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.kernels import work_split
from lowc.passes.tiling import features, space, work
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine

HERE = Machine("Test CPU", "avx512", (), 2, (32 << 10, 1 << 20, 32 << 20), 20e9, 60e9)


def cut(m, n, k, rows, vectors, k_block, panels, chunk, **more):
    one = {name: np.array([float(value)]) for name, value in (
        ("rows", rows), ("vectors", vectors), ("k_block", k_block), ("panels", panels),
        ("chunk", chunk), ("prepares", 0), ("pressure", 0.5), ("shares", 0), ("packed", 1),
    )}  # fmt: skip
    facts = {
        "batch": 1, "m": m, "n": n, "k": k, "lanes": 16, "threads": 2, "right": 4.0 * n * k,
        "left": 4.0 * m * k, "result": 4.0 * m * n, "prepared": False, "own": False,
        "caches": (32768.0, 1 << 20, 1 << 25), "apart": True,
    }  # fmt: skip
    return work.Cut(**{**facts, **one, **more})


SIZES = st.tuples(
    st.integers(1, 3), st.integers(1, 90), st.integers(1, 12), st.integers(1, 6), st.integers(2, 5)
)


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, rows=st.integers(1, 8))
def test_the_share_is_that_of_threads_that_take_portions_in_turn(sizes, rows):
    batch, m, count, panels, threads = sizes
    panels = min(panels, count)
    chunk = min(rows * 2, -(-m // rows) * rows)
    one = cut(m, 16 * count, 64, rows, 1, 64, panels, chunk, batch=batch, threads=threads)
    downs = [min(chunk, m - start) for start in range(0, m, chunk)]
    across = [min(panels, count - start) for start in range(0, count, panels)]
    items = [float(a * b) for _ in range(batch) for a in downs for b in across]
    last, _ = work_split.makespan(items, threads)
    if len(items) <= work.MOST_PORTIONS:
        assert work.share(one)[0] == pytest.approx(last / sum(items))
    assert 1 / threads - 1e-9 <= work.share(one)[0] <= 1 + 1e-9


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 70), shares=st.integers(1, 2), batch=st.integers(1, 3),
    threads=st.integers(1, 5),
)  # fmt: skip
def test_where_weights_are_read_once_shares_differ_by_a_panel(count, shares, batch, threads):
    """As ``RecordMatmul.first_panel`` cuts them, whatever the tile says."""
    one = cut(
        1, 16 * count, 64, 1, 1, 64, 4, 1, batch=batch, threads=threads,
        shares=np.array([float(shares)]),
    )  # fmt: skip
    groups = min(count, -(-shares * threads // batch))
    assert one.groups[0] == groups
    each, over = divmod(count, groups)
    starts = [group * each + min(group, over) for group in range(groups + 1)]
    items = [float(b - a) for a, b in itertools.pairwise(starts)]
    last, _ = work_split.makespan(items * batch, threads)
    assert work.share(one)[0] == pytest.approx(last / (count * batch))


def test_shares_of_tiles_that_read_weights_once_and_of_others():
    once = cut(1, 16 * 5, 64, 1, 1, 64, 4, 1, shares=np.array([1.0]))
    other = cut(1, 16 * 5, 64, 1, 1, 64, 4, 1)
    arrays = {
        field.name: np.concatenate([getattr(one, field.name) for one in (other, once)])
        for field in dataclasses.fields(work.Cut)
        if isinstance(getattr(once, field.name), np.ndarray)
    }
    both = dataclasses.replace(once, **arrays)
    assert work.share(both).tolist() == pytest.approx([4 / 5, 3 / 5])


def test_rows_a_power_of_two_apart_collide():
    def crowd(k, rows=16, **more):
        return float(work.conflicts(cut(64, 64, k, rows, 1, 256, 1, 64, **more))[0])

    assert crowd(1024) == 2  # 16 lines of one set, which has 8
    assert crowd(1536) == 1 and crowd(384) == 0.25 and crowd(1023) < 0.1
    assert crowd(1024, prepares=np.ones(1)) == 0 and crowd(1024, apart=False) == 0


def test_columns_that_two_threads_write_side_by_side_are_counted():
    def shared(n, panels):
        return work.parts(cut(64, n, 64, 8, 1, 64, panels, 64))

    assert shared(128, 8)["shared_rows"] == 0 < shared(128, 4)["shared_rows"]
    assert shared(128, 4)["shared_lines"] == 0 < shared(130, 4)["shared_lines"]


def test_what_is_done_side_by_side_counts_as_the_longest():
    parts = np.zeros((1, len(work.NAMES)))
    parts[0, work.NAMES.index("multiply")] = 3.0
    counts = np.ones(len(work.NAMES))
    assert work.total(parts, counts)[0] == pytest.approx(3)
    parts[0, work.NAMES.index("memory")] = 1.0
    assert 3 < work.total(parts, counts)[0] < 3.1
    parts[0, work.NAMES.index("call")] = 1.0
    assert work.total(parts, counts)[0] > 4
    assert work.total(parts, 2 * counts)[0] == pytest.approx(2 * work.total(parts, counts)[0])


def test_parts_are_features():
    one = Problem("f32", "kernel", "avx512", 1, 128, 384, 384)
    rows = features.matrix(one, space.candidates(one), HERE)
    parts = features.components(rows)
    assert parts.shape[1] == len(work.NAMES) and np.isfinite(parts).all()
    assert (work.total(parts, np.ones(len(work.NAMES))) > 1e-6).all()
