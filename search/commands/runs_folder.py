"""Searches in a folder of this machine."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pruning.errors import SearchStateError
from search.commands.place import Listed, Network, Place
from search.commands.stored import DEFAULT_RUNS, search_folder, stored_architecture
from search.storage.durable import is_held, lock_holder
from search.storage.layout import CONFIG_FILE, EVENTS_FILE, LOG_FILE, RESULTS_FILE
from search.tracking.process_log import LogPart, log_parts, read_log
from search.tracking.search_state import Event, EventFile, SearchState

if TYPE_CHECKING:
    from search.results.report import Results

_POLL_SECONDS = 0.5
_LOG_BYTES = 2**20
_PATIENCE_SECONDS = 90.0
"""A search that is asked to end writes down the states of its trials, and tells MLflow."""


class RunsFolder(Place):
    """The folder given with --runs; a search is named, or given as a folder itself.

    trust: a module of the user's own, to be named again by commands that run it.
    """

    forms = ("safetensors", "onnx", "pt2")

    def __init__(self, runs: str, trust: str = "") -> None:
        self._runs, self._trust = runs, trust

    def command(self, name: str, *words: str) -> str:
        return shlex.join(self._words(name, *words))

    def _words(self, name: str, verb: str, *rest: str) -> tuple[str, ...]:
        folder = search_folder(name, self._runs)
        runs = str(folder.parent)
        where = () if runs == DEFAULT_RUNS else ("--runs", runs)
        if self._trust and verb in ("resume", "export"):
            where = ("--trust", self._trust, *where)
        return "espalier", verb, folder.name, *rest, *where

    def searches(self) -> list[Listed]:
        found = []
        for file in Path(self._runs).glob(f"*/{CONFIG_FILE}"):
            if not file.parent.name.startswith("."):
                found.append((file.stat().st_mtime, _listed(file.parent)))
        return [listed for _, listed in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def search(self, name: str) -> Listed:
        return _listed(self._folder(name))

    def _folder(self, name: str) -> Path:
        folder = search_folder(name, self._runs)
        if not (folder / CONFIG_FILE).exists():
            from search.results.report import no_search  # noqa: PLC0415 - imports torch

            raise no_search(folder)
        return folder

    def follow(self, name: str) -> Iterator[Event]:
        folder = self._folder(name)
        file, last = EventFile(folder / EVENTS_FILE), ""
        while True:
            was_held = is_held(folder)  # asked first: what follows is then all
            file.is_another()  # and then read from its beginning
            for event in _events(file):
                last = event["event"]
                yield event
            if not was_held or (last == "concluded" and (folder / RESULTS_FILE).exists()):
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

    def stop(self, name: str) -> Listed:
        folder = self._folder(name)
        if not is_held(folder):
            raise SearchStateError(
                f"{folder.name} is {_listed(folder).state}: there is nothing to stop"
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
        return _listed(folder)

    def results(self, name: str) -> Results:
        from search.results.report import open_results  # noqa: PLC0415 - imports torch

        return open_results(search_folder(name, self._runs))

    def report(self, name: str) -> tuple[bytes, Path]:
        from search.results.html_report import REPORT_FILE, report_page  # noqa: PLC0415 - imports torch

        folder = search_folder(name, self._runs)
        return report_page(folder).encode(), folder / REPORT_FILE

    def network(self, architecture: str, trust: tuple[str, ...]) -> Network:
        source = Path(architecture)
        if not (source / "architecture.json").exists():
            source = stored_architecture(architecture, self._runs)
        return _StoredNetwork(source, trust)

    def next_steps(self, name: str, results: Results) -> str:
        folder = search_folder(name, self._runs)
        return (
            f"\nStored in {folder}\n"
            f"  compare in MLflow    {self.command(name, 'ui')}\n"
            f"  read the report      {folder / 'report.html'}\n"
            f"  list the front       {self.command(name, 'pareto')}\n"
            f"  take one with you    {self._export_command(name, results.front[0].key)}"
        )

    def _export_command(self, name: str, key: str) -> str:
        first, verb, search, *rest = self._words(name, "export", "--out", "my-network")
        return shlex.join((first, verb, f"{search}/{key}", *rest))


def _events(file: EventFile) -> Iterator[Event]:
    try:
        yield from file.read()
    except OSError as error:
        raise SearchStateError(f"{file.path} cannot be read: {error.strerror}") from error


def _listed(folder: Path) -> Listed:
    """How the search stands, by its lock, its results and its last event."""
    search_state, last, file = SearchState(), None, EventFile(folder / EVENTS_FILE)
    was_held, state, reason = is_held(folder), "stopped", ""
    try:
        for event in _events(file):
            search_state.take(event)
            last = event
    except SearchStateError as error:
        reason = str(error)
    if was_held:
        state = "running"
    elif (folder / RESULTS_FILE).exists():
        state = "finished"
    elif last is not None and last["event"] == "failed":
        state, reason = "failed", last["reason"]
    progress = None if last is None else search_state.progress()
    ended = None if state == "running" or last is None else int(last["time_ms"])
    return Listed(folder.name, state, reason or file.damage, progress, ended)


class _StoredNetwork(Network):
    """In a folder of this machine; whatever is written is made from it here."""

    def __init__(self, source: Path, trust: tuple[str, ...]) -> None:
        self._source, self._trust = source, trust

    @property
    def weights(self) -> str:
        return str(self._source / "weights.safetensors")

    @property
    def builder(self) -> str:
        from copycat.architecture import read  # noqa: PLC0415 - imports torch

        return read(self._source).builder.module

    def check(self) -> None:
        from copycat.architecture import verify  # noqa: PLC0415 - imports torch

        verify(self._source, trust=self._trust)

    def source_code(self) -> str:
        from copycat.architecture import load, read  # noqa: PLC0415 - imports torch
        from copycat.python_source import to_python  # noqa: PLC0415

        return to_python(read(self._source), load(self._source, trust=self._trust))

    def write(self, form: str, target: Path) -> None:
        from copycat.architecture import load, read  # noqa: PLC0415 - imports torch
        from copycat.export import to_onnx, to_pt2, written_whole  # noqa: PLC0415

        if form == "safetensors":
            with written_whole(target) as temporary:
                temporary.mkdir()
                for name in ("architecture.json", "weights.safetensors"):
                    shutil.copyfile(self._source / name, temporary / name)
            return
        writers: dict[str, Any] = {"onnx": to_onnx, "pt2": to_pt2}
        example_input = read(self._source).example_input
        writers[form](load(self._source, trust=self._trust), example_input, target)

    def register(self, name: str, alias: str, mlflow_url: str) -> str:
        from search.config.search_config import SearchConfig  # noqa: PLC0415 - imports torch
        from search.tracking.model_registry import register_one  # noqa: PLC0415

        search = self._source.resolve().parent.parent
        config = SearchConfig(name=search.name, runs=str(search.parent), mlflow_url=mlflow_url)
        return register_one(config, self._source.name, name, alias, self._trust).uri
