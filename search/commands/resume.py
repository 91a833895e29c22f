"""`espalier resume`: continue a search from its own settings."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from pruning.errors import SearchStateError
from pruning.lazy_imports import lazy_modules
from search.commands import run_or_watch
from search.commands.common_options import RUNS, TRUST
from search.commands.flags import overridden, refuse_without_effect, some_options
from search.commands.runs_folder import search_folder
from search.commands.server_or_folder import chosen_server
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.storage.layout import CONFIG_FILE

if TYPE_CHECKING:
    from search import models
    from search.results import report
else:
    models, report = lazy_modules("search.models", "search.results.report")

_OF_THE_MACHINE = ("concurrency", "device", "mlflow_url", "register")


@click.command()
@click.argument("name", metavar="SEARCH")
@some_options(SearchConfig, (*_OF_THE_MACHINE, "resources"))
@TRUST
@RUNS
def resume(name: str, runs: str, trust: tuple[str, ...], **flags: Any) -> None:
    """Continue SEARCH, whatever ended it.

    What was finished stays as it is, what was under way goes on from its last epoch. Flags may
    change what it runs on, not what it is.
    """
    server = chosen_server()
    if server is None:
        run_or_watch.run_here(stored_config(name, runs, flags, trust))
        return
    if any(value not in (None, ()) for value in flags.values()):
        raise click.UsageError("what a search on a server runs on is the server's to decide")
    refuse_without_effect(("trust",), "on a server, which runs the code that its operator allowed")
    if server.search(name).state != "finished":
        server.client.resume(name)
    run_or_watch.watch(server, name, Console(highlight=False))


def stored_config(
    name: str, runs: str, flags: dict[str, Any], trust: tuple[str, ...]
) -> SearchConfig:
    """The settings of a search, with flags over them; SearchStateError if there is none.

    Raises ModelError if they name a network of anybody's own that is not trusted: a folder may
    come from elsewhere.
    """
    folder = search_folder(name, runs)
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise report.no_search(folder) from None
    except (OSError, ValueError) as error:
        raise SearchStateError(f"{folder / CONFIG_FILE} is damaged: {error}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise SearchStateError(f"{folder / CONFIG_FILE} is damaged: it holds no settings")
    config = from_mapping(SearchConfig, overridden(content, flags), str(folder / CONFIG_FILE))
    models.require_trusted(config.model, trust, folder / CONFIG_FILE)
    # A folder may have been moved since.
    return dataclasses.replace(config, name=folder.name, runs=str(folder.parent))
