"""Who may use a service, and what a service refuses to be started with: a line, status 2."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import samples
import sqlalchemy
from samples import Completed
from sqlalchemy import Engine

from pruning.errors import ConfigError, ServiceError
from search.service.access.request_guard import is_loopback
from search.service.access.tokens import (
    ROLES,
    Caller,
    Role,
    Tokens,
    all_tokens,
    are_required,
    create,
    revoke,
)
from search.service.database.connection import open_database, open_service_database
from search.service.mlflow.credentials import PASSWORD_FILE, MlflowCredentials
from search.service.service_config import ServiceConfig


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'records.db'}")
    yield engine
    engine.dispose()


def espalier(*arguments: str | Path, folder: Path) -> Completed:
    """The command line in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return samples.espalier(*arguments)


def check_line(run: Completed, *words: str) -> None:
    """It was refused in one line."""
    assert run.status == 2, run.err
    (line,) = run.err.splitlines()
    assert line.startswith("espalier: ")
    for word in words:
        assert word in line


def found(engine: Engine, token: str) -> Caller | None:
    return Tokens(engine).caller(token)


@pytest.mark.parametrize("role", ROLES)
def test_only_hashes_are_kept(engine: Engine, tmp_path: Path, role: Role) -> None:
    token = create(engine, "ann", role)
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert found(engine, token) == Caller("ann", role, digest)
    assert len(token) > 43  # 32 bytes
    engine.dispose()
    for file in tmp_path.glob("records.db*"):
        assert token.removeprefix("espalier_").encode() not in file.read_bytes()


def test_each_token_is_its_own(engine: Engine) -> None:
    tokens = {name: create(engine, name, "reader") for name in ("ann", "ben.b@c-d", "Ünal")}
    known = Tokens(engine)
    assert len(set(tokens.values())) == len(known) == 3
    names = {name: known.caller(token) for name, token in tokens.items()}
    assert {name: caller.name for name, caller in names.items() if caller} == {
        name: name for name in tokens
    }


@pytest.mark.parametrize("change", ["x", " ", "\n", "A", ""])
def test_a_token_is_right_or_wrong(engine: Engine, change: str) -> None:
    token = create(engine, "ann", "admin")
    known = Tokens(engine)
    assert known.caller(token[:-1] + change) is None or token.endswith(change or "\0")
    assert known.caller(all_tokens(engine)[0].digest) is None
    assert known.caller("") is None


@pytest.mark.parametrize("name", ["", "a b", "a\nb launch x", "../a", "a" * 61, "a\tb", "a:b"])
def test_a_name_is_a_word(engine: Engine, name: str) -> None:
    with pytest.raises(ServiceError, match="a name has"):
        create(engine, name, "reader")
    if name:
        with pytest.raises(ServiceError, match="a name has"):
            create(engine, "ann", "reader", owner=name)
    assert all_tokens(engine) == []


def test_a_name_has_one_token_for_ever(engine: Engine) -> None:
    """What a name has launched is never another one's."""
    token = create(engine, "ann", "reader")
    with pytest.raises(ServiceError, match="choose another name"):
        create(engine, "ann", "admin")
    revoke(engine, "ann")
    with pytest.raises(ServiceError, match="choose another name"):
        create(engine, "ann", "admin")
    assert found(engine, token) is None


def test_tokens_of_one_owner_launch_for_the_owner(engine: Engine) -> None:
    for name in ("laptop", "server"):
        caller = found(engine, create(engine, name, "writer", owner="ann"))
        assert caller is not None
        assert caller.name == "ann"
        assert caller.may_change("ann")
        assert not caller.may_change("")


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_days_are_a_number_of_them(engine: Engine, days: float) -> None:
    with pytest.raises(ServiceError, match="expires after days"):
        create(engine, "ann", "reader", days=days)


def test_a_token_expires(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    token = create(engine, "ann", "reader", days=2)
    known = Tokens(engine)
    caller = known.caller(token)
    assert caller is not None
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 2 * 86_400 * 10**9)
    assert known.caller(token) is None
    assert not known.is_still_valid(caller)
    assert len(known) == 0


def test_a_revoked_token_counts_no_more(engine: Engine) -> None:
    first, second = create(engine, "ann", "reader"), create(engine, "ben", "writer")
    known = Tokens(engine)
    caller = known.caller(first)
    assert caller is not None
    assert known.is_still_valid(caller)
    revoke(engine, "ann")
    known.refresh()
    assert known.caller(first) is None
    assert not known.is_still_valid(caller)
    assert known.caller(second) is not None
    assert are_required(engine)
    for name in ("ann", "carl"):
        with pytest.raises(ServiceError, match="there is no token called"):
            revoke(engine, name)


def test_tokens_are_asked_for_once_there_was_one(engine: Engine) -> None:
    """A service does not open up because the last one was revoked."""
    assert not are_required(engine)
    create(engine, "ann", "reader")
    revoke(engine, "ann")
    assert are_required(engine)


def test_tokens_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    """Of 24, 16 were lost."""
    engine = open_service_database(ServiceConfig(runs=str(tmp_path)), may_be_new=True)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: create(engine, f"n{n}", "reader"), range(24)))
    known = Tokens(engine)
    assert all(known.caller(token) is not None for token in made)
    engine.dispose()


def test_what_a_database_does_not_say_is_not_allowed(engine: Engine) -> None:
    token = create(engine, "ann", "reader")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE tokens SET role = 'emperor'"))
    caller = found(engine, token)
    assert caller is not None
    assert caller.role == "reader"


