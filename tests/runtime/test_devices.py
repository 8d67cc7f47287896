"""Names of devices, what is said of absent ones, threads, and running on Vulkan and CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime import devices
from lowc.runtime.devices import _find, list_devices, open_device, usable_cores
from lowc.runtime.manifest import Leaf
from lowc.runtime.module import load
from tiny.artifacts import build, manifest
from tiny.sources import ADD, ADD_INPUTS, COUNTER

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def refusal(name: str, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        open_device(name, **keywords)
    return str(caught.value)


def python(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unknown_names() -> None:
    assert refusal("cpu-snyc") == "unknown device 'cpu-snyc'\n  hint: did you mean 'cpu-sync'?"
    assert "hint: known: cpu, cpu-sync, cuda, cuda://ID, vulkan, vulkan://ID" in refusal("xxxxxxx")
    assert refusal("cpu://1") == "there is only one device 'cpu'\n  hint: write 'cpu'"
    assert "unknown device ''" in refusal("")
    assert "unknown device 'auto'" in refusal("auto")


def test_the_same_name_gives_the_same_device() -> None:
    assert open_device("cpu") is open_device("cpu")


@pytest.mark.vulkan
def test_a_gpu_that_nobody_holds_ends_its_threads() -> None:
    script = """
import gc, os
from lowc.runtime.devices import list_devices, open_device
list_devices()  # what drivers start and keep
before = len(os.listdir("/proc/self/task"))
device = open_device("vulkan")
during = len(os.listdir("/proc/self/task"))
del device
gc.collect()
print(during - before, len(os.listdir("/proc/self/task")) - before)
"""
    during, after = map(int, python(script).split())
    assert during > 0
    assert after == 0
    assert open_device("cpu-sync") is not open_device("cpu")


@pytest.mark.vulkan
def test_a_gpu_is_one_device_under_all_names() -> None:
    device = open_device("vulkan")
    path = device.name.partition("://")[2]
    for name in ("vulkan", "vulkan://0", device.name, f"vulkan://{path.lower()}"):
        assert open_device(name) is device
    assert 0 <= device.ordinal < len(list_devices())


def test_list_names_every_kind() -> None:
    found = list_devices()
    assert [device.name for device in found[:2]] == ["cpu", "cpu-sync"]
    assert {device.name.partition("://")[0] for device in found[2:]} == {"vulkan", "cuda"}
    for device in found:
        assert device.available == (not device.problem)
        if device.available:
            assert open_device(device.name).description
        else:
            assert device.hint in refusal(device.name)


def test_absent_drivers_name_the_packages() -> None:
    script = (
        "from lowc.runtime.devices import list_devices\n"
        "for d in list_devices()[2:]: print(d.name, '|', d.problem, '|', d.hint)\n"
    )
    # No driver file, so the loader finds no device, with or without a GPU.
    nothing = {"VK_ICD_FILENAMES": "/nonexistent", "VK_DRIVER_FILES": "/nonexistent"}
    vulkan, *_ = python(script, **nothing, CUDA_VISIBLE_DEVICES="").splitlines()
    assert vulkan.startswith("vulkan | ")
    assert "vulkan d" in vulkan.split(" | ")[1]
    assert "apt-get install mesa-vulkan-drivers libvulkan1" in vulkan


@pytest.mark.vulkan
def test_wrong_device_for_a_module(add: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(add, "vulkan")
    assert "the module was compiled for cpu and does not run on the device 'vulkan" in str(
        caught.value
    )


def test_finds_a_device_by_number_path_and_uuid() -> None:
    uuid = "0a1b2c3d-0000-1111-2222-333344445555"
    devices = [{"path": "GPU-ffff", "name": "a"}, {"path": f"GPU-{uuid}", "name": "b"}]
    for identity in ("1", f"GPU-{uuid}", uuid, uuid.upper(), uuid.replace("-", "")):
        assert _find("cuda", identity, devices)["name"] == "b"
    assert _find("cuda", "0", devices)["name"] == "a"
    with pytest.raises(UserError) as caught:
        _find("cuda", "2", devices)
    assert str(caught.value) == (
        f"there is no cuda device '2'\n  hint: known: cuda://GPU-ffff (a), cuda://GPU-{uuid} (b)"
    )


# -- threads ---------------------------------------------------------------------------------------

_WORKERS = """
import os, sys, time
from pathlib import Path
from lowc.runtime.devices import open_device

def workers():
    tasks = Path("/proc/self/task").iterdir()
    return {t.name for t in tasks if (t / "comm").read_text().startswith("iree-work")}

allowed, expected = sys.argv[1], sys.argv[2:]
if allowed:
    os.sched_setaffinity(0, {int(allowed)})
for threads, line in zip((None, 1), expected, strict=True):
    before = workers()
    device = open_device("cpu", threads=threads)
    # Workers name and bind themselves, some time after they have started.
    for _ in range(500):
        new = workers() - before
        masks = sorted({tuple(os.sched_getaffinity(int(task))) for task in new})
        found = f"{len(new)} {device.threads} {masks}"
        if found == line:
            break
        time.sleep(0.02)
    print(found)
