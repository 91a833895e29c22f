import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from recorded import MEAN_ABSOLUTE_ERROR, ORIGINS, record_search

from mlflow_server import TrackingError, connect, schema, store_uri, view_links

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

TAG = "mlflow.sharedViewState."
KEYS = ("espalier-table", "espalier-chart", "espalier-averages")


def tags(uri: str, name: str = "digits") -> dict[str, str]:
    experiment = mlflow.MlflowClient(uri).get_experiment_by_name(name)
    assert experiment is not None
    return {key.removeprefix(TAG): text for key, text in experiment.tags.items() if TAG in key}


def states(uri: str) -> dict[str, Any]:
    return {key: json.loads(json.loads(text)["state"]) for key, text in tags(uri).items()}


@pytest.fixture
def uri(store: Path) -> str:
    record_search(connect(store_uri(store), "digits"), num_each=1, num_epochs=2)
    return store_uri(store)


def test_links_lead_to_the_views_of_the_search(uri):
    recorder = connect(uri, "digits")
    views = view_links(uri, "digits", address="https://host/mlflow/")
    runs = f"https://host/mlflow/#/experiments/{recorder.experiment_id}/runs?"
    for link, key in zip((views.table, views.chart, views.averages), KEYS, strict=True):
        assert link.startswith(runs)
        assert f"viewStateShareKey={key}" in link
        assert key in tags(uri)
    assert "compareRunsMode" not in views.table
    assert "compareRunsMode=CHART" in views.chart
    assert "compareRunsMode=CHART" in views.averages


def test_without_an_address_links_lead_to_where_the_pages_are_shown_by_default(uri):
    assert view_links(uri, "digits").table.startswith("http://127.0.0.1:5000/#/experiments/")


def test_over_http_links_lead_to_the_server(server_url):
    record_search(connect(server_url, "over http"), num_each=1, num_epochs=1)
    assert view_links(server_url, "over http").chart.startswith(f"{server_url}/#/experiments/")
    assert set(tags(server_url, "over http")) == set(KEYS)


def test_only_what_is_recorded_is_shown(uri):
    """A name that the schema does not have would be an empty column or chart."""
    view_links(uri, "digits")
    fields = [field for field in schema.FIELDS if field.kind == "metric"]
    metrics = {schema.of_score(field.name) for field in fields}
    for state in states(uri).values():
        assert state["searchFilter"] == "tags.`espalier.kind` = 'architecture'"
        shown = {column.split("`")[1] for column in state["selectedColumns"]}
        assert shown <= metrics | {schema.TAG_ON_FRONT}
        assert state["orderByKey"].split("`")[1] in metrics
        assert state["groupBy"]["groupByKeys"][0]["groupByData"] == schema.TAG_ORIGIN
        for card in state.get("compareRunCharts", ()):
            keys = [card.get("metricKey"), card.get("xaxis", {}).get("key")]
            assert set(keys) - {None} <= metrics
            assert card["metricSectionId"] == state["compareRunSections"][0]["uuid"]


def test_views_are_of_the_score_that_the_search_is_measured_by(store: Path):
    uri = store_uri(store)
    record_search(connect(uri, "digits"), 1, num_epochs=2, score=MEAN_ABSOLUTE_ERROR)
    view_links(uri, "digits")
    chart = json.loads(tags(uri)[KEYS[1]])
    assert chart["name"] == "Espalier: mean absolute error against FLOPs"
    for state in states(uri).values():
        assert state["selectedColumns"][:2] == [
            *("metrics.`validation_mean_absolute_error`", "metrics.`test_mean_absolute_error`"),
        ]
        assert "accuracy" not in json.dumps(state)
    (recorded,) = mlflow.MlflowClient(uri).search_runs(
        [connect(uri, "digits").experiment_id], "tags.`espalier.key` = 'architecture/uniform-0'"
    )
    shown = {card.get("metricKey") for card in states(uri)[KEYS[1]]["compareRunCharts"]} - {None}
    assert shown <= set(recorded.data.metrics)


