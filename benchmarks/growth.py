"""What each settled trial costs around its training, at 100, 1,000 and 5,000 trials.

    python benchmarks/growth.py                # 25 minutes; --trials 100 1000 for less

A search in which training alone is a stub: source, journal, budget, event log, observers, record in
MLflow and certification are the real ones. Processor time, so that other work on the machine does
not count; "first" and "last" are means over the first and the last tenth of the trials, and their
deviations. Each size has a process of its own. Writes benchmarks/results/growth.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import growth_readers as readers
import growth_search as searches

import mlflow_server
from mlflow_server.runs import Entry, RunRecorder
from search.storage.layout import SPOOL_FILE
from search.trials.job_context import JobContext

RESULTS = Path(__file__).parent / "results" / "growth.md"
_TPE_TRIALS = 1000

_BEFORE = (
    "Before counts were kept (58d9249; the same stub and machine, one run each, no record in "
    "MLflow; µs of the last tenth): asked for and told of 13,400 at 100 trials, 41,000 at 1,000, "
    "182,000 at 5,000, of which asked for 6,900, 32,200 and 161,300. Three rungs of early stopping "
    "took 16,800 at 50 trials and, under a profiler, 946,700 at 400."
)


class _Nowhere(RunRecorder):
    """Where the record in MLflow is not what is measured."""

    def write(self, entry: Entry) -> None:
        """Nothing is kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--mlflow", type=int, default=1000, help="record in MLflow up to so many")
    parser.add_argument("--one", type=int, help="measure this size alone and print JSON")
    parser.add_argument("--sampler", default="random")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one, arguments.sampler, arguments.mlflow)))
        return
    rows = [_in_a_process(n, "random", arguments.mlflow) for n in arguments.trials]
    tpe = [_in_a_process(n, "tpe", 0) for n in arguments.trials if n <= _TPE_TRIALS]
    page = written(rows, tpe, arguments.trials)
    RESULTS.write_text(page, encoding="utf-8")
    print(page)


def _in_a_process(trials: int, sampler: str, mlflow: int) -> dict[str, Any]:
    options = ["--one", str(trials), "--sampler", sampler, "--mlflow", str(mlflow)]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def measured(trials: int, sampler: str, mlflow: int) -> dict[str, Any]:
    """Everything of a search of so many trials, in microseconds and milliseconds."""
    with TemporaryDirectory() as folder:
        config = searches.config_of(Path(folder), trials, sampler)
        context, data = searches.context_of(config)
        stub = searches.StubTraining(context, Path(folder) / ".shapes")
        is_recorded = trials <= mlflow
        recorder = _recorder(context) if is_recorded else _Nowhere()
        content: dict[str, Any] = {"trials": trials, "sampler": sampler}
        with searches.opened(config, recorder, context, data) as (session, source):
            base = searches.settle_base(session, stub)
            before, begun = _rss(), time.process_time() - time.thread_time()
            spent = searches.settle_all(session, source, stub)
            content["rss"], content["rss_grown"] = _rss(), _rss() - before
            for name in ("asking", "telling", "rungs"):
                content[name] = _first_and_last(getattr(spent, name))
            content["trial"] = _first_and_last(spent.per_trial())
            outcomes = [base, *source.outcomes]
            if sampler == "random":
                content["resume"] = readers.of_resume(session)
                if trials <= mlflow:
                    content["results"] = readers.of_results(session, outcomes)
        recorder.close(timeout_seconds=3600)
        if is_recorded:
            in_threads = time.process_time() - time.thread_time() - begun
            content["recorder"] = 1e6 * in_threads / trials
            uri = mlflow_server.store_uri(Path(config.runs))
            content["views"] = readers.of_views(uri, config.study_name)
        if sampler == "random":
            content["list"] = readers.of_list(config)
            parts = readers.by_trial(context.directory)
            content["service"] = _first_and_last([ms / 1e3 for ms in readers.of_service(parts)])
            content["page"] = _first_and_last([ms / 1e3 for ms in readers.of_trials_page(parts)])
            content["streams"] = [
                readers.of_streams(parts[:1000], watchers) for watchers in readers.WATCHERS
            ]
        return content


def _recorder(context: JobContext) -> RunRecorder:
    config = context.config
    inner = mlflow_server.connect(mlflow_server.store_uri(Path(config.runs)), config.study_name)
    return mlflow_server.BackgroundRecorder(inner, spool=context.directory / SPOOL_FILE)


def _first_and_last(seconds: Sequence[float]) -> list[list[float]]:
    """Means and deviations, in µs, over the first tenth but one trial, and the last."""
    tenth = max(2, len(seconds) // 10)
    parts = seconds[1 : 1 + tenth], seconds[-tenth:]
    return [[1e6 * mean(part), 1e6 * stdev(part)] for part in parts]


def _rss() -> float:
    """MB, the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def written(
    rows: Sequence[dict[str, Any]], tpe: Sequence[dict[str, Any]], trials: Sequence[int]
) -> str:
    """The page with the results."""
    names = ("optuna", "mlflow", "torch", "sqlalchemy")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    sizes = " ".join(map(str, trials))
    lines = [
        "# What a trial costs around its training",
        "",
        f"`python benchmarks/growth.py --trials {sizes}` on {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, {packages}; one run, in "
        "which each size has a process of its own. Processor time; µs per settled trial of "
        f"{searches.EPOCHS + searches.FINE_TUNE_EPOCHS} epochs, mean ± deviation over the first "
        "and the last tenth of the trials. Random proposals.",
        "",
        "| trials | | first tenth | last tenth |",
        "| --- | --- | --- | --- |",
    ]
    kinds = {
        "trial": "**asked for, followed and told of**",
        "asking": "of this: asked for",
        "telling": "of this: epochs, end, record",
        "rungs": "three rungs of early stopping (in the worker)",
        "service": "followed by a service",
        "page": "page of 200 trials, asked for at each",
    }
    for row in rows:
        for name, words in kinds.items():
            first, last = (f"{value:,.0f} ± {by:,.0f}" for value, by in row[name])
            lines.append(f"| {row['trials']:,} | {words} | {first} | {last} |")
    for row in tpe:
        first, last = (f"{value:,.0f} ± {by:,.0f}" for value, by in row["asking"])
        lines.append(f"| {row['trials']:,} | asked for, proposed by TPE | {first} | {last} |")
    lines += [
        "",
        "| trials | peak MB | MB grown | `list` ms | resume ms | recorder µs a trial | views ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        recorder, views = (_or_dash(row.get(name)) for name in ("recorder", "views"))
        lines.append(
            f"| {row['trials']:,} | {row['rss']:.0f} | {row['rss_grown']:.0f} | "
            f"{row['list']:.1f} | {row['resume']:.0f} | {recorder} | {views} |"
        )
    watchers = ", ".join(map(str, readers.WATCHERS))
    lines += ["", f"µs per event and watcher, of {watchers} that follow a search:", ""]
    for row in rows:
        shown = ", ".join(f"{value:.1f}" for value in row["streams"])
        lines.append(f"- {row['trials']:,} trials: {shown}")
    for row in rows:
        if "results" in row:
            shown = ", ".join(f"{name} {ms:,.0f} ms" for name, ms in row["results"].items())
            lines += ["", f"The end of a search of {row['trials']:,} networks: {shown}."]
    return "\n".join([*lines, "", _BEFORE, ""])


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    main()
