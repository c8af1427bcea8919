"""`freshet completion`: the script that completes commands and options in a shell."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    \b
    Examples:
      eval "$(freshet completion bash)"                                   # in ~/.bashrc
      eval "$(freshet completion zsh)"                                    # in ~/.zshrc
      freshet completion fish > ~/.config/fish/completions/freshet.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "freshet", "_FRESHET_COMPLETE").source())
