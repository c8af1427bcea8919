"""Processes that a benchmark starts, watches through /proc and stops again by their ids. Linux only."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client import Client

READY_SECONDS = 90.0
STOP_SECONDS = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def parents() -> dict[int, int]:
    """Process id → parent's id, of every process there is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat_fields(int(entry.name))
            if fields:
                found[int(entry.name)] = int(fields[1])
    return found


def stat_fields(process: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(process: int) -> list[int]:
    """A process and all that come from it, itself first."""
    parent_of = parents()
    family = [process]
    for member in family:
        family.extend(child for child, parent in parent_of.items() if parent == member)
    return family


def command_line(process: int) -> str:
    """The command line, words separated by spaces; empty when the process is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_seconds(process: int) -> float:
    """Processor seconds that a process has used; 0 when it is gone."""
    fields = stat_fields(process)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def machine_busy_seconds() -> float:
    """Processor seconds that the machine has spent on anything but idling and waiting for its disks."""
    fields = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS


def socket_owner(server_port: int, client_port: int, candidates: list[int]) -> int | None:
    """Which of the candidates accepted a loopback connection; None if none of them does within a second."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        inode = socket_inode(server_port, client_port)
        for process in candidates:
            if inode in open_sockets(process):
                return process
        time.sleep(0.002)
    return None


def socket_inode(local_port: int, remote_port: int) -> str:
    """The inode of one end of a TCP connection; "0" before it is accepted or when there is none."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(fields[i].rpartition(":")[2], 16) for i in (1, 2)] == [local_port, remote_port]:
            return fields[9]
    return "0"


def open_sockets(process: int) -> set[str]:
    """The inodes of the sockets that a process has open."""
    targets = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            targets.append(str(descriptor.readlink()))
        except FileNotFoundError:  # closed since the listing
            continue
    return {target[8:-1] for target in targets if target.startswith("socket:[")}


@contextmanager
def server(
    command: list[str], port: int, ready_path: str, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it must answer a GET of `ready_path` without a 5xx before it begins.

    Raises RuntimeError with the end of its log if it does not come up.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment, start_new_session=True
        )
    try:
        wait_until_ready(process, port, ready_path, log)
        yield process
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, ready_path: str, log: Path) -> None:
    """Ask until the server answers."""
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with Client(port) as client:
                if client.get(ready_path)[0] < 500:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not come up:\n{log.read_text(errors='replace')[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to stop; if it does not within its time, kill it and what it started."""
    family = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for member in family:
            try:
                os.kill(member, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
