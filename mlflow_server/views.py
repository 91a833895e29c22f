"""Saved views of a search in MLflow's pages, and the links that open them.

MLflow keeps a view as a tag of the experiment: `mlflow.sharedViewState.<key>` holds its name and
the state of the page as JSON. This is not documented; it is what MLflow 3.17's pages read and
write (`Saved views` in the list of runs), and a test in a browser opens what is written here.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_server import schema
from mlflow_server.errors import TrackingError
from mlflow_server.reach import prepare_for_server, tracking_error
from mlflow_server.store import SQLITE_PREFIX, database_uri, why_not_a_store

DEFAULT_ADDRESS = "http://127.0.0.1:5000"
"""Where `espalier ui` shows a store if nothing else is asked for."""

LOADED_AT_ONCE = 100
"""Runs that MLflow's page asks for, and that it averages over."""

_ARCHITECTURES = f"tags.`{schema.TAG_KIND}` = 'architecture'"
_TAG = "mlflow.sharedViewState."
_TABLE, _CHART, _AVERAGES = "espalier-table", "espalier-chart", "espalier-averages"
_ACCURACY = ("accuracy", "accuracy", "maximize")
_PAGE_OF_RUNS = 1000


@dataclass(frozen=True)
class Views:
    """Links to the saved views of one search, each opened by anyone who reaches the server.

    table: its architectures grouped by origin, each group with its averages, the base network
    first and then the best.
    chart: every architecture's score against its FLOPs, coloured by origin; learning curves.
    averages: the measures as bars, averaged over each origin.
    num_architectures: if more than LOADED_AT_ONCE, averages hold for the best of them only, until
    `Load more` is pressed often enough.
    """

    table: str
    chart: str
    averages: str
    num_architectures: int


def view_links(tracking_uri: str, search_name: str, *, address: str | None = None) -> Views:
    """Write the views of a search, unless they are there as they should be, and link to them.

    `tracking_uri` is that of a store or a server, as for `connect`. `address` is where the
    server's pages are: the `tracking_uri` itself if that is a server's, else DEFAULT_ADDRESS.
    Searches that were recorded before there were views get them, too. Raises TrackingError if
    the store or server cannot be reached or has no such search; nothing is created then.
    """
    if tracking_uri.startswith(("http://", "https://")):
        prepare_for_server(tracking_uri)
        address = address or tracking_uri
    else:
        tracking_uri = _existing_store(tracking_uri)
    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        experiment = client.get_experiment_by_name(search_name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(_unknown(client, search_name))
        score = _score_of(client, experiment.experiment_id)
        architectures = _architectures(client, experiment.experiment_id)
        _colour(client, architectures)
        _order(client, architectures, score)
        for key, view in _views(score).items():
            _write(client, experiment, key, view)
    except MlflowException as error:
        raise tracking_error(tracking_uri, error) from error
    page = f"{(address or DEFAULT_ADDRESS).rstrip('/')}/#/experiments/{experiment.experiment_id}"
    # The menu beside the runs is that for training; MLflow's own choice is language models.
    opened = "runs?workflowType=machine_learning&viewStateShareKey"
    links = {key: f"{page}/{opened}={key}" for key in (_TABLE, _CHART, _AVERAGES)}
    return Views(
        table=links[_TABLE],
        chart=f"{links[_CHART]}&compareRunsMode=CHART",
        averages=f"{links[_AVERAGES]}&compareRunsMode=CHART",
        num_architectures=len(architectures),
    )


def _existing_store(tracking_uri: str) -> str:
    """The same URI with an absolute path; TrackingError unless it is a store with runs."""
    database = Path(tracking_uri.removeprefix(SQLITE_PREFIX)).resolve()
    if not tracking_uri.startswith(SQLITE_PREFIX) or not database.is_file():
        raise TrackingError(f"there is no record of searches at {tracking_uri}: run one first")
    problem = why_not_a_store(database)
    if problem is not None:
        raise TrackingError(f"{database} is not an MLflow database: {problem}")
    return database_uri(database)


def _unknown(client: Any, search_name: str) -> str:
    names = sorted(found.name for found in client.search_experiments(max_results=_PAGE_OF_RUNS))
    recorded = [name for name in names if name != "Default"]
    listed = f"there are {', '.join(recorded)}" if recorded else "none was recorded there"
    return f"MLflow has no search {search_name!r}: {listed}"


@dataclass(frozen=True)
class _View:
    """A view by its name and the state of the page."""

    name: str
    state: Mapping[str, Any]


@dataclass(frozen=True)
class _Score:
    """What the networks of a search are measured by."""

    name: str
    metric: str
    direction: str

    @property
    def is_error(self) -> bool:
        """Whether less of it is better."""
        return self.direction == "minimize"

    def of(self, metric: str) -> str:
        """The name of a metric with this score in it."""
        return schema.of_score(metric, self.metric)


def _score_of(client: Any, experiment_id: str) -> _Score:
    """What the search's own run says; accuracy where it says nothing."""
    names = (schema.TAG_SCORE, schema.TAG_SCORE_METRIC, schema.TAG_SCORE_DIRECTION)
    has_score = " and ".join(f"tags.`{name}` LIKE '%'" for name in names)
    runs = client.search_runs([experiment_id], filter_string=has_score, max_results=1)
    tags = runs[0].data.tags if runs else {}
    return _Score(*(tags[name] for name in names)) if tags else _Score(*_ACCURACY)


def _write(client: Any, experiment: Any, key: str, view: _View) -> None:
    """Set the view's tag, unless it holds this very state."""
    text = json.dumps(view.state, separators=(",", ":"))
    now = time.time_ns() // 1_000_000
    created = now
    try:
        before = json.loads(experiment.tags.get(_TAG + key, ""))
        if (before["name"], before["state"]) == (view.name, text):
            return
        created = int(before["createdAt"])
    except (ValueError, TypeError, KeyError):
        pass  # there was none, or none of ours
    envelope = {"name": view.name, "createdAt": created, "updatedAt": now, "state": text}
    client.set_experiment_tag(experiment.experiment_id, _TAG + key, json.dumps(envelope))


def _architectures(client: Any, experiment_id: str) -> list[Any]:
    """The runs of all of them."""
    found: list[Any] = []
    page = None
    while page != "":
        runs = client.search_runs(
            [experiment_id],
            filter_string=_ARCHITECTURES,
            max_results=_PAGE_OF_RUNS,
            page_token=page,
        )
        found += runs
        page = runs.token or ""
    return found


def _colour(client: Any, architectures: list[Any]) -> None:
    """Give each the colour of its origin."""
    for run in architectures:
        tags = run.data.tags
        colour = schema.COLOURS.get(tags.get(schema.TAG_ORIGIN, ""))
        if colour is not None and tags.get(schema.MLFLOW_RUN_COLOUR) != colour:
            client.set_tag(run.info.run_id, schema.MLFLOW_RUN_COLOUR, colour)


def _order(client: Any, architectures: list[Any], score: _Score) -> None:
    """Give those their place in the order of the views that were recorded without one."""
    name = score.of(schema.METRIC_VALIDATION_SCORE)
    for run in architectures:
        value = run.data.metrics.get(name)
        if value is not None and schema.METRIC_VIEW_ORDER not in run.data.metrics:
            origin = run.data.tags.get(schema.TAG_ORIGIN, "")
            place = schema.view_order(origin, -value if score.is_error else value)
            client.log_metric(run.info.run_id, schema.METRIC_VIEW_ORDER, place)


def _views(score: _Score) -> dict[str, _View]:
    """What each page shows, in the words of MLflow's own page."""
    columns = (
        f"metrics.`{score.of(schema.METRIC_VALIDATION_SCORE)}`",
        f"metrics.`{score.of(schema.METRIC_TEST_SCORE)}`",
        f"metrics.`{score.of(schema.METRIC_SCORE_AGAINST_BASE)}`",
        f"metrics.`{schema.METRIC_FLOPS}`",
        f"metrics.`{schema.METRIC_FLOPS_SHARE}`",
        f"metrics.`{schema.METRIC_NUM_PARAMS}`",
        f"tags.`{schema.TAG_ON_FRONT}`",
    )
    shared = {
        "searchFilter": _ARCHITECTURES,
        "orderByKey": f"metrics.`{schema.METRIC_VIEW_ORDER}`",
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": dict.fromkeys(columns, 150),
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": schema.TAG_ORIGIN}],
        },
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
    }
    chart = _charts("Every architecture, coloured by origin", _chart_cards(score))
    averages = _charts("Mean of each origin", _average_cards(score))
    return {
        _TABLE: _View("Espalier: architectures by origin", shared),
        _CHART: _View(
            f"Espalier: {score.name} against FLOPs",
            shared | {"useGroupedValuesInCharts": False} | chart,
        ),
        _AVERAGES: _View(
            "Espalier: averages by origin", shared | {"useGroupedValuesInCharts": True} | averages
        ),
    }


