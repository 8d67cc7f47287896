"""Coordinate descent on binary codes: no step makes the error larger, and each is the best one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowc.compiler import descent
from lowc.passes.formats import binary_codes, powers
from lowc.passes.formats.binary_codes import BinaryCodes, Coded

CASES = st.tuples(
    st.integers(1, 9),  # n
    st.integers(1, 21),  # k
    st.builds(
        BinaryCodes, planes=st.integers(1, 3), group=st.sampled_from([1, 4, 8, 30]),
        outputs=st.sampled_from([1, 2, 4]), terms=st.integers(1, 3),
    ),
    st.integers(0, 2**32 - 1),
)  # fmt: skip


def case(n, k, fmt, seed):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((2 * k, k)) @ generator.standard_normal((k, k))
    weight = generator.standard_normal((n, k))
    return weight, binary_codes.encode(weight, fmt, 1), x.T @ x + 1e-3 * np.eye(k)


def error(weight, coded, hessian, fmt):
    difference = weight - value(coded, fmt, weight.shape[1])
    return np.einsum("nk,kl,nl->", difference, hessian, difference)


def value(coded, fmt, k):
    alpha = powers.values(coded.terms).repeat(fmt.outputs, axis=0)[: len(coded.signs)]
    signs = np.where(coded.signs, 1.0, -1.0).transpose(0, 2, 1)
    return (signs * alpha.repeat(fmt.group, axis=1)).sum(axis=-1)[:, :k]


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_no_step_makes_the_error_larger(given_case):
    weight, coded, hessian = case(*given_case)
    fmt = given_case[2]
    before = error(weight, coded, hessian, fmt)
    for step in (descent.solve_alphas, descent.choose_signs) * 2:
        coded = step(weight, coded, hessian, fmt)
        after = error(weight, coded, hessian, fmt)
        assert after <= before * (1 + 1e-9) + 1e-12
        before = after


@given(CASES)
@settings(max_examples=40, deadline=None)
def test_more_rounds_never_leave_a_larger_error(given_case):
    weight, coded, hessian = case(*given_case)
    fmt = given_case[2]
    errors = [
        error(weight, descent.descend(weight, coded, hessian, fmt, rounds), hessian, fmt)
        for rounds in range(4)
    ]
    assert errors[0] == pytest.approx(error(weight, coded, hessian, fmt))
    for before, after in itertools.pairwise(errors):
        assert after <= before * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("outputs", [1, 3])
def test_feedback_is_that_of_the_plain_loop(outputs):
    fmt = BinaryCodes(2, 8, outputs)
    weight, coded, hessian = case(7, 150, fmt, 3)
    order = np.random.default_rng(1).permutation(150)
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    found = descent.feed_back(
        weight, coded, order, descent.upper_factor(hessian[order][:, order]), fmt
    )
    alpha = powers.values(coded.terms).repeat(outputs, axis=0)[:7]
    left, wanted = weight[:, order].copy(), np.empty_like(weight)
    for i, j in enumerate(order):
        a = alpha[:, j // 8]
        levels = np.stack([a[:, 0] * s + a[:, 1] * t for s in (-1, 1) for t in (-1, 1)], axis=1)
        nearest = np.abs(levels - left[:, i, None]).argmin(axis=1)
        wanted[:, j] = levels[np.arange(7), nearest]
        left[:, i:] -= ((left[:, i] - wanted[:, j]) / upper[i, i])[:, None] * upper[i, i:]
    assert np.isclose(value(found, fmt, 150), wanted).mean() > 0.999  # but for ties
    assert (found.terms == coded.terms).all()


def test_feedback_leaves_the_minimum_that_signs_one_by_one_are_caught_in():
    fmt = BinaryCodes(2, 32)
    weight, coded, hessian = case(24, 96, fmt, 7)
    hessian += 0.01 * np.diagonal(hessian).mean() * np.eye(96)
    caught = coded
    for _ in range(12):
        caught = descent.solve_alphas(weight, caught, hessian, fmt)
        caught = descent.choose_signs(weight, caught, hessian, fmt)
    found = descent.descend(weight, coded, hessian, fmt, 3)
    assert error(weight, found, hessian, fmt) < 0.98 * error(weight, caught, hessian, fmt)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_order_changes_no_value(given_case):
    weight, coded, _ = case(*given_case)
    fmt, generator = given_case[2], np.random.default_rng(given_case[3])
    terms = generator.integers(90, 100, coded.terms.shape) | 128 * (
        generator.random((*coded.terms.shape[:3], 1)) < 0.5
    )
    mixed = Coded(coded.signs, terms.astype(np.uint8))
    ordered = descent.in_order(mixed, fmt)
    k = weight.shape[1]
    assert np.allclose(value(ordered, fmt, k), value(mixed, fmt, k), rtol=1e-14)
    alpha = powers.values(ordered.terms)
    assert (alpha >= 0).all() and (alpha[..., 1:] <= alpha[..., :-1]).all()


@pytest.mark.parametrize("fmt", [BinaryCodes(2, 8), BinaryCodes(3, 5, 2), BinaryCodes(2, 1, 6)])
def test_alphas_are_those_of_least_squares(fmt):
    weight, coded, hessian = case(6, 20, fmt, 5)
    normal, right = descent._normal_equations(weight, coded.signs, hessian, fmt)
    shape = coded.terms.shape[:3]
    found = np.linalg.solve(normal, right[..., None]).reshape(shape)
    root = np.linalg.cholesky(hessian).T
    for i in range(len(found)):
        rows = range(i * fmt.outputs, min((i + 1) * fmt.outputs, 6))
        columns = []
        for g, p in itertools.product(range(found.shape[1]), range(fmt.planes)):
            part = np.zeros((len(rows), 20))
            inside = slice(g * fmt.group, (g + 1) * fmt.group)
            part[:, inside] = np.where(coded.signs[rows, p, inside], 1, -1)[
                :, : part[:, inside].shape[1]
            ]
            columns.append((part @ root.T).ravel())
        wanted = np.linalg.lstsq(np.stack(columns, 1), (weight[rows] @ root.T).ravel())[0]
        assert np.allclose(found[i].ravel(), wanted, atol=1e-5)


def test_each_sign_is_the_best_for_all_others():
    fmt = BinaryCodes(2, 4)
    weight, coded, hessian = case(3, 8, fmt, 11)
    for _ in range(50):
        coded = descent.choose_signs(weight, coded, hessian, fmt)
    least = error(weight, coded, hessian, fmt)
    for n, k in itertools.product(range(3), range(8)):
        for bits in itertools.product([False, True], repeat=2):
            signs = coded.signs.copy()
            signs[n, :, k] = bits
            assert error(weight, Coded(signs, coded.terms), hessian, fmt) >= least * (1 - 1e-12)


def test_systems_that_are_too_large_keep_their_alphas(monkeypatch):
    fmt = BinaryCodes(2, 4)
    weight, coded, hessian = case(3, 8, fmt, 1)
    monkeypatch.setattr(descent, "LARGEST_SYSTEM", 3)
    found = descent.descend(weight, coded, hessian, fmt, 2)
    assert (found.terms == coded.terms).all() and (found.signs != coded.signs).any()
