"""Who may use a service, and what a service refuses to be started with: a line, status 2."""

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from pruning.errors import ServiceError
from search.service.database import open_database
from search.service.guards import is_loopback
from search.service.tokens import Caller, Role, Tokens, create


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "tokens"


def espalier(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


def check_line(run: subprocess.CompletedProcess[str], *words: str) -> None:
    """It was refused in one line."""
    assert run.returncode == 2, run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("espalier: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("role", ["read", "launch"])
def test_only_hashes_are_kept(file: Path, role: Role) -> None:
    token = create(file, "ann", role)
    content = file.read_text()
    assert content == f"ann {role} {hashlib.sha256(token.encode()).hexdigest()}\n"
    assert all(token not in path.read_text() for path in file.parent.iterdir())
    assert token.removeprefix("espalier_") not in content
    assert file.stat().st_mode & 0o777 == 0o600
    assert Tokens(file).caller(token) == Caller("ann", role)
    assert len(token) > 43  # 32 bytes


def test_each_token_is_its_own(file: Path) -> None:
    tokens = {name: create(file, name, "read") for name in ("ann", "ben.b@c-d", "Ünal")}
    known = Tokens(file)
    assert len(set(tokens.values())) == len(known) == 3
    assert {name: known.caller(token) for name, token in tokens.items()} == {
        name: Caller(name, "read") for name in tokens
    }


@pytest.mark.parametrize("change", ["x", " ", "\n", "A", ""])
def test_a_token_is_right_or_wrong(file: Path, change: str) -> None:
    token = create(file, "ann", "launch")
    known = Tokens(file)
    assert known.caller(token[:-1] + change) is None or token.endswith(change or "\0")
    assert known.caller(file.read_text().split()[-1]) is None
    assert known.caller("") is None


@pytest.mark.parametrize("name", ["", "a b", "a\nb launch x", "../a", "a" * 61, "a\tb", "a:b"])
def test_a_name_is_a_word(file: Path, name: str) -> None:
    with pytest.raises(ServiceError, match="a name has"):
        create(file, name, "read")
    assert not file.exists()


def test_a_name_has_one_token(file: Path) -> None:
    create(file, "ann", "read")
    before = file.read_text()
    with pytest.raises(ServiceError, match="remove its line first"):
        create(file, "ann", "launch")
    assert file.read_text() == before


def test_a_line_without_an_end_is_no_trap(file: Path) -> None:
    first = create(file, "ann", "read")
    file.write_text(file.read_text().rstrip("\n"))
    second = create(file, "ben", "launch")
    assert Tokens(file).caller(first) == Caller("ann", "read")
    assert Tokens(file).caller(second) == Caller("ben", "launch")


def test_removing_a_line_counts_at_once(file: Path) -> None:
    first, second = create(file, "ann", "read"), create(file, "ben", "launch")
    known = Tokens(file)
    assert known.caller(first) is not None
    times = file.stat()
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # within a tick of the clock
    assert known.caller(first) is None
    assert known.caller(second) == Caller("ben", "launch")


@pytest.mark.parametrize(
    "content",
    [
        *(b"ann launch", b"ann launch abc", b"ann boss " + b"a" * 64, b"\xff\xfe\x00"),
        *(b"a b c d", b"ann read " + b"z" * 64, b"ann read " + "ä".encode() * 64),
    ],
)
def test_a_damaged_file_lets_nobody_in(file: Path, content: bytes) -> None:
    token = create(file, "ann", "launch")
    known = Tokens(file)
    whole = file.read_bytes()
    file.write_bytes(whole + content + b"\n")
    assert known.caller(token) is None
    with pytest.raises(ServiceError, match="is damaged"):
        Tokens(file)
    file.write_bytes(whole)
    assert known.caller(token) == Caller("ann", "launch")
    file.unlink()
    assert known.caller(token) is None


# ---- the command line


def test_a_token_is_shown_once(file: Path, tmp_path: Path) -> None:
    arguments = ("token", "create", "ann", "--role", "read", "--tokens", file)
    run = espalier(*arguments, folder=tmp_path)
    assert run.returncode == 0
    assert Tokens(file).caller(run.stdout.strip()) == Caller("ann", "read")
    assert run.stdout.strip() not in run.stderr
    check_line(espalier(*arguments, folder=tmp_path), "remove its line first")


def test_a_file_that_cannot_be_is_told(tmp_path: Path) -> None:
    check_line(espalier("token", "create", "a", "--tokens", tmp_path, folder=tmp_path), "write")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    run = espalier("token", "create", "a", "--tokens", "binary", folder=tmp_path)
    check_line(run, "is damaged")
    assert (tmp_path / "binary").read_bytes() == b"\xff\xfe"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def served(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
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


def test_a_file_of_tokens_that_is_missing_or_damaged(tmp_path: Path) -> None:
    check_line(served(tmp_path, "--tokens", "none"), "cannot be read", "token create")
    (tmp_path / "tokens").write_text("ann launch abc\n")
    check_line(served(tmp_path, "--tokens", "tokens"), "is damaged")
    (tmp_path / "tokens").write_bytes(b"\xff")
    check_line(served(tmp_path, "--tokens", "tokens"), "is damaged")


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
    assert "hidden" not in run.stderr


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
