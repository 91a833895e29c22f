"""`espalier resume`: continue a search, or another study, from its own settings."""

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
from search.commands.completions import studies
from search.commands.flags import overridden, refuse_without_effect, some_options
from search.commands.runs_folder import RunsFolder, search_folder
from search.commands.server_or_folder import chosen_server
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.config.study_settings import SETTINGS_OF
from search.storage.layout import SETTINGS_FILES, StudyKind, study_kind

if TYPE_CHECKING:
    from search import models
    from search.data import trusted_code
    from search.results import report
    from search.studies import correlation_study, family_study
    from search.tasks import registry as tasks
else:
    models, trusted_code, tasks, report, correlation_study, family_study = lazy_modules(
        *("search.models", "search.data.trusted_code", "search.tasks.registry"),
        "search.results.report",
        *("search.studies.correlation_study", "search.studies.family_study"),
    )

_OF_THE_MACHINE = ("concurrency", "device", "mlflow_url", "register")


@click.command()
@click.argument("name", metavar="STUDY", shell_complete=studies)
@some_options(SearchConfig, (*_OF_THE_MACHINE, "resources"))
@TRUST
@RUNS
def resume(name: str, runs: str, trust: tuple[str, ...], **flags: Any) -> None:
    """Continue STUDY, a search or another, whatever ended it.

    What was finished stays as it is, what was under way goes on from its last checkpoint. Flags may
    change what it runs on, not what it is.
    """
    server = chosen_server()
    if server is None:
        _resume_here(name, runs, flags, trust)
        return
    if any(value not in (None, ()) for value in flags.values()):
        raise click.UsageError("what a search on a server runs on is the server's to decide")
    refuse_without_effect(("trust",), "on a server, which runs the code that its operator allowed")
    server.resume(name)
    run_or_watch.watch(server, name, Console(highlight=False))


def _resume_here(name: str, runs: str, flags: dict[str, Any], trust: tuple[str, ...]) -> None:
    kind = study_kind(search_folder(name, runs))
    if kind in (None, "search"):
        run_or_watch.run_here(stored_config(name, runs, flags, trust))
        return
    unknown = ("register", "concurrency") if kind == "correlation" else ("register",)
    refuse_without_effect(unknown, f"on a {kind} study")
    config: Any = stored_settings(kind, name, runs, flags, trust)
    continued = family_study.resume if kind == "family" else correlation_study.run
    location, folder, console = RunsFolder(runs), str(config.directory), Console(highlight=False)
    with run_or_watch.stoppable(location, folder):
        continued(config, console=console)
    location.print_results(folder, console)


def stored_config(
    name: str, runs: str, flags: dict[str, Any], trust: tuple[str, ...]
) -> SearchConfig:
    """The settings of a search, with flags over them; see `stored_settings`."""
    config: SearchConfig = stored_settings("search", name, runs, flags, trust)
    return config


def stored_settings(
    kind: StudyKind, name: str, runs: str, flags: dict[str, Any], trust: tuple[str, ...]
) -> Any:
    """The settings of a study, with flags over them; SearchStateError if there is none.

    Raises ModelError or DataError if they name a network, data or a task of anybody's own that
    are not trusted: a folder may come from elsewhere.
    """
    folder = search_folder(name, runs)
    file = folder / SETTINGS_FILES[kind]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise report.no_search(folder) from None
    except (OSError, ValueError) as error:
        raise SearchStateError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise SearchStateError(f"{file} is damaged: it holds no settings")
    config = from_mapping(SETTINGS_OF[kind], overridden(content, flags), str(file))
    if config.model:
        models.require_trusted(config.model, trust, file)
    trusted_code.require_trusted_data(config.data, trust, file)
    tasks.require_trusted(config.task, trust, file)
    # A folder may have been moved since.
    moved: dict[str, Any] = {"name": folder.name, "runs": str(folder.parent)}
    if kind == "family":
        moved["trust"] = trust
    return dataclasses.replace(config, **moved)
