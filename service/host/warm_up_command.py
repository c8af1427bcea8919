"""`freshet warm-up`."""

import click

from service import logs
from service.replay.compiling import compile_loop
from service.settings import load_settings


@click.command("warm-up")
def warm_up() -> None:
    """Compile what learning needs and keep it, so that a learner starts at once.

    It takes up to a minute, once for each installation; without it the first start does it. For images and
    installations: run it as the user that will serve.
    """
    logs.configure(load_settings(), "warm-up")
    compile_loop()
