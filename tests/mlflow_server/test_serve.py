import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from mlflow_server import ServeError, connect, schema, serve, store_uri
from mlflow_server.store import database_path

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refused(store: Path, **given: object) -> str:
    """The one line with which serving is refused."""
    with pytest.raises(ServeError) as caught:
        serve(store, **({"port": 0} | given))  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    return line


def serve_as(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let this Python code run in place of MLflow's server."""
    # The package exports a function of the same name as its module.
    module = importlib.import_module("mlflow_server.serve")
    monkeypatch.setattr(module, "_command", lambda *_: [sys.executable, "-c", code])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1x"])
def test_hosts_beyond_this_machine_are_refused(store, host):
    line = refused(store, host=host)
    assert repr(host) in line
    assert "turn authentication on (--auth)" in line


def test_a_store_that_does_not_exist_is_refused_and_not_made(tmp_path):
    assert "holds no mlflow.db" in refused(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_without_a_database_is_refused(tmp_path):
    assert "holds no mlflow.db" in refused(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    database_path(tmp_path).write_text("no database at all, and long enough to have a header")
    assert "file is not a database" in refused(tmp_path)


def test_a_store_that_mlflow_cannot_name_is_refused(tmp_path):
    assert "may not contain" in refused(tmp_path / "50%")


def test_a_port_in_use_is_refused(store, taken_port):
    line = refused(store, port=taken_port)
    assert f"cannot listen on 127.0.0.1 port {taken_port}" in line
    assert "choose another port" in line


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(store, port):
    assert f"between 0 and 65535, got {port}" in refused(store, port=port)


def test_a_store_without_room_for_the_log_is_one_line(store):
    (store / "mlflow-server.log").mkdir()
    assert "cannot start the MLflow server" in refused(store)


def test_a_server_that_does_not_start_is_explained_by_its_last_line(store, monkeypatch):
    cause = "import sys; print('first'); print('no room left'); print(); sys.exit(3)"
    serve_as(monkeypatch, cause)
    assert refused(store) == "the MLflow server did not start (3): no room left"


def test_the_servers_environment_has_no_other_settings_for_mlflow(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "elsewhere")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "elsewhere")
    monkeypatch.setenv("ESPALIER_KEPT", "yes")
    show = "import os; print(sorted(n for n in os.environ if 'MLFLOW' in n or 'KEPT' in n))"
    serve_as(monkeypatch, show)
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "elsewhere")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "elsewhere")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
    names = [
        *("ESPALIER_KEPT", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_DISABLE_TELEMETRY"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    ]
    assert str(names) in refused(store)


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlflow_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--host", "0.0.0.0"], "turn authentication on (--auth)"),
        (["--port", "many"], "'many' is not a valid integer"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, line):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert line in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def get(url: str) -> bytes:
    with urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def line_of(process: subprocess.Popen[str]) -> str:
    """What the command prints when it is ready; empty if it ends before."""
    assert process.stdout is not None
    stuck = threading.Timer(60, process.kill)
    stuck.start()
    try:
        return process.stdout.readline()
    finally:
        stuck.cancel()


def members(leader: int) -> list[int]:
    """The processes that this one started, and those of the group that it leads."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and leader in (int(fields[1]), int(fields[2])):
            found.append(int(stat.parent.name))
    return found


def test_a_run_written_without_the_server_is_shown_by_it_until_it_is_stopped(store):
    recorder = connect(store_uri(store), "a search")
    recorder.open_run("search", kind="search", name="Search")
    recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: float("nan")}, 0)
    recorder.log_metrics("search", {schema.METRIC_TRAIN_LOSS: 0.5}, 1)
    recorder.log_file("search", Path(__file__), "code")
    run_id = recorder.run_id("search")

    command = [sys.executable, "-m", "mlflow_server", "--store", str(store), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = line_of(process)
        assert "Ctrl-C" in line
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        servers = members(process.pid)
        workers = [pid for server in servers for pid in members(server)]
        try:
            run = json.loads(get(f"{url}/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
            files = json.loads(
                get(f"{url}/api/2.0/mlflow/artifacts/list?run_id={run_id}&path=code")
            )
            path = quote(f"code/{Path(__file__).name}")
            content = get(f"{url}/get-artifact?run_uuid={run_id}&path={path}")
            page = get(url)
            connect(url, "a search").log_file("search", Path(__file__), "over http")
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(30)
    assert run["info"]["run_name"] == "Search"
    assert run["data"]["metrics"][0]["value"] == 0.5
    assert [item["path"] for item in files["files"]] == [f"code/{Path(__file__).name}"]
    assert content == Path(__file__).read_bytes()
    assert b"<title>MLflow</title>" in page
    assert f"over http/{Path(__file__).name}" in recorder.read("search").files

    assert status == 0
    assert workers
    assert not [
        pid for pid in {*servers, *workers} - {process.pid} if Path(f"/proc/{pid}").exists()
    ]
    with closing(socket.socket()) as client:
        assert client.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    assert os.path.getsize(store / "mlflow-server.log") > 0