def test_tokens_stay_known_while_the_database_is_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can have revoked one meanwhile; and they are read again as soon as it is back."""
    monkeypatch.setattr("search.service.access.tokens._REFRESH_SECONDS", 0.01)
    token = create(engine, "ann", "reader")
    known = Tokens(engine)
    failed = threading.Event()
    refresh = known.refresh

    def noted() -> None:
        try:
            refresh()
        except Exception:
            failed.set()
            raise

    monkeypatch.setattr(known, "refresh", noted)

    async def follow() -> None:
        task = asyncio.create_task(known.refresh_forever())
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("ALTER TABLE tokens RENAME TO gone"))
        while not failed.is_set():
            await asyncio.sleep(0.01)
        assert known.caller(token) is not None
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("ALTER TABLE gone RENAME TO tokens"))
        revoke(engine, "ann")
        while known.caller(token) is not None:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(follow(), 60))


# ---- the command line


def test_a_token_is_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    where = ("--runs", tmp_path / "runs")
    run = espalier("token", "create", "ann", "--role", "reader", *where, folder=tmp_path)
    assert run.status == 0, run.err
    token = run.out.strip()
    assert token not in run.err
    config = ServiceConfig(runs=str(tmp_path / "runs"))
    engine = open_service_database(config, may_be_new=False)
    assert found(engine, token) is not None
    check_line(espalier("token", "create", "ann", *where, folder=tmp_path), "another name")
    told = espalier("token", "list", *where, folder=tmp_path).out
    assert told.split() == ["ann", "reader", "ann", "for", "good"]
    assert espalier("token", "revoke", "ann", *where, folder=tmp_path).status == 0
    assert found(engine, token) is None
    engine.dispose()


def test_records_are_for_their_owner_alone(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    engine = open_service_database(ServiceConfig(runs=str(runs)), may_be_new=True)
    create(engine, "ann", "reader")
    files = list(runs.glob("service.db*"))
    assert len(files) >= 1
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    engine.dispose()
    (runs / "service.db").chmod(0o644)
    open_service_database(ServiceConfig(runs=str(runs)), may_be_new=False).dispose()
    assert (runs / "service.db").stat().st_mode & 0o777 == 0o600


def test_records_that_are_not_there_are_told(tmp_path: Path) -> None:
    for words in (("list",), ("revoke", "ann")):
        run = espalier("token", *words, "--runs", "none", folder=tmp_path)
        check_line(run, "no service has its records")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    check_line(espalier("token", "create", "a", "--runs", "file", folder=tmp_path), "cannot write")


# ---- MLflow's password


def test_mlflow_has_a_password_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    credentials = MlflowCredentials.of_own_server(tmp_path)
    assert MlflowCredentials.of_own_server(tmp_path) == credentials
    assert len(credentials.password) >= 32
    assert credentials.password not in repr(credentials)
    assert (tmp_path / PASSWORD_FILE).stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "an operator's own")
    assert MlflowCredentials.of_own_server(tmp_path).basic_auth == ("admin", "an operator's own")


def test_a_password_that_is_not_known_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    (tmp_path / "basic_auth.db").touch()
    with pytest.raises(ServiceError, match="MLFLOW_AUTH_ADMIN_PASSWORD"):
        MlflowCredentials.of_own_server(tmp_path)
    assert not (tmp_path / PASSWORD_FILE).exists()


@pytest.mark.parametrize("url", ["http://ann:hidden@mlflow", "https://hidden@mlflow:5000/x"])
def test_a_password_in_an_address_is_refused(tmp_path: Path, url: str) -> None:
    run = served(tmp_path, "--mlflow-url", url)
    check_line(run, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    assert "hidden" not in run.err


# ---- what a service is not started with


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def served(folder: Path, *arguments: str | Path) -> Completed:
    """`espalier serve` that comes to nothing: what was in the folder is all there is."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = espalier("serve", "--port", "0", *arguments, folder=folder)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    return run


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_others_are_let_in_with_tokens_only(tmp_path: Path, host: str) -> None:
    check_line(served(tmp_path, "--host", host), "without tokens", "token create")


def test_a_taken_port(tmp_path: Path, taken: int) -> None:
    check_line(served(tmp_path, "--port", str(taken)), str(taken), "--port")


def test_a_token_that_was_revoked_lets_nobody_else_in(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    engine = open_service_database(ServiceConfig(runs=str(runs)), may_be_new=True)
    create(engine, "ann", "admin")
    revoke(engine, "ann")
    engine.dispose()
    run = espalier("serve", "--port", "0", "--host", "0.0.0.0", "--runs", runs, folder=tmp_path)
    check_line(run, "without tokens", "token create")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "postgresql://ann:hidden@127.0.0.1:1/x",
            "sqlite:////none/such/service.db",
            "mysql://x/y",
        ),
        *("nonsense", "sqlite:////etc/passwd"),
    ],
)
def test_a_database_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    run = served(tmp_path, "--database", url)
    check_line(run, "database")
    assert "hidden" not in run.err


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://ann:hidden@db/x", "postgresql://ann:hid/den@db/x"),
        *("postgresql://ann@db/x?password=hidden", "nonsense://:hidden@db"),
    ],
)
def test_a_password_of_the_database_comes_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line others would see it."""
    with pytest.raises(ConfigError, match="ESPALIER_SERVICE_DATABASE") as caught:
        ServiceConfig(database=url)
    assert "hid" not in str(caught.value)
    monkeypatch.setenv("ESPALIER_SERVICE_DATABASE", url)
    assert ServiceConfig().database_url == url
    for fine in ("sqlite:///a:b@c.db", "postgresql://ann@db:5432/x", "postgresql:///x"):
        assert ServiceConfig(database=fine).database_url == fine


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'newer.db'}"
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    check_line(served(tmp_path, "--database", url), "9999", "use the version that made it")


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False)),
    ],
)
def test_what_only_this_machine_reaches(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here
