"""How long a person waits for a large search in MLflow's pages.

    python benchmarks/ui.py                   # 500 architectures; needs chromium and playwright

Records a search straight into a store, then opens its saved views in a headless Chromium: the
time until rows are visible, and until the charts are drawn, in a browser that never was there
before and in one that has the pages' own files; beside it a search of 12.
Writes benchmarks/results/ui.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from mlflow_server import BackgroundRecorder, Views, connect, running_server, store_uri, view_links

RESULTS = Path(__file__).parent / "results" / "ui.md"
SMALL = 12  # architectures of a second search, to compare with: what the pages cost anyway
_RECORDED = Path(__file__).parent.parent / "tests" / "mlflow_server" / "recorded.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500, help="architectures in the search")
    parser.add_argument("--epochs", type=int, default=30, help="points of each learning curve")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.runs, arguments.epochs, arguments.repeats)
    report = written(rows, arguments)
    RESULTS.write_text(report)
    print(report)


def measure(store: Path, runs: int, epochs: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every repetition, by what was waited for."""
    recorded = _recorded()
    uri = store_uri(store)
    rows: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = call()
        rows.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for name, number in (("small", SMALL), ("large", runs)):
        recorder = BackgroundRecorder(connect(uri, name))
        recorded.record_search(recorder, number // len(recorded.ORIGINS), epochs)
        timed(f"{number}: delivering the record", lambda: recorder.close(timeout_seconds=3600))  # noqa: B023
        assert recorder.problems == ()
    with running_server(store, port=0) as server:
        for _ in range(repeats):
            for name, number in (("small", SMALL), ("large", runs)):
                link = partial(view_links, uri, name, address=server.url)
                views = timed(f"{number}: writing the views", link)
                request = partial(_first_runs, server.url, views)
                timed(f"{number}: the page's own request for runs", request)
                _look(number, views, timed)
    return rows


def _first_runs(url: str, views: Views) -> None:
    experiment = views.table.partition("experiments/")[2].partition("/")[0]
    asked = {
        "experiment_ids": [experiment],
        "filter": "tags.`espalier.kind` = 'architecture'",
        "max_results": 100,  # as the page asks for
        "order_by": ["metrics.`validation_accuracy` DESC"],
    }
    request = urllib.request.Request(
        f"{url}/ajax-api/2.0/mlflow/runs/search",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert len(json.load(answer)["runs"]) == min(100, views.num_architectures)


def _look(number: int, views: Views, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not needed to show the help

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("this measures a browser: install chromium or google-chrome")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(120_000)
        for state in ("first visit", "later"):
            for name, link, shown in (
                ("table, until rows are visible", views.table, "a[href*='/runs/']"),
                ("charts, until points are drawn", views.chart, ".scatterlayer .point"),
                ("averages, until bars are drawn", views.averages, ".barlayer .point"),
            ):
                page.goto("about:blank")
                opened = partial(_opened, page, link, shown)
                timed(f"{number}: {name} ({state})", opened)
        browser.close()


def _opened(page: Any, link: str, shown: str) -> None:
    page.goto(link)
    page.get_by_text("Group: ").first.wait_for()
    page.locator(shown).first.wait_for(state="attached")


def written(rows: dict[str, list[float]], arguments: argparse.Namespace) -> str:
    lines = [
        f"# A search of {arguments.runs} architectures in MLflow's pages",
        "",
        f"`python benchmarks/ui.py --runs {arguments.runs} --epochs {arguments.epochs} "
        f"--repeats {arguments.repeats}` on {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, mlflow {version('mlflow')}, a SQLite store, "
        f"headless Chromium on the same machine, whose load was {os.getloadavg()[1]:.1f} at the "
        "end (a mean of 5 minutes). Seconds, after the number of architectures.",
        "",
        "| | n | mean | deviation | longest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, seconds in sorted(rows.items(), key=lambda row: row[0].partition(": ")[2]):
        deviation = f"{stdev(seconds):.2f}" if len(seconds) > 1 else "–"
        lines.append(
            f"| {name} | {len(seconds)} | {mean(seconds):.2f} | {deviation} | {max(seconds):.2f} |"
        )
    return "\n".join([*lines, ""])


def _recorded() -> Any:
    """The search that the tests look at, of any size."""
    spec = importlib.util.spec_from_file_location("recorded", _RECORDED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
