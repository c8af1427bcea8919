"""Who may call what: API keys checked before each request, from this process's own copy of them."""

import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from hmac import compare_digest
from ipaddress import ip_address

from flask import Flask, request

from service.access import SCOPES, ApiKey, Scope, digest_of, parse_token
from service.errors import Forbidden, StoreError, StoreUnavailable, TooManyRequests, Unauthorized, Unavailable
from service.logs import log
from service.settings import Settings
from service.store import access as store
from service.store.connection import Link, SharedLink
from service.store.jobs import model_of
from service.web import current

REFRESH = 0.4  # seconds between looks at the keys in Redis: a change is in force within a second
MOST_ADMITTED = 10_000  # kinds of requests that need no other look until the keys are read again
ADMIN = "admin"  # the id of the key that a setting gives
AWAY = 2.0  # seconds without asking for tokens after Redis did not answer: all that is asked for is granted
SHARE = 0.1  # of a second's tokens that a process takes at a time, so that few requests ask Redis

OPEN = {
    "health.livez",
    "health.readyz",
    "openapi.describe",
    "openapi.page",
    "openapi.page_file",
    "open_inference.live",
    "open_inference.ready",
    "open_inference.server_metadata",
}
"""Endpoints that need no key."""

NEEDED: dict[str, Scope] = {
    "predict.predict": "predict",
    "tensorflow_serving.predict": "predict",
    "tensorflow_serving.status": "predict",
    "open_inference.infer": "predict",
    "open_inference.model_metadata": "predict",
    "open_inference.model_ready": "predict",
    "feedback.feedback": "feedback",
    "retrain.retrain": "train",
    "jobs.cancel": "train",
    "retrain.undo": "train",
    "models.patch": "train",
    "checkpoints.make_checkpoint": "train",
    "checkpoints.roll_back": "train",
    "weights.get_weights": "train",
}
"""The scope that an endpoint needs. One that is in no table here needs `admin`: models.create, models.delete,
weights.put_weights."""

READABLE = {
    "models.list_models",
    "models.describe",
    "models.metrics",
    "models.diagnostics",
    "jobs.describe",
    "jobs.list_of_model",
    "checkpoints.list_checkpoints",
    "metrics.metrics",
}
"""Endpoints that any key may call; they show only the models that it covers."""


@dataclass
class Allowance:
    """What one process may still let through of a key's rate, without asking Redis."""

    tokens: float = 0.0
    until: float = 0.0  # monotonic seconds
    lock: threading.Lock = field(default_factory=lambda: threading.Lock())


