"""What every recorder promises, asked of each of them."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflow_server import (
    BackgroundRecorder,
    MemoryRecorder,
    RecordedRun,
    RunRecorder,
    TrackingError,
    connect,
    schema,
    store_uri,
)
from mlflow_server.runs import LogMetrics

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

DIRECT = ["memory", "sqlite", "http"]
BACKGROUND = ["memory in background", "sqlite in background"]
_search_numbers = itertools.count()


@dataclass
class Bench:
    """One search, recorded by `recorder`; `direct` reads and writes the same runs at once."""

    search_name: str
    direct: Any
    recorder: RunRecorder
    resume: Callable[[], RunRecorder]

    def read(self, key: str) -> RecordedRun:
        assert self.recorder.close() == 0, self.recorder.problems
        return self.direct.read(key)


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Resuming is a new recorder over the same runs, as a new process would have it."""
    where, _, background = request.param.partition(" in ")
    search_name = f"search/{next(_search_numbers)}"
    match where:
        case "memory":
            memory = MemoryRecorder(search_name)
            reach: Callable[[], Any] = lambda: memory  # noqa: E731
        case "sqlite":
            uri = store_uri(request.getfixturevalue("store"))
            reach = lambda: connect(uri, search_name)  # noqa: E731
        case "http":
            uri = request.getfixturevalue("server_url")
            reach = lambda: connect(uri, search_name)  # noqa: E731
    resume = (lambda: BackgroundRecorder(reach())) if background else reach
    with resume() as recorder:
        yield Bench(search_name, reach(), recorder, resume)


every_recorder = pytest.mark.parametrize("bench", DIRECT + BACKGROUND, indirect=True)
every_direct_recorder = pytest.mark.parametrize("bench", DIRECT, indirect=True)
every_background_recorder = pytest.mark.parametrize("bench", BACKGROUND, indirect=True)


def open_search(recorder: RunRecorder, **given: Any) -> None:
    recorder.open_run("search", **({"kind": "search", "name": "Search"} | given))


@every_recorder
def test_records_what_a_run_is_opened_with(bench):
    open_search(
        bench.recorder,
        params={schema.PARAM_MODEL: "resnet56", schema.PARAM_SEED: 0, schema.PARAM_SHIFT: 1e-05},
        tags={schema.TAG_BUDGET: "flops=25%", schema.TAG_ON_FRONT: True},
        description="first *look*",
    )
    run = bench.read("search")
    assert (run.key, run.kind, run.name, run.parent) == ("search", "search", "Search", None)
    assert run.status == "running"
    assert run.description == "first *look*"
    assert run.params == {"model": "resnet56", "seed": "0", "shift": "1e-05"}
    assert run.tags == {
        "espalier.search": bench.search_name,
        "espalier.kind": "search",
        "espalier.key": "search",
        "espalier.budget": "flops=25%",
        "espalier.on_front": "true",
    }
    assert run.metrics == {}
    assert run.files == ()


@every_recorder
def test_children_know_their_parent(bench):
    open_search(bench.recorder)
    bench.recorder.open_run("trial/3", kind="trial", name="Trial 3", parent="search")
    assert bench.read("trial/3").parent == "search"


@every_recorder
def test_metrics_form_curves_in_the_order_of_steps(bench):
    open_search(bench.recorder)
    for step in (2, 0, 1):
        bench.recorder.log_metrics(
            "search", {schema.METRIC_TRAIN_LOSS: step / 2, schema.METRIC_SPARSITY: 0.25}, step
        )
    bench.recorder.log_metrics("search", {schema.METRIC_FLOPS: 125_485_706})
    assert bench.read("search").metrics == {
        "train_loss": ((0, 0.0), (1, 0.5), (2, 1.0)),
        "sparsity": ((0, 0.25), (1, 0.25), (2, 0.25)),
        "flops": ((0, 125_485_706.0),),
    }


@every_recorder
def test_values_that_are_no_numbers_are_kept(bench):
    open_search(bench.recorder)
    for step, value in enumerate((math.nan, math.inf, -math.inf, 1.0)):
        bench.recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: value}, step)
    curve = [value for _, value in bench.read("search").metrics["train_loss"]]
    assert math.isnan(curve[0])
    assert curve[1] > 1e308
    assert curve[2] < -1e308
    assert curve[3] == 1.0


