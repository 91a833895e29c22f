"""Where searches and their architectures are, as they are named on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pruning.errors import SearchStateError
from search.storage.layout import ARCHITECTURES_FOLDER, CONFIG_FILE

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


def search_folder(name: str, runs: str) -> Path:
    """The folder of a search, given by name or path."""
    is_path = os.sep in name or (Path(name) / CONFIG_FILE).exists()
    return Path(name) if is_path else Path(runs) / name


def stored_architecture(architecture: str, runs: str) -> Path:
    """The folder of SEARCH/NAME; SearchStateError names what there is."""
    from copycat.architecture.whole_folder import stored_names  # noqa: PLC0415 - startup stays light

    name, _, key = architecture.rpartition("/")
    if not name:
        raise SearchStateError(f"an architecture is SEARCH/NAME or a folder, got {architecture!r}")
    folder = search_folder(name, runs) / ARCHITECTURES_FOLDER
    present = stored_names(folder)
    if key not in present:
        listed = f": it has {', '.join(present)}" if present else ""
        raise SearchStateError(f"{name} has no architecture {key!r}{listed}")
    return folder / key
