"""Every setting of the service: its default, its unit and what it means. Read once, passed down."""

import difflib
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

from service.errors import SettingsError

PREFIX = "FRESHET_"
FILE = "_FILE"
"""A variable with this at its end names a file that holds the setting."""

FORMER = {"FRESHET_REMEMBERED": "FRESHET_DEDUP_WINDOW"}
"""Variables of the version before, and what they are called now."""

RETIRED = {
    "FRESHET_WEB_THREADS": "a web process has an event loop in place of threads; see FRESHET_MAX_WAITING"
}
"""Variables of the version before that do nothing any more, and why."""

CLIENT_VARIABLES = {"FRESHET_URL", "FRESHET_KEY"}
"""Variables of the command line's clients, which a server on the same machine ignores."""

SECRETS = {"REDIS_URL", "FRESHET_ADMIN_KEY"}
"""Variables whose values are never printed whole."""

LONGEST_SOCKET_PATH = 107  # bytes; sun_path of sockaddr_un less the final zero


class Settings(BaseSettings):
    """Settings from the environment: `FRESHET_<NAME>`, and `REDIS_URL`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    redis_url: str | None = Field(
        None,
        validation_alias="REDIS_URL",
        description="Redis or Valkey to use, 7.2 or newer; unset: the embedded server under `data_dir`",
    )
    data_dir: Path = Field(Path("data"), description="folder of the embedded server's files and socket")
    appendfsync: Literal["always", "everysec"] = Field(
        "always",
        description="when the embedded server writes its log to disk; `everysec` may lose the last second",
    )
    maxmemory: str = Field(
        "50%",
        pattern=r"^(?i:\d+(b|k|kb|m|mb|g|gb)?|([1-9]\d?|100)%)$",
        description="memory limit of the embedded server: bytes, such as `2gb`, or a share of the memory of the "
        "machine or container; 0: none",
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    allowed_hosts: str | None = Field(
        None,
        description="host names that requests without an API key may use and come from, with commas; `*`: any. "
        "Names of this machine, IP addresses and `host` always may",
    )
    web_workers: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 4),
        ge=1,
        description="web processes; default: cores, at most 4",
    )
    max_connections: int = Field(
        10_000, ge=16, description="connections that a web process holds open; then the longest idle one goes"
    )
    max_waiting: int = Field(
        1000,
        ge=1,
        description="requests of a web process that wait for a result, a step or a stream; then 503",
    )
    insecure: bool = Field(
        False, description="serve other addresses than loopback although there is no API key"
    )
    admin_key: SecretStr | None = Field(
        None,
        description="a token with all rights beside the stored API keys, made by `freshet keys token`; "
        "for a first start",
    )
    otel: bool = Field(
        False,
        description="send traces by OpenTelemetry, as its variables `OTEL_…` say; needs `pip install freshet[otel]`",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port for the metrics of a learner or trainer that runs by itself; 0: none",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the web server's certificate chain; unset: plain HTTP"
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key")
    access_log: bool = Field(False, description="whether to log every request")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged"
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="form of log lines: for people, or one JSON object a line"
    )

    apply_timeout: float = Field(
        2.0, gt=0, description="seconds that feedback or `min_step` waits; then 202 or 503"
    )
    redis_timeout: float = Field(1.0, gt=0, description="seconds after which a request gives up on Redis")
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="largest JSON body, in bytes")
    max_line_bytes: int = Field(2**20, ge=1024, description="longest line of an NDJSON stream, in bytes")
    max_rows: int = Field(
        4096, ge=1, le=4096, description="maximum instances or observations in one JSON body"
    )
    max_models: int = Field(1000, ge=1, description="maximum number of models")
    max_cells: int = Field(
        10_000_000,
        ge=1000,
        description="maximum numbers that the rows of one request take on their way through a network",
    )
    max_total_parameters: int = Field(
        100_000_000, ge=1, description="maximum weights and biases of all models together"
    )
    max_parameters: int = Field(5_000_000, ge=1, description="maximum weights and biases of one model")

    dedup_window: int = Field(
        1_000_000,
        ge=1,
        description="deduplication window: an id or token is recognised within so many observations",
    )
    max_lag: int = Field(
        100_000, ge=1, description="unapplied observations of a model above which feedback gets 429"
    )
    max_lag_bytes: int = Field(
        256 * 2**20,
        ge=2**16,
        description="bytes of unapplied entries of a model's log above which writes get 429 or 503",
    )
    label_ttl: float = Field(
        86_400.0, gt=0, description="seconds that a prediction with an id waits for its label"
    )
    label_bytes: int = Field(
        64 * 2**20,
        ge=2**16,
        description="bytes of a model's predictions that wait for labels; the oldest go first",
    )
    answer_bytes: int = Field(
        32 * 2**20,
        ge=2**12,
        description="bytes of a model's answers kept for repeated Idempotency-Keys",
    )
    lease_seconds: float = Field(
        2.0, gt=0.2, description="seconds without a heartbeat after which another learner takes over"
    )
    snapshot_seconds: float = Field(1.0, gt=0, description="minimum seconds between snapshots of a model")
    publish_seconds: float = Field(
        0.0002, gt=0, description="minimum seconds between publications of a model's weights"
    )
    checkpoints: int = Field(10, ge=1, le=1000, description="checkpoints kept of each model")
    checkpoint_observations: int = Field(
        10_000, ge=0, description="observations between checkpoints; 0: none"
    )
    checkpoint_seconds: float = Field(
        0.0, ge=0, description="seconds between checkpoints, if anything is new; 0: none"
    )
    trainers: int = Field(1, ge=0, description="trainer processes of `freshet serve`")
    trainer_nice: int = Field(10, ge=0, le=19, description="nice value of trainer processes")
    max_epochs: int = Field(1000, ge=1, description="maximum epochs of one retraining")
    max_job_seconds: int = Field(6 * 3600, ge=1, description="maximum seconds of one retraining")
    failpoint: str | None = Field(
        None, description="for tests: where a process kills itself, such as `after-append:3`"
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(
                "FRESHET_TLS_CERTIFICATE and FRESHET_TLS_KEY belong together; set both or neither"
            )
        return self


def check_certificate(settings: Settings) -> None:
    """Raise SettingsError for a certificate or key that cannot be used."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    for name in ("tls_certificate", "tls_key"):
        path: Path = getattr(settings, name)
        if not os.access(path, os.R_OK) or path.is_dir():
            raise SettingsError(f"{variable(name)}: cannot read {path}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"FRESHET_TLS_CERTIFICATE and FRESHET_TLS_KEY are no certificate with its key: {error}"
        ) from None


