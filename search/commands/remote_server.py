"""Searches on a server: a service of Espalier."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from rich.console import Console

from pruning.errors import ServiceError
from search.client import Client, Export
from search.commands.result_summary import print_correlation, print_family
from search.commands.search_location import SearchEntry, SearchLocation, StoredNetwork
from search.tasks.score import Score

if TYPE_CHECKING:
    from search.results.report import Results
    from search.tracking.event_file import Event

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STOP_SECONDS = 120.0
"""The service ends by force what has not ended in 60 s."""


class RemoteServer(SearchLocation):
    """What `espalier --server` names."""

    forms = ("safetensors", "onnx")
    refusal_to_register = "a server's registry is its operator's: leave out --register"

    def __init__(self, client: Client) -> None:
        self.client = client

    def command(self, name: str, *words: str) -> str:
        verb, *rest = words
        return shlex.join(("espalier", "--server", self.client.url, verb, name, *rest))

    def searches(self) -> list[SearchEntry]:
        return [_entry(answer) for answer in self.client.searches()]

    def search(self, name: str) -> SearchEntry:
        return _entry(self.client.search(name))

    def follow(self, name: str) -> Iterator[Event]:
        return self.client.events(name)

    def log(self, name: str, *, follow: bool) -> Iterator[str]:
        return self.client.log(name, follow=follow)

    def stop(self, name: str) -> SearchEntry:
        self.client.stop(name)
        return _entry(self.client.wait(name, _STOP_SECONDS))

    def resume(self, name: str) -> None:
        """Let it go on: take a stop back, or queue it again; nothing if it is finished."""
        search = self.client.search(name)
        if search.get("is_stopping"):
            self.client.go_on(name)
        elif _entry(search).state != "finished":
            self.client.resume(name)

    def results(self, name: str) -> Results:
        return self.client.results(name)

    def print_results(self, name: str, console: Console) -> None:
        match self.search(name).kind:
            case "family":
                print_family(self.client.family(name), self.client.url, console)
            case "correlation":
                print_correlation(self.client.correlation(name), self.client.url, console)
            case _:
                super().print_results(name, console)

    def report(self, name: str) -> tuple[bytes, Path]:
        return self.client.report(name), Path(f"{name}-report.html")

    def network(self, name: str, trust: tuple[str, ...]) -> StoredNetwork:  # noqa: ARG002
        return _ServedNetwork(self, name)

    def next_steps(self, name: str, results: Results) -> str:
        key = results.first_choice
        mlflow_url = self._mlflow_url()
        compare = f"  compare in MLflow    {mlflow_url}\n" if mlflow_url else ""
        return (
            f"\nStored on {self.client.url}\n{compare}"
            f"  read the report      {self.command(name, 'report')}\n"
            f"  list the front       {self.command(name, 'pareto')}\n"
            f"  take one with you    {self.command(f'{name}/{key}', 'export')} --out my-network"
        )

    def _mlflow_url(self) -> str:
        """Of the server's MLflow; empty where that is not reached from this machine."""
        url = str(self.client.health().get("mlflow_url", ""))
        is_reached = urlsplit(self.client.url).hostname in _LOOPBACK
        return url if is_reached or urlsplit(url).hostname not in _LOOPBACK else ""


def _entry(answer: dict[str, Any]) -> SearchEntry:
    try:
        return SearchEntry(
            answer["id"],
            answer["state"],
            answer["reason"],
            answer["progress"],
            answer["ended_ms"],
            answer.get("kind", "search"),
            Score.from_mapping(answer.get("score")),
        )
    except KeyError as error:
        raise ServiceError(f"the server tells nothing of a search's {error}") from error


class _ServedNetwork(StoredNetwork):
    """What is written is made by the server: none of the code that it names runs here."""

    def __init__(self, server: RemoteServer, name: str) -> None:
        self._server, self._name = server, name
        self._file: dict[str, Any] = {}

    @property
    def weights(self) -> str:
        return f"{self._server.command(self._name, 'export')} --out FOLDER"

    @property
    def builder(self) -> str:
        self.check()
        builder = self._file["builder"] or {"target": ""}  # none of a network of one's own
        return str(builder["target"]).partition(":")[0]

    def check(self) -> None:
        if not self._file:
            self._file = self._server.client.architecture(self._name)["file"]

    def source_code(self) -> str:
        return self._server.client.source_code(self._name)

    def write(self, form: str, target: Path) -> None:
        if form == "safetensors":
            self._server.client.download(self._name, target)
        else:
            self._server.client.export(self._name, cast(Export, form), target)

    def register(self, name: str, alias: str, mlflow_url: str) -> str:  # noqa: ARG002
        raise ServiceError(self._server.refusal_to_register)
