"""Error feedback against a plain reference, and against rounding that looks at weights alone."""

import numpy as np
import pytest
from lowc.compiler import feedback
from lowc.compiler.feedback import Feedback
from lowc.passes.formats import binary_codes, integer
from lowc.passes.formats.binary_codes import BinaryCodes
from lowc.passes.formats.integer import GroupedInteger

N, K = 48, 160
INTEGERS = [
    GroupedInteger(3, 32, False), GroupedInteger(4, 64, True), GroupedInteger(2, 48, False),
    GroupedInteger(4, 160, True), GroupedInteger(8, 144, False),
]  # fmt: skip
ROWS = [BinaryCodes(2, 32), BinaryCodes(3, 64)]
SHAPES = [*ROWS, BinaryCodes(3, 1, N), BinaryCodes(2, 8, N // 8), BinaryCodes(3, 24, 7, 1)]


def correlated(rows, seed):
    """Inputs that a few causes explain for the most part, as those of real layers."""
    fixed, generator = np.random.default_rng(0), np.random.default_rng(seed)
    mix, size = fixed.standard_normal((K // 4, K)), fixed.lognormal(0, 0.5, K)
    causes = generator.standard_normal((rows, K // 4)) @ mix
    return (causes + generator.standard_normal((rows, K))) * size


X, UNSEEN = correlated(400, 0), correlated(200, 1)
MOMENTS = X.T @ X
WEIGHT = np.random.default_rng(1).standard_normal((N, K)).astype(np.float32)


def loss(x, stored):
    """The squared error of ``x W^T``, from its own definition."""
    return ((x @ (WEIGHT.astype(np.float64) - stored).T) ** 2).sum()


def plain(weight, moments, group, scales, value):
    """GPTQ without lazy blocks, with the inverse of H written out; returns the rounded weight."""
    h = moments + 0.01 * np.diagonal(moments).mean() * np.eye(len(moments))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    left, stored = weight.astype(np.float64), np.zeros(weight.shape)
    for j in range(weight.shape[1]):
        if j % group == 0:
            found = scales(left[:, j : j + group])
        stored[:, j] = value(left[:, j], found)
        left[:, j:] -= ((left[:, j] - stored[:, j]) / upper[j, j])[:, None] * upper[j, j:]
    return stored


@pytest.mark.parametrize("fmt", INTEGERS, ids=str)
def test_integers_are_those_of_the_plain_loop(fmt):
    def scales(group):
        return integer.ranges(group.astype(np.float32), fmt)

    def value(column, found):
        codes = integer.round_to_codes(column.astype(np.float32)[:, None], *found, fmt)[:, 0]
        return (codes.astype(np.float64) - found[1]) * found[0]

    found = feedback.integers(WEIGHT, Feedback.of(MOMENTS), fmt)
    wanted = plain(WEIGHT, MOMENTS, fmt.group, scales, value)
    same = np.isclose(integer.dequantize(found, K), wanted, rtol=1e-5)
    assert same.mean() > 0.999  # a code at a tie may turn with the last bit of a sum
    shapes = integer.quantize(WEIGHT, fmt)
    assert found.codes.shape == shapes.codes.shape and found.codes.dtype == shapes.codes.dtype
    assert found.scales.dtype == np.float32 and (found.zeros is None) == fmt.symmetric


@pytest.mark.parametrize("fmt", INTEGERS, ids=str)
def test_inputs_that_are_independent_leave_rounding_to_nearest(fmt):
    found = feedback.integers(WEIGHT, Feedback.of(3 * np.eye(K)), fmt)
    wanted = integer.quantize(WEIGHT, fmt)
    assert (found.codes == wanted.codes).all() and (found.scales == wanted.scales).all()
    assert fmt.symmetric or (found.zeros == wanted.zeros).all()


@pytest.mark.parametrize("fmt", SHAPES, ids=str)
def test_inputs_that_are_independent_leave_the_codes_of_the_weight(fmt):
    found = feedback.binary(WEIGHT, Feedback.of(3 * np.eye(K)), fmt, descents=0)
    wanted = binary_codes.encode(WEIGHT, fmt)
    assert found.signs.shape == wanted.signs.shape
    assert (found.terms == wanted.terms).all()
    assert (found.signs[..., :K] == wanted.signs[..., :K]).all()


@pytest.mark.parametrize("fmt", INTEGERS[:4], ids=str)
def test_integers_beat_rounding_to_nearest(fmt):
    nearest = integer.dequantize(integer.quantize(WEIGHT, fmt), K)
    found = integer.dequantize(feedback.integers(WEIGHT, Feedback.of(MOMENTS), fmt), K)
    for x in (X, UNSEEN):
        assert loss(x, found) < 0.5 * loss(x, nearest)


@pytest.mark.parametrize("fmt", SHAPES, ids=str)
def test_codes_beat_those_of_the_weight_alone(fmt):
    alone = binary_codes.decode(binary_codes.encode(WEIGHT, fmt), fmt, K)
    prepared = Feedback.of(MOMENTS)
    columns, found = (
        binary_codes.decode(feedback.binary(WEIGHT, prepared, fmt, descents=descents), fmt, K)
        for descents in (0, 3)
    )
    for x in (X, UNSEEN):
        assert loss(x, columns) < 0.5 * loss(x, alone)
        assert loss(x, found) < 0.95 * loss(x, columns)


def test_two_planes_beat_two_bits():
    # Fewer stored bits than the integers have: 2.75 to 3.25.
    fmt, other = BinaryCodes(2, 64), GroupedInteger(2, 32, False)
    assert fmt.bits_per_weight(N, 192) == 2.75
    prepared = Feedback.of(MOMENTS)
    found = binary_codes.decode(feedback.binary(WEIGHT, prepared, fmt), fmt, K)
    integers = integer.dequantize(feedback.integers(WEIGHT, prepared, other), K)
    assert loss(UNSEEN, found) < 0.75 * loss(UNSEEN, integers)


def test_the_error_is_that_of_the_outputs():
    stored = np.round(WEIGHT)
    assert feedback.output_error(WEIGHT, stored, MOMENTS) == pytest.approx(loss(X, stored))


def test_fewer_inputs_than_columns():
    x = correlated(20, 0)
    fmt = GroupedInteger(4, 32, True)
    found = integer.dequantize(feedback.integers(WEIGHT, Feedback.of(x.T @ x), fmt), K)
    nearest = integer.dequantize(integer.quantize(WEIGHT, fmt), K)
    assert loss(x, found) < 0.2 * loss(x, nearest)


def test_dead_inputs_are_rounded_to_nearest_and_move_nothing():
    x = X.copy()
    x[:, 32:64] = 0
    fmt = GroupedInteger(4, 32, True)
    found = feedback.integers(WEIGHT, Feedback.of(x.T @ x), fmt)
    wanted = integer.quantize(WEIGHT, fmt)
    assert (found.codes[:, 1] == wanted.codes[:, 1]).all()
    alive = np.r_[0:32, 64:K]
    others = feedback.integers(WEIGHT[:, alive], Feedback.of(x[:, alive].T @ x[:, alive]), fmt)
    assert (found.codes[:, [0, 2, 3, 4]] == others.codes).mean() > 0.99


def test_no_inputs_at_all_are_rounding_to_nearest():
    fmt = GroupedInteger(4, 32, True)
    found = feedback.integers(WEIGHT, Feedback.of(np.zeros((K, K))), fmt)
    assert (found.codes == integer.quantize(WEIGHT, fmt).codes).all()


def test_scale_does_not_matter():
    fmt = BinaryCodes(2, 32)
    found = [feedback.binary(WEIGHT, Feedback.of(MOMENTS * scale), fmt) for scale in (1, 2.0**-40)]
    assert (found[0].signs == found[1].signs).all() and (found[0].terms == found[1].terms).all()


def test_damping_grows_until_it_can_be_factored():
    moments = np.eye(4)
    moments[0, 1] = moments[1, 0] = 1.05  # an eigenvalue of -0.05: 1 % is not enough
    prepared = Feedback.of(moments)
    assert prepared.hessian[0, 0] == pytest.approx(1.1)
    identity = prepared.upper.T @ prepared.upper @ prepared.hessian
    assert np.allclose(identity, np.eye(4)) and not np.tril(prepared.upper, -1).any()


@pytest.mark.parametrize(
    ("moments", "what"),
    [
        (np.array([[1.0, np.nan], [np.nan, 1]]), "hold NaN or infinity"),
        (np.array([[1.0, 1e6], [1e6, 1]]), "no second moments"),
    ],
)
def test_refuses_what_are_no_moments(moments, what):
    with pytest.raises(ValueError, match=what):
        Feedback.of(moments)


def test_refuses_weights_that_are_no_numbers():
    weight = WEIGHT.copy()
    weight[3, 5] = np.inf
    with pytest.raises(ValueError, match="the weight holds NaN or infinity"):
        feedback.integers(weight, Feedback.of(MOMENTS), GroupedInteger(4, 32, True))
