"""A load generator: keep-alive connections on raw sockets in one process, with little CPU a request.

It shares the machine with the servers that it measures. So requests are built before the clock starts, an
answer is parsed no further than its status and its length, and the generator reports the share of a core that
it took.

Closed loop: each connection sends its next request when it has its answer. Open loop (`--rate`): requests
fall due at fixed intervals and a latency counts from that moment, so a server that stalls is charged for
everyone who had to wait, not just for those that it kept (Tene's "coordinated omission").

    load.py URL BODIES [--connections 16] [--seconds 5] [--warmup 1] [--rate 200] [--spread PID PID]

BODIES holds one JSON body a line; they are sent in turn. The result is one JSON object on standard output.

Which of its processes accepts a connection is chance, and keep-alive makes it last: all connections of a run
on one of two processes would halve what is measured. `--spread` opens connections until each of the given
processes has its equal share.
"""

import argparse
import json
import math
import select
import socket
import time
from array import array
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from client import body_of
from processes import socket_owner

DRAIN_SECONDS = 3.0
RECEIVE_BYTES = 65536


@dataclass
class Result:
    """What one run saw. Rates are per second, latencies in milliseconds, shares in cores."""

    seconds: float = 0.0
    answered: int = 0
    """All answers, those outside the measured time too."""
    requests: int = 0
    rate: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    late_p99_ms: float | None = None
    """Open loop: from the due time until the request left: no free connection, or this process was late."""
    unanswered: int = 0
    """Open loop: requests of the measured time without an answer when the run gave up."""
    broken: int = 0
    """Requests that were sent and whose connection then closed without an answer."""
    reconnections: int = 0
    cpu_share: float = 0.0
    """Processor seconds of this process over the measured seconds."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first body of each status."""


