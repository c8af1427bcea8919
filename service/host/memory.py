"""How much memory this process may use, and the share of it that the embedded server takes."""

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> int:
    """Bytes of memory of this machine, or of the container if it is limited to less (cgroups, version 1 and 2)."""
    total = next(
        int(line.split()[1]) * 1024
        for line in (proc / "meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    return min([total, *_limits(proc, cgroups)])


def _limits(proc: Path, cgroups: Path) -> list[int]:
    """The limits of this process's control group and all groups around it."""
    found = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / group.lstrip("/")
        # Inside a container its own group is mounted as the root, and the path above may not exist.
        for part in [folder, *folder.parents]:
            if part.is_relative_to(root):
                found.append(_text(part / name).strip())
    return [int(limit) for limit in found if limit.isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def limit(setting: str) -> str:
    """The embedded server's `maxmemory` for this setting: a share such as `50%` becomes bytes, the rest stays."""
    if not setting.endswith("%"):
        return setting
    return str(int(available() * float(setting[:-1]) / 100))
