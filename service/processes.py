"""Processes: an identity by which others on the same machine see at once that one has died, and dying with a parent."""

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Get a signal when the parent, of this pid, dies; end at once if it has died already. Called in the child."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def ending(status: int | None) -> str:
    """How a process ended, from its status as `subprocess` gives it: by a signal, or with a status of its own."""
    try:
        return f"killed by {signal.Signals(-(status or 0)).name}"
    except ValueError:
        return f"exit status {status}"


def identity(pid: int | None = None) -> str:
    """A process of this machine, never the same for two: boot, namespace of pids, pid, start. "" without /proc."""
    pid = os.getpid() if pid is None else pid
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The 22nd field, the start in clock ticks since the boot; the 2nd, the name, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, start = fields[0], fields[19]
        namespace = Path("/proc/self/ns/pid").readlink()
        return "" if state == "Z" else f"{boot} {namespace} {pid} {start}"
    except OSError:
        return ""


def has_died(holder: str) -> bool:
    """Whether the process of this identity was one of this machine and is no more. False if that is not known."""
    mine, theirs = identity().split(" "), holder.split(" ")
    if len(mine) != 4 or len(theirs) != 4 or mine[:2] != theirs[:2]:
        return False
    return identity(int(theirs[2])) != holder
