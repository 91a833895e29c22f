"""The command line as a process in other people's surroundings: it works, or says why in a line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import serving
from samples import FinishedSearch, espalier

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

MUCH_MEMORY = 12 << 30
"""Of addresses, for `ulimit -v`: libraries reserve many that they never use."""


@dataclass(frozen=True)
class Surroundings:
    """What differs from a well-kept machine; None unsets a variable."""

    variables: Mapping[str, str | None] = field(default_factory=dict)
    has_one_core: bool = False
    addresses: int = 0

    def environment(self, folder: Path) -> dict[str, str]:
        """All variables of a process that is begun in `folder`."""
        environment = dict(os.environ)
        for name, value in self.variables.items():
            environment.pop(name, None)
            if value == LONG:
                (folder / LONG).mkdir(parents=True, exist_ok=True)
                environment[name] = str(folder / LONG)
            elif value is not None:
                environment[name] = value
        return environment

    def enter(self) -> None:
        """In the process, before the program begins."""
        if self.has_one_core and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        if self.addresses:
            resource.setrlimit(resource.RLIMIT_AS, (self.addresses, self.addresses))


LONG = "a-folder-with-a-long-name/that-leaves-no-room-for-the-names-of-sockets"
CASES = {
    "no home": Surroundings({"HOME": None, "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None}),
    "a home that cannot be written": Surroundings({"HOME": "/proc"}),
    "a long TMPDIR": Surroundings({"TMPDIR": LONG}),
    "a TMPDIR that is not there": Surroundings({"TMPDIR": "/not/there"}),
    "a dead proxy": Surroundings({"HTTP_PROXY": "http://192.0.2.1:9", "NO_PROXY": None}),
    "one core": Surroundings(has_one_core=True),
    "little address space": Surroundings(addresses=MUCH_MEMORY),
    "ASCII": Surroundings({"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
    "latin-1": Surroundings({"PYTHONIOENCODING": "latin-1"}),
    "a narrow terminal": Surroundings({"COLUMNS": "40"}),
}
TOGETHER = (
    (
        *("a home that cannot be written", "a long TMPDIR", "a dead proxy"),
        *("one core", "little address space", "ASCII"),
    ),
    ("no home", "a TMPDIR that is not there", "latin-1", "a narrow terminal"),
)
"""Names of cases that exclude none of each other; a search takes too long for each alone."""


def all_of(names: Sequence[str]) -> Surroundings:
    """Every one of these cases at once."""
    cases = [CASES[name] for name in names]
    return Surroundings(
        {name: value for case in cases for name, value in case.variables.items()},
        has_one_core=any(case.has_one_core for case in cases),
        addresses=max(case.addresses for case in cases),
    )


def espalier_in(
    surroundings: Surroundings, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """`espalier` as a process of its own, begun in `folder`."""
    environment = surroundings.environment(folder)
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *arguments],
        cwd=folder,
        env=environment,
        preexec_fn=surroundings.enter,
        capture_output=True,
        text=True,
        encoding="latin-1" if environment.get("PYTHONIOENCODING") else "utf-8",
        check=False,
        timeout=240,
    )


SEARCH = (
    *("search", "--budget=flops=10%", "--trials=1", "--ladder=1", "--profiles=1", "--name=s"),
    *("--limit-train=100", "--batch-size=16", "--epochs=1", "--fine-tune-epochs=1"),
    *("--scratch-epochs=1", "--by-products=0", "--tempered-trials=0", "--device=cpu"),
    "--concurrency=1",
)


@pytest.mark.slow
@pytest.mark.parametrize("names", TOGETHER)
def test_a_search_works_in_several_of_them_together(tmp_path: Path, names: Sequence[str]) -> None:
    completed = espalier_in(all_of(names), tmp_path, *SEARCH)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert (tmp_path / "espalier-runs" / "s" / "results.json").exists()
    assert "flops <= 239k" in completed.stdout
    assert [*(tmp_path / LONG).glob("esp*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("names", TOGETHER)
def test_a_service_works_in_several_of_them_together(tmp_path: Path, names: Sequence[str]) -> None:
    """With its own MLflow, and a preflight in the process that knows torch."""
    environment = all_of(names).environment(tmp_path)
    running = serving.Service(tmp_path / "runs", surroundings=environment)
    try:
        running.start()
        assert httpx.get(f"{running.url}/healthz").json()["parts"]["mlflow"] is True
        told = running.ask("POST", "/v1/preflight", dict(serving.SETTINGS))
        assert any("flops ≤ 239k" in line for line in told["lines"])
    finally:
        running.stop()
    assert "Traceback" not in (tmp_path / "service.log").read_text()


def test_every_case_is_tried_with_a_search() -> None:
    assert sorted(name for names in TOGETHER for name in names) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_what_there_is_can_be_looked_at(finished_search: FinishedSearch, case: str) -> None:
    completed = espalier_in(CASES[case], finished_search.runs.parent, "list", "--runs=runs")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "tiny" in completed.stdout
    assert "3/3" in "".join(completed.stdout.split())


def file_for_a_folder(folder: Path) -> None:
    (folder / "espalier-runs").touch()


def file_for_a_search(folder: Path) -> None:
    (folder / "espalier-runs").mkdir()
    (folder / "espalier-runs" / "s").touch()


def folder_for_a_lock(folder: Path) -> None:
    (folder / "espalier-runs" / "s" / ".lock").mkdir(parents=True)


@pytest.mark.parametrize("spoil", [file_for_a_folder, file_for_a_search, folder_for_a_lock])
def test_where_nothing_can_be_written_it_is_said_in_a_line(
    tmp_path: Path, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that may only be read, which stops everybody but root."""
    spoil(tmp_path)
    monkeypatch.chdir(tmp_path)
    completed = espalier(*SEARCH)
    assert completed.status == 2
    (line,) = completed.err.splitlines()
    assert line.startswith("espalier: ")
    assert "espalier-runs" in line