def _chart_cards(score: _Score) -> list[dict[str, Any]]:
    return [
        _scatter(score.of(schema.METRIC_VALIDATION_SCORE)),
        _curves(score.of(schema.METRIC_EPOCH_VALIDATION_SCORE)),
        _scatter(score.of(schema.METRIC_TEST_SCORE)),
        _bars(score.of(schema.METRIC_TEST_SCORE)),
    ]


def _average_cards(score: _Score) -> list[dict[str, Any]]:
    return [
        _bars(score.of(schema.METRIC_TEST_SCORE)),
        _bars(score.of(schema.METRIC_VALIDATION_SCORE)),
        _bars(schema.METRIC_FLOPS),
        _bars(schema.METRIC_NUM_PARAMS),
    ]


def _charts(title: str, cards: list[dict[str, Any]]) -> dict[str, Any]:
    """One section of the page, with these cards in it, two in a row."""
    section = {
        "uuid": "espalier",
        "name": title,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": 2,
        "cardHeight": 360,  # pixels
    }
    shared = {
        "metricSectionId": section["uuid"],
        "runsCountToCompare": _PAGE_OF_RUNS,
        "deleted": False,
        "isGenerated": False,
    }
    return {
        "compareRunSections": [section],
        "compareRunCharts": [
            {"uuid": f"espalier-{place}"} | shared | card for place, card in enumerate(cards)
        ],
        "isAccordionReordered": True,
    }


def _scatter(metric: str) -> dict[str, Any]:
    return {
        "type": "SCATTER",
        "xaxis": {"key": schema.METRIC_FLOPS, "type": "METRIC"},
        "yaxis": {"key": metric, "type": "METRIC"},
    }


def _bars(metric: str) -> dict[str, Any]:
    return {"type": "BAR", "metricKey": metric}


def _curves(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
