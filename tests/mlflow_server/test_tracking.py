import http.server
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from mlflow_server import TrackingError, artifact_root, connect, schema, store_uri
from mlflow_server.reach import require_reachable
from mlflow_server.store import database_path
from mlflow_server.tracking import ensure_database

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def web_server() -> Iterator[str]:
    """A web server that is not MLflow: it has no page that it is asked for."""

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_search_is_an_experiment_and_its_children_nest(store):
    recorder = connect(store_uri(store), "resnet56 on cifar10")
    recorder.open_run("search", kind="search", name="Search", description="about it")
    recorder.open_run("trial/0", kind="trial", name="Trial 0", parent="search")
    recorder.log_metrics("trial/0", {schema.METRIC_FLOPS: 7}, 3)

    client = mlflow.MlflowClient(store_uri(store))
    experiment = client.get_experiment_by_name("resnet56 on cifar10")
    assert experiment is not None
    assert experiment.experiment_id == recorder.experiment_id
    parent = client.get_run(recorder.run_id("search"))
    child = client.get_run(recorder.run_id("trial/0"))
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["mlflow.note.content"] == "about it"
    assert child.data.metrics == {"flops": 7.0}
    assert abs(time.time() * 1000 - child.info.start_time) < 60_000


def test_resuming_makes_no_second_run(store):
    for _ in range(3):
        recorder = connect(store_uri(store), "s")
        recorder.open_run("search", kind="search", name="Search")
        recorder.open_run("search", kind="search", name="Search")
    client = mlflow.MlflowClient(store_uri(store))
    assert len(client.search_runs([recorder.experiment_id])) == 1


def test_searches_in_one_store_do_not_meet(store):
    one, other = (connect(store_uri(store), name) for name in ("one", "other"))
    for recorder in (one, other):
        recorder.open_run("search", kind="search", name=recorder.search_name)
    assert one.run_id("search") != other.run_id("search")
    assert other.read("search").name == "other"


def test_mlflows_global_state_is_left_alone(store):
    before = mlflow.get_tracking_uri()
    recorder = connect(store_uri(store), "s")
    recorder.open_run("search", kind="search", name="Search")
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_files_move_with_their_store(make_store, tmp_path):
    store = make_store("first place")
    recorder = connect(store_uri(store), "a/../search")
    recorder.open_run("search", kind="search", name="Search")
    recorder.log_file("search", Path(__file__), "code")
    (stored,) = artifact_root(store).rglob(Path(__file__).name)
    assert stored.read_bytes() == Path(__file__).read_bytes()

    moved = tmp_path / "second place"
    store.rename(moved)
    assert connect(store_uri(moved), "a/../search").read("search").files == (
        f"code/{Path(__file__).name}",
    )


def test_files_go_to_a_location_that_is_given(store, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    recorder = connect(store_uri(store), "s", artifact_location=elsewhere.as_uri())
    recorder.open_run("search", kind="search", name="Search")
    recorder.log_file("search", Path(__file__), "code")
    assert recorder.read("search").files == (f"code/{Path(__file__).name}",)
    assert list(elsewhere.rglob(Path(__file__).name))


def test_a_file_that_cannot_be_stored_is_one_line(store):
    recorder = connect(store_uri(store), "s")
    recorder.open_run("search", kind="search", name="Search")
    artifact_root(store).write_text("in the way")
    with pytest.raises(TrackingError, match="cannot store"):
        recorder.log_file("search", Path(__file__))


def test_a_missing_store_is_made(tmp_path):
    store = tmp_path / "deep" / "store"
    assert connect(store_uri(store), "s").experiment_id
    assert [path.name for path in store.iterdir() if "new" in path.name] == []


def test_a_database_whose_creation_was_interrupted_is_made_again(tmp_path):
    database = database_path(tmp_path)
    unfinished = database.with_name("mlflow.db.new")
    unfinished.write_text("half a database, from a process that was killed")
    ensure_database(database)
    connect(store_uri(tmp_path), "s").open_run("search", kind="search", name="Search")
    assert not unfinished.exists()


def test_searches_that_start_at_once_share_a_new_store(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        recorders = list(pool.map(lambda name: connect(store_uri(tmp_path), name), "aba"))
    a, b, also_a = (recorder.experiment_id for recorder in recorders)
    assert a == also_a != b


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path):
    started = time.monotonic()
    database_path(tmp_path).write_text("no database at all, and long enough to have a header")
    with pytest.raises(TrackingError, match=r"mlflow\.db is not an MLflow database"):
        connect(store_uri(tmp_path), "s")
    assert time.monotonic() - started < 5


def test_a_store_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrackingError, match="cannot write to the store"):
        connect(store_uri(tmp_path / "file"), "s")


@pytest.mark.parametrize("uri", ["mlruns", "databricks", "postgresql://host/runs", "", "sqlite://"])
def test_other_places_are_refused(uri):
    with pytest.raises(TrackingError, match=r"sqlite:///… or http\(s\)://…, got"):
        connect(uri, "s")


def test_a_path_that_sqlite_would_read_as_an_option_is_refused(tmp_path):
    with pytest.raises(TrackingError, match="may not contain"):
        connect(f"sqlite:///{tmp_path}/mlflow.db?timeout=1", "s")


def test_a_relative_store_stays_where_it_was(store, tmp_path, monkeypatch):
    monkeypatch.chdir(store)
    recorder = connect("sqlite:///mlflow.db", "s")
    monkeypatch.chdir(tmp_path)
    recorder.open_run("search", kind="search", name="Search")
    recorder.log_file("search", Path(__file__))
    assert connect(store_uri(store), "s").read("search").files == (Path(__file__).name,)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        connect("http://me:secret@127.0.0.1:1/", "s")
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_is_not_written_to(store):
    recorder = connect(store_uri(store), "s")
    mlflow.MlflowClient(store_uri(store)).delete_experiment(recorder.experiment_id)
    with pytest.raises(TrackingError, match="'s' was deleted: restore it"):
        connect(store_uri(store), "s")


def test_a_deleted_run_is_one_line(store):
    recorder = connect(store_uri(store), "s")
    recorder.open_run("search", kind="search", name="Search")
    mlflow.MlflowClient(store_uri(store)).delete_run(recorder.run_id("search"))
    with pytest.raises(TrackingError, match=r"^MLflow at sqlite.*deleted") as caught:
        recorder.log_metrics("search", {schema.METRIC_FLOPS: 1})
    assert "\n" not in str(caught.value)
    assert not caught.value.is_transient


def test_a_closed_port_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"no MLflow server answers at .*{port}: ") as caught:
        connect(f"http://127.0.0.1:{port}", "s")
    assert time.monotonic() - started < 5
    assert caught.value.is_transient


def test_a_server_that_never_answers_is_given_up(silent_port):
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        require_reachable(f"http://127.0.0.1:{silent_port}", timeout_seconds=0.1)


def test_another_web_server_is_one_line(web_server):
    with pytest.raises(TrackingError, match=f"^MLflow at {web_server}: ") as caught:
        connect(web_server, "s")
    assert "\n" not in str(caught.value)
    assert not caught.value.is_transient


@pytest.mark.parametrize("uri", ["http://", "http://[", "http://host name:1"])
def test_addresses_that_are_none_are_one_line(uri):
    with pytest.raises(TrackingError):
        connect(uri, "s")
