"""`espalier completion`: what makes a shell complete commands, flags and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_NAME, _VARIABLE = "espalier", "_ESPALIER_COMPLETE"
"""Of the program, and what Click looks for in the environment to answer a shell."""


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes commands, flags and names.

    In ~/.bashrc or ~/.zshrc: eval "$(espalier completion bash)", or zsh. For fish, once:
    espalier completion fish > ~/.config/fish/completions/espalier.fish
    """
    made_for = get_completion_class(shell)
    assert made_for is not None
    click.echo(made_for(context.find_root().command, {}, _NAME, _VARIABLE).source())
