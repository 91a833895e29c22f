"""Options of several commands: where searches are, whose code may run, the shape of an image."""

from __future__ import annotations

import re

import click

from pruning.errors import ConfigError

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


def image_shape(text: str) -> tuple[int, int, int]:
    """Channels, height and width as --input takes them, such as 3x224x224."""
    sizes = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)[x×]([1-9]\d*)", text)
    if sizes is None:
        raise ConfigError(f"--input must be channels x height x width, got {text!r}")
    channels, height, width = map(int, sizes.groups())
    return channels, height, width