@dataclass(frozen=True)
class Given:
    """A setting that was given: its value as text, and the variable, file or option that gave it."""

    value: str
    source: str


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return str(Settings.model_fields[name].validation_alias or PREFIX + name.upper())


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment and its files, with `overrides` (None: not given) on top.

    Raises SettingsError for a variable that starts with FRESHET_ and names no setting, and for a bad value.
    """
    given = {
        name: found.value for name, found in from_environment().items() if found.source != variable(name)
    }
    given |= {name: value for name, value in overrides.items() if value is not None}  # type: ignore[misc]
    if "redis_url" in given:
        given["REDIS_URL"] = given.pop("redis_url")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_described(error)) from None
    except PydanticSettingsError as error:  # a list or an object that is not JSON
        raise SettingsError(str(error)) from None


def from_environment() -> dict[str, Given]:
    """The settings that the environment gives, by name: directly, by a file, or under a former name.

    Raises SettingsError for an unknown variable, a file that cannot be read, and a setting that is given twice.
    """
    names = {variable(name): name for name in Settings.model_fields}
    found: dict[str, Given] = {}
    for key in sorted(os.environ):
        plain = FORMER.get(key, key)
        name = names.get(plain) or names.get(plain.removesuffix(FILE))
        if name is None:
            if key.startswith(PREFIX) and key.removesuffix(FILE) not in CLIENT_VARIABLES | RETIRED.keys():
                raise SettingsError(_unknown(key, names))
            continue
        if name in found:
            raise SettingsError(f"{key} and {found[name].source} give the same setting; unset one of them")
        value = os.environ[key] if plain in names else _content(key)
        found[name] = Given(value, key)
    return found


def _content(key: str) -> str:
    """What is in the file that a variable names, without the newline at its end."""
    try:
        return Path(os.environ[key]).read_text().rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SettingsError(f"{key}: cannot read {os.environ[key]}: {reason}") from None


def _unknown(key: str, names: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    advice = f"did you mean {close[0]}?" if close else "the settings are listed in README.md"
    return f"unknown setting {key}; {advice}"


def _described(error: ValidationError) -> str:
    """A validation error in one line: each setting, what is wrong with it, and its value if that is no secret."""
    parts = []
    for item in error.errors(include_url=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        key = variable(name) if name in Settings.model_fields else name
        value = "" if key in SECRETS else f", not {str(item['input'])!r}"
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{key}: {message}{value}" if key else message)
    return "; ".join(parts)


def former_names() -> list[str]:
    """Warnings about variables that still have a former name, or that do nothing any more."""
    renamed = [f"{key} is now called {FORMER[key]}" for key in sorted(FORMER) if key in os.environ]
    return renamed + [f"{key} is ignored: {RETIRED[key]}" for key in sorted(RETIRED) if key in os.environ]


def child_environment(settings: Settings) -> dict[str, str]:
    """This environment with the variables that give a child process the same settings.

    What a file gives stays in its file, so that secrets do not appear in the environment.
    """
    given = from_environment()
    ours = {found.source for found in given.values()}
    variables = {key: value for key, value in os.environ.items() if key not in ours}
    for name, value in settings.model_dump().items():
        found = given.get(name)
        if found is not None and found.source == variable(name) + FILE and found.value == _text(value):
            variables[found.source] = os.environ[found.source]
        elif value is not None:
            variables[variable(name)] = _text(value)
    return variables


def _text(value: object) -> str:
    """A setting as it is written in the environment."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def in_force(settings: Settings, options: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Each setting: its variable, its value with secrets hidden, and what gave it."""
    given = from_environment()
    for name, value in settings.model_dump().items():
        source = given[name].source if name in given else "default"
        if options.get(name) is not None:
            source = f"--{name.replace('_', '-')}"
        yield variable(name), "" if value is None else without_password(str(value)), source


def without_password(text: str) -> str:
    """An address without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", text)


def socket_path(settings: Settings) -> Path:
    """Where the embedded server listens. Raises SettingsError if the path is too long for a socket."""
    path = settings.data_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise SettingsError(f"the data folder's path is too long for a socket in it: {path}")
    return path


def redis_url(settings: Settings) -> str:
    """REDIS_URL if it is set, else the embedded server's address."""
    return settings.redis_url or f"unix://{socket_path(settings)}"
