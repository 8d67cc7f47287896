"""Features of tiles: one row each, finite, what they say of cuts and waste, and what they cost."""

import numpy as np
import pytest
from lowc.passes.kernels.tiles import Tile
from lowc.passes.tiling import features, space, tilings
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine
from lowc.passes.tiling.tilings import KernelTiling
from tiny.measurements import HERE, problem

WEIGHTS = {
    "w4a8": {"weight": "i4", "group": 32}, "w8a8": {"weight": "i8", "group": 384, "per_group": False},
    "w4a16": {"weight": "i4", "group": 32}, "lmul": {"weight": "f8E4M3FN"}, "pam": {}, "f32": {},
    "shift-add": {"weight": "signs", "planes": 2, "table_bits": 6, "span": 128, "group": 384},
}  # fmt: skip


def column(rows, name):
    return rows[:, features.NAMES.index(name)]


@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("m", [1, 77, None])
def test_every_candidate_has_finite_features(form, m):
    one = Problem(form, "kernel", "avx512vnni", 1, m, 1000, 384, own_batch=True, **WEIGHTS[form])
    found = space.candidates(one)
    rows = features.matrix(one, found, Machine("unknown", "avx512vnni"))
    assert rows.shape == (len(found), len(features.NAMES)) and np.isfinite(rows).all()
    parts = features.components(rows)
    assert parts.shape == (len(found), features.COMPONENTS) and (parts > 0).all()


def test_linalg_and_gpu_tiles_have_features_too():
    for one in (
        Problem("lmul", "linalg", "avx512", 1, 128, 384, 384),
        Problem("lmul", "kernel", "spirv", 2, 128, 384, 384, own_batch=True),
    ):
        found = space.candidates(one)
        rows = features.matrix(one, found, HERE)
        assert np.isfinite(rows).all() and len(np.unique(rows, axis=0)) == len(found)
    stock = features.matrix(Problem("f32", "linalg", "avx512", 1, 8, 8, 8), [tilings.STOCK], HERE)
    assert column(stock, "is_stock") == column(stock, "is_linalg") == 1


def test_what_is_cut_off_is_counted():
    one = problem(100, 100, 64)
    tile = Tile(16, 8, 3, 64, 1, 56)  # 48 columns: 3 panels of 100; 56 rows: 2 chunks
    rows = features.matrix(one, [KernelTiling(tile)], HERE)
    assert column(rows, "log_workgroups") == pytest.approx(np.log2(6))
    assert column(rows, "waves") == 3 and column(rows, "row_chunks") == 2
    assert column(rows, "column_waste") == pytest.approx(1.44)
    assert column(rows, "k_blocks") == 1
    # Three workgroups of 56 rows, three of 44: 56 + 56 + 44 of 300 are the larger half.
    assert column(rows, "share") == pytest.approx(2 * 156 / 300)
    # 7 full blocks of rows, then 5 and a half (44 rows).
    assert column(rows, "height_share") == pytest.approx(8 * (7 + 5 + 0.5) / 100)


def test_a_larger_product_is_estimated_to_take_longer():
    def least(m):
        one = problem(m, 768, 768)
        return features.matrix(one, space.candidates(one), HERE)[:, features.ESTIMATE].min()

    assert least(32) < least(128) < least(512)


def test_alpha_flops_are_flops_where_places_are_few():
    assert features.alpha_flops(1, 10, 20) == pytest.approx(200)
    assert features.alpha_flops(1000, 10, 20, gamma=0) == pytest.approx(200_000)
    assert features.alpha_flops(1000, 10, 20) < 200_000
