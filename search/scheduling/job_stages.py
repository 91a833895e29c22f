"""Stages of a search as one source of jobs: each begins as soon as what it needs is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from search.trials.jobs import Ending, Job, JobSource, Outcome


class RationedSource(JobSource, Protocol):
    """A source that says how much is still to come of it."""

    @property
    def images_waiting(self) -> int:
        """Training images of the jobs that are still to be handed out."""


class Stage:
    """Jobs that are known once all that they follow from is settled.

    make: gives their source; called once, when that is asked for and all of `needs` are settled.
    needs: stages whose jobs have to be over, finished or ended.
    """

    def __init__(self, make: Callable[[], RationedSource], needs: Sequence[Stage] = ()) -> None:
        self._make, self._needs = make, tuple(needs)
        self._source: RationedSource | None = None
        self._under_way: set[str] = set()
        self._is_over = False  # once it is, it stays so, and need not be asked for

    @property
    def is_over(self) -> bool:
        """Whether no job of it is to be handed out any more."""
        if not self._is_over:
            source = self._made
            self._is_over = source is not None and source.is_over
        return self._is_over

    @property
    def is_settled(self) -> bool:
        """Whether all its jobs are over."""
        return not self._under_way and self.is_over

    @property
    def images_waiting(self) -> int:
        """Training images of its jobs that are still to be handed out, as far as is known."""
        source = None if self.is_over else self._made
        return 0 if source is None else source.images_waiting

    @property
    def _made(self) -> RationedSource | None:
        """Where its jobs come from; None as long as that is not known."""
        if self._source is None and all(stage.is_settled for stage in self._needs):
            self._source = self._make()
        return self._source

    def next(self) -> Job | None:
        """As of a source."""
        source = None if self.is_over else self._made
        job = None if source is None else source.next()
        if job is not None:
            self._under_way.add(job.key)
        return job

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """As of a source."""
        self._known_source.finished(job, outcomes)
        self._under_way.remove(job.key)

    def ended(self, job: Job, ending: Ending) -> None:
        """As of a source."""
        self._known_source.ended(job, ending)
        self._under_way.remove(job.key)

    @property
    def _known_source(self) -> JobSource:
        assert self._source is not None, "a job came back that was never handed out"
        return self._source


class Stages:
    """Stages as one source: it hands out a job of the first of them that has one now.

    So those that others wait for go first, and those that nothing waits for fill the time in which
    the others have to wait.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        self._owners: dict[str, Stage] = {}
        self._is_stopped = False

    def stop(self) -> None:
        """Hand out nothing more."""
        self._is_stopped = True

    @property
    def is_over(self) -> bool:
        return self._is_stopped or all(stage.is_over for stage in self._stages)

    def next(self) -> Job | None:
        # The first may have waited for one that has just proved to be over: they are asked again,
        # unless those under way will give occasion to.
        for _ in self._stages:
            for stage in self._stages:
                if not self._is_stopped and (job := stage.next()) is not None:
                    self._owners[job.key] = stage
                    return job
            if self._owners or self.is_over:
                break
        return None

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self._owners.pop(job.key).finished(job, outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        self._owners.pop(job.key).ended(job, ending)


def images_waiting(*stages: Stage) -> int:
    """Training images of all that these are still to hand out, as far as is known."""
    return sum(stage.images_waiting for stage in stages)
