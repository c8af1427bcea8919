"""How every process of the server starts: settings, logging, and a look at Redis."""

from service import failpoints, logs
from service.errors import StoreUnavailable
from service.settings import Settings, load_settings, redis_url
from service.store.connection import Link, check_server


def start(process: str) -> Settings:
    """The settings of this process, with logging set up. Raises ServiceError for a Redis that cannot be used.

    A Redis that is away is waited for later.
    """
    settings = load_settings()
    logs.configure(settings, process)
    failpoints.configure(settings)
    try:
        check_server(Link(redis_url(settings), settings.redis_timeout))
    except StoreUnavailable as error:
        logs.log.warning("Redis is not there yet", error=str(error))
    return settings