@pytest.mark.parametrize("score", [{}, MEAN_ABSOLUTE_ERROR])
def test_the_base_network_comes_first_and_then_the_best(store: Path, score: dict[str, str]):
    """Also of searches that were recorded without an order; of an error the best is the least."""
    uri = store_uri(store)
    record_search(connect(uri, "digits"), 1, num_epochs=1, score=score)
    recorder, client = connect(uri, "digits"), mlflow.MlflowClient(uri)
    own = recorder.run_id("architecture/uniform-0")
    client.log_metric(own, schema.METRIC_VIEW_ORDER, 10.0)
    view_links(uri, "digits")
    (order,) = {(state["orderByKey"], state["orderByAsc"]) for state in states(uri).values()}
    assert order == ("metrics.`view_order`", False)
    runs = client.search_runs(
        [recorder.experiment_id],
        "tags.`espalier.kind` = 'architecture'",
        order_by=[f"{order[0]} DESC"],
    )
    best = list(ORIGINS[::-1][1:] if score else ORIGINS[:-1])
    assert [run.data.tags[schema.TAG_ORIGIN] for run in runs] == ["base", "uniform", *best]


def test_views_that_are_there_are_left_alone(uri):
    view_links(uri, "digits")
    before = tags(uri)
    view_links(uri, "digits")
    assert tags(uri) == before


def test_a_view_of_an_older_version_is_replaced_and_keeps_its_age(uri):
    recorder = connect(uri, "digits")
    client = mlflow.MlflowClient(uri)
    old = {"name": "old", "createdAt": 17, "updatedAt": 17, "state": "{}"}
    client.set_experiment_tag(recorder.experiment_id, TAG + KEYS[0], json.dumps(old))
    client.set_experiment_tag(recorder.experiment_id, TAG + KEYS[1], "nonsense")
    view_links(uri, "digits")
    table = json.loads(tags(uri)[KEYS[0]])
    assert table["createdAt"] == 17
    assert table["updatedAt"] > 17
    assert table["name"] == "Espalier: architectures by origin"
    assert states(uri)[KEYS[1]]["compareRunCharts"]


def test_architectures_have_the_colour_of_their_origin_also_those_recorded_before(uri):
    recorder = connect(uri, "digits")
    client = mlflow.MlflowClient(uri)

    def colours() -> dict[str, str | None]:
        ids = {origin: recorder.run_id(f"architecture/{origin}-0") for origin in ORIGINS}
        ids["base"] = recorder.run_id("architecture/base")
        runs = {origin: client.get_run(run_id) for origin, run_id in ids.items()}
        return {origin: run.data.tags.get("mlflow.runColor") for origin, run in runs.items()}

    expected = {origin: schema.COLOURS[origin] for origin in (*ORIGINS, "base")}
    assert colours() == expected
    client.delete_tag(recorder.run_id("architecture/uniform-0"), "mlflow.runColor")
    view_links(uri, "digits")
    assert colours() == expected


def test_architectures_are_counted_and_nothing_else(uri):
    assert view_links(uri, "digits").num_architectures == len(ORIGINS) + 1


def test_an_unknown_search_is_one_line_that_names_those_there_are(uri):
    with pytest.raises(TrackingError) as caught:
        view_links(uri, "digit")
    assert str(caught.value) == (
        "MLflow has no search 'digit': there are digits, made-with-the-database"
    )
    assert mlflow.MlflowClient(uri).get_experiment_by_name("digit") is None


def test_a_place_without_a_record_is_one_line_and_stays_as_it_is(tmp_path):
    with pytest.raises(TrackingError, match="there is no record of searches at sqlite"):
        view_links(store_uri(tmp_path / "none"), "digits")
    assert not (tmp_path / "none").exists()
    (tmp_path / "mlflow.db").write_text("no database at all, and long enough to have a header")
    with pytest.raises(TrackingError, match="is not an MLflow database"):
        view_links(store_uri(tmp_path), "digits")
    with pytest.raises(TrackingError, match="there is no record of searches at mlruns"):
        view_links("mlruns", "digits")


def test_a_server_that_is_not_there_is_one_line():
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        view_links("http://127.0.0.1:1", "digits")
