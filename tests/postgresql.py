"""A PostgreSQL server for tests, from Debian's package, as a process of the test run."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "correct horse/battery"
QUOTED = "correct%20horse%2Fbattery"


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server of our own, with one user who has a password."""

    port: int
    log: Path

    def url(self, password: str = QUOTED, name: str = "espalier") -> str:
        return f"postgresql://espalier:{password}@127.0.0.1:{self.port}/{name}"

    def make_database(self, name: str) -> None:
        """A new, empty one."""
        import psycopg2  # noqa: PLC0415 - may be missing, and then nothing here runs

        deadline = time.monotonic() + 30
        while True:
            try:
                connection = psycopg2.connect(self.url(name="postgres"))
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()


def postgres_binary(name: str) -> str | None:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(places[0]) if places else None)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A server until the end of the block; the test is skipped where there can be none."""
    initdb, postgres = postgres_binary("initdb"), postgres_binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed here")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    if os.geteuid() == 0 and not any(user.pw_name == "postgres" for user in pwd.getpwall()):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    # Not below pytest's own folder, which only its owner may enter.
    folder = Path("/tmp") / f"espalier-postgres-{secrets.token_hex(4)}"
    folder.mkdir()
    # PostgreSQL refuses to run as root.
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, **user)
    try:
        (folder / "password").write_text(PASSWORD)
        os.chmod(folder / "password", 0o644)
        options = ["-A", "scram-sha-256", "-U", "espalier", "--pwfile", str(folder / "password")]
        subprocess.run(
            [initdb, "-D", str(folder / "data"), "-N", *options],
            cwd=folder,
            check=True,
            capture_output=True,
            **user,
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(postgres, "-D", str(folder / "data"), "-F"),
                    *("-h", "127.0.0.1", "-p", str(port), "-k", str(folder)),
                ],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                **user,
            )
        try:
            found = Cluster(port, log)
            found.make_database("espalier")
            yield found
        finally:
            process.send_signal(signal.SIGINT)  # it waits for no client then
            process.wait(60)
    finally:
        shutil.rmtree(folder)
