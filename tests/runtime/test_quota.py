"""Quotas of control groups: both versions, groups within groups, and what says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from lowc.runtime.quota import cores_of, cpu_quota, memory_left


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", None), ("150000 100000\n", 1.5), ("", None), ("x y", None), ("1 0", None),
        ("-1 100000", None),
    ],
)  # fmt: skip
def test_quota_and_period(text: str, cores: float | None) -> None:
    assert cores_of(text) == cores


def quota(folder: Path, groups: str, files: dict[str, str]) -> float | None:
    """Return the quota of a process in `groups`, with these files where groups are mounted."""
    return cpu_quota(*mounted(folder, groups, files))


def mounted(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write what the kernel says of a process in `groups`; return the list and the mount."""
    root = folder / "mounted"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "cgroup").write_text(groups)
    return folder / "cgroup", root


def test_the_least_of_all_levels_counts(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000",
        "pod/cpu.max": "200000 100000",
        "pod/box/cpu.max": "300000 100000",
        "other/cpu.max": "10000 100000",
    }
    assert quota(tmp_path, "0::/pod/box\n", files) == 2.0
    assert quota(tmp_path, "0::/\n", files) is None


def test_in_a_container_the_mount_is_the_group(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/../../elsewhere\n", {"cpu.max": "50000 100000"}) == 0.5


def test_the_first_version(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/box/cpu.cfs_quota_us": "150000\n",
        "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert quota(tmp_path, "4:cpu,cpuacct:/box\n3:memory:/else\n", files) == 1.5
    assert quota(tmp_path, "4:cpu,cpuacct:/\n3:memory:/box\n", files) is None


def test_memory_of_the_second_version(tmp_path: Path) -> None:
    files = {
        "pod/memory.max": "1000\n",
        "pod/memory.current": "900\n",
        "pod/memory.stat": "anon 300\ninactive_file 500\nactive_file 100\n",
        "pod/box/memory.max": "max\n",
        "pod/box/memory.current": "900\n",
        "other/memory.max": "10\n",
        "other/memory.current": "0\n",
    }
    assert memory_left(*mounted(tmp_path, "0::/pod/box\n", files)) == 600
    assert memory_left(*mounted(tmp_path, "0::/\n", files)) is None
    files["pod/box/memory.max"] = "1000\n"
    assert memory_left(*mounted(tmp_path, "0::/pod/box\n", files)) == 100
    files["pod/box/memory.current"] = "1001\n"
    assert memory_left(*mounted(tmp_path, "0::/pod/box\n", files)) == 0


def test_memory_of_the_first_version(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": "5\n",
        "memory/box/memory.limit_in_bytes": "1000\n",
        "memory/box/memory.usage_in_bytes": "900\n",
        "memory/box/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
        "cpu/box/memory.limit_in_bytes": "1\n",
        "cpu/box/memory.usage_in_bytes": "0\n",
    }
    assert memory_left(*mounted(tmp_path, "4:memory:/box\n3:cpu:/\n", files)) == 150
    # The mount of a container begins at its own group, whose path is that outside.
    inside = {name.replace("box/", ""): text for name, text in files.items() if "box" in name}
    assert memory_left(*mounted(tmp_path / "in", "4:memory:/docker/box\n", inside)) == 150


def test_no_groups(tmp_path: Path) -> None:
    assert memory_left(tmp_path / "none", tmp_path / "none") is None
    assert cpu_quota(tmp_path / "none", tmp_path / "none") is None
