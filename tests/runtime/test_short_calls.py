"""Models with short calls: which devices are tried, and that the faster one is kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowc.errors import InternalError, UserError
from lowc.runtime.manifest import Leaf, Manifest
from lowc.runtime.module import load
from lowc.runtime.short_calls import SURELY_LONG, SURELY_SHORT, devices_to_try, fastest
from tiny.artifacts import build, manifest
from tiny.sources import ADD, ADD_INPUTS

X = np.arange(6, dtype=np.float32).reshape(2, 3)
BETWEEN = (SURELY_SHORT + SURELY_LONG) / 2
CASTS = """
func.func @main(%x: tensor<2x3xbf16>, %y: tensor<2x3xi8>) -> tensor<2x3xf32> @MANIFEST {
  %0 = arith.extf %x : tensor<2x3xbf16> to tensor<2x3xf32>
  %1 = arith.sitofp %y : tensor<2x3xi8> to tensor<2x3xf32>
  %2 = arith.addf %0, %1 : tensor<2x3xf32>
  return %2 : tensor<2x3xf32>
}
"""


def about(microseconds: float | None, **changes: Any) -> Manifest:
    outputs = [Leaf("", (2, 3), "float32")]
    return manifest(ADD_INPUTS, outputs, serial_microseconds=microseconds, **changes)


class Sleeper:
    """A module of which only the time of a call is known."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def bound_to_zeros(self) -> Callable[[], object]:
        return lambda: time.sleep(self.seconds)


class Broken(Sleeper):
    def bound_to_zeros(self) -> Callable[[], object]:
        raise InternalError("running the module failed")


def test_only_what_may_be_short_is_tried() -> None:
    assert devices_to_try(about(None)) == ("cpu",)
    assert devices_to_try(about(SURELY_LONG * 2)) == ("cpu",)
    assert devices_to_try(about(SURELY_SHORT / 2)) == ("cpu-sync",)
    assert devices_to_try(about(BETWEEN)) == ("cpu", "cpu-sync")
    # Trial calls would change its state.
    assert devices_to_try(about(BETWEEN, has_state=True)) == ("cpu",)


def test_the_faster_one_is_kept() -> None:
    slow, quick = Sleeper(0.01), Sleeper(0.0)
    assert fastest([slow, quick]) is quick
    assert fastest([quick, slow]) is quick
    assert fastest([Broken(0)]).seconds == 0
    assert fastest([slow, Broken(0)]) is slow


@pytest.mark.parametrize(
    ("microseconds", "devices"),
    [
        (None, {"cpu"}),
        (SURELY_LONG * 2, {"cpu"}),
        (SURELY_SHORT / 2, {"cpu-sync"}),
        (BETWEEN, {"cpu", "cpu-sync"}),
    ],
)
def test_a_module_says_how_long_its_calls_take(
    tmp_path: Path, microseconds: float | None, devices: set[str]
) -> None:
    path = build(tmp_path / "add.vmfb", ADD, about(microseconds))
    module = load(path)
    assert module.device.kind in devices
    assert (module(X, X) == 2 * X).all()
    # A number of threads is the most that there may be, and checked whatever is chosen.
    assert load(path, threads=1).device.threads == 1
    with pytest.raises(UserError, match="the number of threads must be"):
        load(path, threads=0)
    # Who names a device gets it.
    assert load(path, "cpu").device.kind == "cpu"
    assert load(path, "cpu-sync").device.kind == "cpu-sync"


def test_inputs_of_any_type_can_be_tried(tmp_path: Path) -> None:
    leaves = [Leaf("x", (2, 3), "bfloat16"), Leaf("y", (2, 3), "int8")]
    given = dataclasses.replace(about(BETWEEN), inputs=tuple(leaves))
    module = load(build(tmp_path / "casts.vmfb", CASTS, given))
    assert all(np.asarray(array).sum() == 0 for array in module.bound_to_zeros()())


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), "soon"])
def test_a_time_that_is_none_is_refused(wrong: Any) -> None:
    text = about(wrong).to_json()
    with pytest.raises(UserError, match="the module's manifest is damaged"):
        Manifest.from_json(text, "here")
