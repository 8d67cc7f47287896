"""Calls that are started and not waited for, and arrays that stay on the device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import iree.runtime as rt
import numpy as np
import pytest
from lowc.errors import InternalError
from lowc.runtime.buffers import DeviceArray
from lowc.runtime.devices import Device, open_device
from lowc.runtime.fences import Done, Timeline
from lowc.runtime.manifest import Leaf
from lowc.runtime.module import Module, load
from tiny.artifacts import build, manifest
from tiny.sources import ADD, ADD_INPUTS, COUNTER

X = np.arange(6, dtype=np.float32).reshape(2, 3)
ON_VULKAN = [pytest.param("vulkan-fences", marks=pytest.mark.vulkan),
             pytest.param("vulkan", marks=pytest.mark.vulkan)]  # fmt: skip


@pytest.fixture(scope="module")
def modules(folder: Path):
    """``modules(target)`` is a pair that adds, on one device."""
    made: dict[str, tuple[Module, Module]] = {}

    def of(target: str) -> tuple[Module, Module]:
        if target not in made:
            kind = target.partition("-")[0]
            about = manifest(ADD_INPUTS, [Leaf("", (2, 3), "float32")], device=kind)
            path = build(folder / f"add.{target}.vmfb", ADD, about, target=target)
            device = "cpu-sync" if kind == "cpu" else "auto"
            made[target] = load(path, device), load(path, device)
        return made[target]

    return of


@pytest.mark.parametrize("target", ["cpu", *ON_VULKAN])
def test_results_are_passed_on_without_waiting(modules, target):
    one, other = modules(target)
    total = one.to_device(X)
    for _ in range(20):  # many are on their way at once, and of two modules in turns
        total = other.start(one.start(total, X), X)
    assert isinstance(total, DeviceArray)
    assert total.shape == (2, 3)
    assert (np.asarray(total) == 41 * X).all()
    assert (one(total, total) == 82 * X).all()
    assert (np.asarray(other.bound(total, X)()[0]) == 42 * X).all()


@pytest.mark.parametrize("target", ["cpu", *ON_VULKAN])
def test_a_started_call_has_its_inputs(modules, target):
    module, _ = modules(target)
    x = X.copy()
    result = module.start(x, x)
    x[:] = 0
    assert (np.asarray(result) == 2 * X).all()


@pytest.mark.vulkan
def test_only_calls_with_fences_are_still_to_come(modules):
    with_fences, without = (modules(target)[0] for target in ("vulkan-fences", "vulkan"))
    result = with_fences.start(X, X)
    assert result.done is not None
    for _ in range(2):
        result.wait()
        assert result.done is None
    assert without.start(X, X).done is None


@pytest.mark.vulkan
@pytest.mark.parametrize("target", ["vulkan-fences", "vulkan"])
@pytest.mark.parametrize(
    "order", ["module run result", "result module run", "run result module", ""]
)
def test_a_gpu_goes_last_whatever_goes_first(modules, target, order):
    path = modules(target)[0].path
    script = f"""
import gc, sys
import numpy as np
from lowc.runtime.module import load
module = load(sys.argv[1])
x = np.ones((2, 3), np.float32)
run = module.bound(x, module.to_device(x))
result = [run(), module.start(x, x)]
for name in "{order}".split():
    del globals()[name]
    gc.collect()
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=120, check=False)
    assert done.returncode == 0


@pytest.mark.vulkan
def test_state_changes_in_the_order_of_the_calls(folder: Path):
    leaf = Leaf("x", (4,), "float32")
    about = manifest([leaf], [Leaf("0", (4,), "float32")] * 2, has_state=True, device="vulkan")
    path = build(folder / "counter.fences.vmfb", COUNTER, about, target="vulkan-fences")
    module, one = load(path), np.ones(4, np.float32)
    for _ in range(10):
        module.start(one)
    assert (module(one)[1] == 16).all()
    module.reset()
    assert (module(one)[1] == 6).all()


