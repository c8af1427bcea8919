"""Whether the server may be reached from elsewhere."""

from contextlib import suppress
from ipaddress import ip_address

from service.access import parse_token
from service.errors import SettingsError, StoreUnavailable
from service.settings import Settings, redis_url
from service.store import access
from service.store.connection import Link


def check_exposure(settings: Settings) -> None:
    """Raise SettingsError for an address that others can reach while there is no API key, or for a key that is none."""
    if settings.admin_key is not None and parse_token(settings.admin_key.get_secret_value()) is None:
        raise SettingsError("FRESHET_ADMIN_KEY is no token; `freshet keys token` makes one")
    if settings.insecure or settings.admin_key is not None or _is_local(settings.host):
        return
    with suppress(
        StoreUnavailable
    ):  # web processes look again, and serve this machine alone until there is a key
        if access.load_all(Link(redis_url(settings), settings.redis_timeout)):
            return
        raise SettingsError(
            f"there is no API key, so anyone who reaches {settings.host} could change every model: make a key with "
            "`freshet keys create`, set FRESHET_ADMIN_KEY, or say --insecure (FRESHET_INSECURE=true)"
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
