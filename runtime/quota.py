"""How many cores a control group's quota leaves to this process (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def cpu_quota(groups: Path = _GROUPS, root: Path = _ROOT) -> float | None:
    """Return the cores that the quotas of this process's control groups allow, None without one.

    A group's quota holds for those below it too, so that the least of them counts.  `groups` is
    the list that the kernel gives of a process, `root` where control groups are mounted, in the
    second version or the first.
    """
    found = [cores for folder in _folders(groups, root) if (cores := _cores(folder)) is not None]
    return min(found, default=None)


def cores_of(cpu_max: str) -> float | None:
    """Return the cores that a group's ``cpu.max`` (quota and period) allows; None without limit."""
    parts = cpu_max.split()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        return None
    quota, period = map(int, parts)
    return quota / period if quota and period else None


def _folders(groups: Path, root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that bound this process's time, and of those above them."""
    for line in _read(groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the mount may begin at the group itself: what is not there has no quota.
        path = PurePosixPath(group).relative_to("/") if group.startswith("/") else None
        if path is None or ".." in path.parts:
            path = PurePosixPath()
        for mount in (root, root / "cpu", root / "cpu,cpuacct"):
            yield from (mount / part for part in (path, *path.parents))
    yield root


def _cores(folder: Path) -> float | None:
    second = _read(folder / "cpu.max")
    if second:
        return cores_of(second)
    quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return cores_of(f"{quota} {period}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
