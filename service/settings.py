"""Every setting of the service: its default, its unit and what it means. Read once, passed down."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError

PREFIX = "FRESHET_"
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
        "always", description="when the embedded server syncs its log to disk; `everysec` can lose a second"
    )
    maxmemory: str = Field("0", description="memory limit of the embedded server, such as `2gb`; 0: none")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    web_workers: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 4),
        ge=1,
        description="web processes; default: cores, at most 4",
    )
    web_threads: int = Field(
        32,
        ge=2,
        description="threads of a web process: half of them may wait, a quarter is left for predictions",
    )
    insecure: bool = Field(
        False, description="serve other addresses than loopback although there is no API key"
    )
    admin_key: SecretStr | None = Field(
        None,
        description="a token with all rights beside the stored API keys, such as `freshet keys token` makes; "
        "for a first start",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port for the metrics of a learner or trainer that runs by itself; 0: none",
    )
    access_log: bool = Field(False, description="log every request")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    log_format: Literal["console", "json"] = Field("console", description="how log lines look")

    apply_timeout: float = Field(
        2.0, gt=0, description="seconds that feedback or `min_step` waits; then 202 or 503"
    )
    redis_timeout: float = Field(1.0, gt=0, description="seconds after which a request gives up on Redis")
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="largest JSON body, in bytes")
    max_line_bytes: int = Field(2**20, ge=1024, description="longest line of an NDJSON stream, in bytes")
    max_rows: int = Field(4096, ge=1, le=4096, description="most instances or observations in one JSON body")
    max_models: int = Field(1000, ge=1, description="most models")
    max_parameters: int = Field(5_000_000, ge=1, description="most weights and biases of one network")

    remembered: int = Field(
        1_000_000, ge=1, description="observations within which an id or a token is recognised as seen"
    )
    max_lag: int = Field(
        100_000, ge=1, description="observations that may be unapplied before feedback gets 429"
    )
    label_ttl: float = Field(
        86_400.0, gt=0, description="seconds that a prediction with an id awaits its label, at most"
    )
    label_bytes: int = Field(
        64 * 2**20, ge=2**16, description="bytes of a model's predictions that await their labels"
    )
    answer_bytes: int = Field(
        32 * 2**20,
        ge=2**12,
        description="bytes of a model's answers that are kept for repeated Idempotency-Keys",
    )
    lease_seconds: float = Field(
        2.0, gt=0.2, description="seconds without a heartbeat until another learner takes over"
    )
    snapshot_seconds: float = Field(1.0, gt=0, description="least seconds between two snapshots of a model")
    publish_seconds: float = Field(
        0.005, gt=0, description="least seconds between two publications of a model's weights"
    )
    checkpoints: int = Field(10, ge=1, le=1000, description="checkpoints of a model that are kept")
    checkpoint_observations: int = Field(
        10_000, ge=0, description="observations after which a checkpoint is made; 0: never"
    )
    checkpoint_seconds: float = Field(
        0.0, ge=0, description="seconds after which a checkpoint is made, if there is anything new; 0: never"
    )
    trainers: int = Field(1, ge=0, description="trainer processes of `freshet serve`")
    trainer_nice: int = Field(10, ge=0, le=19, description="how much less urgent a trainer is to the machine")
    max_epochs: int = Field(1000, ge=1, description="most epochs of one retraining")
    max_job_seconds: int = Field(6 * 3600, ge=1, description="seconds after which a retraining is given up")
    failpoint: str | None = Field(
        None, description="for tests: where a process kills itself, such as `after-append:3`"
    )


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with `overrides` (None: not given) on top.

    Raises SettingsError for a variable that starts with FRESHET_ and names no setting, and for a bad value.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; the settings are listed in README.md")
    given = {key: value for key, value in overrides.items() if value is not None}
    if "redis_url" in given:
        given["REDIS_URL"] = given.pop("redis_url")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValueError as error:
        raise SettingsError(str(error)) from error


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process the same settings."""
    variables = {
        PREFIX + name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in settings.model_dump(exclude={"redis_url"}).items()
        if value is not None
    }
    if settings.redis_url:
        variables["REDIS_URL"] = settings.redis_url
    return variables


def socket_path(settings: Settings) -> Path:
    """Where the embedded server listens. Raises SettingsError if the path is too long for a socket."""
    path = settings.data_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise SettingsError(f"the data folder's path is too long for a socket in it: {path}")
    return path


def redis_url(settings: Settings) -> str:
    """REDIS_URL if it is set, else the embedded server's address."""
    return settings.redis_url or f"unix://{socket_path(settings)}"
