"""The service's errors.

ServiceError
├── SettingsError            a setting is unknown or bad
├── DataFolderInUse          another server has the data folder open
├── CannotListen             the address to serve on is taken, or not of this machine
├── CannotStart              a process of the server does not come up
├── StoreError               Redis
│   ├── StoreUnavailable     did not answer
│   ├── StoreFull            refuses writes
│   ├── StoreMisconfigured   of a version or with a setting that breaks the promises
│   ├── WrongGeneration      the model was deleted, or deleted and created again
│   ├── TermLost             another learner leads the model
│   ├── LogGap               the log does not follow on the state
│   ├── BlobGone             what a command names is not stored any more
│   ├── CommandRefused       a command in the log cannot be carried out
│   ├── NoRoom               as many models or parameters as are allowed
│   ├── LogCrowded           too many commands in the log
│   └── KeyUsed              an Idempotency-Key comes again with something else
└── Problem                  sent to the client, with the fields that are bad
    ├── BadRequest           the body cannot be read
    ├── Invalid              the body was read; a field in it is bad
    ├── Unauthorized         no API key, or one that is not known
    ├── Forbidden            the API key may not do this
    ├── NotFound
    ├── Conflict
    ├── TooLarge             the body is over a limit
    ├── WrongMediaType       the body is of a type that is not read
    ├── Misdirected          the request was meant for another host, or comes from another site
    ├── TooManyRequests      the learner is too far behind
    ├── Unavailable          not now; nothing was written
    └── OutcomeUnknown       Redis vanished in the middle of an append

`service.web.problems` has the HTTP status of each.
"""

from typing import Any, Self


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


class StaleWrite(StoreError):
    """What a learner would write is not of the log as it is, or older than what is stored. Nothing was written."""


class LogGap(StoreError):
    """The log does not follow on the state it should be applied to."""


class BlobGone(StoreError):
    """What a command in the log names is not stored any more."""


class CommandRefused(StoreError):
    """A command in the log cannot be carried out: it does not fit the model any more, or what it names is gone."""


class NoRoom(StoreError):
    """As many models as are allowed, or as many parameters as they may have together."""


class LogCrowded(StoreError):
    """Too much waits for the learner."""


class KeyUsed(StoreError):
    """An Idempotency-Key comes again with something else."""


class Problem(ServiceError):
    """An error that is sent to the client.

    `errors` are the bad fields: (JSON pointer, what is wrong). `retry_after` is in seconds. `extra` are further
    members of the answer.
    """

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


class Invalid(Problem):
    """The body was read; a field in it is bad."""

    @classmethod
    def at(cls, pointer: str, detail: str, *others: str) -> Self:
        """The field at a JSON pointer is bad, and with the same `detail` those at `others`."""
        errors = [(bad, detail) for bad in (pointer, *others)]
        return cls(f"{pointer or 'the body'}: {detail}", errors)


class Unauthorized(Problem):
    """No API key came with the request, or one that is not known."""


class Forbidden(Problem):
    """The API key may not do this."""


class NotFound(Problem):
    """No such model, job or path."""


class Conflict(Problem):
    """The name is taken by something else, or something else is under way."""


class TooLarge(Problem):
    """The body is over a limit."""


class WrongMediaType(Problem):
    """The body is of a type that is not read here."""


class Misdirected(Problem):
    """The request was meant for another host, or comes from a page of another site."""


class TooManyRequests(Problem):
    """The learner is too far behind; nothing was written."""


class Unavailable(Problem):
    """Not now; nothing was written."""


class OutcomeUnknown(Problem):
    """Redis vanished in the middle of an append: retry with the token."""