"""


def test_one_worker_per_core_or_as_asked() -> None:
    cores = usable_cores()
    every = sorted(os.sched_getaffinity(0))
    if len(every) != os.cpu_count():
        pytest.skip("this process may not use all cores; the next test is about that")
    # A lone worker is not bound to the first core, where another process's may sit already.
    expected = [f"{len(cores)} {len(cores)} {[(core,) for core in cores]}", f"1 1 {[tuple(every)]}"]
    if len(cores) == len(every):  # else IREE may bind a worker to both threads of a core
        assert python(_WORKERS, "", *expected).splitlines() == expected
    else:
        assert python(_WORKERS, "", *expected).splitlines()[1] == expected[1]


def test_no_more_workers_than_a_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = usable_cores()
    for quota, workers in ((0.5, 1), (1.0, 1), (1.5, 2), (100.0, len(cores))):
        count = min(workers, len(cores))
        monkeypatch.setattr(devices, "cpu_quota", lambda quota=quota: quota)
        device = open_device("cpu")
        assert (device.threads, len(device.cores)) == (count, count if count == len(cores) else 0)
        assert list_devices()[0].description == f"thread pool, {count} workers"
        assert open_device("cpu", threads=len(cores)).threads == len(cores)  # as asked
    monkeypatch.setattr(devices, "usable_cores", lambda: list(range(80)))
    monkeypatch.setattr(devices, "cpu_quota", lambda: 2.5)
    assert (devices.pool_size(), devices.pool_cores()) == (3, ())
    monkeypatch.setattr(devices, "cpu_quota", lambda: None)
    assert (devices.pool_size(), devices.pool_cores()) == (64, tuple(range(64)))


def test_threads_keep_to_the_cores_that_the_process_has() -> None:
    last = max(os.sched_getaffinity(0))
    # As many threads as cores is what there is by default: the same pool, no new workers.
    expected = [f"1 1 [({last},)]", "0 1 []"]
    assert python(_WORKERS, str(last), *expected).splitlines() == expected


def test_refuses_impossible_threads() -> None:
    most = len(os.sched_getaffinity(0))
    for threads in (0, -1, most + 1, 1.0, True):
        text = refusal("cpu", threads=threads)
        assert f"the number of threads must be 1 to {most} in this process, got {threads!r}" in text
    assert "the device 'cpu-sync' takes no number of threads" in refusal("cpu-sync", threads=1)


def test_runs_with_a_number_of_threads(add: Path) -> None:
    for threads in range(1, len(os.sched_getaffinity(0)) + 1):
        module = load(add, "cpu", threads=threads)
        assert module.device.threads == threads
        assert (module(X, X) == 2 * X).all()


# -- GPUs ------------------------------------------------------------------------------------------


@pytest.mark.vulkan
def test_vulkan(folder: Path) -> None:
    about = manifest(ADD_INPUTS, [Leaf("", (2, 3), "float32")], device="vulkan")
    path = build(folder / "add.vulkan.vmfb", ADD, about, target="vulkan")
    name = next(d.name for d in list_devices() if d.name.startswith("vulkan://"))
    for device in ("auto", "vulkan", "vulkan://0", name):
        module = load(path, device)
        assert module.device.name.startswith("vulkan://")
        out = module(X, module.to_device(X))
        assert (out == 2 * X).all()
        assert out.flags.writeable


@pytest.mark.vulkan
@pytest.mark.parametrize("device", ["auto", "vulkan", "vulkan://0"])
def test_a_module_for_another_gpu_is_refused(folder: Path, device: str) -> None:
    needs = {"subgroups": [128], "features": ["shaderInt8"]}
    about = manifest(
        ADD_INPUTS, [Leaf("", (2, 3), "float32")],
        device="vulkan", target="vulkan:big", needs=needs,
    )  # fmt: skip
    path = build(folder / "add.other.vmfb", ADD, about, target="vulkan")
    with pytest.raises(UserError) as caught:
        load(path, device)
    error = caught.value
    assert error.what.startswith(
        "the module was compiled for vulkan:big and does not run on the device 'vulkan://"
    )
    assert error.hint.startswith("compile it for that device ('lowc doctor' tells its target)")
    assert error.detail.startswith("it needs 128 threads that run together, the device has ")


@pytest.mark.vulkan
def test_vulkan_keeps_state(folder: Path) -> None:
    leaf = Leaf("x", (4,), "float32")
    about = manifest([leaf], [Leaf("0", (4,), "float32")] * 2, has_state=True, device="vulkan")
    module = load(build(folder / "counter.vulkan.vmfb", COUNTER, about, target="vulkan"))
    one = np.ones(4, np.float32)
    old, new = module(one)
    assert (old == 5).all()
    assert (new == 6).all()
    assert (module(one)[1] == 7).all()
    module.reset()
    assert (module(one)[1] == 6).all()


@pytest.mark.cuda
def test_cuda(folder: Path) -> None:
    about = manifest(ADD_INPUTS, [Leaf("", (2, 3), "float32")], device="cuda")
    path = build(folder / "add.cuda.vmfb", ADD, about, target="cuda")
    for device in ("auto", "cuda", "cuda://0"):
        assert (load(path, device)(X, X) == 2 * X).all()
