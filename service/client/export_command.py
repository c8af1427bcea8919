"""`freshet export`: a model's weights in a file."""

from pathlib import Path

import click

from service.client.errors import ClientError
from service.client.http import model_path
from service.client.options import connected, server_options


@click.command(short_help="Save a model's weights to a file.")
@click.argument("model")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file. [default: MODEL.safetensors]",
)
@server_options
def export(model: str, output: Path | None, url: str, key_file: Path | None, wait: float) -> None:
    """Save MODEL's weights as safetensors, which any library reads and which holds nothing executable.

    \b
    Examples:
      freshet export spam
      freshet export spam -o /backup/spam.safetensors
    """
    path = output or Path(f"{model}.safetensors")
    content = connected(url, key_file, wait).raw("GET", model_path(model, "/weights")).data
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise ClientError(f"cannot write {path}: {error.strerror}") from None
    click.echo(f"{path}: {len(content):,} bytes", err=True)
