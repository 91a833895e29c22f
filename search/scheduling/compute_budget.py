"""What a search may still use up: time and training images, counted over all its processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from search.storage.atomic_files import write_durably
from search.trials.jobs import Ending, EpochRecord, Job, JobList, JobSource, Observer, Outcome

_WRITE_EVERY_SECONDS = 5.0


class ComputeBudget(Observer):
    """Counts what is spent, as an observer, and says whether one more job can be afforded.

    file: where it is kept over restarts.
    seconds, images: what may be spent; None for any amount.
    num_workers: jobs at once, which share the seconds; until `at_once` tells of others.
    images_of: training images of a job from its beginning to its end.
    begun_ms: when the search began, in milliseconds since 1970.

    How long an image takes is known from the epochs that are over; before the first of them
    everything can be afforded.
    """

    def __init__(
        self,
        file: Path,
        images_of: Callable[[Job], int],
        *,
        seconds: float | None,
        images: int | None,
        num_workers: int,
    ) -> None:
        self._file, self._seconds, self._images = file, seconds, images
        self._num_workers, self._images_of = num_workers, images_of
        self._under_way: dict[str, Job] = {}
        stored = self._stored()
        self._seconds_before = float(stored.get("seconds", 0.0))
        self._seen: dict[str, int] = dict(stored.get("images", {}))
        self._busy_seconds = float(stored.get("busy_seconds", 0.0))
        self._busy_images = int(stored.get("busy_images", 0))
        self.begun_ms = int(stored.get("begun_ms", time.time_ns() // 1_000_000))
        self._begun = self._written = time.monotonic()
        self._last: dict[str, float] = {}

    @property
    def seconds_spent(self) -> float:
        """Working time of the search so far, in every process that worked on it."""
        return self._seconds_before + time.monotonic() - self._begun

    @property
    def images_spent(self) -> int:
        """Training images that networks have seen so far, repetitions counted."""
        return sum(self._seen.values())

    def affords(self, images: int, reserve: int = 0) -> bool:
        """Whether a job of so many images can be done, and `reserve` images of others later.

        What is under way is finished in any case, and is counted.
        """
        wanted = images + reserve + sum(map(self.images_left, self._under_way.values()))
        if self._images is not None and self.images_spent + wanted > self._images:
            return False
        if self._seconds is None:
            return True
        return self.seconds_spent + self._predicted(wanted) <= self._seconds

    def images_left(self, job: Job) -> int:
        """Training images that a job still has to see."""
        return max(0, self._images_of(job) - self._seen.get(job.key, 0))

    def at_once(self, num_jobs: int) -> None:
        self._num_workers = num_jobs

    def started(self, job: Job) -> None:
        self._last[job.key] = time.monotonic()
        self._under_way[job.key] = job

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        now = time.monotonic()
        before = self._seen.get(job.key, 0)
        self._seen[job.key] = max(before, records[-1].images)
        if len(records) == 1 and records[-1].images > before:  # not told again after a restart
            self._busy_seconds += now - self._last.get(job.key, now)
            self._busy_images += records[-1].images - before
        self._last[job.key] = now
        if now - self._written > _WRITE_EVERY_SECONDS:
            self.write()

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:  # noqa: ARG002
        self._settled(job)

    def ended(self, job: Job, ending: Ending) -> None:  # noqa: ARG002
        self._settled(job)

    def write(self) -> None:
        """Keep for the next process what was spent."""
        self._written = time.monotonic()
        content = {
            "begun_ms": self.begun_ms,
            "seconds": self.seconds_spent,
            "images": self._seen,
            "busy_seconds": self._busy_seconds,
            "busy_images": self._busy_images,
        }
        write_durably(self._file, json.dumps(content).encode())

    def _settled(self, job: Job) -> None:
        self._last.pop(job.key, None)
        self._under_way.pop(job.key, None)
        self.write()

    def _predicted(self, images: int) -> float:
        if not self._busy_images:
            return 0.0
        return images * self._busy_seconds / self._busy_images / self._num_workers

    def _stored(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


class Rationed:
    """A source that hands nothing more out once the compute budget cannot afford another job.

    images_each: training images of each of its jobs.
    reserve: images to be left for what comes after this source.
    is_needed: whether the next job is handed out whatever it costs.
    """

    def __init__(
        self,
        source: JobSource,
        compute_budget: ComputeBudget,
        images_each: int,
        *,
        reserve: int = 0,
        is_needed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._compute_budget = source, compute_budget
        self._images_each, self._reserve, self._is_needed = images_each, reserve, is_needed
        self.is_cut_short = False

    def __len__(self) -> int:
        return 0 if self.is_cut_short else len(self._source)

    def next(self) -> Job | None:
        if len(self) == 0:
            return None
        if not self._is_needed() and not self._compute_budget.affords(
            self._images_each, self._reserve
        ):
            self.is_cut_short = True
            return None
        return self._source.next()

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self._source.finished(job, outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        self._source.ended(job, ending)


class RationedList(JobList):
    """Known jobs, in order, passing over those that the compute budget cannot afford.

    reserve: images to be left for what comes after them.
    left_out: the ones passed over.
    """

    def __init__(
        self, jobs: Iterable[Job], compute_budget: ComputeBudget, *, reserve: int = 0
    ) -> None:
        super().__init__(jobs)
        self._compute_budget, self._reserve = compute_budget, reserve
        self.left_out: list[Job] = []

    def next(self) -> Job | None:
        while (job := super().next()) is not None:
            if self._compute_budget.affords(self._compute_budget.images_left(job), self._reserve):
                return job
            self.left_out.append(job)
        return None
