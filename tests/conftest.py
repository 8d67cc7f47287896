"""What all tests share: their order, why some are skipped, and a clean environment.

Cheap tests run first, so that a broken tree is known early; see the markers in pyproject.toml.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache

import pytest

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


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests off the network, and from each other's settings."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("LOWC_DEBUG", "PYTHONWARNINGS"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gather what tests and their children leave in the temporary folder (reproducers)."""
    folder = str(tmp_path_factory.mktemp("tmp"))
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by cost; Python's sort keeps the order within a group."""
    for item in items:
        if item.nodeid.startswith(_SLOW):
            item.add_marker("slow")
    items.sort(key=_cost)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """Name the tests that one process runs: those of a file and cost share what they compile.

    The models of the zoo share nothing.
    """
    path = item.nodeid.partition("::")[0]
    callspec = getattr(item, "callspec", None)
    model = callspec.params.get("name", "") if callspec and path.startswith("tests/zoo/") else ""
    return f"{path} {_cost(item)} {model}"


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
