"""What the API returns, as its OpenAPI description says, made from the rows of the database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from search.service.database.tables import ArchitectureRow, SearchRow, State
from search.storage.layout import ARCHITECTURES_FOLDER, StudyKind
from search.tasks.score import Direction, Score

FLOPS = "fvcore's count, eval mode, batch 1; one multiply-add is one FLOP"
SEPARATOR = ":"
"""Between a search and the name of its architecture in an architecture's id."""


class Counts(BaseModel):
    """What a network costs."""

    flops: int = Field(description=FLOPS)
    params: int


class ScoreKind(BaseModel):
    """What networks are measured by: the kind of every `validation_score` and `test_score`."""

    name: str = Field(description="such as accuracy, mean IoU or mean absolute error")
    direction: Direction = Field(description="whether more or less of it is better")
    is_share: bool = Field(description="whether it lies in 0 to 1 and is shown in percent")
    counts_samples: bool = Field(description="whether it is the share of samples that are right")

    @classmethod
    def of(cls, row: SearchRow) -> dict[str, Any]:
        """As a mapping, from the row of the database."""
        return Score.from_mapping((row.frame or {}).get("score")).to_mapping()


class Best(BaseModel):
    """A network that stands for a search, such as the best so far, by its score in validation."""

    key: str
    origin: str
    flops: int
    params: int
    validation_score: float


class Work(BaseModel):
    """What is being trained."""

    key: str
    stage: str
    step: int = Field(description="epochs done")
    num_steps: int = Field(description="epochs in all")
    validation_score: float | None


class Progress(BaseModel):
    """How far a search is."""

    trials: dict[str, int] = Field(
        description="planned, finished, running, waiting, failed, stopped early, infeasible"
    )
    networks: int = Field(description="stored so far")
    epochs: int
    expected_epochs: int
    best: Best | None
    base: Best | None = Field(None, description="the base network, once it is trained")
    hypervolume: float | None = Field(
        description="0 to 1: the area dominated in validation score, from guessing on, and in the "
        "logarithm of FLOPs, from the budget down to its lowest rung; null where the "
        "score is no share, and so has no best value"
    )
    images: int = Field(description="training images so far, repetitions counted")
    seconds_spent: float = Field(description="by its processes, up to its last event")
    seconds_left: float | None
    wall_seconds: dict[str, float] = Field(
        default_factory=dict,
        description="of all workers by what they did: steps, data, evaluation, checkpoint, report, "
        "beside epochs, without a job",
    )
    running: list[Work]


class SearchSummary(BaseModel):
    """A search, or a study of another kind, in a list."""

    id: str
    kind: StudyKind
    name: str
    state: State
    reason: str = Field(description="why it failed; empty otherwise")
    is_stopping: bool
    owner: str
    priority: int = Field(description="what is higher comes first in the queue")
    model: str = Field(description="empty for a family, whose source says it")
    source: str = Field(
        description="of a family: the architecture whose shape it rescales, as SEARCH/NAME"
    )
    data: str
    budget: list[str] = Field(description="of a family: its ladder")
    score: ScoreKind
    created_ms: int = Field(description="since 1970")
    started_ms: int | None
    ended_ms: int | None
    progress: Progress | None

    @classmethod
    def of(cls, row: SearchRow) -> dict[str, Any]:
        """As a mapping, from the row of the database."""
        settings = _shown(row.settings)
        return {
            "id": row.id,
            "kind": row.kind,
            "name": row.name,
            "state": row.state,
            "reason": row.reason,
            "is_stopping": row.state == "running" and row.wish == "stop",
            "owner": row.owner,
            "priority": row.priority,
            "model": str(settings.get("model", "")),
            "data": str(settings["data"].get("source", "")),
            "source": str(settings.get("source", "")),
            "budget": list(settings.get("budgets" if row.kind == "family" else "budget", [])),
            "score": ScoreKind.of(row),
            "created_ms": row.created_ms,
            "started_ms": row.started_ms,
            "ended_ms": row.ended_ms,
            "progress": row.progress or None,
        }


class Priority(BaseModel):
    """What comes first in the queue."""

    priority: int = Field(ge=-1000, le=1000, description="what is higher comes first")