class Access:
    """The API keys, kept fresh by a thread of its own."""

    def __init__(self, settings: Settings, link: SharedLink) -> None:
        self._link = link
        self._own_link = Link(link.url, link.timeout)  # of the thread that keeps the keys fresh
        self._insecure = settings.insecure
        admin = settings.admin_key
        self._admin = None if admin is None else digest_of(admin.get_secret_value())
        self._keys: dict[str, ApiKey] | None = None
        self._allowances: dict[tuple[str, str], Allowance] = {}
        # Let through since the last look at the keys, by the digest of the header: time tells nothing of a secret.
        self._admitted: dict[tuple[str, str, str], ApiKey] = {}
        self._looking = threading.Lock()
        self._failed_at = 0.0  # monotonic seconds of the last look at a single key that failed
        self._asking_at = 0.0  # monotonic seconds from which Redis is asked for tokens, see AWAY

    def start(self) -> None:
        """Read the keys, and go on reading them."""
        self.refresh()
        threading.Thread(target=self._keep_fresh, name="api-keys", daemon=True).start()

    def refresh(self) -> None:
        """Read the keys once; if Redis is away, the known ones stay in force."""
        try:
            self._keys = store.load_all(self._own_link)
            self._admitted = {}
        except StoreUnavailable:
            return
        except StoreError as error:
            log.error("the API keys cannot be read; the known ones stay in force", error=str(error))

    def _keep_fresh(self) -> None:
        while True:
            time.sleep(REFRESH)
            self.refresh()

    # -- who ---------------------------------------------------------------------------------------------------

    def key_of_request(self) -> ApiKey | None:
        """The key that the current request brings; None where none is needed. Raises as `key_of` does."""
        return self.key_of(request.headers.get("Authorization", ""), request.remote_addr or "")

    def key_of(self, authorization: str, address: str) -> ApiKey | None:
        """The key in a header, of a client at an address; None where none is needed.

        Raises Unauthorized; Forbidden for a client from elsewhere while there is no key; Unavailable.
        """
        if self._keys is None:
            raise Unavailable("this process has not read the API keys from Redis yet", retry_after=1)
        if not self._keys and self._admin is None:
            self._check_local(address)
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("send an API key as `Authorization: Bearer KEY`")
        parsed = parse_token(token.strip())
        if parsed is None:
            raise Unauthorized("the API key is not known")
        key_id, secret = parsed
        for look in (self._keys.get, self._look_up):
            key = look(key_id)
            if key is not None and key.fits(secret, time.time()):
                return key
        return self._admin_key(token.strip())

    def _look_up(self, key_id: str) -> ApiKey | None:
        """A key as Redis has it now: it may have been made or rotated a moment ago. One such look at a time."""
        arrived = time.monotonic()
        with self._looking:
            if self._failed_at > arrived:
                return None
            try:
                return store.load(self._link, key_id)
            except StoreError:
                self._failed_at = time.monotonic()
                return None

    def _admin_key(self, token: str) -> ApiKey:
        if self._admin is not None and compare_digest(digest_of(token), self._admin):
            return ApiKey(id=ADMIN, name="admin", digest="", scopes=("admin",), created=0.0)
        raise Unauthorized("the API key is not known")

    def admit(self, authorization: str, address: str, endpoint: str, model: str) -> ApiKey | None:
        """The key of a request that may call an endpoint for a model ("": for none); None where none is needed.

        It counts against the key's rate. Raises Problem.
        """
        admitted, asked = self._admitted, (digest_of(authorization), endpoint, model)
        known = admitted.get(asked)
        if known is not None:
            self.take(known, "requests", 1)
            return known
        key = self.key_of(authorization, address)
        if key is None:
            return None
        self.take(key, "requests", 1)
        check_scope(key, endpoint)
        if model and not key.covers(model):
            raise Forbidden(f"the API key {key.name!r} is not for model {model!r}")
        # The secret before a rotation is looked at each time: it ends by the clock.
        if len(admitted) < MOST_ADMITTED and (key.previous is None or key.previous.until <= time.time()):
            admitted[asked] = key
        return key

    def check_still(self) -> None:
        """Check the current request's key again, for a stream that may outlive it. Raises Unauthorized."""
        key = current.api_key()
        if key is None and self._keys:
            raise Unauthorized("there are API keys now; send one")
        if key is not None and key.id != ADMIN:
            newest = (self._keys or {}).get(key.id)
            if newest is None:
                newest = self._loaded(key)
            if newest is None or not newest.follows(key, time.time()):
                raise Unauthorized("the API key was revoked")

    def _loaded(self, key: ApiKey) -> ApiKey | None:
        """A key as Redis has it now; as it is known if Redis is away."""
        try:
            return store.load(self._link, key.id)
        except StoreError:
            return key

    def _check_local(self, address: str) -> None:
        if self._insecure or is_loopback(address or "127.0.0.1"):
            return
        raise Forbidden(
            "there is no API key yet, so only this machine is served: make one with `freshet keys create`, or start "
            "with --insecure"
        )

    def sees(self, model: str) -> bool:
        """Whether the current request may see a model, at an endpoint that needs no key."""
        try:
            key = self.key_of_request()
        except (Unauthorized, Forbidden, Unavailable):
            return False
        return key is None or key.covers(model)

    # -- how much ----------------------------------------------------------------------------------------------

    def take(self, key: ApiKey, kind: str, count: float) -> None:
        """Count requests or observations against a key's limit. Raises TooManyRequests."""
        rate = key.requests_per_second if kind == "requests" else key.observations_per_second
        if rate is None:
            return
        allowance = self._allowances.get((key.id, kind))
        if allowance is None:
            allowance = self._allowances.setdefault((key.id, kind), Allowance())
        with allowance.lock:
            if time.monotonic() >= allowance.until:
                allowance.tokens = 0.0
            if allowance.tokens < count:
                least = count - allowance.tokens
                granted, wait = self._ask(key, kind, rate, max(least, SHARE * rate), least)
                if granted < least:
                    raise TooManyRequests(
                        f"over the API key's limit of {rate:g} {kind} a second; nothing was written",
                        retry_after=max(wait, 0.001),
                    )
                allowance.tokens += granted
                allowance.until = time.monotonic() + 1.0  # after the answer, which may have taken long
            allowance.tokens -= count

    def take_observations(self, count: int) -> None:
        """Count observations against the limit of the current request's key. Raises TooManyRequests."""
        key = current.api_key()
        if key is not None:
            self.take((self._keys or {}).get(key.id, key), "observations", count)

    def _ask(self, key: ApiKey, kind: str, rate: float, wanted: float, least: float) -> tuple[float, float]:
        if time.monotonic() < self._asking_at:
            return wanted, 0.0
        try:
            return store.take(self._link, key.id, kind, rate, wanted, least)
        except StoreUnavailable:  # predictions go on; feedback will be refused by itself
            self._asking_at = time.monotonic() + AWAY
            return wanted, 0.0


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Whether a client's address is of this machine. A unix socket has none."""
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True


def install(app: Flask, access: Access) -> None:
    """Check every request of an application."""

    def check() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in OPEN:
            return
        arguments = request.view_args or {}
        model = arguments.get("name") or model_of(arguments.get("job_id", ""))
        authorization = request.headers.get("Authorization", "")
        current.of_flask().api_key = access.admit(authorization, request.remote_addr or "", endpoint, model)

    app.before_request(check)


def check_scope(key: ApiKey, endpoint: str) -> None:
    """Raise Forbidden if a key may not call an endpoint."""
    if endpoint in READABLE:
        return
    needed = NEEDED.get(endpoint, "admin")
    if not key.allows(needed):
        have = ", ".join(scope for scope in SCOPES if scope in key.scopes)
        raise Forbidden(f"this needs an API key with the scope {needed!r}; {key.name!r} has {have}")
