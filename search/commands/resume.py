"""`espalier resume`: continue a search from its own settings."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from pruning.errors import SearchStateError
from search.commands.flags import overridden, some_options
from search.commands.places import asked_server
from search.commands.search import run_and_print
from search.commands.stored import RUNS, TRUST, search_folder
from search.config.search_config import SearchConfig, from_mapping
from search.storage.layout import CONFIG_FILE

_OF_THE_MACHINE = ("concurrency", "device", "mlflow_url", "register")


@click.command()
@click.argument("name", metavar="SEARCH")
@some_options(SearchConfig, (*_OF_THE_MACHINE, "resources"))
@TRUST
@RUNS
def resume(name: str, runs: str, trust: tuple[str, ...], **flags: Any) -> None:
    """Continue SEARCH, whatever ended it; flags may change what it runs on, not what it is.

    What was finished stays as it is, what was under way goes on from its last epoch.
    """
    server = asked_server()
    if server is None:
        run_and_print(stored_config(name, runs, flags, trust))
        return
    if any(value not in (None, ()) for value in flags.values()):
        raise click.UsageError("what a search on a server runs on is the server's to decide")
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from search.commands.following import follow_and_print  # noqa: PLC0415

    server.resume(name)
    follow_and_print(server, name, Console(highlight=False))


def stored_config(
    name: str, runs: str, flags: dict[str, Any], trust: tuple[str, ...]
) -> SearchConfig:
    """The settings of a search, with flags over them; SearchStateError if there is none.

    Raises ModelError if they name a network of anybody's own that is not trusted: a folder may
    come from elsewhere.
    """
    from search.models import require_trusted  # noqa: PLC0415 - startup stays light
    from search.results.report import no_search  # noqa: PLC0415 - startup stays light

    folder = search_folder(name, runs)
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise no_search(folder) from None
    except (OSError, ValueError) as error:
        raise SearchStateError(f"{folder / CONFIG_FILE} is damaged: {error}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise SearchStateError(f"{folder / CONFIG_FILE} is damaged: it holds no settings")
    config = from_mapping(overridden(content, flags), str(folder / CONFIG_FILE))
    require_trusted(config.model, trust, folder / CONFIG_FILE)
    # A folder may have been moved since.
    return dataclasses.replace(config, name=folder.name, runs=str(folder.parent))
