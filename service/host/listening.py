"""The port of `freshet serve`: taken before anything is started, and kept while web processes come and go."""

import errno
import http.client
import os
import socket
import ssl
import time
from contextlib import closing, suppress

from service.errors import CannotListen

PATIENCE = 3.0  # seconds that a start waits for a server that is just stopping
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
ADVICE = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port with --port",
    errno.EADDRNOTAVAIL: "this machine does not have that address; set --host to one it has, such as 127.0.0.1",
    errno.EACCES: "ports below 1024 need privileges; choose another with --port",
}


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to this address, not yet listening. Port 0 takes a free one. Raises CannotListen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise CannotListen(
            f"cannot listen on {host!r}: not an address or a known host name; "
            "set --host to an address of this machine, such as 127.0.0.1"
        ) from None
    # A name such as localhost may have addresses of both kinds; clients try 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    deadline = time.monotonic() + PATIENCE
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise CannotListen(_advice(error, address)) from None
            time.sleep(0.1)


def listen(listener: socket.socket) -> None:
    """Accept connections into the queue. Raises CannotListen."""
    try:
        listener.listen()
    except OSError as error:  # two programs may bind one address; the first to listen has it
        raise CannotListen(_advice(error, listener.getsockname())) from None


def _advice(error: OSError, address: tuple[object, ...]) -> str:
    why = ADVICE.get(error.errno or 0, os.strerror(error.errno or 0))
    return f"cannot listen on {address[0]} port {address[1]}: {why}"


def url(listener: socket.socket, tls: bool) -> str:
    """The address that a client on this machine can use."""
    host, port = listener.getsockname()[:2]
    host = LOOPBACK.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def answers(listener: socket.socket, tls: bool, timeout: float) -> bool:
    """Whether a web process answers a request on this socket. Any answer counts, a refusal too."""
    host, port = listener.getsockname()[:2]
    with suppress(OSError, http.client.HTTPException):
        return status_of(LOOPBACK.get(host, host), port, tls, timeout) < 500
    return False


def status_of(host: str, port: int, tls: bool, timeout: float, path: str = "/livez") -> int:
    """The status of an answer. Raises OSError, HTTPException."""
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout, context=_unverified())
        if tls
        else http.client.HTTPConnection(host, port, timeout=timeout)
    )
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def _unverified() -> ssl.SSLContext:
    """A context for our own certificate, which is issued for the name that clients use, not for this address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
