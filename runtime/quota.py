"""What the limits of control groups leave to this process: cores and memory (Linux)."""

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
    found = map(_cores, _folders(groups, root, "cpu"))
    return min((cores for cores in found if cores is not None), default=None)


def memory_left(groups: Path = _GROUPS, root: Path = _ROOT) -> int | None:
    """Return the bytes that the limits of this process's control groups leave, None without one.

    As with :func:`cpu_quota` the least of all groups counts.  Pages of files that nobody used for
    a while are counted as free: the kernel gives them up before it says that a limit is reached.
    """
    found = map(_bytes_left, _folders(groups, root, "memory"))
    return min((left for left in found if left is not None), default=None)


def cores_of(cpu_max: str) -> float | None:
    """Return the cores that a group's ``cpu.max`` (quota and period) allows; None without limit."""
    parts = cpu_max.split()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        return None
    quota, period = map(int, parts)
    return quota / period if quota and period else None


def _folders(groups: Path, root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that `controller` has this process in, and those above."""
    for line in _read(groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # In a container the mount may begin at the group itself: what is not there has no quota.
        path = PurePosixPath(group).relative_to("/") if group.startswith("/") else None
        if path is None or ".." in path.parts:
            path = PurePosixPath()
        for mount in (root, root / controller, root / controllers):
            yield from (mount / part for part in (path, *path.parents))
    yield root


def _cores(folder: Path) -> float | None:
    second = _read(folder / "cpu.max")
    if second:
        return cores_of(second)
    quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return cores_of(f"{quota} {period}")


def _bytes_left(folder: Path) -> int | None:
    names = ("memory.max", "memory.current", "inactive_file ")
    if not (folder / names[0]).exists():
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
    limit, used = (_read(folder / name).strip() for name in names[:2])
    if not limit.isdecimal() or not used.isdecimal():  # "max", or no such group
        return None
    lines = _read(folder / "memory.stat").splitlines()
    unused = [line.split()[1] for line in lines if line.startswith(names[2])]
    return max(0, int(limit) - int(used) + sum(map(int, unused)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
