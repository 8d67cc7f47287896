"""Quotas of control groups: both versions, groups within groups, and what says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from lowc.runtime.quota import cores_of, cpu_quota


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
    root = folder / "mounted"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "cgroup").write_text(groups)
    return cpu_quota(folder / "cgroup", root)


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


def test_no_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "none") is None
