"""A server on a PostgreSQL database, with files elsewhere, and one that asks for a password."""

import base64
import configparser
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow
import pytest
from postgresql import PASSWORD, QUOTED

from mlflow_server import ServeError, connect, running_server, schema, serve, view_links
from mlflow_server.deployment import Deployment, command_arguments, environment

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def refused(store: Path, **given: object) -> str:
    """The one line with which serving is refused, in seconds."""
    started = time.monotonic()
    with pytest.raises(ServeError) as caught:
        serve(store, port=0, **given)  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    assert time.monotonic() - started < 10
    return line


def test_a_postgresql_database_and_a_folder_for_files(cluster, tmp_path):
    files, store = tmp_path / "files", tmp_path / "server"
    with running_server(store, port=0, database=cluster.url(), artifacts=str(files)) as server:
        recorder = connect(server.url, "in postgres")
        recorder.open_run("search", kind="search", name="Search")
        for _ in range(2):
            metrics = {schema.METRIC_TRAIN_LOSS: 0.1, schema.METRIC_SPARSITY: float("nan")}
            recorder.log_metrics("search", metrics, 3, time_ms=1_700_000_000_000)
        recorder.log_file("search", Path(__file__), "code")
        run = recorder.read("search")
        assert "viewStateShareKey" in view_links(server.url, "in postgres").table
        arguments = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        log = server.log.read_text()
    assert run.metrics["train_loss"] == ((3, 0.1),)
    assert len(run.metrics["sparsity"]) == 1
    assert run.files == (f"code/{Path(__file__).name}",)
    assert [path.read_bytes() for path in files.rglob("*.py")] == [Path(__file__).read_bytes()]
    assert not (store / "mlflow.db").exists()
    for text in (arguments, log):
        assert PASSWORD not in text
        assert QUOTED not in text


def test_a_wrong_password_is_one_line_without_it(cluster, tmp_path):
    line = refused(tmp_path, database=cluster.url("wrong%20word"))
    assert line.startswith("cannot open the database 'espalier' at 127.0.0.1: ")
    assert "password authentication failed" in line
    assert "wrong" not in line


def test_a_database_that_is_not_there_is_one_line(cluster, tmp_path):
    assert 'database "nothing" does not exist' in refused(
        tmp_path, database=cluster.url(name="nothing")
    )


@pytest.mark.parametrize("host", ["127.0.0.1:1", "nowhere.invalid"])
def test_a_database_that_cannot_be_reached_is_refused_in_seconds(tmp_path, host):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    line = refused(tmp_path, database=f"postgresql://me:secret@{host}/runs")
    assert line.startswith("cannot open the database 'runs' at ")
    assert "secret" not in line


def test_a_database_that_never_answers_is_refused_in_seconds(tmp_path):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "timeout" in refused(tmp_path, database=f"postgresql://a:b@127.0.0.1:{port}/runs")


@pytest.mark.parametrize(
    "url",
    ["postgres://me:secret@host/runs", "mysql://me:secret@host/runs", "postgresql:runs", "secret"],
)
def test_other_databases_are_refused(tmp_path, url):
    line = refused(tmp_path, database=url)
    assert "a database is postgresql://USER@HOST/NAME" in line
    assert "me:secret" not in line


def test_a_url_that_cannot_be_read_is_one_line_without_its_password(tmp_path):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    line = refused(tmp_path, database="postgresql://me:secret@host:port/runs")
    assert line == "cannot open the database: its URL cannot be read"


@pytest.mark.parametrize(
    ("missing", "given", "package"),
    [
        ("psycopg2", {"database": "postgresql://host/runs"}, "psycopg2-binary"),
        ("boto3", {"artifacts": "s3://bucket/path"}, "boto3"),
        ("flask_wtf", {"has_auth": True}, "'mlflow[auth]'"),
    ],
)
def test_what_is_not_installed_is_named_with_the_way_to_get_it(
    store, monkeypatch, missing, given, package
):
    monkeypatch.setitem(sys.modules, missing, None)  # as find_spec sees what is not there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else name)
    assert refused(store, **given).endswith(f"which is not installed: pip install {package}")


@pytest.mark.parametrize(
    ("artifacts", "line"),
    [
        ("s3://", "files go to s3://BUCKET/PATH"),
        ("gs://bucket", "an s3:// URL or to a folder"),
        (__file__, "cannot make the folder"),
    ],
)
def test_other_places_for_files_are_refused(store, artifacts, line):
    assert line in refused(store, artifacts=artifacts)


