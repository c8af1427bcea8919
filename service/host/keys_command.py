"""`freshet keys`: make, list, rotate and revoke API keys. Speaks to Redis, not to a server."""

import sys
import time
from typing import Any

import click
from pydantic import ValidationError

from service.access import SCOPES, ApiKey, made, new_token, rotated
from service.errors import SettingsError
from service.host.embedded import opened
from service.host.options import redis_options
from service.settings import load_settings
from service.store import access
from service.store.connection import Link

TIMEOUT = 5.0  # seconds for Redis to answer


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys. A change is in force everywhere within a second.

    With the first key, every request needs one: Authorization: Bearer KEY.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="May be repeated."
)
@click.option(
    "--model", "models", multiple=True, default=("*",), help="Name or pattern such as 'fraud-*'; repeatable."
)
@click.option("--requests-per-second", type=float, help="Most requests a second.")
@click.option("--observations-per-second", type=float, help="Most observations a second.")
@redis_options
def create(name: str, **options: Any) -> None:
    """Make a key and print it: it is shown this once, and only its digest is stored.

    freshet keys create scorer --scope predict --model 'fraud-*'
    """
    location = {option: options.pop(option) for option in ("data_dir", "redis_url")}
    try:
        key, token = made(name, **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    with opened(load_settings(**location)) as url:
        if not access.save(Link(url, TIMEOUT), key):
            raise SettingsError(f"there is an API key {name!r} already; rotate or revoke it")
    click.echo(token)


@keys.command("list")
@redis_options
def list_all(**location: Any) -> None:
    """List the keys, without their secrets."""
    with opened(load_settings(**location)) as url:
        found = sorted(access.load_all(Link(url, TIMEOUT)).values(), key=lambda key: key.name)
    if not found:
        click.echo("there are no API keys: requests need none", err=True)
    for key in found:
        made_at = time.strftime("%Y-%m-%d", time.gmtime(key.created))
        limits = [
            f"{rate:g} {kind}/s"
            for kind, rate in (
                ("requests", key.requests_per_second),
                ("observations", key.observations_per_second),
            )
            if rate is not None
        ]
        click.echo("  ".join([key.name, ",".join(key.scopes), " ".join(key.models), made_at, *limits]))


@keys.command()
@click.argument("name")
@click.option(
    "--grace", type=click.FloatRange(0, 7 * 86_400), default=0.0, help="Seconds that the old one works on."
)
@redis_options
def rotate(name: str, grace: float, **location: Any) -> None:
    """Give a key a new secret and print it."""
    with opened(load_settings(**location)) as url:
        link = Link(url, TIMEOUT)
        key, token = rotated(_named(link, name), grace)
        access.save(link, key)
    click.echo(token)


@keys.command()
@click.argument("name")
@redis_options
def revoke(name: str, **location: Any) -> None:
    """Delete a key: within a second nobody is served with it."""
    with opened(load_settings(**location)) as url:
        link = Link(url, TIMEOUT)
        access.delete(link, _named(link, name).id)
        if not access.load_all(link):
            click.echo(
                "that was the last key: requests need none now, where only this machine is served", err=True
            )


@keys.command()
def token() -> None:
    """Print a token for FRESHET_ADMIN_KEY, without storing it."""
    click.echo(new_token()[0])


def _named(link: Link, name: str) -> ApiKey:
    for key in access.load_all(link).values():
        if key.name == name:
            return key
    click.echo(f"freshet: there is no API key {name!r}", err=True)
    sys.exit(1)
