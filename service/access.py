"""What an API key is: who may do what with which models, and how its secret is kept."""

import hmac
import re
import secrets
import time
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from service.schemas import Strict

Scope = Literal["predict", "feedback", "train", "admin"]
SCOPES: tuple[Scope, ...] = ("predict", "feedback", "train", "admin")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TOKEN = re.compile(r"fk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Previous(Strict):
    """The secret before a rotation, and when it ends (seconds since the epoch)."""

    digest: str
    until: float


class ApiKey(Strict):
    """One API key as it is stored: never its secret, only the SHA-256 of it.

    The secret is 256 random bits, so a plain digest cannot be guessed back; `models` are patterns such as `fraud-*`.
    """

    version: Literal[1] = 1
    id: str
    name: Annotated[str, Field(pattern=NAME)]
    digest: str
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, strict=False)]
    models: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(strict=False)
    ] = ("*",)
    created: float
    requests_per_second: Annotated[float, Field(gt=0, le=1e9)] | None = None
    observations_per_second: Annotated[float, Field(gt=0, le=1e9)] | None = None
    previous: Previous | None = None

    def fits(self, secret: str, now: float) -> bool:
        """Whether a secret is this key's, compared in constant time."""
        given = digest_of(secret)
        fits = hmac.compare_digest(given, self.digest)
        if self.previous is not None and now < self.previous.until:
            fits |= hmac.compare_digest(given, self.previous.digest)
        return fits

    def follows(self, earlier: "ApiKey", now: float) -> bool:
        """Whether the secret of an earlier state of this key is in force now."""
        if self.previous is not None and now < self.previous.until and self.previous.digest == earlier.digest:
            return True
        return self.digest == earlier.digest

    def allows(self, scope: Scope) -> bool:
        """Whether the key has a scope; `admin` has all."""
        return scope in self.scopes or "admin" in self.scopes

    def covers(self, model: str) -> bool:
        """Whether the key is for a model."""
        return _matches(self.models, model)


@lru_cache(maxsize=65_536)
def _matches(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return sha256(secret.encode()).hexdigest()


def new_token(key_id: str | None = None) -> tuple[str, str, str]:
    """A new token as a client sends it, the id in it, and its secret."""
    key_id, secret = key_id or secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"fk_{key_id}_{secret}", key_id, secret


def parse_token(token: str) -> tuple[str, str] | None:
    """The id and the secret in a token; None if it is none."""
    found = _TOKEN.fullmatch(token)
    return None if found is None else (found[1], found[2])


def made(
    name: str,
    scopes: tuple[Scope, ...],
    models: tuple[str, ...],
    requests_per_second: float | None = None,
    observations_per_second: float | None = None,
) -> tuple[ApiKey, str]:
    """A new key, and its token, which is shown only here. Raises ValidationError."""
    token, key_id, secret = new_token()
    key = ApiKey(
        id=key_id,
        name=name,
        digest=digest_of(secret),
        scopes=scopes,
        models=models,
        created=time.time(),
        requests_per_second=requests_per_second,
        observations_per_second=observations_per_second,
    )
    return key, token


def rotated(key: ApiKey, grace: float) -> tuple[ApiKey, str]:
    """A key with a new secret, and its token; the old one goes on for `grace` seconds."""
    token, _, secret = new_token(key.id)
    previous = Previous(digest=key.digest, until=time.time() + grace) if grace > 0 else None
    return key.model_copy(update={"digest": digest_of(secret), "previous": previous}), token
