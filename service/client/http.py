"""The HTTP client of all commands: repeats a request until there is a final answer."""

import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3

from service.client.errors import ClientError, PatienceError, RefusedError, problem_text

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds between repetitions where the server does not say how long to wait; doubled each time."""

REPEATED = frozenset({429, 502, 503, 504})
"""Statuses that mean: not now, ask again."""

Note = Callable[[str], None]


def model_path(name: str, rest: str = "") -> str:
    """The path of a model, or of what belongs to it."""
    return f"/v1/models/{quote(name, safe='')}{rest}"


class Client:
    """One connection to a server."""

    def __init__(self, url: str, key: str | None, patience: float, note: Note) -> None:
        """`key` is an API key. A request is repeated for `patience` seconds, with a `note` why. Raises ClientError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ClientError(f"{url!r} is not the address of a server; it looks like http://127.0.0.1:8000")
        self.url = url.rstrip("/")
        self._patience = patience
        self._note = note
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
        self._http = urllib3.PoolManager(num_pools=1, maxsize=1, block=True, retries=False, timeout=timeout)

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON answer. Raises RefusedError for a final no, PatienceError if no final answer comes."""
        return self.status_and_answer(method, path, body, headers)[1]

    def status_and_answer(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The status too. Raises as `request` does."""
        response = self.raw(method, path, body, headers)
        answer = _object(response) if response.data else {}
        if answer is None:
            raise ClientError(f"{self.url} does not answer as a Freshet server does")
        return response.status, answer

    def raw(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """An answer with status 2xx. Raises as `request` does."""
        encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        sent = {**self._headers, **(headers or {})}
        if encoded is not None:
            sent["Content-Type"] = "application/json"
        deadline = time.monotonic() + self._patience
        delay = FIRST_DELAY
        while True:
            response, trouble = self._once(method, path, encoded, sent)
            if response is not None and response.status not in REPEATED:
                break
            asked = None if response is None else _retry_after(response.headers.get("Retry-After"))
            wait = delay if asked is None else asked
            if time.monotonic() + wait > deadline:
                raise PatienceError(self._why_it_ends(asked, trouble))
            self._note(f"waiting for the server: {trouble}")
            time.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY)
        if response.status >= 300:
            raise RefusedError(response.status, _object(response) or {"detail": response.reason})
        return response

    def _why_it_ends(self, asked: float | None, trouble: str) -> str:
        if asked is None:
            return f"no answer within {self._patience:g} s (--wait); the last was: {trouble}"
        return f"{trouble}; the server asks to wait {asked:g} s more, longer than --wait {self._patience:g} allows"

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[urllib3.BaseHTTPResponse | None, str]:
        """The answer, and what to tell the user if it is not final."""
        try:
            response = self._http.request(method, self.url + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            return None, f"{self.url} cannot be reached ({error.__cause__ or error.args[-1]})"
        return response, problem_text(_object(response) or {"detail": response.reason})


def _object(response: urllib3.BaseHTTPResponse) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _retry_after(header: str | None) -> float | None:
    # A server may also send a date; then the own delay serves as well.
    return float(header) if header and re.fullmatch(r"\d+(\.\d+)?", header) else None
