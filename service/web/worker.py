"""gunicorn's worker for Freshet: gevent's, with connections spread over the processes and a reload without a gap.

All processes accept from one socket. Whoever has more connections than another leaves the next one to it. The counts
are in memory that the processes share; it is made where gunicorn's master imports this file, before it forks.

At a reload the old processes go on accepting until the new ones are ready. Then they answer what they have, each with
`Connection: close`, close what is idle, and go.
"""

import errno
import json
import logging
import mmap
import resource
import socket
import ssl
import time
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any

import gevent
from gevent import socket as sockets
from gevent.pool import Pool
from gevent.socket import wait_read
from gunicorn import util
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.wsgi import create
from gunicorn.sock import ssl_context
from gunicorn.util import close_graceful
from gunicorn.workers.ggevent import GeventWorker

from service.web import current
from service.web.bodies import has_bytes
from service.web.heads import PlainRequest, Requests
from service.web.sending import Answer

TICK = 0.1  # seconds between looks at whether to stop
LOOK = 0.001  # seconds between looks whether another process has accepted a connection
PATIENCE = 0.005  # seconds that a process with fewer connections gets for it, for each that it has fewer
MOST_PATIENCE = 0.1  # seconds; then this process takes it: the other is busy
REPLACE_SECONDS = 120.0  # that a process waits at a reload for those that replace it
IDLE_GRACE = 0.5  # seconds that a connection which is idle at a stop may still bring a request
RELOAD_GRACE = 5.0  # the same at a reload: others serve already, so nobody waits for this process to go
PROBLEM = "application/problem+json"
REST_SECONDS = 5.0  # for the rest of a body that nobody has read
REST_PIECE = 2**14  # bytes of it in one turn of the loop
SPARE_FILES = 256  # open files of a process beside its clients' connections
BROKEN = {errno.EBADF, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH}  # with no class of its own
READ = 1  # libev's name for a wait until there is something to read
_SLOTS = 256  # workers that may live at the same time


class Board:
    """What the processes of one server know of each other: who serves, and how many connections it has."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * (_SLOTS + 1))  # survives a fork and is shared
        self._numbers = memoryview(self._memory).cast("q")  # 0: does not serve, else connections + 1

    def note(self, age: int, connections: int | None) -> None:
        """Note how many connections a worker has; None: it does not serve."""
        self._numbers[age % _SLOTS] = 0 if connections is None else connections + 1

    def fewest(self) -> int:
        """The fewest connections that a serving worker has."""
        return min((number for number in self._numbers[:_SLOTS].tolist() if number), default=1) - 1

    def serving_after(self, age: int) -> int:
        """How many of the workers that were started after one of this age serve."""
        return sum(self._numbers[later % _SLOTS] > 0 for later in range(age + 1, age + _SLOTS // 2))

    @property
    def reloaded_at(self) -> int:
        """The age of the youngest worker when the server was last asked to reload."""
        return self._numbers[_SLOTS]

    @reloaded_at.setter
    def reloaded_at(self, age: int) -> None:
        self._numbers[_SLOTS] = age


board = Board()


def on_starting(_server: Any) -> None:
    """gunicorn's hook, in its master: a master that takes the place of one that died has workers of its own."""
    global board
    board = Board()


def on_reload(server: Any) -> None:
    """gunicorn's hook, in its master: what is started from now on replaces what is there."""
    board.reloaded_at = server.worker_age


def worker_exit(_server: Any, _worker: "Worker") -> None:
    """gunicorn's hook, in a worker at its end: no log handler may be torn down after gevent's locks."""
    logging.shutdown()
    logging._handlerList.clear()  # type: ignore[attr-defined]  # weak references, which call back


def child_exit(_server: Any, worker: "Worker") -> None:
    """gunicorn's hook, in its master: a worker is gone."""
    board.note(worker.age, None)


