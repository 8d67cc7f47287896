"""Signed digits of all 256 bytes, and all 65,536 products."""

import itertools

import numpy as np
from lowc.passes.formats import signed_digits

BYTES = np.arange(-128, 128)


def test_digits_add_up():
    found = signed_digits.digits(BYTES).astype(int)
    assert (found @ 2 ** np.arange(8) == BYTES).all()
    assert set(found.ravel()) == {-1, 0, 1}


def test_no_two_neighbours_are_nonzero():
    found = signed_digits.digits(BYTES)
    assert not (found[:, 1:] & found[:, :-1] & 1).any()


def test_no_other_digits_are_fewer():
    # All ways to write a number with up to 3 signed powers of two; what is left needs 4.
    least = {}
    powers = [sign * 2**i for i in range(9) for sign in (1, -1)]
    for count in range(4):
        for chosen in itertools.combinations(powers, count):
            least.setdefault(sum(chosen), count)
    wanted = [least.get(int(c), 4) for c in BYTES]
    assert signed_digits.nonzero(BYTES).tolist() == wanted
    assert max(wanted) == signed_digits.MOST


def test_booth_digits_add_up():
    found = signed_digits.booth(BYTES).astype(int)
    assert found.shape == (256, 4) and set(found.ravel()) <= {-2, -1, 0, 1, 2}
    assert (found @ 4 ** np.arange(4) == BYTES).all()


def test_all_products():
    assert (signed_digits.product(BYTES[:, None], BYTES) == BYTES[:, None] * BYTES).all()


def test_shapes_broadcast():
    x = np.arange(-3, 3).reshape(1, 6)
    assert (signed_digits.product(x, np.array([[-128], [127]])) == x * [[-128], [127]]).all()
    assert signed_digits.digits(-1).tolist() == [-1, 0, 0, 0, 0, 0, 0, 0]
