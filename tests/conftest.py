"""What all tests share: their order, why some are skipped, and a clean environment.

Cheap tests run first, so that a broken tree is known early; see the markers in pyproject.toml.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

# Later ones run later; a test without any of them runs first.
_ORDER = ("filecheck", "slow", "vulkan", "cuda", "wheel")
# Files that compile whole models; others mark single tests.
_SLOW = (
    "tests/compiler/test_failures.py",
    "tests/compiler/test_models.py",
    "tests/tools/test_bench.py",
    "tests/tools/test_demo.py",
    "tests/zoo/",
)
# Folders whose files compile once for each value of a parameter, and nothing for all of them.
_APART = {"tests/passes/kernels/": ("compiled", "loaded"), "tests/zoo/": ("name",)}


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests off the network, and from each other's settings."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("LOWC_DEBUG", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    # A machine may be busy, and stop for seconds.
    settings.register_profile("lowc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("lowc")


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gather what tests and their children leave in the temporary folder (reproducers)."""
    folder = str(tmp_path_factory.mktemp("tmp"))
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by cost; Python's sort keeps the order within a group."""
    for item in items:
        if item.nodeid.startswith(_SLOW):
            item.add_marker("slow")
    items.sort(key=_cost)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """Name the tests that one process runs: those of a file and cost share what they compile."""
    path = item.nodeid.partition("::")[0]
    callspec = getattr(item, "callspec", None)
    given = callspec.params if callspec else {}
    names = [name for folder, some in _APART.items() if path.startswith(folder) for name in some]
    parts = [str(given[name]) for name in names if name in given]
    return " ".join([path, str(_cost(item)), *parts])


def _cost(item: pytest.Item) -> int:
    return max(
        (_ORDER.index(m.name) + 1 for m in item.iter_markers() if m.name in _ORDER), default=0
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a device that this machine does not have."""
    for kind in ("vulkan", "cuda"):
        if item.get_closest_marker(kind) is None or not (problem := _device_problem(kind)):
            continue
        # Software Vulkan can be installed anywhere: where results count, its absence is a failure.
        if kind == "vulkan" and os.environ.get("CI") == "true":
            pytest.fail(f"CI must have a Vulkan device: {problem}", pytrace=False)
        pytest.skip(problem)


@cache
def _device_problem(kind: str) -> str:
    """Return why there is no device of that kind, or nothing when there is one."""
    from lowc.runtime.devices import list_devices

    found = [device for device in list_devices() if device.name.partition("://")[0] == kind]
    if any(device.available for device in found):
        return ""
    return "; ".join(f"{device.problem}: {device.hint}" for device in found) or f"no {kind} device"
