"""Calling a module: binding, nesting, state, parameters, what comes back."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.manifest import Leaf
from lowc.runtime.module import load
from tiny.artifacts import build, manifest

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.full((2, 3), 10, np.float32)
IDS = np.ones((2, 3), np.int64)


def message(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu-sync"])
def test_adds(add: Path, device: str) -> None:
    out = load(add, device)(X, Y)
    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float32
    assert (out == X + Y).all()


def test_takes_an_artifact_and_a_string(add: Path) -> None:
    class Artifact:
        path = add

    assert (load(Artifact())(X, Y) == X + Y).all()
    assert (load(str(add))(X, Y) == X + Y).all()
    assert "cannot load a builtins.int" in message(load, 3)


def test_binds_by_position_and_by_name(add: Path) -> None:
    module = load(add)
    for out in (module(X, y=Y), module(y=Y, x=X), module(x=X, y=Y)):
        assert (out == X + Y).all()


def test_refuses_wrong_names_and_counts(add: Path) -> None:
    module = load(add)
    assert message(module, X) == ("missing input 'y'\n  hint: the model takes 2 inputs: x, y")
    assert "missing inputs 'x', 'y'" in message(module)
    assert "got 3 inputs, expected 2\n  hint: the model takes 2 inputs: x, y" in message(
        module, X, Y, Y
    )
    assert "the input 'x' is given twice, by position and by name" in message(module, X, x=X, y=Y)
    assert "unexpected input 'yy'\n  hint: did you mean 'y'?" in message(module, X, yy=Y)


def test_nests_inputs_and_outputs(nested: Path) -> None:
    module = load(nested)
    a, b, c, d = (np.array([i, i + 1], np.float32) for i in (1, 3, 5, 7))

    class Cache:
        pass

    cache = Cache()
    cache.c, cache.d = c, d
    calls = [
        ([(a, {"b": b})], {"cache": {"c": c, "d": d}}),
        ([[a, {"b": b}], True], {"cache": cache, "scale": 0.5}),
        ([(a, {"b": b}), None, cache], {"scale": None}),
        ([], {"pair": (a, {"b": b}), "cache": (c, d)}),
    ]
    for args, kwargs in calls:
        out = module(*args, **kwargs)
        assert list(out) == ["sum", "rest", "product"]
        assert (out.sum == a + b).all()
        assert (out["rest"][0] == c - d).all()
        assert out.rest[1] == 7
        assert (out[2] == a * d).all()


def test_refuses_wrong_nesting_and_literals(nested: Path) -> None:
    module = load(nested)
    a = np.ones(2, np.float32)
    cache = {"c": a, "d": a}
    text = message(module, (a, {"b": a}), flag=False, cache=cache)
    assert "input 'flag': the model was exported for the value True, got False" in text
    assert "the value 0.5, got 1.5" in message(module, (a, {"b": a}), cache=cache, scale=1.5)
    # 1 == True in Python, but a model that was specialised on True was not on 1.
    assert "the value True, got 1" in message(module, (a, {"b": a}), 1, cache=cache)
    assert "input 'pair': expected a tuple of 2, got a tuple of 1" in message(
        module, (a,), cache=cache
    )
    assert "input 'pair.1': expected the keys ['b'], got ['z']" in message(
        module, (a, {"z": a}), cache=cache
    )
    assert "missing input 'cache'" in message(module, (a, {"b": a}))


def test_state_is_kept_and_reset(counter: Path) -> None:
    module = load(counter)
    one = np.ones(4, np.float32)
    first = module(one)
    second = module(one)
    assert (first[0] == 5).all()
    assert (second[1] == 7).all()
    module.reset()
    assert (module(one)[0] == 5).all()
    # What was returned is not the state itself, in either direction.
    assert (first[1] == 6).all()
    assert (second[0] == 6).all()
    third = module(one)
    third[1][:] = 100
    assert (module(one)[0] == 7).all()


def test_modules_do_not_share_state(counter: Path) -> None:
    one = np.ones(4, np.float32)
    a, b = load(counter), load(counter)
    a(one)
    assert (b(one)[0] == 5).all()


def test_reset_without_state_does_nothing(add: Path) -> None:
    module = load(add)
    module.reset()
    assert (module(X, Y) == X + Y).all()


@pytest.mark.parametrize("verify", [True, False])
def test_parameters(scale: Path, verify: bool) -> None:
    module = load(scale, verify=verify)
    out, weight = module(np.full(4, 2, np.float32))
    assert (out == [12, 24, 36, 48]).all()
    # A parameter that is returned is a copy: the archive is mapped read-only.
    weight[:] = 0
    assert (module(np.full(4, 2, np.float32))[0] == [12, 24, 36, 48]).all()


def test_signature_and_report(dynamic: Path, nested: Path, add: Path) -> None:
    module = load(dynamic)
    assert [leaf.name for leaf in module.signature.inputs] == ["ids", "mask", "wide"]
    assert module.signature.inputs[0].shape == ("batch", "s0")
    assert str(module.signature) == (
        "inputs\n  ids: int64[batch, s0]\n  mask: int64[batch, s0]\n  wide: float32[2*s0 + 1]\n"
        "outputs\n  int64[batch, s0]\nsizes\n  batch: 1 to 4\n  s0: 2 to any"
    )
    assert "  flag=True\n" in str(load(nested).signature)
    assert load(add).report == {"matmuls": []}
    assert repr(load(add)) == f"<lowc module {add} on cpu>"


def test_dynamic_sizes(dynamic: Path) -> None:
    module = load(dynamic)
    for batch, length in ((1, 2), (4, 7), (2, 100)):
        ids = np.arange(batch * length).reshape(batch, length)
        out = module(ids, ids, np.zeros(2 * length + 1, np.float32))
        assert (out == ids * ids).all()


def test_refuses_wrong_sizes(dynamic: Path) -> None:
    module = load(dynamic)
    wide = np.zeros(7, np.float32)
    assert message(module, IDS, IDS[:1], wide) == (
        "input 'mask': expected the shape [batch, s0], got [1, 3]: 'batch' is 2 in 'ids' and 1 here"
    )
    assert "'s0' must be at least 2, and is 1" in message(module, IDS[:, :1], IDS[:, :1], wide)
    many = np.ones((5, 3), np.int64)
    assert "'batch' must be in [1, 4], and is 5" in message(module, many, many, wide)
    assert message(module, IDS, IDS, wide[:6]) == (
        "input 'wide': expected the shape [2*s0 + 1], got [6]: dimension 0 must be 2*s0 + 1 = 7"
    )
    assert "input 'ids': expected rank 2 ([batch, s0]), got rank 1 ([3])" in message(
        module, IDS[0], IDS, wide
    )


def test_refuses_wrong_fixed_size(add: Path) -> None:
    assert message(load(add), X, Y[:, :2]) == (
        "input 'y': expected the shape [2, 3], got [2, 2]: dimension 1 is 2, not 3"
    )


def test_device_arrays(add: Path) -> None:
    module = load(add)
    y = module.to_device(Y)
    assert (np.asarray(y) == Y).all()
    for _ in range(3):
        assert (module(X, y) == X + Y).all()
    assert "got [3]" in message(module, X, module.to_device(Y[0])).replace("got rank 1 (", "got ")
    wrong = module.to_device(Y.astype(np.float64))
    assert message(module, X, wrong) == "input 'y': expected float32, got float64"
    # One of another device is copied over.
    assert (load(add, "cpu-sync")(X, y) == X + Y).all()


def test_bound_inputs_run_again_and_again(add: Path) -> None:
    module = load(add)
    run = module.bound(X, module.to_device(Y))
    first, second = run(), run()
    other = module.bound(Y, y=Y)()
    assert (module(Y, Y) == 2 * Y).all()
    # Results stay what they are, whatever runs after them.
    for (result,) in (first, second, run()):
        assert np.array_equal(np.asarray(result), X + Y)
    assert np.array_equal(np.asarray(other[0]), 2 * Y)
    assert first[0].shape == (2, 3)
    assert repr(first[0]).startswith("DeviceArray(shape=(2, 3), dtype='float32', device=")
    assert weakref.ref(first[0])() is first[0]
    assert (module(first[0], Y) == X + 2 * Y).all()  # a result is an input


def test_bound_inputs_are_checked_and_copied(add: Path) -> None:
    module = load(add)
    assert "missing input 'y'" in message(module.bound, X)
    assert "input 'y'" in message(module.bound, X, Y[:1])
    x = X.copy()
    run = module.bound(x, Y)
    x[:] = -1
    assert np.array_equal(np.asarray(run()[0]), X + Y)


def test_bound_runs_of_two_threads(add: Path) -> None:
    run = load(add).bound(X, Y)
    results: list[np.ndarray] = []

    def work() -> None:
        for _ in range(50):
            results.append(np.array(run()[0]))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 100
    assert all(np.array_equal(result, X + Y) for result in results)


def test_bound_runs_keep_state(counter: Path) -> None:
    module = load(counter)
    start = np.asarray(module(np.ones(4, np.float32))[1]).copy()
    run = module.bound(np.ones(4, np.float32))
    for call in (1, 2, 3):
        assert np.array_equal(np.array(run()[1]), start + call)


def test_indices_must_be_in_their_table(folder: Path) -> None:
    source = """
    func.func @main(%i: tensor<?xi64>) -> tensor<?xi64> @MANIFEST { return %i : tensor<?xi64> }
    """
    leaf = Leaf("ids", ("n",), "int64", below=10)
    module = load(build(folder / "below.vmfb", source, manifest([leaf], [leaf])))
    assert (module([0, 9]) == [0, 9]).all()
    assert module(np.empty(0, np.int64)).size == 0
    for wrong in (10, -1):
        assert message(module, [3, wrong, 4]) == (
            f"input 'ids': the value {wrong} is not in [0, 10), it indexes a table of that size"
        )
