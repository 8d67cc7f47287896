"""Time and check the kernels of a bundle on the CUDA device of this machine, in one command.

It stands alone: it needs Python, NumPy and IREE's runtime, and PyTorch only for the peers::

    python collect.py BUNDLE -o results.json

``seconds`` is the time of one kernel on the device: the code of a module is launched many times in
a CUDA graph, with weights that together are several times the L2 cache, and its replays are timed
by events.  What the host does is out; what the device waits between two kernels that follow each
other is in.  PyTorch's kernels are timed in the same way, and copies by events too.

``iree_seconds`` is what a dispatch of IREE's runtime adds to a call: the difference between a
function of many dispatches and one of few, by the difference of their numbers.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS = 7
LEAST_BLOCK = 0.01  # seconds of calls that are timed together
COPY_BYTES = 1 << 30
ROTATED = 400 << 20  # bytes of what is read in turn: several times the L2 cache
SLOW = 2.0  # seconds of a call that is made once
PATIENCE = 60  # seconds that a call may take: a kernel that does not end must not take all the time
PEERS_SECONDS = 60  # about what the peers take
_MAX_SHARED = 8  # of cuFuncSetAttribute
_SPARE = 1024  # bytes of workgroup memory beside what a kernel asks for


# -- arrays ----------------------------------------------------------------------------------------


def make(spec: dict[str, Any]) -> Any:
    """Return the array that a spec of the bundle means: the same bits on every machine."""
    rng = np.random.Generator(np.random.PCG64(spec["seed"]))
    shape = tuple(spec["shape"])
    if spec["kind"] == "bits":
        words = rng.bit_generator.random_raw(-(-int(np.prod(shape)) * spec["width"] // 64))
        found = words.view(spec["dtype"])[: int(np.prod(shape))].reshape(shape)
        return found & np.array(int(spec["size"]) - 1, found.dtype) if spec["size"] > 1 else found
    uniform = (rng.bit_generator.random_raw(int(np.prod(shape))) >> np.uint64(40)).astype(
        np.float32
    )
    uniform = (uniform / np.float32(1 << 24)).reshape(shape)
    if spec["kind"] == "scales":
        return (uniform + np.float32(0.5)) * np.float32(spec["size"])
    if spec["kind"] == "activations":  # in +-2, none below 2^-24
        return (uniform - np.float32(0.5)) * np.float32(4) + np.float32(2.0**-26)
    if spec["kind"] == "patterns":
        value = (uniform - np.float32(0.5)) * np.float32(4) + np.float32(2.0**-26)
        return value.view(np.int32) - np.int32(spec["less"])
    raise ValueError(spec["kind"])


# Kernel, workgroups, threads, bytes of workgroup memory, and its buffers.
Launch = tuple[ctypes.c_void_p, list[int], list[int], int, list[ctypes.c_uint64]]


# -- the driver ------------------------------------------------------------------------------------


class Driver:
    """As much of CUDA's driver as copies and their times take."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self._call("cuCtxSetCurrent", self.context)
        self.device = device
        self.arrays: dict[str, list[ctypes.c_uint64]] = {}

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with {code}")

    def attribute(self, number: int) -> int:
        """Return an attribute of the device, by its number in ``cuda.h``."""
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self.device)
        return value.value

    def upload(self, array: Any) -> ctypes.c_uint64:
        """Copy an array to the device."""
        place, data = ctypes.c_uint64(), np.ascontiguousarray(array)
        self._call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(data.nbytes))
        source = ctypes.c_void_p(data.ctypes.data)
        self._call("cuMemcpyHtoD_v2", place, source, ctypes.c_size_t(data.nbytes))
        return place

    def array(self, spec: dict[str, Any], copies: int) -> list[ctypes.c_uint64]:
        """Return copies of an array on the device; the arrays of a spec are kept."""
        kept = self.arrays.setdefault(json.dumps(spec, sort_keys=True), [])
        if len(kept) < copies:
            host = make(spec)
            kept += [self.upload(host) for _ in range(copies - len(kept))]
        return kept[:copies]

    def drop(self) -> None:
        """Give the memory of all arrays back."""
        for places in self.arrays.values():
            for place in places:
                self._call("cuMemFree_v2", place)
        self.arrays.clear()

    def kernel(self, code: bytes, name: str, shared: int) -> ctypes.c_void_p:
        """Return a kernel of PTX, with so many bytes of workgroup memory."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code))
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        self._call("cuFuncSetAttribute", function, _MAX_SHARED, shared)
        return function

    def launch(self, stream: Any, launch: Launch) -> None:
        """Start a kernel."""
        function, grid, threads, shared, places = launch
        values = (ctypes.c_void_p * len(places))(
            *(ctypes.cast(ctypes.pointer(place), ctypes.c_void_p) for place in places)
        )
        self._call("cuLaunchKernel", function, *grid, *threads, shared, stream, values, None)

    def copy_seconds(self, size: int) -> float:
        """Return the time of a copy that moves `size` bytes, in a graph as kernels are."""
        half = size // 2
        count = max(2, -(-ROTATED // size))
        spec = {"shape": [half], "kind": "bits", "dtype": "uint8", "width": 8}
        places = self.array({**spec, "seed": 1, "size": 1}, 2 * count)
        pairs = list(zip(places[::2], places[1::2], strict=True)) * max(1, 32 // count)

        def start(stream: Any, pair: Any) -> None:
            self._call("cuMemcpyDtoDAsync_v2", pair[1], pair[0], ctypes.c_size_t(half), stream)

        found = statistics.median(self.graph_seconds(pairs, start))
        self.drop()
        return found

    def graph_seconds(
        self, launches: Sequence[Any], start: Callable[[Any, Any], None]
    ) -> list[float]:
        """Return times of one of `launches`: of replays of a graph of them, in a row."""
        stream, graph, ready = (ctypes.c_void_p() for _ in range(3))
        self._call("cuStreamCreate", ctypes.byref(stream), 1)
        self._call("cuStreamBeginCapture_v2", stream, 2)
        for launch in launches:
            start(stream, launch)
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        flags = ctypes.c_ulonglong(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, flags)
        events = [ctypes.c_void_p() for _ in range(2)]
        for event in events:
            self._call("cuEventCreate", ctypes.byref(event), 0)
        found = []
        for number in range(BLOCKS + 2):
            self._call("cuEventRecord", events[0], stream)
            self._call("cuGraphLaunch", ready, stream)
            self._call("cuEventRecord", events[1], stream)
            self._call("cuEventSynchronize", events[1])
            ms = ctypes.c_float()
            self._call("cuEventElapsedTime", ctypes.byref(ms), *events)
            if number >= 2:
                found.append(ms.value / 1e3 / len(launches))
        self._call("cuGraphExecDestroy", ready)
        self._call("cuGraphDestroy", graph)
        self._call("cuStreamDestroy_v2", stream)
        return found

    def copy_rate(self, size: int = COPY_BYTES, times: int = 20) -> float:
        """Return bytes per second of copies on the device, read and written ones counted."""
        places = [ctypes.c_uint64() for _ in range(2)]
        events = [ctypes.c_void_p() for _ in range(2)]
        for place in places:
            self._call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
            self._call("cuMemsetD8_v2", place, ctypes.c_ubyte(0x5A), ctypes.c_size_t(size))
        for event in events:
            self._call("cuEventCreate", ctypes.byref(event), 0)
        found = []
        for _ in range(5):
            self._call("cuEventRecord", events[0], None)
            for _ in range(times):
                self._call(
                    "cuMemcpyDtoDAsync_v2", places[1], places[0], ctypes.c_size_t(size), None
                )
            self._call("cuEventRecord", events[1], None)
            self._call("cuEventSynchronize", events[1])
            ms = ctypes.c_float()
            self._call("cuEventElapsedTime", ctypes.byref(ms), *events)
            found.append(2 * size * times / (ms.value / 1e3))
        for place in places:
            self._call("cuMemFree_v2", place)
        return statistics.median(found)


def card() -> dict[str, str]:
    """Return the card's name, driver and clocks, as ``nvidia-smi`` says them."""
    fields = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    first = next(iter(run.stdout.splitlines()), "")
    return dict(zip(fields.split(","), first.split(", "), strict=False)) if first else {}


