"""Options of several commands: where searches are, whose code may run, the shape of a sample."""

from __future__ import annotations

import re

import click

from pruning.errors import ConfigError
from search.commands.completions import DEFAULT_RUNS, paths

RUNS = click.option(
    "--runs",
    default=DEFAULT_RUNS,
    show_default=True,
    help="folder that holds all searches",
    shell_complete=paths("dir"),
)
CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(),
    help="TOML file; flags override it",
    shell_complete=paths("file"),
)
TRUST = click.option(
    "--trust",
    multiple=True,
    envvar="ESPALIER_TRUST",
    show_envvar=True,
    help="module, or module:callable, of your own that may make a stored network; repeatable, in "
    "the variable with spaces between them. What lies in a folder runs no other code than that "
    "of the zoo and torchvision",
)


def sample_shape(text: str) -> tuple[int, ...]:
    """Sizes of one sample as --input takes them: 3x224x224 for images, 2x500 for signals."""
    if re.fullmatch(r"[1-9]\d*([x×][1-9]\d*)*", text) is None:
        raise ConfigError(f"--input must be sizes of a sample, such as 3x224x224, got {text!r}")
    return tuple(map(int, re.split("[x×]", text)))
