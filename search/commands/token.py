"""`espalier token`: who may use a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import click
from sqlalchemy import Engine

from search.commands.flags import some_options
from search.service.access.tokens import ROLES, Role, all_tokens, create, is_inactive, revoke
from search.service.database.connection import open_service_database
from search.service.service_config import ServiceConfig

_RECORDS = some_options(ServiceConfig, ("runs", "database"))
"""How `espalier serve` is told where its records are."""


@click.group()
def token() -> None:
    """Tokens of a service: once there is one, it asks for them when it is next started."""


@token.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="writer",
    show_default=True,
    help="reader: look and download; writer: also launch searches, and stop, continue and remove "
    "one's own; admin: those of everybody",
)
@click.option("--owner", default="", help="whom its searches belong to; by default NAME")
@click.option("--days", type=float, help="after which it expires; by default never")
@_RECORDS
def create_token(
    *,
    name: str,
    role: Role,
    owner: str,
    days: float | None,
    runs: str | None,
    database: str | None,
) -> None:
    """Print a new token for NAME, a person or a machine, once; only its hash is kept."""
    with _records(runs, database, may_be_new=True) as engine:
        click.echo(create(engine, name, role, owner=owner, days=days))
    click.echo(f"the service knows it as {name} ({role}); it is shown this once", err=True)


@token.command("list")
@_RECORDS
def list_tokens(*, runs: str | None, database: str | None) -> None:
    """List all tokens there ever were: name, role, owner, and until when they are good."""
    with _records(runs, database) as engine:
        rows = all_tokens(engine)
    for row in rows:
        if row.revoked_ms is not None:
            until = f"revoked {_day(row.revoked_ms)}"
        elif row.expires_ms is None:
            until = "for good"
        else:
            until = f"{'expired' if is_inactive(row) else 'until'} {_day(row.expires_ms)}"
        click.echo(f"{row.name}  {row.role}  {row.owner}  {until}")
    if not rows:
        click.echo("There are no tokens.", err=True)


@token.command("revoke")
@click.argument("name")
@_RECORDS
def revoke_token(*, name: str, runs: str | None, database: str | None) -> None:
    """Let the token called NAME open nothing from now on; what it follows ends within a second."""
    with _records(runs, database) as engine:
        revoke(engine, name)
    click.echo(f"{name} is revoked", err=True)


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000):%Y-%m-%d %H:%M}"


@contextmanager
def _records(
    runs: str | None, database: str | None, *, may_be_new: bool = False
) -> Iterator[Engine]:
    """The database of the service."""
    config = ServiceConfig(runs=runs or ServiceConfig.runs, database=database or "")
    engine = open_service_database(config, may_be_new=may_be_new)
    try:
        yield engine
    finally:
        engine.dispose()
