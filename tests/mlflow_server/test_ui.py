"""`espalier ui`, with and without the name of a search."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from recorded import record_search

from mlflow_server import connect, store_uri

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

COMMAND = [sys.executable, "-m", "search.cli", "ui"]


def output_until_stopped(store: Path, *arguments: str, lines: int) -> list[str]:
    """What the command prints until it has printed so many lines; then it is stopped."""
    command = [*COMMAND, *arguments, "--port", "0", "--runs", str(store)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "BROWSER": "echo opened %s"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        stuck = threading.Timer(120, process.kill)
        stuck.start()
        try:
            printed = [process.stdout.readline().rstrip() for _ in range(lines)]
        finally:
            stuck.cancel()
            process.send_signal(signal.SIGTERM)
            status = process.wait(30)
    assert status == 0
    return printed


def test_a_search_is_shown_with_links_to_its_views(store):
    record_search(connect(store_uri(store), "digits"), num_each=1, num_epochs=1)
    first, *links = output_until_stopped(store, "digits", lines=4)
    address = re.search(r"http://127\.0\.0\.1:\d+", first)
    assert address is not None
    for line, name in zip(links, ("table", "charts", "averages"), strict=True):
        assert line.split()[0] == name
        assert line.split()[1].startswith(f"{address[0]}/#/experiments/")


def test_without_a_search_all_are_shown(store):
    (line,) = output_until_stopped(store, lines=1)
    assert "MLflow shows" in line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "nothing",
            "MLflow has no search 'nothing': there are made-with-the-database "
            "(docs/how-to/mlflow.md)",
        )
    ],
)
def test_an_unknown_search_is_one_line_and_status_2(store, name, line):
    command = [*COMMAND, name, "--port", "0", "--runs", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"espalier: {line}\n"


def test_a_folder_without_searches_is_one_line_and_stays_as_it_is(tmp_path):
    command = [*COMMAND, "digits", "--runs", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "there is no record of searches" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()