class SearchDetails(SearchSummary):
    """One search, or a study of another kind."""

    settings: dict[str, Any]
    preflight: list[str] = Field(description="what the network costs and the budget allows")
    base: Counts | None
    limits: dict[str, float] = Field(description="of the budget, in absolute numbers")
    launches: int = Field(description="processes that have worked on it")

    @classmethod
    def of(cls, row: SearchRow) -> dict[str, Any]:
        """As a mapping, from the row of the database."""
        frame = row.frame or {}
        return {
            **SearchSummary.of(row),
            "settings": _shown(row.settings),
            "preflight": frame.get("lines", []),
            "base": frame.get("base"),
            "limits": _limits(row),
            "launches": row.launches,
        }


def _limits(row: SearchRow) -> dict[str, float]:
    """Of its budget, which only a search has: jobs of others are given one that bounds nothing."""
    limits: dict[str, float] = (row.frame or {}).get("limits") or {}
    return limits if row.kind == "search" else {}


def paging(offset: int, num_items: int, total: int) -> dict[str, int | None]:
    """`total` and `next_offset` of a page. offset: of its first item."""
    end = offset + num_items
    return {"total": total, "next_offset": end if num_items and end < total else None}


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is the server's alone; paths as clients name them."""
    hidden = ("runs", "mlflow_url", "trust")
    shown = {name: value for name, value in settings.items() if name not in hidden}
    if "source" in shown:
        shown["source"] = _named_in_runs(str(shown["source"]))
    data, training = dict(shown.get("data", {})), shown.get("training")
    root = str(data.pop("root", ""))
    kind, separator, place = str(data.get("source", "")).partition(":")
    if separator:
        data["source"] = f"{kind}:{_below(place, root)}"
    if shown.get("weights"):
        shown["weights"] = _below(str(shown["weights"]), root)
    if isinstance(training, Mapping) and training.get("distill_from"):
        teacher = _below(str(training["distill_from"]), root)
        shown["training"] = {**training, "distill_from": teacher}
    return {**shown, "data": data}


def _named_in_runs(source: str) -> str:
    """SEARCH/NAME, also where a study of the command line was given a folder."""
    parts = [part for part in re.split("[/:]", source) if part and part != ARCHITECTURES_FOLDER]
    return "/".join(parts[-2:])


def _below(place: str, root: str) -> str:
    path = Path(place)
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


class SearchPage(BaseModel):
    """Some searches, the newest first."""

    items: list[SearchSummary]
    total: int
    next_offset: int | None = Field(description="where the next page begins; null on the last")


class Trial(BaseModel):
    """A trial as it stands; what has no epoch yet has no stage."""

    number: int
    repeat: int = Field(description="from 1 on the same proposal again, with other seeds")
    state: Literal["running", "waiting", "finished", "failed", "stopped early", "infeasible"]
    reason: str = Field(description="why nothing came of it")
    criterion: str
    granularity: str
    settings: dict[str, float] = Field(description="of the pruning method")
    target_flops: float | None = Field(description="null where the search has targets")
    schedule: str
    cost_exponent: float = Field(description="by whose power of costs scores are divided")
    started_ms: int
    ended_ms: int | None
    stage: str | None
    step: int | None = Field(description="epochs so far")
    num_steps: int | None
    validation_score: float | None
    architectures: list[str] = Field(description="keys of what came of it")


class TrialPage(BaseModel):
    """Some trials, in the order of their beginning."""

    items: list[Trial]
    total: int
    next_offset: int | None = Field(description="where the next page begins; null on the last")


class TrialDetails(Trial):
    """One trial."""

    curve: list[dict[str, Any]] = Field(description="its epochs, in order")


