"""Breaks everything that a service stands on, at random, and counts what is lost or there twice.

A service performs small searches one after the other, and launches of further ones keep coming,
each with an Idempotency-Key and repeated until it is answered. Meanwhile the service, its worker,
a search, a worker of Ray, or MLflow is killed; MLflow or the database is away for a while; the
disk is full. Then nothing is broken any more, and when all searches are over there has to be one
for every key, each of them finished, with all its trials, its architectures in the database as
in its results, and one finished run in MLflow for each of them.

    python benchmarks/chaos.py --minutes 30 --seed 0

The disk (a small tmpfs) can be filled by root only, the database stopped where PostgreSQL is
installed; what could not be done is said.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from chaos_breaks import breaks
from chaos_launches import Launches, problems
from chaos_service import Postgres, Service, disk


@dataclass
class Report:
    """What was broken how often, and what came of it."""

    breaks: Counter[str] = field(default_factory=Counter)
    num_searches: int = 0
    longest_still_seconds: float = 0.0
    seconds_to_end: float = 0.0
    problems: list[str] = field(default_factory=list)


class Pulse:
    """For how long at most nothing got on although something waited or ran."""

    def __init__(self, runs: Path) -> None:
        self._runs, self._size, self._since = runs, -1, time.monotonic()
        self.longest = 0.0

    def feel(self) -> None:
        """Look at the events of all searches: they grow while something gets on."""
        size = sum(file.stat().st_size for file in self._runs.glob("*/events.jsonl"))
        now = time.monotonic()
        self.longest = max(self.longest, now - self._since)
        if size != self._size:
            self._size, self._since = size, now


def chaos(minutes: float, pause: float, seed: int) -> Report:
    """Break things for so many minutes, about every `pause` seconds, and look what is left."""
    chance, found = random.Random(seed), Report()
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="espalier-chaos-")))
        home.chmod(0o755)
        may_fill = stack.enter_context(disk(home / "disk"))
        postgres = Postgres(home / "postgres")
        if postgres.url:
            postgres.start()
            stack.callback(postgres.run, "stop", "-m", "immediate")
        service = Service(home, home / "disk" / "runs", postgres.url)
        service.start()
        stack.callback(service.end)
        launches, pulse = Launches(service), Pulse(service.runs)
        possible = breaks(service, postgres, chance, may_fill=may_fill)
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            name = chance.choice(sorted(possible))
            say(f"{name}; {len(launches.ids)} launched, still for {pulse.longest:.0f} s at most")
            possible[name]()
            found.breaks[name] += 1
            rest = time.monotonic() + chance.expovariate(1 / pause)
            while time.monotonic() < rest:
                service.revive()
                launches.more()
                pulse.feel()
                time.sleep(1)
        began = time.monotonic()
        while launches.open or not service.is_idle():
            service.revive()
            launches.settle()
            pulse.feel()
            time.sleep(1)
            if time.monotonic() - began > 1800:
                found.problems.append("not all were over half an hour later")
                break
        found.seconds_to_end = time.monotonic() - began
        found.num_searches, found.longest_still_seconds = len(launches.ids), pulse.longest
        found.problems += problems(service, launches)
        if found.problems:
            kept = Path(gettempdir()) / "espalier-chaos-service.log"
            shutil.copy(home / "service.log", kept)
            say(f"what the service printed is in {kept}")
    return found


def say(line: str) -> None:
    """With the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> None:
    """Entry point; exit status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=20.0, help="mean seconds between two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = chaos(options.minutes, options.pause, options.seed)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "mlflow"))
    print(
        f"\n`{' '.join(['python', *sys.argv])}` on {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {packages}.\n"
    )
    for name, count in sorted(found.breaks.items()):
        print(f"- {name}: {count} times")
    print(f"- searches launched: {found.num_searches}")
    print(f"- nothing got on for at most {found.longest_still_seconds:.0f} s")
    print(f"- all were over {found.seconds_to_end:.0f} s after the last")
    print(f"- lost, twice or failed: {len(found.problems)}")
    for problem in found.problems:
        print(f"    - {problem}")
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
