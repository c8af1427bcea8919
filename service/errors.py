"""The service's errors. This is the only place that knows which error is which HTTP status."""

from http import HTTPStatus
from typing import Any


class ServiceError(Exception):
    """Base of all errors of the service."""


class SettingsError(ServiceError):
    """A setting is unknown or has a bad value."""


class DataFolderInUse(ServiceError):
    """Another server has the data folder open."""


class CannotListen(ServiceError):
    """The address to serve on is taken, or not of this machine."""


class CannotStart(ServiceError):
    """A process that belongs to the server does not come up."""


class StoreError(ServiceError):
    """Base of what can go wrong with Redis."""


class StoreUnavailable(StoreError):
    """Redis did not answer. `sent` tells whether the command may have been carried out all the same."""

    def __init__(self, detail: str, sent: bool = False) -> None:
        super().__init__(detail)
        self.sent = sent


class StoreFull(StoreError):
    """Redis refuses writes: out of memory or out of disk. Nothing was written."""


class StoreMisconfigured(StoreError):
    """Redis is of a version or has a setting with which the promises cannot be kept."""


class WrongGeneration(StoreError):
    """The model was deleted, or deleted and created again."""


class TermLost(StoreError):
    """Another learner leads the model."""


class LogGap(StoreError):
    """The log does not follow on the state it should be applied to."""


class BlobGone(StoreError):
    """What a command in the log names is not stored any more."""


class CommandRefused(StoreError):
    """A command in the log cannot be carried out: it does not fit the model any more, or what it names is gone."""


class LogCrowded(StoreError):
    """Too many commands without an observation between them, or without a learner to obey them."""


class KeyUsed(StoreError):
    """An Idempotency-Key comes again with something else."""


class Problem(ServiceError):
    """An error that a client is told about, as RFC 9457 describes.

    `errors` are the bad fields: (JSON pointer, what is wrong). `extra` are further members of the document.
    """

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type = "about:blank"

    def __init__(
        self,
        detail: str,
        errors: list[tuple[str, str]] | None = None,
        retry_after: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after
        self.extra = extra


class BadRequest(Problem):
    """The body cannot be read."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(Problem):
    """No API key came with the request, or one that is not known."""

    status = HTTPStatus.UNAUTHORIZED


class Forbidden(Problem):
    """The API key may not do this."""

    status = HTTPStatus.FORBIDDEN


class NotFound(Problem):
    """No such model, job or path."""

    status = HTTPStatus.NOT_FOUND


class Conflict(Problem):
    """The name is taken by something else."""

    status = HTTPStatus.CONFLICT


class TooLarge(Problem):
    """The body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class WrongMediaType(Problem):
    """The body is not of a type that is read here."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Invalid(Problem):
    """The body was read; a field in it is bad."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyRequests(Problem):
    """The learner is too far behind; nothing was written."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class Unavailable(Problem):
    """Not now; nothing was written."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class OutcomeUnknown(Problem):
    """Redis vanished in the middle of an append: retry with the token."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "urn:freshet:problem:outcome-unknown"