class Connection:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("address", "due", "received", "sent", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.due = 0.0
        self.sent = 0.0
        self.received = b""
        self.socket = self.connect()

    def connect(self) -> socket.socket:
        """Open a new socket that does not block and sends at once."""
        opened = socket.create_connection(self.address, timeout=5)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        return opened


def open_connections(address: tuple[str, int], number: int, processes: list[int]) -> list[Connection]:
    """Connections to a server, an equal share of them accepted by each of its processes, if any are given."""
    if not processes:
        return [Connection(address) for _ in range(number)]
    kept: dict[int, list[Connection]] = {process: [] for process in processes}
    share = math.ceil(number / len(processes))
    for _ in range(number * 50):
        connection = Connection(address)
        owner = socket_owner(address[1], connection.socket.getsockname()[1], processes)
        if owner is None or len(kept[owner]) == share:
            connection.socket.close()
        else:
            kept[owner].append(connection)
        if sum(map(len, kept.values())) >= number:
            return [connection for connections in kept.values() for connection in connections][:number]
    raise RuntimeError(f"could not spread {number} connections over {processes}")


def build_requests(url: str, bodies: list[bytes]) -> list[bytes]:
    """Complete HTTP/1.1 requests, ready to be written to a socket."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    return [head.replace("{}", str(len(body))).encode() + body for body in bodies]


class Load:
    """One run: sends `requests` in turn over `connections` and keeps the latencies of the measured time."""

    def __init__(self, requests: list[bytes], connections: list[Connection]) -> None:
        self.requests = requests
        self.next_request = 0
        self.poller = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.idle: deque[Connection] = deque()
        self.statuses: Counter[int] = Counter()
        self.latencies = array("d")
        self.lateness = array("d")
        self.result = Result()
        self.measure_from = math.inf
        self.measure_until = math.inf
        self.by_due_time = False
        for connection in connections:
            self.register(connection)

    def register(self, connection: Connection) -> None:
        """Watch a connection and mark it as free to send."""
        self.connections[connection.socket.fileno()] = connection
        self.poller.register(connection.socket.fileno(), select.EPOLLIN)
        self.idle.append(connection)

    def reopen(self, connection: Connection) -> None:
        """Replace a connection that the server closed."""
        del self.connections[connection.socket.fileno()]
        self.poller.unregister(connection.socket.fileno())
        connection.socket.close()
        connection.received = b""
        connection.sent = 0.0
        connection.socket = connection.connect()
        self.result.reconnections += 1
        self.register(connection)

    def send(self, connection: Connection, due: float) -> None:
        """Send the next request. A body of a row fits any socket buffer, so a short write is an error."""
        request = self.requests[self.next_request]
        self.next_request = (self.next_request + 1) % len(self.requests)
        connection.due = due
        connection.sent = time.perf_counter()
        try:
            if connection.socket.send(request) != len(request):
                raise ValueError("the socket buffer is too small for one request")
        except (BrokenPipeError, ConnectionResetError):
            self.result.broken += 1
            self.reopen(connection)

    def receive(self, connection: Connection) -> bool:
        """Read what has arrived; True when the answer is complete and the connection free."""
        try:
            arrived = connection.socket.recv(RECEIVE_BYTES)
        except ConnectionResetError:
            arrived = b""
        if not arrived:
            self.closed(connection)
            return False
        received = connection.received + arrived if connection.received else arrived
        offsets = body_of(received)
        if offsets is None or len(received) < offsets[1]:
            connection.received = received
            return False
        connection.received = b""
        self.count(connection, received, offsets)
        connection.sent = 0.0
        return True

    def closed(self, connection: Connection) -> None:
        """The server closed: its right between requests, a broken request in the middle of one."""
        if connection.sent:
            self.result.broken += 1
        else:
            self.idle.remove(connection)
        self.reopen(connection)

    def count(self, connection: Connection, received: bytes, offsets: tuple[int, int]) -> None:
        """Record an answer of the measured time: by due time in an open loop, else by arrival."""
        self.result.answered += 1
        now = time.perf_counter()
        counted_by = connection.due if self.by_due_time else now
        if not self.measure_from <= counted_by < self.measure_until:
            return
        status = int(received[9:12])
        if status not in self.statuses:
            self.result.examples[str(status)] = received[offsets[0] : offsets[0] + 300].decode(
                errors="replace"
            )
        self.statuses[status] += 1
        self.latencies.append(now - connection.due)
        self.lateness.append(connection.sent - connection.due)

    def measure(self, warmup: float, seconds: float) -> None:
        """Fix the measured time: `seconds` long, after `warmup`."""
        self.measure_from = time.perf_counter() + warmup
        self.measure_until = self.measure_from + seconds

    def closed_loop(self, warmup: float, seconds: float) -> Result:
        """Keep every connection busy."""
        self.measure(warmup, seconds)
        cpu_before = None
        while (now := time.perf_counter()) < self.measure_until:
            if cpu_before is None and now >= self.measure_from:
                cpu_before = time.process_time()
            while self.idle:
                self.send(self.idle.popleft(), time.perf_counter())
            for descriptor, _ in self.poller.poll(max(self.measure_until - now, 0.001)):
                connection = self.connections[descriptor]
                if self.receive(connection):
                    self.send(connection, time.perf_counter())
        self.result.cpu_share = (time.process_time() - (cpu_before or 0.0)) / seconds
        return self.summary(seconds)

    def open_loop(self, warmup: float, seconds: float, rate: float) -> Result:
        """Send `rate` requests per second, whatever the server does; wait a bounded time for the last."""
        self.measure(warmup, seconds)
        self.by_due_time = True
        start, cpu_before = time.perf_counter(), time.process_time()
        total, number, due = math.ceil((warmup + seconds) * rate), 0, start
        give_up = self.measure_until + DRAIN_SECONDS
        while (now := time.perf_counter()) < give_up:
            while self.idle and due <= now and number < total:
                self.send(self.idle.popleft(), due)
                number += 1
                due = start + number / rate
            if number == total and len(self.idle) == len(self.connections):
                break
            # epoll waits in whole milliseconds, select in microseconds: wait on the one through the other.
            wait = due - now if self.idle and number < total else give_up - now
            if select.select([self.poller.fileno()], [], [], max(wait, 0.0))[0]:
                self.receive_all()
        self.result.cpu_share = (time.process_time() - cpu_before) / (time.perf_counter() - start)
        self.charge_unanswered([start + late / rate for late in range(number, total)])
        return self.summary(seconds)

    def charge_unanswered(self, never_sent: list[float]) -> None:
        """Count requests without an answer with the time until now, so that no quantile hides them."""
        now = time.perf_counter()
        under_way = [connection.due for connection in self.connections.values() if connection.sent]
        unanswered = [due for due in under_way + never_sent if due >= self.measure_from]
        self.latencies.extend(now - due for due in unanswered)
        self.result.unanswered = len(unanswered)

    def receive_all(self) -> None:
        """Take every answer that is there."""
        for descriptor, _ in self.poller.poll(0):
            connection = self.connections[descriptor]
            if self.receive(connection):
                self.idle.append(connection)

    def summary(self, seconds: float) -> Result:
        """The result of the measured time; closes the connections."""
        for connection in self.connections.values():
            connection.socket.close()
        self.poller.close()
        ordered = sorted(self.latencies)
        self.result.seconds = seconds
        self.result.requests = sum(self.statuses.values())
        self.result.rate = self.result.requests / seconds
        self.result.statuses = {str(status): n for status, n in sorted(self.statuses.items())}
        self.result.p50_ms = milliseconds(ordered, 0.50)
        self.result.p99_ms = milliseconds(ordered, 0.99)
        self.result.max_ms = milliseconds(ordered, 1.0)
        self.result.late_p99_ms = milliseconds(sorted(self.lateness), 0.99)
        return self.result


def milliseconds(ordered_seconds: list[float], quantile: float) -> float | None:
    """The nearest-rank quantile of ascending seconds, in milliseconds; None of nothing."""
    if not ordered_seconds:
        return None
    rank = max(math.ceil(quantile * len(ordered_seconds)) - 1, 0)
    return ordered_seconds[rank] * 1000.0


def main() -> None:
    """Run once and print the result as JSON."""
    parser = argparse.ArgumentParser(
        description="Send prepared bodies to a local server and time the answers."
    )
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="a file with one JSON body a line")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before it that are not counted")
    parser.add_argument(
        "--rate", type=float, help="open loop: requests per second; without it, a closed loop"
    )
    parser.add_argument("--spread", type=int, nargs="*", default=[], help="ids of the server's processes")
    arguments = parser.parse_args()

    parts = urlsplit(arguments.url)
    requests = build_requests(arguments.url, arguments.bodies.read_bytes().splitlines())
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    load = Load(requests, open_connections(address, arguments.connections, arguments.spread))
    if arguments.rate:
        result = load.open_loop(arguments.warmup, arguments.seconds, arguments.rate)
    else:
        result = load.closed_loop(arguments.warmup, arguments.seconds)
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