@every_recorder
def test_a_measurement_that_is_reported_again_is_the_same_point(bench):
    open_search(bench.recorder)
    for loss in (0.5, math.nan, math.inf):
        for _ in range(2):
            bench.recorder.log_metrics(
                "search", {schema.METRIC_TRAIN_LOSS: loss}, 1, time_ms=1_700_000_000_000
            )
    assert len(bench.read("search").metrics["train_loss"]) == 3

    with bench.resume() as resumed:
        again = {schema.METRIC_TRAIN_LOSS: 0.5, schema.METRIC_SPARSITY: 0.1}
        resumed.log_metrics("search", again, 1, time_ms=1_700_000_000_000)
    metrics = bench.direct.read("search").metrics
    assert len(metrics["train_loss"]) == 3
    assert metrics["sparsity"] == ((1, 0.1),)


@every_recorder
def test_another_time_or_value_at_a_step_is_another_point(bench):
    open_search(bench.recorder)
    for value, time_ms in ((0.5, 20), (0.25, 10), (0.5, 30)):
        bench.recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: value}, 1, time_ms=time_ms)
    assert bench.read("search").metrics == {"train_loss": ((1, 0.25), (1, 0.5), (1, 0.5))}


@every_recorder
def test_a_batch_of_metrics_is_each_of_them(bench):
    open_search(bench.recorder)
    entries = [
        LogMetrics("search", {"train_loss": step / 7, "sparsity": 0.5}, step, 1_000 + step)
        for step in range(700)
    ]
    for _ in range(2):
        bench.recorder.write_metrics(entries)
    metrics = bench.read("search").metrics
    assert metrics["train_loss"] == tuple((step, step / 7) for step in range(700))
    assert len(metrics["sparsity"]) == 700


@every_recorder
def test_no_metrics_are_no_error(bench):
    open_search(bench.recorder)
    bench.recorder.log_metrics("search", {})
    bench.recorder.set_tags("search", {})
    assert bench.read("search").metrics == {}


@every_recorder
def test_tags_take_their_last_value(bench):
    open_search(bench.recorder, tags={schema.TAG_ON_FRONT: False})
    bench.recorder.set_tags("search", {schema.TAG_ON_FRONT: True, schema.TAG_ARCHITECTURE: "a1"})
    tags = bench.read("search").tags
    assert (tags["espalier.on_front"], tags["espalier.architecture"]) == ("true", "a1")


@every_recorder
def test_files_are_kept_by_folder_and_name(bench, tmp_path):
    open_search(bench.recorder)
    path = tmp_path / "front page.html"
    path.write_text("<p>hello</p>")
    bench.recorder.log_file("search", path)
    bench.recorder.log_file("search", path, "report/deep")
    bench.recorder.log_file("search", path, "report/deep")
    assert bench.read("search").files == ("front page.html", "report/deep/front page.html")


@every_recorder
@pytest.mark.parametrize(
    ("status", "reason"),
    [("finished", None), ("failed", "out of memory"), ("killed", "Ctrl-C"), ("failed", None)],
)
def test_a_run_ends_with_a_status_and_a_reason(bench, status, reason):
    open_search(bench.recorder)
    bench.recorder.end_run("search", status, reason)
    run = bench.read("search")
    assert run.status == status
    assert run.tags.get("espalier.failure") == reason


@every_recorder
def test_a_resumed_search_continues_its_runs(bench):
    open_search(bench.recorder, params={schema.PARAM_MODEL: "vgg"}, description="before")
    bench.recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: 3.0}, 0)
    bench.recorder.end_run("search", "killed", "power cut")
    assert bench.read("search").status == "killed"

    with bench.resume() as resumed:
        open_search(
            resumed,
            name="Search, resumed",
            params={schema.PARAM_MODEL: "vgg", schema.PARAM_TRIALS: 5},
            tags={schema.TAG_BUDGET: "flops=10%"},
            description="after",
        )
        resumed.log_metrics("search", {schema.METRIC_TRAIN_LOSS: 2.0}, 1)
    run = bench.direct.read("search")
    assert run.status == "running"
    assert run.name == "Search, resumed"
    assert run.description == "after"
    assert run.params == {"model": "vgg", "trials": "5"}
    assert run.tags["espalier.budget"] == "flops=10%"
    assert "espalier.failure" not in run.tags
    assert run.metrics == {"train_loss": ((0, 3.0), (1, 2.0))}


@every_recorder
def test_a_run_opened_before_is_written_to_without_opening_it_again(bench):
    open_search(bench.recorder)
    assert bench.read("search").metrics == {}
    with bench.resume() as resumed:
        resumed.log_metrics("search", {schema.METRIC_FRONT_SIZE: 4})
        resumed.end_run("search", "finished")
    run = bench.direct.read("search")
    assert (run.status, run.metrics) == ("finished", {"front_size": ((0, 4.0),)})