def test_dlpack_of_a_cpu_shares_the_memory(modules):
    module, _ = modules("cpu")
    result = module.start(X, X)
    assert result.__dlpack_device__() == (1, 0)
    assert (np.from_dlpack(result) == 2 * X).all()
    result.__dlpack__(copy=False, dl_device=(1, 0), max_version=(1, 0))
    with pytest.raises(BufferError, match="own memory"):
        result.__dlpack__(copy=True)
    with pytest.raises(BufferError, match=r"lies on DLPack's device \(1, 0\), not on \(2, 1\)"):
        result.__dlpack__(dl_device=(2, 1))


def test_dlpack_numbers_gpus_as_their_driver_does(modules):
    module, _ = modules("cpu")
    view = module.to_device(X).view
    second = Device("cuda://GPU-b", "cuda", "b", 0, None, None, ordinal=1)
    assert DeviceArray(view, "float32", second).__dlpack_device__() == (2, 1)


def test_an_array_of_another_device_is_copied(modules):
    module, _ = modules("cpu")
    there = load(module.path, "cpu")
    assert there.device is not module.device
    assert (there(module.start(X, X), X) == 3 * X).all()
    assert (there.bound(module.start(X, X), X)()[0].__array__() == 3 * X).all()


@pytest.mark.vulkan
def test_vulkan_has_no_dlpack(modules):
    module, _ = modules("vulkan-fences")
    with pytest.raises(BufferError, match="arrays on the device 'vulkan://.*' have no DLPack form"):
        module.start(X, X).__dlpack_device__()


def fails(_arguments):
    raise ValueError("not started")


@pytest.mark.vulkan
def test_a_call_that_fails_holds_up_no_other(modules):
    module, _ = modules("vulkan-fences")
    timeline = Timeline(module.device.hal, str(module.path))
    with pytest.raises(ValueError, match="not started"):
        timeline.invoke(fails, rt.VmVariantList(2))
    module._timeline = timeline
    assert (module(X, X) == 2 * X).all()


def test_after_a_call_that_fails_the_next_waits_for_the_one_before():
    # By the fences: software Vulkan begins calls in the order in which they came, whatever they are.
    hal = open_device("cpu-sync").hal
    rt.create_hal_module(rt.VmInstance(), hal)  # until then a list cannot hold a fence
    timeline, waits = Timeline(hal), []

    def starts(arguments):
        waits.append(arguments.get_as_object(0, rt.HalFence))

    first = timeline.invoke(starts, rt.VmVariantList(2))
    with pytest.raises(ValueError, match="not started"):
        timeline.invoke(fails, rt.VmVariantList(2))
    third = timeline.invoke(starts, rt.VmVariantList(2))
    timeline.invoke(starts, rt.VmVariantList(2))
    at_once = [fence.wait(timeout=0) for fence in waits]
    assert at_once == [True, False, False]
    first.fence.signal()
    assert [fence.wait(timeout=0) for fence in waits] == [True, True, False]
    third.fence.signal()
    assert waits[2].wait(timeout=0)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, ValueError, LookupError])
def test_a_failure_is_told_where_the_result_is_waited_for(modules, error):
    class Failed:
        def wait(self):
            raise error("c/runtime/src/iree/hal/fence.c:12: device lost")

    module, _ = modules("cpu")
    view = module.to_device(X).view
    array = DeviceArray(view, "float32", module.device, Done(Failed(), "some.vmfb"))
    for read in (array.wait, lambda: np.asarray(array), array.__dlpack__):
        with pytest.raises(InternalError, match="running the module failed") as caught:
            read()
        assert (caught.value.where, caught.value.detail) == ("some.vmfb", "device lost")


@pytest.mark.vulkan
def test_a_call_knows_its_module(modules):
    module, _ = modules("vulkan-fences")
    assert module.start(X, X).done.where == str(module.path)