class Architecture(BaseModel):
    """A network that a search found; its test score is told once the search is over."""

    id: str
    search: str
    key: str
    origin: str = Field(description="how its weights came about")
    flops: int = Field(description=FLOPS)
    flops_share: float | None = Field(description="of the base network's")
    params: int
    slack: dict[str, float] = Field(description="per bound of the budget: (limit − cost) / limit")
    validation_score: float
    test_score: float | None
    score_against_base: float | None = Field(
        description="how much better its score is than that of the base network, negative where it "
        "is worse, whether more or less of it is good: of test once the search is over, of "
        "validation before"
    )
    on_front: bool
    links: dict[str, str]

    @classmethod
    def of(
        cls, row: ArchitectureRow, search: SearchRow, base_row: ArchitectureRow | None
    ) -> dict[str, Any]:
        """As a mapping, from the rows of the database; base_row: of the base network."""
        is_over = search.state == "finished"
        frame, outcome = search.frame or {}, row.outcome
        base = (frame.get("base") or {}).get("flops")
        limits = _limits(search)
        identity = f"{row.search_id}{SEPARATOR}{row.key}"
        here = f"/v1/architectures/{quote(identity)}"
        return {
            "id": identity,
            "search": row.search_id,
            "key": row.key,
            "origin": row.origin,
            "flops": row.flops,
            "flops_share": row.flops / base if base else None,
            "params": row.params,
            "slack": {
                name: (limit - outcome[name]) / limit
                for name, limit in limits.items()
                if outcome.get(name) is not None and limit
            },
            "validation_score": row.validation_score,
            "test_score": outcome["test_score"] if is_over else None,
            "score_against_base": _against_base(
                Score.from_mapping(frame.get("score")),
                outcome,
                base_row,
                "test_score" if is_over else "validation_score",
            ),
            "on_front": row.on_front,
            "links": {
                part: f"{here}/{part}" for part in ("folder", "weights", "onnx", "python", "run")
            },
        }


def _against_base(
    score: Score, outcome: Mapping[str, Any], base_row: ArchitectureRow | None, name: str
) -> float | None:
    return None if base_row is None else score.gain(outcome[name], base_row.outcome[name])


class ArchitectureDetails(Architecture):
    """One network."""

    widths: dict[str, int] = Field(description="channels per group")
    removed: list[Any] = Field(description="structures that it lacks")
    file: dict[str, Any] = Field(description="its architecture.json")
    outcome: dict[str, Any] = Field(description="how it came about")


class RunPlace(BaseModel):
    """Where the run of an architecture is to be seen."""

    url: str


class Front(BaseModel):
    """The architectures that no other one beats in validation score and FLOPs."""

    search: str
    state: State
    is_final: bool = Field(description="false while the search may find better ones")
    convention: str = FLOPS
    score: ScoreKind
    items: list[Architecture]


class ArchitecturePage(Front):
    """Some architectures, on the front or not."""

    total: int
    next_offset: int | None = Field(description="where the next page begins; null on the last")


class Verdict(BaseModel):
    """What to take within each budget, and which kind of network won, by how much."""

    search: str
    recommendations: list[dict[str, Any]] = Field(
        description="per budget: text, architecture, scores, share of the base network's FLOPs"
    )
    basis: str = Field(description="what the recommendations rest on")
    lines: list[str]
    contrasts: list[dict[str, Any]] = Field(
        description="fixed beforehand: two networks, how much better the first one's test score is "
        "with its 95 % interval, p-value, p adjusted for all of them, finding; earlier versions "
        "stored none"
    )
    contests: list[dict[str, Any]]
    notes: list[str]
    failures: dict[str, str]


class Preflight(BaseModel):
    """What the network costs and the budget allows."""

    lines: list[str]
    base: Counts
    floor: Counts = Field(description="the least that can be reached")
    limits: dict[str, float]
    base_score: float | None = Field(
        None,
        description="of the network with the trained weights that were given, on validation data; "
        "null without such, where measuring them takes too long, and of a search",
    )


class CriterionOption(BaseModel):
    """The range that a setting of a criterion is searched in."""

    low: float
    high: float
    is_log: bool


class Criterion(BaseModel):
    """A pruning method."""

    name: str
    needs_batchnorm: bool
    prunes_untrained: bool
    settings: dict[str, CriterionOption]


class Named(BaseModel):
    """Names of what this server offers."""

    items: list[str]


class Criteria(BaseModel):
    """The pruning methods that this server offers."""

    items: list[Criterion]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Health(BaseModel):
    """Whether the service works."""

    status: Literal["ok", "starting"]
    version: str
    mlflow_url: str
    parts: dict[str, bool]