class Worker(GeventWorker):  # type: ignore[misc]
    """One web process."""

    def init_process(self) -> None:
        """Raise the limit of open files to what the connections need, then start."""
        self.alive: bool = True
        self.worker_connections: int = self.cfg.worker_connections
        self._leaving = False
        self._asked_at = 0.0  # monotonic seconds: when it was asked to leave
        self._at_once = False  # not waiting for the processes that replace it
        self._idle: dict[
            Any, float
        ] = {}  # connections between two requests, longest idle first -> since when
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
            self.worker_connections = max(16, min(self.worker_connections, most - SPARE_FILES))
        util.write_error = write_problem
        super().init_process()

    def handle_exit(self, sig: int, frame: object) -> None:
        """Stop when what is under way is done. Only sets flags: it runs in a signal's handler.

        The master repeats the signal during a reload only after `graceful_timeout`: one that comes before is a stop.
        """
        now = time.monotonic()
        self._at_once = self._at_once or (
            self._leaving and now - self._asked_at < 0.9 * self.cfg.graceful_timeout
        )
        if not self._leaving:
            self._leaving, self._asked_at = True, now

    def run(self) -> None:
        """Serve until asked to stop, then answer what is there."""
        self._pool = Pool(self.worker_connections)
        self._tls = ssl_context(self.cfg) if self.cfg.is_ssl else None
        accepting = [gevent.spawn(self._accept, listener) for listener in self.sockets]
        self._note()
        while self.alive and not (self._leaving and self._is_replaced()):
            self.notify()
            self._end_overdue()
            gevent.sleep(TICK)
        board.note(self.age, None)
        gevent.killall(accepting)
        for listener in self.sockets:
            listener.close()
        self.alive = False  # answers say `Connection: close` from now on
        self._drain()

    def _is_replaced(self) -> bool:
        """Whether others serve instead of this process, or none need to."""
        if self._is_stopping():
            return True
        waited = time.monotonic() - self._asked_at
        return waited > REPLACE_SECONDS or board.serving_after(board.reloaded_at) >= self.cfg.workers

    def _is_stopping(self) -> bool:
        """Whether nobody is to take this process's place."""
        return self._at_once or self.age > board.reloaded_at

    def _drain(self) -> None:
        """Wait until all connections are closed, at most `graceful_timeout`; those that stay idle are closed."""
        until = time.monotonic() + self.cfg.graceful_timeout
        started = time.monotonic()
        while self._pool and time.monotonic() < until:
            now, grace = time.monotonic(), IDLE_GRACE if self._is_stopping() else RELOAD_GRACE
            for client, since in list(self._idle.items()):
                if now - max(since, started) > grace:
                    _end(client)
            self.notify()
            self._pool.join(timeout=TICK)
        if self._pool:
            self.log.warning("closed %d connections that were still busy", len(self._pool))
            self._pool.kill(block=True, timeout=1)

    # -- accepting -------------------------------------------------------------------------------------------

    def _accept(self, listener: Any) -> None:
        listener.settimeout(0.0)
        name = listener.getsockname()  # once: the last connection is served when the listener is closed
        while True:
            wait_read(listener.fileno())
            self._give_way()
            try:
                client, address = listener.accept()
            except BlockingIOError:
                continue  # another process was faster
            except OSError as error:  # out of files: some must be closed first
                self.log.warning("cannot accept a connection: %s", error)
                self._end_longest_idle()
                gevent.sleep(TICK)
                continue
            while self._pool.full():
                gevent.sleep(LOOK if self._end_longest_idle() else TICK)
            self._pool.spawn(self._serve, name, client, address)
            self._note()

    def _give_way(self) -> None:
        """Leave a connection to a process that has fewer, if it comes for it soon."""
        started = time.monotonic()
        while (more := len(self._pool) - board.fewest()) > 0:
            if time.monotonic() - started >= min(more * PATIENCE, MOST_PATIENCE):
                return
            gevent.sleep(LOOK)

    def _end_longest_idle(self) -> bool:
        """End the connection on which nothing has come for longest; False if each has a request under way."""
        client = next((client for client in self._idle if not has_bytes(client)), None)
        if client is None:
            return False
        _end(client)
        return True

    def _end_overdue(self) -> None:
        """End the connections on which no request has come for too long."""
        latest = time.monotonic() - self.cfg.keepalive
        while self._idle:
            client, since = next(iter(self._idle.items()))
            if since > latest or has_bytes(client):
                break
            del self._idle[client]
            _end(client)

    def _note(self) -> None:
        board.note(self.age, len(self._pool))

    # -- serving ---------------------------------------------------------------------------------------------

    def _serve(self, name: Any, client: Any, address: Any) -> None:
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            self.handle(name, client, address)
        except OSError as error:
            self.log.debug("no TLS: %s", error)
            client.close()
        finally:
            # One less as soon as it is closed; this greenlet itself is still counted.
            if self.alive:
                board.note(self.age, len(self._pool) - 1)

    def handle(self, listener_name: Any, client: Any, addr: Any) -> None:
        """Answer the requests of one connection."""
        request = readable = None
        try:
            client.setblocking(1)
            requests = Requests(self.cfg, listener_name, client, addr)
            readable = gevent.get_hub().loop.io(client.fileno(), READ)
            while True:
                request = None
                self._idle[client] = time.monotonic()
                try:
                    if not _finish(requests, client):
                        break
                    _take_turns(requests, client, readable)
                    request = next(requests)
                finally:
                    self._idle.pop(client, None)
                self.handle_request(listener_name, request, client, addr)
        except (StopIteration, NoMoreData, ConnectionError) as error:
            self.log.debug("a connection has ended: %s", error)
        except gevent.GreenletExit:
            pass
        except Exception as error:  # noqa: BLE001 - what is wrong with one connection stays with it
            if _is_of_connection(error):
                self.log.debug("a connection broke: %s", error)
            else:
                self.handle_error(request, client, addr, error)
        finally:
            if readable is not None:
                readable.close()
            close_graceful(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer one request. Raises StopIteration where the connection is to be closed."""
        began = datetime.now()
        if type(req) is PlainRequest:
            answer, environ = Answer(req, sock, self.cfg), req.environ
        else:
            answer, environ = create(req, sock, addr, listener_name, self.cfg, response_class=Answer)
            environ["wsgi.multithread"] = True
        if not self.alive:
            answer.force_close()
        try:
            parts = self._parts(environ, answer)
            try:
                for part in parts:
                    answer.write(part)
                answer.close()
            finally:
                self.log.access(answer, req, environ, datetime.now() - began)
                if hasattr(parts, "close"):
                    parts.close()
                current.end()
        except Exception as error:
            if not answer.headers_sent or _is_of_connection(error):
                raise
            self.log.exception("an answer broke off")  # no error page can follow
            raise StopIteration from None
        if answer.should_close():
            raise StopIteration

    def _parts(self, environ: dict[str, Any], answer: Answer) -> Any:
        """The application's answer. What it raises is never taken for an end of the client's connection."""
        try:
            return self.wsgi(environ, answer.start_response)
        except (OSError, StopIteration) as error:
            raise RuntimeError("the application failed") from error


def write_problem(client: Any, status: int, reason: str, detail: str) -> None:
    """Answer what is no HTTP: gunicorn's own page for it is HTML."""
    if status in (known.value for known in HTTPStatus):
        reason = HTTPStatus(status).phrase  # gunicorn says "Bad Request" of every status
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": detail}
    body = json.dumps(problem).encode() + b"\n"
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: {PROBLEM}\r\nContent-Length: {len(body)}"
    util.write_nonblock(client, head.encode("latin-1") + b"\r\n\r\n" + body)


def _is_of_connection(error: Exception) -> bool:
    """Whether it is the client's connection that failed, and not a file or something else of ours."""
    known = isinstance(error, ConnectionError | TimeoutError | ssl.SSLError)
    return known or (isinstance(error, OSError) and error.errno in BROKEN)


def _finish(parser: Any, client: Any) -> bool:
    """Read what is left of the last request's body, a piece in each turn of the loop, for some seconds at most.

    Returns whether the connection can go on. gunicorn would read it all in one turn.
    """
    body = parser.mesg and parser.mesg.body
    if body is None or getattr(body, "failed", False):
        return True
    if type(body.reader) is LengthReader and not body.reader.length:
        return True  # nothing is left, as after almost every request
    until = time.monotonic() + REST_SECONDS
    client.settimeout(REST_SECONDS)
    try:
        while body.read(REST_PIECE):
            if time.monotonic() > until:
                return False
            gevent.sleep(0)
    except TimeoutError:
        return False
    finally:
        client.settimeout(None)
    return True


def _take_turns(requests: Requests, client: Any, readable: Any) -> None:
    """Wait for a request, and in any case until all others who wait already have had their turn.

    Without this a client that is quick, or sends several requests together, would be served again and again before any
    other: gevent leaves the loop only where there is nothing to read.
    """
    if requests.has_more() or (isinstance(client, ssl.SSLSocket) and client.pending()):
        gevent.sleep(0)
    else:
        gevent.get_hub().wait(readable)


def _end(client: Any) -> None:
    """Let a connection that waits for a request see its end."""
    with suppress(OSError):
        # Not by TLS's own method: that forgets the session, and the reader would fail instead of finding the end.
        sockets.socket.shutdown(client, socket.SHUT_RD)
