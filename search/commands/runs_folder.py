"""Searches in a folder of this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from pruning.errors import SearchStateError
from pruning.lazy_imports import lazy_modules
from search.commands import result_summary
from search.commands.completions import DEFAULT_RUNS
from search.commands.search_location import SearchEntry, SearchLocation, StoredNetwork
from search.config.search_config import SearchConfig
from search.storage.folder_lock import is_held, lock_holder
from search.storage.layout import (
    ARCHITECTURES_FOLDER,
    CORRELATION_RESULTS,
    EVENTS_FILE,
    FAMILY_RESULTS,
    LOG_FILE,
    RESULTS_FILES,
    SETTINGS_FILES,
    study_kind,
)
from search.tracking.event_file import Event, EventFile
from search.tracking.process_log import LogPart, log_parts, read_log
from search.tracking.search_summary import SearchSummary, summary_of

if TYPE_CHECKING:
    from copycat import architecture, export, python_source
    from copycat.architecture import whole_folder
    from search.results import correlation_report, family_results, html_report, report
    from search.results.report import Results
    from search.tracking import model_registry
else:
    architecture, whole_folder, export, python_source = lazy_modules(
        *("copycat.architecture", "copycat.architecture.whole_folder", "copycat.export"),
        "copycat.python_source",
    )
    correlation_report, family_results, html_report, report, model_registry = lazy_modules(
        *("search.results.correlation_report", "search.results.family_results"),
        *("search.results.html_report", "search.results.report", "search.tracking.model_registry"),
    )

_POLL_SECONDS = 0.5
_LOG_BYTES = 2**20
_PATIENCE_SECONDS = 90.0
"""A search that is asked to end writes down the states of its trials, and tells MLflow."""


class RunsFolder(SearchLocation):
    """The folder given with --runs; a search is named, or given as a folder itself.

    trust: by command, the modules of the user's own that it is to be allowed again; "" for none.
    """

    forms = ("safetensors", "onnx", "pt2")

    def __init__(self, runs: str, trust: Mapping[str, Sequence[str]] | None = None) -> None:
        self._runs, self._trust = runs, trust or {}

    def command(self, name: str, *words: str) -> str:
        return shlex.join(self._words(name, *words))

    def _words(self, name: str, verb: str, *rest: str) -> tuple[str, ...]:
        folder = search_folder(name, self._runs)
        runs = str(folder.parent)
        where = () if runs == DEFAULT_RUNS else ("--runs", runs)
        modules = dict.fromkeys(filter(None, self._trust.get(verb, ())))
        trust = (word for module in modules for word in ("--trust", module))
        return "espalier", verb, folder.name, *rest, *trust, *where

    def searches(self) -> list[SearchEntry]:
        entries = []
        for settings in SETTINGS_FILES.values():
            for file in Path(self._runs).glob(f"*/{settings}"):
                if not file.parent.name.startswith("."):
                    entries.append((file.stat().st_mtime, _entry(file.parent)))
        return [entry for _, entry in sorted(entries, key=lambda pair: pair[0], reverse=True)]

    def search(self, name: str) -> SearchEntry:
        return _entry(self._folder(name))

    def _folder(self, name: str) -> Path:
        folder = search_folder(name, self._runs)
        if study_kind(folder) is None:
            raise report.no_search(folder)
        return folder

    def follow(self, name: str) -> Iterator[Event]:
        folder = self._folder(name)
        results = folder / RESULTS_FILES[study_kind(folder) or "search"]
        file, last = EventFile(folder / EVENTS_FILE), ""
        while True:
            was_held = is_held(folder)  # before reading: nothing is written after its release
            file.is_another()  # and then read from its beginning
            for event in _events(file):
                last = event["event"]
                yield event
            if not was_held or (last == "concluded" and results.exists()):
                return
            time.sleep(_POLL_SECONDS)

    def log(self, name: str, *, follow: bool) -> Iterator[str]:
        folder = self._folder(name)
        file = folder / LOG_FILE

        def read(offset: int) -> LogPart:
            try:
                return read_log(file, offset, _LOG_BYTES, is_over=not is_held(folder))
            except OSError as error:
                raise SearchStateError(f"{file} cannot be read: {error.strerror}") from error

        if not file.exists():
            return iter(())
        return log_parts(read, lambda: not is_held(folder), follow=follow)

    def stop(self, name: str) -> SearchEntry:
        folder = self._folder(name)
        if not is_held(folder):
            raise SearchStateError(
                f"{folder.name} is {_entry(folder).state}: there is nothing to stop"
            )
        if is_held(folder.parent):
            raise SearchStateError(
                f"{folder.name} belongs to a service, which would continue it: "
                f"espalier --server URL stop {folder.name}"
            )
        process = lock_holder(folder)
        is_asked = False
        if process is not None:
            with suppress(psutil.Error):
                process.terminate()
                is_asked = True
        if process is None or not is_asked:
            raise SearchStateError(
                f"{folder.name} is being worked on by a process that is not one of this machine, "
                "or not yours: stop it where it runs"
            )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while is_held(folder):
            if time.monotonic() > deadline:
                raise SearchStateError(
                    f"process {process.pid} of {folder.name} was asked to end, and has not within "
                    f"{_PATIENCE_SECONDS:g} s: it is still writing, or hangs (kill -9 "
                    f"{process.pid})"
                )
            time.sleep(_POLL_SECONDS / 5)
        return _entry(folder)

    def results(self, name: str) -> Results:
        return report.open_results(search_folder(name, self._runs))

    def print_results(self, name: str, console: Console) -> None:
        folder = self._folder(name)
        match study_kind(folder):
            case "family":
                study = family_results.FamilyStudy.read(folder / FAMILY_RESULTS)
                result_summary.print_family(study, folder, console)
            case "correlation":
                results = correlation_report.read_results(folder / CORRELATION_RESULTS)
                result_summary.print_correlation(results, folder, console)
            case _:
                super().print_results(name, console)

    def report(self, name: str) -> tuple[bytes, Path]:
        folder = search_folder(name, self._runs)
        return html_report.report_page(folder).encode(), folder / html_report.REPORT_FILE

    def network(self, name: str, trust: tuple[str, ...]) -> StoredNetwork:
        return _NetworkInFolder(architecture_folder(name, self._runs), trust)

    def next_steps(self, name: str, results: Results) -> str:
        folder = search_folder(name, self._runs)
        return (
            f"\nStored in {folder}\n"
            f"  compare in MLflow    {self.command(name, 'ui')}\n"
            f"  read the report      {folder / 'report.html'}\n"
            f"  list the front       {self.command(name, 'pareto')}\n"
            f"  take one with you    {self._export_command(name, results.first_choice)}"
        )

    def _export_command(self, name: str, key: str) -> str:
        first, verb, search, *rest = self._words(name, "export", "--out", "my-network")
        return shlex.join((first, verb, f"{search}/{key}", *rest))


def search_folder(name: str, runs: str) -> Path:
    """The folder of a search, given by name or path."""
    is_path = os.sep in name or study_kind(Path(name)) is not None
    return Path(name) if is_path else Path(runs) / name


def architecture_folder(name: str, runs: str) -> Path:
    """The folder of an architecture, itself or as SEARCH/NAME; SearchStateError names others."""
    if (Path(name) / "architecture.json").exists():
        return Path(name)
    search, _, key = name.rpartition("/")
    if not search:
        raise SearchStateError(f"an architecture is SEARCH/NAME or a folder, got {name!r}")
    folder = search_folder(search, runs) / ARCHITECTURES_FOLDER
    present = whole_folder.stored_names(folder)
    if key not in present:
        listed = f": it has {', '.join(present)}" if present else ""
        raise SearchStateError(f"{search} has no architecture {key!r}{listed}")
    return folder / key


def _events(file: EventFile) -> Iterator[Event]:
    try:
        yield from file.read()
    except OSError as error:
        raise SearchStateError(_unreadable(file.path, error)) from error


def _unreadable(file: Path, error: OSError) -> str:
    return f"{file} cannot be read: {error.strerror}"


def _entry(folder: Path) -> SearchEntry:
    """How the study stands, by its lock, its results and its last event."""
    kind = study_kind(folder) or "search"
    summary, was_held, state, reason = SearchSummary(), is_held(folder), "stopped", ""
    try:
        summary = summary_of(folder)
    except OSError as error:
        reason = _unreadable(folder / EVENTS_FILE, error)
    last = summary.last
    if was_held:
        state = "running"
    elif (folder / RESULTS_FILES[kind]).exists():
        state = "finished"
    elif last is not None and last["event"] == "failed":
        state, reason = "failed", last["reason"]
    ended = None if state == "running" or last is None else int(last["time_ms"])
    return SearchEntry(
        folder.name, state, reason or summary.damage, summary.progress, ended, kind, summary.score
    )


class _NetworkInFolder(StoredNetwork):
    """In a folder of this machine; whatever is written is made from it here."""

    def __init__(self, source: Path, trust: tuple[str, ...]) -> None:
        self._source, self._trust = source, trust

    @property
    def weights(self) -> str:
        return str(self._source / "weights.safetensors")

    @property
    def builder(self) -> str:
        builder = architecture.read(self._source).builder
        return "" if builder is None else builder.module

    def check(self) -> None:
        architecture.verify(self._source, trust=self._trust)

    def source_code(self) -> str:
        model = architecture.load(self._source, trust=self._trust)
        return python_source.to_python(architecture.read(self._source), model)

    def write(self, form: str, target: Path) -> None:
        if form == "safetensors":
            with export.written_whole(target) as temporary:
                temporary.mkdir()
                for name in ("architecture.json", "weights.safetensors"):
                    shutil.copyfile(self._source / name, temporary / name)
            return
        model = architecture.load(self._source, trust=self._trust)
        write = export.to_onnx if form == "onnx" else export.to_pt2
        write(model, architecture.read(self._source).example_input, target)

    def register(self, name: str, alias: str, mlflow_url: str) -> str:
        search = self._source.resolve().parent.parent
        config = SearchConfig(name=search.name, runs=str(search.parent), mlflow_url=mlflow_url)
        return model_registry.register_one(config, self._source.name, name, alias, self._trust).uri
