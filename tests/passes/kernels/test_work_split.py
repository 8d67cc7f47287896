"""How products are cut into workgroups: what threads get by IREE's rule, and that it is even."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.passes.kernels import float_tiles, tiles
from lowc.passes.kernels.work_split import (
    MOST,
    Costs,
    _bounds,
    _of_lines,
    _parts,
    _score,
    _sizes,
    _together,
    makespan,
    split,
)  # fmt: skip


@pytest.mark.parametrize(
    ("items", "threads", "expected"),
    [
        ([1.0], 2, (1, 1)),
        ([1.0] * 15, 2, (8, 1)),  # one at a time
        ([1.0] * 16, 2, (8, 8)),
        ([1.0] * 24, 2, (16, 8)),  # three portions
        ([1.0] * 24, 4, (6, 1)),
        ([1.0] * 32, 4, (8, 8)),
        ([4.0, 1.0, 1.0, 1.0], 2, (4, 4)),  # who is free takes the next
    ],
)
def test_makespan(items, threads, expected):
    assert makespan(items, threads) == expected


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 20),
    m=st.one_of(st.none(), st.integers(1, 3000)),
    panels=st.integers(1, 300),
    step=st.integers(1, 72),
    costs=st.builds(Costs, *[st.floats(0, 1e5)] * 3),
    most=st.integers(1, 40),
)
def test_a_cut_is_of_whole_blocks_and_fits(batch, m, panels, step, costs, most):
    group, chunk = split(batch, m, panels, step, costs, most)
    assert 1 <= group <= min(panels, most)
    assert chunk >= step and chunk % step == 0
    if m is None:
        assert chunk == step
    else:
        assert chunk < m + step


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 20),
    m=st.integers(1, 600),
    panels=st.integers(1, 100),
    step=st.integers(1, 24),
    costs=st.builds(Costs, *[st.floats(0, 1e5)] * 3),
)
def test_a_cut_is_the_best_of_all(batch, m, panels, step, costs):
    """Cuts that are not played through, because of what they take at least, would not be it."""
    chunks = [rows * step for rows in _parts(-(-m // step))]
    parts = _parts(panels)
    count, least = _bounds(batch, m, panels, costs, chunks, parts)
    scores = {}
    for i, chunk in enumerate(chunks):
        for j, group in enumerate(parts):
            score = _score(batch, _sizes(m, chunk), _sizes(panels, group), costs)
            assert least[0, i, j] <= score
            if count[i, j] <= MOST or not scores:
                scores[group, chunk] = score
    assert split(batch, m, panels, step, costs, panels) == min(scores, key=scores.get)


@settings(max_examples=60, deadline=None)
@given(
    across=st.integers(1, 40), down=st.integers(1, 30), batch=st.integers(1, 3),
    costs=st.tuples(*[st.floats(1, 1e5)] * 4),
)  # fmt: skip
def test_portions_of_lines_are_those_of_all_workgroups(across, down, batch, costs):
    """Sums that come again are not calculated again, and are the same to the last bit."""
    full, last = ([wide] * (across - 1) + [narrow] for wide, narrow in (costs[:2], costs[2:]))
    items = (full * (down - 1) + last) * batch
    assert _of_lines(full, last, down, batch, 1) == items
    assert _of_lines(full, last, down, batch, 8) == _together(items, 8)


SIZES = [
    (1, 512, 512, 512), (1, 1024, 1024, 1024), (1, 2048, 2048, 2048), (1, 128, 384, 384),
    (1, 128, 384, 1536), (1, 128, 1536, 384), (1, 1024, 384, 384), (1, 128, 192, 4096),
    (1, 1, 4096, 4096), (1, 1, 4097, 4096), (1, 16, 4096, 4000),
]  # fmt: skip


@pytest.mark.parametrize("unit", ["avx512", "avx2"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_two_threads_get_as_much(unit, sizes):
    """No thread has an eighth more than its half, counted in rows times panels."""
    _, m, n, k = sizes
    for tile in (
        float_tiles.choose(tiles.ISAS[unit], *sizes),
        float_tiles.choose_dequant(tiles.ISAS[unit], *sizes, 32),
    ):
        panels = -(-n // tile.columns)
        items = [
            float(min(tile.row_chunk, m - row) * min(tile.panels, panels - panel))
            for row in range(0, m, tile.row_chunk)
            for panel in range(0, panels, tile.panels)
        ]
        last, _ = makespan(items, 2)
        assert last <= m * panels / 2 * 1.125, (tile, k)


def test_all_cuts_into_equal_parts():
    for count in range(600):
        wanted = {-(-count // parts) for parts in range(1, count + 1)}
        assert _parts(count) == sorted(wanted, reverse=True)


def test_a_cut_of_a_huge_product_is_counted_not_listed():
    """A list of all cuts of so many rows would not fit memory."""
    panels, chunk = split(1, 1 << 34, 4, 4, Costs(4.0, 1.0, 8.0), 4)
    assert 1 <= panels <= 4
    assert -(-(1 << 34) // chunk) <= 1024
