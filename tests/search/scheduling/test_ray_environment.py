"""What a Ray finds around it, without starting one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pruning.errors import ConfigError
from search.scheduling import ray_environment
from search.scheduling.ray_environment import (
    cluster_token,
    give_own_token,
    joining_soon_or_never,
    missing_variables,
    own_folder,
)
from search.storage.folder_lock import LOCK_FILE, FolderLock


@pytest.fixture(autouse=True)
def _no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without a token, and none in the environment."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def write_token(file: Path, token: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{token}\n")


def test_a_clusters_token_is_looked_for_where_ray_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster_token() == ""
    write_token(tmp_path / "home" / ".ray" / "auth_token", "of the home")
    assert cluster_token() == "of the home"
    write_token(tmp_path / "elsewhere", "of the path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert cluster_token() == "of the path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the variable")
    assert cluster_token() == "of the variable"


def test_a_token_that_is_there_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray by itself sends none to an address that it is given."""
    assert "RAY_AUTH_MODE" not in missing_variables()
    write_token(tmp_path / "home" / ".ray" / "auth_token", "a token")
    assert missing_variables()["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE" not in missing_variables()


def test_what_somebody_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "7")
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
    missing = missing_variables()
    assert "RAY_worker_niceness" not in missing
    assert missing["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


@pytest.mark.parametrize(("chosen", "inside"), [(None, "4"), ("90", "90")])
def test_a_cluster_that_refuses_the_token_is_given_up_in_seconds(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, inside: str
) -> None:
    name = "RAY_gcs_server_port_wait_time_s"
    monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(name, chosen)
    with joining_soon_or_never():
        assert os.environ[name] == inside
    assert os.environ.get(name) == chosen


def test_a_ray_of_ones_own_has_a_token_that_no_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a cluster's")
    give_own_token()
    assert "RAY_AUTH_MODE" not in os.environ  # which is how Ray turns it on
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    give_own_token()
    assert os.environ["RAY_AUTH_TOKEN"] == token
    assert [*(tmp_path / "home").iterdir()] == []


def test_its_files_are_nobody_elses_and_go_with_it() -> None:
    with own_folder() as folder:
        folder.mkdir(mode=0o777)  # as Ray makes it
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        (folder / "log").write_text("of Ray")
    assert not folder.parent.exists()


def test_what_a_killed_process_left_goes_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    left, new, held, other = (tmp_path / "t" / name for name in ("espa", "espb", "espc", "x"))
    for folder in (left, new, held, other):
        folder.mkdir(parents=True)
        (folder / LOCK_FILE).touch()
        if folder != new:
            os.utime(folder / LOCK_FILE, (0, 0))
    (tmp_path / "t" / "espresso").mkdir()  # somebody else's, without a lock
    monkeypatch.setattr(ray_environment, "_LONGEST_FOLDER", 1000)
    with FolderLock(held, "Ray") as lock:
        lock.acquire()
        os.utime(held / LOCK_FILE, (0, 0))
        with own_folder() as folder:
            assert folder.parent.parent == tmp_path / "t"
            assert not left.exists()
            assert all(path.exists() for path in (new, held, other, tmp_path / "t" / "espresso"))


def test_its_sockets_have_room_below_any_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    for tmpdir in (str(long), "/not/there", ""):
        monkeypatch.setenv("TMPDIR", tmpdir)
        with own_folder() as folder:
            name = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
            assert len(str(folder / name)) <= 107
    assert [*long.iterdir()] == []


def test_without_such_a_folder_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_environment, "_LONGEST_FOLDER", 5)
    expected = "short path: make /tmp writable, or set TMPDIR"
    with pytest.raises(ConfigError, match=expected), own_folder():
        pass
