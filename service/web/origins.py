"""Whom requests without an API key may come from: no page of another site that a browser of this machine has open.

Such a page reaches the server under a host name of its own that it lets stand for 127.0.0.1 (DNS rebinding), or from
another origin. An API key is proof enough: pages have none.
"""

import socket
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, request

from service.errors import Forbidden, Misdirected
from service.settings import Settings
from service.web import current
from service.web.access import OPEN

SETTING = "FRESHET_ALLOWED_HOSTS"


def install(app: Flask, hosts: "Hosts") -> None:
    """Check every request of an application."""

    def check() -> None:
        if request.endpoint not in OPEN and current.api_key() is None:
            hosts.check(request.headers.get("Host"), request.headers.get("Origin"))

    app.before_request(check)


class Hosts:
    """The host names that are this server's."""

    def __init__(self, settings: Settings) -> None:
        given = {name.strip().lower() for name in (settings.allowed_hosts or "").split(",") if name.strip()}
        self._any = "*" in given
        self._names = given | {"localhost", socket.gethostname().lower(), settings.host.lower()}

    def check(self, host: str | None, origin: str | None) -> None:
        """Check a request's headers; None if one is not there. Raises Misdirected, Forbidden."""
        if self._any:
            return
        if host is not None and not self._is_known(_name_of(f"//{host}")):
            raise Misdirected(f"this server is not {host}; its other names are listed in {SETTING}")
        if origin is not None and not self._is_known(_name_of(origin)):
            raise Forbidden(f"no requests from pages of {origin}, unless it is listed in {SETTING}")

    def _is_known(self, name: str | None) -> bool:
        return name is not None and (name in self._names or name.endswith(".localhost") or _is_address(name))


@lru_cache(maxsize=1024)
def _name_of(url: str) -> str | None:
    """The host name in a URL, in small letters; None if there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _is_address(name: str) -> bool:
    """Whether a name is an IP address. No page can make one stand for another machine."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
