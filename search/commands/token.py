"""`espalier token create`: who may use a service."""

from __future__ import annotations

from pathlib import Path

import click

from search.service.tokens import ROLES, Role, create


@click.group()
def token() -> None:
    """Tokens of a service."""


@token.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="launch",
    show_default=True,
    help="read: look and download; launch: also launch, stop and remove searches",
)
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    default=Path("espalier-tokens"),
    show_default=True,
    help="file that keeps their hashes, for `espalier serve --tokens`",
)
def create_token(name: str, role: Role, tokens: Path) -> None:
    """Print a new token for NAME, a person or a machine, once; only its hash is kept."""
    click.echo(create(tokens, name, role))
    click.echo(f"{tokens} knows it as {name} ({role}); it is shown this once", err=True)