# -- IREE ------------------------------------------------------------------------------------------


class Device:
    """A CUDA device of IREE's runtime, and what is on it."""

    def __init__(self, driver: str = "cuda") -> None:
        from iree import runtime as rt

        self.rt = rt
        self.hal = rt.get_driver(driver).create_default_device()
        self.instance = rt.VmInstance()
        self.arrays: dict[str, Any] = {}

    def load(self, path: Path) -> Any:
        """Return a loaded module: ``(context, module)``."""
        module = self.rt.VmModule.copy_buffer(self.instance, path.read_bytes())
        hal = self.rt.create_hal_module(self.instance, self.hal)
        return self.rt.VmContext(self.instance, [hal, module]), module

    def function(self, loaded: Any, name: str) -> Callable[..., Any]:
        """Return a function of a loaded module that takes and returns device arrays."""
        context, module = loaded
        function = module.lookup_function(name)
        if function.reflection.get("iree.abi.model") != "coarse-fences":
            return self.rt.FunctionInvoker(context, self.hal, function)
        return partial(self._with_fences, context, function)

    def _with_fences(self, context: Any, function: Any, *arrays: Any) -> Any:
        """Call a function of one result that takes two fences more, and wait for it."""
        rt = self.rt
        arguments, results = rt.VmVariantList(len(arrays) + 2), rt.VmVariantList(1)
        for array in arrays:
            arguments.push_ref(array._buffer_view)  # noqa: SLF001
        semaphore = self.hal.create_semaphore(0)
        arguments.push_ref(rt.HalFence.create_at(semaphore, 0))
        arguments.push_ref(rt.HalFence.create_at(semaphore, 1))
        context.invoke(function, arguments, results)
        self._wait(semaphore)
        return rt.DeviceArray(self.hal, results.get_as_object(0, rt.HalBufferView))

    def _wait(self, semaphore: Any) -> None:
        if not semaphore.wait(1, timeout=PATIENCE * 10**9):
            raise TimeoutError(f"a call took longer than {PATIENCE} s")

    def array(self, spec: dict[str, Any], copies: int) -> list[Any]:
        """Return copies of an array on the device; the arrays of a spec are kept."""
        key = json.dumps(spec, sort_keys=True)
        kept = self.arrays.setdefault(key, [])
        if len(kept) < copies:
            host = make(spec)
            kept += [self.rt.asdevicearray(self.hal, host) for _ in range(copies - len(kept))]
        return kept[:copies]

    def download(self, view: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
        """Return an array of the device."""
        rt, source = self.rt, view.get_buffer()
        target = self.hal.allocator.allocate_buffer(
            memory_type=int(rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE),
            allowed_usage=int(rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED),
            allocation_size=source.byte_length(),
        )
        semaphore = self.hal.create_semaphore(0)
        self.hal.queue_copy(
            source,
            target,
            wait_semaphores=rt.HalFence.create_at(semaphore, 0),
            signal_semaphores=rt.HalFence.create_at(semaphore, 1),
        )
        self._wait(semaphore)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        flat = target.map().asarray((target.byte_length(),), np.dtype(np.uint8))[:size]
        return flat.copy().view(dtype).reshape(shape)

    def drop(self) -> None:
        """Forget all arrays."""
        self.arrays.clear()


def seconds(call: Callable[[], Any], blocks: int = BLOCKS) -> tuple[float, list[float]]:
    """Return the median time of a call, and those of the blocks; calls wait for the device."""
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    times = max(1, min(200, int(LEAST_BLOCK / max(once, 1e-6))))
    found = []
    for _ in range(blocks):
        start = time.perf_counter()
        for _ in range(times):
            call()
        found.append((time.perf_counter() - start) / times)
    return statistics.median(found), found


# -- cases -----------------------------------------------------------------------------------------


def measure(
    device: Device, driver: Driver | None, bundle: Path, case: dict[str, Any]
) -> dict[str, Any]:
    """Return what a case of the bundle takes on the device, and whether its result is right."""
    found: dict[str, Any] = {key: case[key] for key in ("name", "group", "bytes", "operations")}
    found |= {"problem": case.get("problem"), "tiling": case.get("tiling"), "kind": case["kind"]}
    try:
        loaded = device.load(bundle / case["file"])
        if "check" in case:
            found["wrong"] = check(device, loaded, bundle, case["check"])
        found |= by_calls(device, loaded, case)
        found["seconds"] = found["iree_seconds"]
        found["launches"] = int(np.prod(case["functions"]["many"]))
        if driver is not None:
            blocks = by_graph(driver, bundle, case)
            found |= {"seconds": statistics.median(blocks), "blocks": blocks}
        if found["seconds"] <= 0:  # calls differ by more than a dispatch takes
            found["lost"] = "calls of many dispatches took no longer than calls of few"
    except Exception as error:  # one case must not end the others
        found["error"] = f"{type(error).__name__}: {error}"[:300]
    return found


def by_calls(device: Device, loaded: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return what a dispatch of IREE's runtime adds to a call."""
    times = {}
    for name, (copies, repeats) in case["functions"].items():
        shared = [device.array(spec, repeats) for spec in case["shared"]]
        own = [device.array(spec, copies) for spec in case["own"]]
        parts = (*zip(*shared, strict=True), *zip(*own, strict=True))
        arguments = [array for part in parts for array in part]
        function = device.function(loaded, name)
        times[name] = (copies * repeats, *seconds(partial(function, *arguments)))
    count, whole, blocks = times["many"]
    if "few" not in times:
        return {"iree_seconds": whole / count, "iree_blocks": [b / count for b in blocks]}
    less, part, _ = times["few"]
    each = [(block - part) / (count - less) for block in blocks]
    return {"iree_seconds": (whole - part) / (count - less), "iree_blocks": each}


def whole_calls(device: Device, bundle: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the times of calls of whole modules, which IREE's own code generator made.

    What failed has its error in the place of a time.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        try:
            found[entry["name"]] = whole_call(device, bundle, entry)
        except Exception as error:  # one module must not end the others
            found[entry["name"]] = f"{type(error).__name__}: {error}"[:300]
        device.drop()
    return found


def whole_call(device: Device, bundle: Path, entry: dict[str, Any]) -> float:
    """Return the time of a call of a whole module."""
    loaded = device.load(bundle / entry["file"])
    arguments = [device.array(spec, 1)[0] for spec in entry["inputs"]]
    call = partial(device.function(loaded, "main"), *arguments)
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    return once if once > SLOW else seconds(call, 3)[0]


def by_graph(driver: Driver, bundle: Path, case: dict[str, Any]) -> list[float]:
    """Return times of one kernel of the case, in blocks."""
    shared = case["shared_bytes"] + (_SPARE if case["shared_bytes"] else 0)
    code = (bundle / case["file"]).with_suffix(".ptx").read_bytes()
    kernel = driver.kernel(code + b"\0", case["kernel"], shared)
    copies, repeats = case["functions"]["many"]
    first = [driver.array(spec, 1)[0] for spec in case["shared"]]
    owns = list(zip(*(driver.array(spec, copies) for spec in case["own"]), strict=True))
    result = driver.array(case["place"], 1)[0]
    launches = [
        (kernel, case["grid"], case["threads"], shared, [*first, *own, result])
        for _ in range(repeats)
        for own in owns
    ]
    return driver.graph_seconds(launches, driver.launch)


def check(device: Device, loaded: Any, bundle: Path, spec: dict[str, Any]) -> str:
    """Return how the result of a function differs from what is expected; nothing if it does not."""
    arguments = [device.array(one, 1)[0] for one in spec["inputs"]]
    if any(zlib.crc32(make(one)) != crc for one, crc in spec["crc"]):
        return "this NumPy makes other random numbers"
    result = device.function(loaded, spec["function"])(*arguments)
    found = device.download(
        result._buffer_view,  # noqa: SLF001
        spec["dtype"],
        tuple(spec["shape"]),
    )
    wanted = np.load(bundle / spec["file"])
    rows = wanted["rows"]
    picked = found.reshape(-1, *found.shape[-1:])[rows] if rows.size else found
    expected = wanted["expected"]
    if picked.shape != expected.shape:
        return f"the shape {picked.shape} in the place of {expected.shape}"
    if "bound" in wanted:
        off = np.abs(picked.astype(np.float64) - expected)
        bad = ~(off <= wanted["bound"])
    else:
        bad = picked.view(np.uint32) != expected.view(np.uint32)
    if not bad.any():
        return ""
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    values = f"{picked[first]!r} for {expected[first]!r}"
    return f"{int(bad.sum())} of {bad.size} differ, first {first}: {values}"


# -- peers -----------------------------------------------------------------------------------------


def peers(shapes: list[list[int]], squares: list[int]) -> dict[str, Any]:
    """Return PyTorch's times: bf16 products of a row (``[n, k]``), and square products."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    found: dict[str, Any] = {"torch": torch.__version__}

    def graph_seconds(calls: Sequence[Callable[[], Any]]) -> float:
        for call in calls:
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        times = []
        for _ in range(12):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / len(calls))
        return statistics.median(times[2:])

    for n, k in shapes:
        count = max(2, -(-(512 << 20) // (2 * n * k)))
        x = torch.randn(1, k, device="cuda", dtype=torch.bfloat16)
        weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
        calls = [partial(torch.nn.functional.linear, x, weight) for weight in weights]
        found[f"bf16 1x{n}x{k}"] = graph_seconds(calls * max(1, 32 // count))
        del weights, calls
    for size in squares:
        a, b = (
            torch.randint(-127, 128, (size, size), device="cuda", dtype=torch.int8)
            for _ in range(2)
        )
        multiply = torch._int_mm  # noqa: SLF001
        found[f"_int_mm {size}"] = graph_seconds([partial(multiply, a, b.t())] * 8)
        torch.backends.cuda.matmul.allow_tf32 = False
        found[f"f32 {size}"] = graph_seconds([partial(torch.matmul, a.float(), b.float())] * 2)
        half = (a.bfloat16(), b.bfloat16())
        found[f"bf16 {size}"] = graph_seconds([partial(torch.matmul, *half)] * 8)
    torch.cuda.empty_cache()
    return found


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Measure everything in a bundle; write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("results.json"))
    parser.add_argument("--seconds", type=float, default=400, help="begin no case after so many")
    parser.add_argument("--driver", default="cuda", help="of IREE: cuda, or vulkan without peers")
    parser.add_argument("--graphs", action="store_true", help="submit calls as CUDA graphs")
    parser.add_argument("--no-peers", action="store_true", help="leave PyTorch out")
    given = parser.parse_args()
    began = time.monotonic()
    manifest = json.loads((given.bundle / "manifest.json").read_text())
    driver = Driver() if given.driver == "cuda" else None
    results: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": manifest["commit"],
        "versions": manifest["versions"],
        "graphs": given.graphs,
        "python": platform.python_version(),
        "card": card(),
        "multiprocessors": driver.attribute(16) if driver else 0,
        "l2": driver.attribute(38) if driver else 0,
        "copy_rate": driver.copy_rate() if driver else 1.0,
        "cases": [],
    }
    say(f"{results['card']} copies {results['copy_rate'] / 1e12:.2f} TB/s")
    if given.graphs:
        from iree import runtime

        runtime.flags.parse_flags("--cuda_use_streams=false")
    device = Device(given.driver)
    group = None
    for case in manifest["cases"]:
        if time.monotonic() - began > given.seconds:
            results["cases"].append({"name": case["name"], "error": "no time left"})
            continue
        if case["group"] != group:
            device.drop()
            if driver is not None:
                driver.drop()
            group = case["group"]
        found = measure(device, driver, given.bundle, case)
        results["cases"].append(found)
        say(line(found, results["copy_rate"]))
        given.output.write_text(json.dumps(results, indent=1))
    device.drop()
    if driver is not None:
        driver.drop()
    end = began + given.seconds + PEERS_SECONDS
    for name, part in parts_behind(device, driver, given, manifest).items():
        if time.monotonic() > end:
            results[name] = {"error": "no time left"}
            continue
        try:
            results[name] = part()
        except Exception as error:  # what was measured so far is kept
            results[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        say(f"{name} {json.dumps(results[name])}")
        given.output.write_text(json.dumps(results, indent=1))
    results["took"] = time.monotonic() - began
    given.output.write_text(json.dumps(results, indent=1))
    return 0


def parts_behind(
    device: Device, driver: Driver | None, given: argparse.Namespace, manifest: dict[str, Any]
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what is measured behind the cases, the most telling first."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    if driver is not None:
        sizes = sorted({case["bytes"] for case in manifest["cases"] if case["kind"][0] == "w"})
        found["copy_seconds"] = partial(copy_times, driver, sizes)
    if driver is not None and not given.no_peers:
        found["peers"] = partial(peers, manifest["peer_rows"], manifest["peer_squares"])
    found["stock"] = partial(whole_calls, device, given.bundle, manifest.get("stock", []))
    return found


def copy_times(driver: Driver, sizes: Sequence[int]) -> dict[str, float]:
    """Return the times of copies that move so many bytes."""
    return {str(size): driver.copy_seconds(size) for size in sizes}


def line(found: dict[str, Any], copy_rate: float) -> str:
    """Return one case as a line of the table."""
    if "error" in found:
        return f"{found['name']:60} {found['error']}"
    if "lost" in found:
        return f"{found['name']:60} not measured: {found['lost']}"
    took = found["seconds"]
    rate = found["bytes"] / took
    text = (
        f"{found['name']:60} {took * 1e6:9.2f} us {rate / 1e12:6.2f} TB/s {rate / copy_rate:5.0%}"
    )
    text += f" {found['operations'] / took / 1e12:7.2f} T/s {found['iree_seconds'] * 1e6:9.2f} us"
    return text + ("" if not found.get("wrong") else f"  WRONG: {found['wrong']}")


if __name__ == "__main__":
    sys.exit(main())
