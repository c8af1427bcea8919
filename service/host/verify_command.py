"""`freshet verify`."""

import dataclasses
import json
import sys
from typing import Any

import click

from service.host.embedded import opened
from service.host.options import redis_options
from service.replay.verify import LINK_SECONDS
from service.replay.verify import verify as replay
from service.settings import load_settings
from service.store.connection import Link


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@redis_options
def verify(model: str, as_json: bool, **options: Any) -> None:
    """Replay MODEL's log between the states that are kept and compare with them, bit for bit.

    Needs no running server, and may run beside one.

    Exit status: 0 if all is equal; 1 if a state differs; 2 for a wrong option or no Redis; 3 if a stretch cannot be
    replayed or compared (another build or kind of processor computed it), or there is nothing to compare.
    """
    with opened(load_settings(**options)) as url:
        spans = replay(Link(url, LINK_SECONDS), model)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(span) for span in spans], default=str))
    else:
        for span in spans:
            click.echo(span)
        if not spans:
            click.echo("there is no stretch of the log between two states that are kept")
    if any(span.difference and span.is_comparable for span in spans):
        sys.exit(1)
    sys.exit(0 if spans and all(span.is_comparable for span in spans) else 3)
