"""The runs of a study in MLflow: one for itself, and others below it, which all come to an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_server import schema
from mlflow_server.runs import EndStatus, RunKind, RunRecorder
from pruning.cost import Cost
from search.storage.layout import StudyKind
from search.tasks.score import Score
from search.trials.pareto import Reference

_STOPPED = "stopped before its end"


@dataclass(frozen=True)
class StudyRun:
    """The parent run of a study, whose key is its kind.

    base: cost of the base network.  budget: in words, a tag of the study and of its networks.
    score: what its networks are measured by.  reference: what their hypervolume is measured from;
    None where there is none.
    """

    kind: StudyKind
    name: str
    params: Mapping[str, str | float]
    description: str
    base: Cost
    budget: str = ""
    score: Score = field(kw_only=True)
    reference: Reference | None = None


class StudyRuns:
    """Opens and ends the runs of one study; a run that is known is continued.

    begun_ms: when the study began, since 1970; by default now.
    """

    def __init__(
        self, recorder: RunRecorder, study: StudyRun, *, begun_ms: int | None = None
    ) -> None:
        self._recorder, self.study, self._begun_ms = recorder, study, begun_ms
        self._open: list[str] = []

    def begin(self) -> None:
        """Open the run of the study, or go on with it."""
        self._open.append(self.study.kind)
        self._describe(self.study.description)
        base = self.study.base
        metrics = {
            schema.METRIC_BASE_FLOPS: base.flops,
            schema.METRIC_BASE_NUM_PARAMS: base.params,
            **({} if base.channels is None else {schema.METRIC_BASE_CHANNELS: base.channels}),
            **({schema.METRIC_BASE_UNCOUNTED: base.uncounted} if base.uncounted else {}),
        }
        self.log(metrics, time_ms=self._begun_ms)

    def open(
        self,
        key: str,
        kind: RunKind,
        name: str,
        *,
        params: Mapping[str, str | float] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str,
    ) -> None:
        """Open a run below that of the study; tags: beside its budget."""
        self._open.append(key)
        self._recorder.open_run(
            key,
            kind=kind,
            name=name,
            parent=self.study.kind,
            params=params or {},
            tags={**self._budget, **(tags or {})},
            description=description,
        )

    def log(
        self,
        metrics: Mapping[str, float],
        key: str = "",
        *,
        step: int | None = None,
        time_ms: int | None = None,
    ) -> None:
        """Metrics of a run, by default of the study itself."""
        self._recorder.log_metrics(key or self.study.kind, metrics, step=step, time_ms=time_ms)

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, which may be over."""
        self._recorder.set_tags(key, tags)

    def end(self, key: str, status: EndStatus = "finished", reason: str | None = None) -> None:
        """End a run."""
        self._recorder.end_run(key, status, reason)
        self._open.remove(key)

    def conclude(
        self, files: Sequence[Path], *, beginning: Sequence[str] = (), verdict: Sequence[str] = ()
    ) -> None:
        """Attach files, complete the description, and end the run of the study.

        beginning: paragraphs that the description then begins with.  verdict: those it ends in.
        """
        for file in files:
            self._recorder.log_file(self.study.kind, file)
        if verdict:
            paragraphs = (*beginning, self.study.description, "## Verdict", *verdict)
            self._describe("\n\n".join(paragraphs))
        self.end(self.study.kind)

    def failed(self, reason: str) -> None:
        """End the runs of a study that came to nothing."""
        self._end_all("failed", reason)

    def interrupted(self) -> None:
        """End the runs of a study that was stopped, maybe halfway through another method."""
        self._end_all("killed", _STOPPED)

    def _end_all(self, status: EndStatus, reason: str) -> None:
        for key in reversed(self._open):
            if key == self.study.kind:
                self._recorder.end_run(key, status, reason)
            else:
                self._recorder.end_run(key, "killed", _STOPPED)

    @property
    def _budget(self) -> dict[str, str]:
        return {schema.TAG_BUDGET: self.study.budget} if self.study.budget else {}

    def _describe(self, description: str) -> None:
        self._recorder.open_run(
            self.study.kind,
            kind=self.study.kind,
            name=self.study.name,
            params=self.study.params,
            tags={**self._budget, **_score_tags(self.study.score)},
            description=description,
        )


def _score_tags(score: Score) -> dict[str, str]:
    """By which its views name and sort what they show."""
    return {
        schema.TAG_SCORE: score.name,
        schema.TAG_SCORE_METRIC: score.slug,
        schema.TAG_SCORE_DIRECTION: score.direction,
    }
