"""The command line, `freshet`: each command is loaded from its room when it is used."""

import importlib
import json
import os
import signal
import sys
from typing import NamedTuple

import click

from service.errors import ServiceError


class Entry(NamedTuple):
    """Where a command is, and its line in the help."""

    location: str
    help: str


SERVER = {
    "serve": Entry("service.host.commands:serve", "Run everything on this machine."),
    "web": Entry("service.host.commands:web", "Run the web processes alone."),
    "learner": Entry("service.learner.command:learner", "Run a learner alone."),
    "trainer": Entry("service.trainer.command:trainer", "Run a trainer alone."),
    "keys": Entry("service.host.keys_command:keys", "Make, list, rotate and revoke API keys."),
    "config": Entry("service.host.commands:config", "Print the settings in force and what gave them."),
    "verify": Entry("service.host.verify_command:verify", "Replay a model's log and compare."),
    "health": Entry(
        "service.host.health_command:health", "Whether the server here answers, for health checks."
    ),
    "warm-up": Entry("service.host.warm_up_command:warm_up", "Compile what learning needs."),
}
CLIENT = {
    "models": Entry("service.client.models_command:models", "List, show, create and delete models."),
    "predict": Entry("service.client.predict_command:predict", "Predict the rows of a file."),
    "feed": Entry("service.client.feed_command:feed", "Stream a file to a server as feedback."),
    "retrain": Entry("service.client.retrain_command:retrain", "Retrain a model and follow the job."),
    "undo": Entry("service.client.undo_command:undo", "Rebuild a model without what one key taught it."),
    "jobs": Entry("service.client.jobs_command:jobs", "List, show and cancel retraining jobs."),
    "export": Entry("service.client.export_command:export", "Save a model's weights to a file."),
    "completion": Entry(
        "service.client.completion_command:completion", "Print a script for shell completion."
    ),
}
COMMANDS = SERVER | CLIENT


class Commands(click.Group):
    """Loads a command when it is used: `freshet feed` needs no numba, a learner no progress bars."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].location.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        for title, commands in (("On a server", SERVER), ("Against a server", CLIENT)):
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in commands.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="freshet")
def cli() -> None:
    """Freshet serves a neural network that learns from every labelled observation, exactly once.

    \b
    Examples:
      freshet serve                                  # then, in another terminal:
      freshet feed mails.csv --model spam --create binary --label is_spam
      freshet models show spam
      freshet predict spam new-mails.csv

    Every setting is an environment variable, FRESHET_<NAME>; `freshet config` lists them. The commands against a
    server take its address from --url or FRESHET_URL and an API key from --key-file or FRESHET_KEY.
    """


def main() -> None:
    """Run the command line; errors are one line."""
    _open_standard_files()
    if "serve" in sys.argv[1:2]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    # A user's own `model.py` or `service/` in the current folder must not be imported by any child process.
    os.environ["PYTHONSAFEPATH"] = "1"
    # Read by NumPy when it is imported: processes for the cores, not threads.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    if os.environ.get("NUMBA_CPU_NAME") == "":  # an image that was compiled for the processor of its build
        del os.environ["NUMBA_CPU_NAME"]
    try:
        cli()
    except ServiceError as error:
        if os.environ.get("FRESHET_LOG_FORMAT") == "json":  # every line, this one too
            click.echo(
                json.dumps({"event": "cannot go on", "detail": str(error), "level": "critical"}), err=True
            )
        else:
            click.echo(f"freshet: {error}", err=True)
        sys.exit(2)


def _open_standard_files() -> None:
    """Open what was closed of standard input, output and error: a socket would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
