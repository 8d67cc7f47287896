"""Devices that a compiled module runs on, by the names that people type.

========================  =========================================================
``cpu``                   IREE's thread pool (``local-task``), one worker per core or as a
                          container's CPU quota allows
``cpu-sync``              the calling thread only (``local-sync``)
``vulkan``, ``cuda``      the first device of that kind, hardware before software; for a module
                          the first that has what it needs (:mod:`.gpu_facts`)
``vulkan://X``            that device: its number in the list, path or UUID
``auto``                  the device that the module was compiled for; of ``cpu`` and
                          ``cpu-sync`` the faster one (:mod:`.short_calls`)
========================  =========================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import iree.runtime as rt

# The package's own `get_driver` hands out one driver per process, and with it one thread pool;
# another number of threads needs a driver of its own.
from iree.runtime._binding import create_hal_driver, disable_leak_checker

from ..errors import UserError, nearest
from . import gpu_facts, placement
from .gpu_facts import GpuFacts
from .quota import cpu_quota

AUTO = "auto"
CPU, CPU_SYNC, VULKAN, CUDA = "cpu", "cpu-sync", "vulkan", "cuda"
DRIVERS = {CPU: "local-task", CPU_SYNC: "local-sync", VULKAN: "vulkan", CUDA: "cuda"}
# IREE's executor takes no more workers.
MAX_THREADS = 64
# A worker has 128 KiB of stack by default; code that was compiled with the last fallback of
# compiler/targets.toml needs up to 512 KiB in one function.
WORKER_STACK_BYTES = 1 << 20

_HINTS = {
    VULKAN: "install the GPU's Vulkan driver, or Mesa's (it has a software device too): "
    "apt-get install mesa-vulkan-drivers libvulkan1",
    CUDA: "install NVIDIA's driver (Debian: nvidia-driver, which brings libcuda1)",
}
_SOFTWARE = re.compile(r"llvmpipe|lavapipe|swiftshader", re.IGNORECASE)

_lock = threading.Lock()
_Key = tuple[str, int | None, int]
# A thread pool stays: arrays that a module returned lie in memory of its device.
_pools: dict[_Key, Device] = {}
# A GPU is held by its modules and arrays alone: the threads of a software one never rest.  It is
# one device under all of its names: kind, path or place in the driver's list, process.
_gpus: WeakValueDictionary[tuple[str, str, int], Device] = WeakValueDictionary()


def _keep_for_good() -> None:
    """Keep IREE's objects of all devices alive for good, in a process that was just forked.

    Their destructors join threads, which a fork does not copy: it would not end.
    """
    devices = [*_pools.values(), *_gpus.values()]
    if devices:
        disable_leak_checker()  # which would tell users of them at the end
    for device in devices:
        for kept in (device.hal, device.driver):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


os.register_at_fork(after_in_child=_keep_for_good)


@dataclass(frozen=True)
class Device:
    """An open device.

    ``name`` is what a user can type to get it again; ``threads`` the number of worker threads,
    0 where that means nothing; ``hal`` IREE's ``HalDevice``; ``facts`` what a GPU's driver tells;
    ``ordinal`` its place among those of its driver, which CUDA and DLPack number them by.
    Of a thread pool that has all cores, ``cores`` are the logical CPUs that its workers are bound
    to, and ``workers`` the ids of its threads.
    """

    name: str
    kind: str
    description: str
    threads: int
    hal: Any
    driver: Any
    cores: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    facts: GpuFacts = field(default_factory=GpuFacts)
    ordinal: int = 0

    @property
    def is_gpu(self) -> bool:
        """Whether it is opened for as long as it is held."""
        return self.kind in _HINTS

    def __repr__(self) -> str:
        return f"<device {self.name}: {self.description}>"


@dataclass(frozen=True)
class DeviceInfo:
    """One line of :func:`list_devices`; ``problem`` is empty for a device that can be opened.

    ``index`` is its place among those of its kind, which is a name of it too: ``vulkan://0``.
    """

    name: str
    description: str
    problem: str = ""
    hint: str = ""
    index: int = 0
    facts: GpuFacts = field(default_factory=GpuFacts)

    @property
    def available(self) -> bool:
        """Whether the device can be opened."""
        return not self.problem

    def __str__(self) -> str:
        return f"{self.name}: {self.description or self.problem}"


def usable_cores() -> list[int]:
    """Return one logical CPU number per physical core that this process may run on.

    A taskset or cpuset is kept to; of hyper-threads that share a core the first one counts.
    """
    allowed = sorted(os.sched_getaffinity(0))
    cores: dict[str, int] = {}
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            core = path.read_text().strip()
        except OSError:
            core = str(cpu)
        cores.setdefault(core, cpu)
    return list(cores.values())


def pool_cores() -> tuple[int, ...]:
    """Return the logical CPUs that the workers of a thread pool are bound to, by default."""
    cores = tuple(usable_cores())[:MAX_THREADS]
    return cores if pool_size() == len(cores) else ()


def pool_size() -> int:
    """Return how many workers a thread pool has by default: one per core, if a quota allows it.

    Under a container's CPU quota more threads than that would only use it up sooner: they wait for
    each other in kernels.
    """
    cores, quota = min(len(usable_cores()), MAX_THREADS), cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def list_devices() -> list[DeviceInfo]:
    """Return every device of this machine, and for an absent kind why it is absent."""
    found = [
        DeviceInfo(CPU, f"thread pool, {pool_size()} workers"),
        DeviceInfo(CPU_SYNC, "the calling thread"),
    ]
    for kind in (VULKAN, CUDA):
        try:
            driver, devices = _query(kind)
        except UserError as error:
            found.append(DeviceInfo(kind, "", error.what, error.hint))
            continue
        found.extend(
            DeviceInfo(_uri(kind, e), e["name"], index=index, facts=_facts(driver, e))
            for index, e in enumerate(devices)
        )
    return found


def fitting(kind: str, needs: Mapping[str, Any]) -> str:
    """Return the name of the first device of that kind that has what a module `needs`.

    Where none has, it is that of the first one.

    Raises
    ------
    UserError
        When the driver or a device is absent; the hint names the package.
    """
    driver, devices = _query(kind)
    fits = [entry for entry in devices if not gpu_facts.lacking(_facts(driver, entry), needs)]
    return _uri(kind, (fits or devices)[0])


def open_device(name: str = CPU, *, threads: int | None = None) -> Device:
    """Open the device called `name`, or return it if it is open.

    A GPU stays open as long as somebody holds it, a thread pool as long as the process lives.

    Parameters
    ----------
    name : str
        See the module docstring; ``auto`` must have been resolved before.
    threads : int, optional
        Number of worker threads of ``cpu``.  By default one per core that the process may use,
        each bound to its core, and no more than a container's CPU quota allows; fewer are bound to
        none.

    Raises
    ------
    UserError
        When the name is unknown, or the driver or device is absent; the hint names the package.
    """
    kind, _, identity = name.partition("://")
    if identity and kind in (CPU, CPU_SYNC):
        raise UserError(f"there is only one device '{kind}'", hint=f"write '{kind}'")
    if kind not in DRIVERS:
        known = [*DRIVERS, "vulkan://ID", "cuda://ID"]
        raise UserError(f"unknown device '{name}'", hint=nearest(name, known))
    check_threads(kind, threads)
    if kind == CPU and threads is None and not pool_cores():
        threads = pool_size()
    elif kind == CPU and threads == len(usable_cores()):
        threads = None
    with _lock:
        if kind in _HINTS:
            return _gpu(kind, identity)
        # A fork does not copy threads, so a device is of use only in the process that opened it.
        key = (name, threads, os.getpid())
        if key not in _pools:
            _pools[key] = _open_cpu(kind, threads)
        return _pools[key]


def check_threads(kind: str, threads: int | None) -> None:
    """Raise a UserError unless a device of that kind takes that many threads."""
    if threads is None:
        return
    if kind != CPU:
        raise UserError(f"the device '{kind}' takes no number of threads", hint="leave it out")
    most = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise UserError(
            f"the number of threads must be 1 to {most} in this process, got {threads!r}",
            hint="leave it out to use every core",
        )


def _open_cpu(kind: str, threads: int | None) -> Device:
    if kind == CPU_SYNC:
        driver = create_hal_driver(DRIVERS[kind])
        device = driver.create_default_device()
        return Device(kind, kind, "the calling thread", 1, device, driver)
    rt.flags.parse_flags(f"--task_worker_stack_size={WORKER_STACK_BYTES}")
    before = placement.threads()
    with _topology(threads):
        driver = create_hal_driver(DRIVERS[kind])
        device = driver.create_default_device()
    cores = tuple(usable_cores())[:MAX_THREADS]
    count = threads or len(cores)
    text = f"thread pool, {count} workers"
    if threads is not None:
        return Device(kind, kind, text, count, device, driver)
    workers = tuple(sorted(placement.threads() - before))
    return Device(kind, kind, text, count, device, driver, cores, workers)


@contextlib.contextmanager
def _topology(threads: int | None) -> Any:
    """Ask IREE for that many workers while the block creates a driver; the flags are global."""
    if threads is None:
        yield
        return
    # A given count leaves the workers unbound, so that several processes with few threads each do
    # not meet on the first cores; but it ignores a taskset, which the other flag keeps to.
    is_free = len(os.sched_getaffinity(0)) == os.cpu_count()
    flag = "--task_topology_group_count" if is_free else "--task_topology_max_group_count"
    rt.flags.parse_flags(f"{flag}={threads}")
    try:
        yield
    finally:
        rt.flags.parse_flags(
            "--task_topology_group_count=0", f"--task_topology_max_group_count={MAX_THREADS}"
        )


# -- GPUs ------------------------------------------------------------------------------------------


def _query(kind: str) -> tuple[Any, list[dict[str, Any]]]:
    """Return the driver and its devices, hardware first, each with its ``ordinal``."""
    try:
        driver = create_hal_driver(DRIVERS[kind])
        devices = driver.query_available_devices()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the {kind} driver is not available ({_reason(error)})", hint=_HINTS[kind]
        ) from error
    if not devices:
        raise UserError(f"this machine has no {kind} device", hint=_HINTS[kind])
    numbered = [{**entry, "ordinal": place} for place, entry in enumerate(devices)]
    return driver, sorted(numbered, key=lambda entry: bool(_SOFTWARE.search(entry["name"])))


def _gpu(kind: str, identity: str) -> Device:
    """Return the GPU of that kind and name, opened if nobody holds it."""
    driver, devices = _query(kind)
    chosen = devices[0] if not identity else _find(kind, identity, devices)
    key = (kind, chosen["path"] or str(chosen["ordinal"]), os.getpid())
    gpu = _gpus.get(key)
    if gpu is None:
        gpu = _gpus[key] = _open_gpu(kind, driver, chosen)
    return gpu


def _open_gpu(kind: str, driver: Any, chosen: dict[str, Any]) -> Device:
    try:
        device = driver.create_device(chosen["device_id"])
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the device '{chosen['name']}' cannot be opened ({_reason(error)})",
            where=_uri(kind, chosen),
            hint=_HINTS[kind],
        ) from error
    name, facts = _uri(kind, chosen), _facts(driver, chosen)
    return Device(
        name, kind, chosen["name"], 0, device, driver, facts=facts, ordinal=chosen["ordinal"]
    )


def _facts(driver: Any, entry: dict[str, Any]) -> GpuFacts:
    """Return what the driver tells of a device; IREE prints it for people."""
    try:
        return gpu_facts.read(driver.dump_device_info(entry["device_id"]))
    except (RuntimeError, ValueError, OSError):
        return GpuFacts()


def _find(kind: str, identity: str, devices: list[dict[str, Any]]) -> dict[str, Any]:
    if identity.isdecimal() and int(identity) < len(devices):
        return devices[int(identity)]
    for entry in devices:
        if _plain(identity) == _plain(entry["path"]):
            return entry
    known = ", ".join(f"{_uri(kind, entry)} ({entry['name']})" for entry in devices)
    raise UserError(f"there is no {kind} device '{identity}'", hint=f"known: {known}")


def _plain(identity: str) -> str:
    """Return a UUID without the dashes and prefix in which drivers differ."""
    return identity.lower().removeprefix("gpu-").replace("-", "")


def _uri(kind: str, entry: dict[str, Any]) -> str:
    return f"{kind}://{entry['path']}" if entry["path"] else kind


def _reason(error: Exception) -> str:
    """Return the last part of IREE's message: it starts with a source file and a status code."""
    lines = str(error).splitlines() or [type(error).__name__]
    text = lines[0].rpartition("; please")[0] or lines[0]
    return text.rpartition("; ")[2].strip()[:200]
