"""Options of several commands: where searches are, and whose code may run."""

from __future__ import annotations

import click

DEFAULT_RUNS = "espalier-runs"
RUNS = click.option(
    "--runs", default=DEFAULT_RUNS, show_default=True, help="folder that holds all searches"
)
TRUST = click.option(
    "--trust",
    multiple=True,
    envvar="ESPALIER_TRUST",
    show_envvar=True,
    help="module, or module:callable, of your own that may make a stored network; repeatable. What "
    "lies in a folder runs no other code than that of the zoo and torchvision",
)