@every_recorder
def test_long_texts_are_cut_and_end_in_an_ellipsis(bench):
    open_search(bench.recorder, params={schema.PARAM_DATA: "d" * 9000}, description="e" * 9000)
    bench.recorder.end_run("search", "failed", "f" * 9000)
    run = bench.read("search")
    assert run.params["data"] == "d" * 5999 + "…"
    assert run.description == "e" * 7999 + "…"
    assert run.tags["espalier.failure"] == "f" * 7999 + "…"


@every_recorder
def test_texts_are_kept_as_they_are(bench):
    text = """flops<=25% 'and' "more" \\ λ_S ×2\nsecond line"""
    open_search(bench.recorder, name=text, params={schema.PARAM_DATA: ""}, description=text)
    bench.recorder.set_tags("search", {schema.TAG_BUDGET: text})
    run = bench.read("search")
    assert (run.name, run.description, run.tags["espalier.budget"]) == (text, text, text)
    assert run.params == {"data": ""}


@every_recorder
def test_what_is_given_may_change_right_after(bench):
    metrics, tags = {schema.METRIC_FLOPS: 1.0}, {schema.TAG_BUDGET: "flops=1%"}
    open_search(bench.recorder, tags=tags)
    bench.recorder.log_metrics("search", metrics)
    metrics.clear()
    tags.clear()
    run = bench.read("search")
    assert run.metrics == {"flops": ((0, 1.0),)}
    assert run.tags["espalier.budget"] == "flops=1%"


CALLS_WITHOUT_A_RUN = [
    lambda recorder, _: recorder.log_metrics("trial/1", {schema.METRIC_FLOPS: 1}),
    lambda recorder, _: recorder.set_tags("trial/1", {schema.TAG_BUDGET: "x"}),
    lambda recorder, path: recorder.log_file("trial/1", path),
    lambda recorder, _: recorder.end_run("trial/1", "finished"),
    lambda recorder, _: recorder.open_run("t", kind="trial", name="T", parent="trial/1"),
]


@every_direct_recorder
@pytest.mark.parametrize("call", CALLS_WITHOUT_A_RUN)
def test_a_key_without_a_run_is_named(bench, call):
    with pytest.raises(TrackingError, match="has no run 'trial/1': open it before") as caught:
        call(bench.recorder, Path(__file__))
    assert not caught.value.is_transient


@every_background_recorder
@pytest.mark.parametrize("call", CALLS_WITHOUT_A_RUN)
def test_in_the_background_a_key_without_a_run_becomes_a_problem(bench, call):
    call(bench.recorder, Path(__file__))
    assert bench.recorder.close() == 1
    (line,) = bench.recorder.problems
    assert "has no run 'trial/1'" in line


@every_direct_recorder
def test_a_missing_file_is_named(bench, tmp_path):
    open_search(bench.recorder)
    with pytest.raises(TrackingError, match=r"no file .*nothing-here"):
        bench.recorder.log_file("search", tmp_path / "nothing-here")


@every_direct_recorder
def test_params_keep_their_first_value_and_the_rest_is_written(bench):
    open_search(bench.recorder, params={schema.PARAM_EPOCHS: 10})
    bench.recorder.end_run("search", "finished")
    with pytest.raises(TrackingError, match=r"keeps the params .*: epochs was 10, now 20"):
        open_search(bench.recorder, params={schema.PARAM_EPOCHS: 20, schema.PARAM_ALPHA: 0.5})
    run = bench.read("search")
    assert run.params == {"epochs": "10", "alpha": "0.5"}
    assert run.status == "running"


@every_recorder
def test_names_outside_the_schema_are_refused_in_the_callers_thread(bench):
    open_search(bench.recorder)
    with pytest.raises(AssertionError, match="'accuracy' is not a metric"):
        bench.recorder.log_metrics("search", {"accuracy": 0.5})
    with pytest.raises(AssertionError, match="'note' is not a tag"):
        bench.recorder.set_tags("search", {"note": "x"})
    with pytest.raises(AssertionError, match="'lr' is not a param"):
        open_search(bench.recorder, params={"lr": 0.1})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.set_tags("search", {schema.TAG_KEY: "x"}), "written by the recorder itself"),
        (lambda r: r.open_run("", kind="trial", name="x"), "not empty"),
        (lambda r: r.open_run("it's", kind="trial", name="x"), "quote"),
        (lambda r: r.log_file("search", Path(__file__), "../up"), "inside its run"),
        (lambda r: r.log_file("search", Path(__file__), "/root"), "inside its run"),
        (lambda r: r.end_run("search", "finished", "no reason"), "finished run"),
    ],
)
def test_misuse_is_an_assertion(call, message):
    with pytest.raises(AssertionError, match=message):
        call(MemoryRecorder())