def test_s3_gets_its_url_and_settings(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://minio:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    deployment = Deployment(store, "127.0.0.1", 0, artifacts="s3://bucket/a/b")
    assert command_arguments(deployment)[:2] == ["--artifacts-destination", "s3://bucket/a/b"]
    settings = environment(deployment)
    assert settings["MLFLOW_S3_ENDPOINT_URL"] == "http://minio:9000"
    assert settings["AWS_ACCESS_KEY_ID"] == "key"


def test_a_deployment_does_not_show_its_password(tmp_path):
    assert "secret" not in repr(Deployment(tmp_path, "h", 0, "postgresql://me:secret@host/runs"))


@pytest.mark.parametrize("password", [None, "", "too short"])
def test_the_first_start_with_authentication_needs_a_password(store, monkeypatch, password):
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    if password is None:
        monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", password)
    line = refused(store, has_auth=True)
    assert "set MLFLOW_AUTH_ADMIN_PASSWORD to a password of 12 characters or more" in line
    assert "too short" not in line


def test_settings_for_authentication_that_are_not_there_are_one_line(store, monkeypatch):
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(store / "nothing.ini"))
    assert "MLFLOW_AUTH_CONFIG_PATH names no file" in refused(store, has_auth=True)


def test_a_password_is_compared_with_its_hash_once_a_minute(store, monkeypatch):
    """Otherwise the settings are MLflow's own; whoever has others keeps them."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    monkeypatch.delenv("MLFLOW_AUTH_CONFIG_PATH", raising=False)
    ours, theirs = configparser.ConfigParser(), configparser.ConfigParser()
    deployment = Deployment(store, "127.0.0.1", 0, has_auth=True)
    ours.read(environment(deployment)["MLFLOW_AUTH_CONFIG_PATH"])
    theirs.read(Path(mlflow.__file__).parent / "server" / "auth" / "basic_auth.ini")
    assert dict(ours["mlflow"]) == dict(theirs["mlflow"]) | {"auth_cache_ttl_seconds": "60"}
    assert "MLFLOW_AUTH_CONFIG_PATH" not in environment(Deployment(store, "127.0.0.1", 0))
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(store / "own.ini"))
    assert environment(deployment)["MLFLOW_AUTH_CONFIG_PATH"] == str(store / "own.ini")


def status(url: str, user: str = "", password: str = "") -> int:
    request = Request(url)
    if user:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def test_with_authentication_it_listens_to_others_and_asks_for_a_password(store, monkeypatch):
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    password = secrets.token_hex()
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", password)
    monkeypatch.delenv("MLFLOW_FLASK_SERVER_SECRET_KEY", raising=False)
    with running_server(store, "0.0.0.0", 0, has_auth=True) as server:
        search = f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert status(search) == 401
        assert status(search, "admin", "password1234") == 401
        assert status(search, "admin", password) == 200
        assert status(search, "admin", "password1234") == 401
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        recorder = connect(server.url, "guarded")
        recorder.open_run("search", kind="search", name="Search")
        recorder.log_file("search", Path(__file__))
        assert recorder.read("search").files == (Path(__file__).name,)
        view_links(server.url, "guarded")
        assert password not in server.log.read_text()
        assert password not in Path(f"/proc/{server.process.pid}/cmdline").read_text()
    key = store / "mlflow-auth.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    # the user is there now: neither the password nor a new key is needed
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD")
    with running_server(store, port=0, has_auth=True) as server:
        search = f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert status(search, "admin", password) == 200
    assert key.read_text() == before


def test_the_command_takes_all_of_it(tmp_path):
    command = [sys.executable, "-m", "mlflow_server", "--store", str(tmp_path)]
    settings = {**os.environ, "ESPALIER_DATABASE": "postgresql://me:secret@127.0.0.1:1/runs"}
    places = ["--artifacts-destination", "gs://bucket", "--auth"]
    for arguments, line in (
        ([], "cannot open the database 'runs'"),
        (["--backend-store-uri", "mysql://me:secret@host/x"], "a database is postgresql://"),
        (["--backend-store-uri", "", *places], "a database is postgresql://"),
    ):
        done = subprocess.run(
            [*command, *arguments], env=settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert line in done.stderr
        assert done.stderr.count("\n") == 1
        assert "secret" not in done.stderr + done.stdout
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == "[]"
