"""What a search may still use up: time and training images, counted over all its processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mlflow_server.append_log import AppendLog
from search.storage.atomic_files import write_durably
from search.trials.jobs import Ending, EpochRecord, Job, JobList, JobSource, Observer, Outcome

_WRITE_EVERY_SECONDS = 5.0


class ComputeBudget(Observer):
    """Counts what is spent, as an observer, and says whether one more job can be afforded.

    file: where it is kept over restarts: a line of JSON for all that was spent before this process,
    and one for what has changed at each later time, whose keys replace those before.
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
        self._images_spent = sum(self._seen.values())
        self._changed: set[str] = set()  # keys of jobs, since the file was last written to
        self._has_begun_file = False
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
        return self._images_spent

    @property
    def is_bounded(self) -> bool:
        """Whether there is anything that cannot be afforded."""
        return self._images is not None or self._seconds is not None

    def affords(self, images: int, reserve: int = 0) -> bool:
        """Whether a job of so many images can be done, and `reserve` images of others later.

        What is under way is finished in any case, and is counted.
        """
        wanted = images + reserve + self.images_under_way
        if self._images is not None and self.images_spent + wanted > self._images:
            return False
        if self._seconds is None:
            return True
        return self.seconds_spent + self._predicted(wanted) <= self._seconds

    @property
    def images_under_way(self) -> int:
        """Training images that the jobs under way still have to see."""
        return sum(map(self.images_left, self._under_way.values()))

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
        seen = max(before, records[-1].images)
        self._seen[job.key] = seen
        self._images_spent += seen - before
        self._changed.add(job.key)
        if len(records) == 1 and records[-1].images > before:  # not told again after a restart
            self._busy_seconds += now - self._last.get(job.key, now)
            self._busy_images += records[-1].images - before
        self._last[job.key] = now
        if now - self._written > _WRITE_EVERY_SECONDS:
            self._append()

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:  # noqa: ARG002
        self._settled(job)

    def ended(self, job: Job, ending: Ending) -> None:  # noqa: ARG002
        self._settled(job)

    def write(self) -> None:
        """Keep for the next process what was spent."""
        content = {"begun_ms": self.begun_ms, **self._content(self._seen)}
        write_durably(self._file, json.dumps(content).encode() + b"\n")
        self._has_begun_file = True

    def _append(self) -> None:
        """The same, in time by what has changed and not by how many jobs there were."""
        if not self._has_begun_file:
            self.write()
            return
        content = self._content({key: self._seen[key] for key in sorted(self._changed)})
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND)
        try:
            AppendLog(descriptor).append(content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _content(self, images: dict[str, int]) -> dict[str, Any]:
        self._written = time.monotonic()
        self._changed.clear()
        return {
            "seconds": self.seconds_spent,
            "images": images,
            "busy_seconds": self._busy_seconds,
            "busy_images": self._busy_images,
        }

    def _settled(self, job: Job) -> None:
        self._last.pop(job.key, None)
        self._under_way.pop(job.key, None)
        self._append()

    def _predicted(self, images: int) -> float:
        if not self._busy_images:
            return 0.0
        return images * self._busy_seconds / self._busy_images / self._num_workers

    def _stored(self) -> dict[str, Any]:
        """All lines as one; those that cannot be read are left out."""
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        stored: dict[str, Any] = {}
        for line in lines:
            with suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict):
                    images = stored.get("images", {}) | content.get("images", {})
                    stored |= content | {"images": images}
        return stored


class CountedSource(JobSource, Protocol):
    """One that knows how many jobs are still to be handed out."""

    def __len__(self) -> int: ...


class Rationed:
    """A source that hands nothing more out once the compute budget cannot afford another job.

    images_each: training images of each of its jobs.
    reserve: images to be left for what comes after this source.
    before: images of jobs that go before these though they may be handed out later: while there
        are any, what would not leave enough for them waits.
    is_needed: whether the next job is handed out whatever it costs.
    """

    def __init__(
        self,
        source: CountedSource,
        compute_budget: ComputeBudget,
        images_each: int,
        *,
        reserve: Callable[[], int] = lambda: 0,
        before: Callable[[], int] = lambda: 0,
        is_needed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._compute_budget = source, compute_budget
        self._images_each, self._reserve, self._before = images_each, reserve, before
        self._is_needed = is_needed
        self.is_cut_short = False

    @property
    def is_over(self) -> bool:
        return self.is_cut_short or self._source.is_over

    @property
    def images_waiting(self) -> int:
        """Training images of the jobs that are still to be handed out."""
        return 0 if self.is_over else len(self._source) * self._images_each

    def next(self) -> Job | None:
        return self._source.next() if not self.is_over and self._is_affordable() else None

    def _is_affordable(self) -> bool:
        """Whether the next job is; if not, and nothing goes before it, there is no next one."""
        if not self._compute_budget.is_bounded:
            return True
        before = self._before()
        needed = self._images_each, self._reserve() + before
        if self._compute_budget.affords(*needed) or self._is_needed():
            return True
        self.is_cut_short = not before
        return False

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self._source.finished(job, outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        self._source.ended(job, ending)


class RationedList(JobList):
    """Known jobs, in order, passing over those that the compute budget cannot afford.

    reserve: images to be left for what comes after them.  before: as in Rationed.
    left_out: the ones passed over.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        compute_budget: ComputeBudget,
        *,
        reserve: int = 0,
        before: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(jobs)
        self._compute_budget, self._reserve, self._before = compute_budget, reserve, before
        self.left_out: list[Job] = []

    @property
    def images_waiting(self) -> int:
        """Training images of the jobs that are still to be handed out."""
        return sum(map(self._compute_budget.images_left, self._waiting))

    def next(self) -> Job | None:
        while self._waiting:
            before = self._before() if self._compute_budget.is_bounded else 0
            images = self._compute_budget.images_left(self._waiting[0])
            if self._compute_budget.affords(images, self._reserve + before):
                return super().next()
            if before:
                return None
            self.left_out.append(self._waiting.pop(0))
        return None
