"""Searches as processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from serving import eventually

from pruning.errors import ServiceError
from search.service.queue.launcher import last_refusal, process_exit
from search.service.queue.subprocess_launcher import SubprocessLauncher
from search.service.service_config import SECRET_VARIABLES
from search.storage.folder_lock import FolderLock, is_held, lock_holder
from search.storage.layout import LOG_FILE
from search.system.exit_status import EXIT_LOST, NOT_NOW, THIS_TIME, UNFORESEEN
from search.system.process_identity import alive, tag

SLEEPER = "import time; print('begun', flush=True); time.sleep(60)"


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SubprocessLauncher:
    """One whose processes run the script of the test in place of a search."""

    def arguments(search_id: str, runs: Path, url: str, further: object) -> list[str]:
        return ["-c", (runs / "script.py").read_text(), search_id, str(runs)]

    monkeypatch.setattr("search.service.queue.subprocess_launcher.resume_arguments", arguments)
    (tmp_path / "s").mkdir()
    return SubprocessLauncher(tmp_path, "")


def script(tmp_path: Path, text: str) -> None:
    (tmp_path / "script.py").write_text(text)


def process_end(launcher: SubprocessLauncher, handle: str):
    return eventually(lambda: launcher.poll(handle), 30, "the process ends")


def test_a_search_that_is_refused_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    launcher = SubprocessLauncher(tmp_path, "")
    found = process_end(launcher, launcher.launch("empty", 1))
    assert found.cause == "its process ended with status 2"
    assert found.refusal.startswith(f"{tmp_path / 'empty'} holds no search")
    assert (tmp_path / "empty" / LOG_FILE).read_text().startswith("espalier: ")


@pytest.mark.parametrize(
    ("text", "why", "refusal"),
    [
        ("print('espalier: bad')", "its process ended with status 0", ""),
        ("print('espalier: bad'); raise SystemExit(2)", "status 2", "bad"),
        ("print('something'); raise SystemExit(2)", "status 2", ""),
        ("print('espalier: later'); raise SystemExit(75)", "status 75", "later"),
        (f"print('espalier: {THIS_TIME}killed'); raise SystemExit({EXIT_LOST})", "killed", ""),
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL", ""),
    ],
)
def test_how_a_process_ended(
    launcher: SubprocessLauncher, tmp_path: Path, text: str, why: str, refusal: str
) -> None:
    script(tmp_path, text)
    found = process_end(launcher, launcher.launch("s", 1))
    assert found.cause.endswith(why)
    assert found.refusal == refusal
    assert found.is_temporary == (refusal == "later")


def test_a_search_is_not_given_the_secrets_of_the_service(
    launcher: SubprocessLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRET_VARIABLES:
        monkeypatch.setenv(name, "secret")
    script(tmp_path, "import os; raise SystemExit(2 if 'secret' in os.environ.values() else 0)")
    assert process_end(launcher, launcher.launch("s", 1)).cause == "its process ended with status 0"


def test_interrupting_and_killing(launcher: SubprocessLauncher, tmp_path: Path) -> None:
    script(tmp_path, SLEEPER)
    for end, signal in ((launcher.interrupt, "SIGTERM"), (launcher.kill, "SIGKILL")):
        handle = launcher.launch("s", 1)
        assert launcher.poll(handle) is None
        end(handle)
        assert process_end(launcher, handle).cause == f"its process was ended by {signal}"
        end(handle)  # nothing is left to end


def test_another_service_finds_the_process_and_sees_it_end(
    launcher: SubprocessLauncher, tmp_path: Path
) -> None:
    script(tmp_path, SLEEPER)
    handle = launcher.launch("s", 1)
    again = SubprocessLauncher(tmp_path, "")
    assert again.launch("s", 1) == handle  # by its command line: it holds no lock yet
    assert again.poll(handle) is None
    launcher.kill(handle)
    process_end(launcher, handle)
    found = again.poll(handle)
    assert found is not None
    assert found.cause == "its process ended while nobody looked"


def test_the_process_that_holds_the_folder_is_found_by_its_lock(
    launcher: SubprocessLauncher, tmp_path: Path
) -> None:
    script(tmp_path, "raise SystemExit('another one was started')")
    assert lock_holder(tmp_path / "s") is None
    with FolderLock(tmp_path / "s", "search") as lock:
        lock.acquire()
        assert lock_holder(tmp_path / "s") == psutil.Process()
        assert launcher.launch("s", 1).startswith(f"{os.getpid()}:")
    assert lock_holder(tmp_path / "s") is None
    assert lock_holder(tmp_path / "nowhere") is None


def test_a_number_that_another_process_has_now_is_not_taken_for_it(
    launcher: SubprocessLauncher,
) -> None:
    other = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        earlier = f"{tag(other.pid)}1"
        assert alive(tag(other.pid)) is not None
        assert launcher.poll(earlier) is not None
        launcher.kill(earlier)
        launcher.interrupt(earlier)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_lock_of_a_process_that_left_it_to_a_child_names_nobody(
    launcher: SubprocessLauncher, tmp_path: Path
) -> None:
    """Its number may be an innocent process's by now."""
    with FolderLock(tmp_path / "s", "search") as lock:
        lock.acquire()
        (tmp_path / "s" / ".lock").write_text(f"{os.getpid()}:of another boot")
        assert is_held(tmp_path / "s")
        assert lock_holder(tmp_path / "s") is None
        script(tmp_path, SLEEPER)
        handle = launcher.launch("s", 1)
        assert handle != tag(os.getpid())
        launcher.kill(handle)
        process_end(launcher, handle)


def test_a_child_that_ends_while_it_is_looked_at_keeps_its_status(
    launcher: SubprocessLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may end after its parent has asked for its status and before it is looked for."""
    script(tmp_path, SLEEPER)
    handle = launcher.launch("s", 1)
    with monkeypatch.context() as ended:
        ended.setattr("search.service.queue.subprocess_launcher.alive", lambda _: None)
        assert launcher.poll(handle) is None
    launcher.kill(handle)
    assert process_end(launcher, handle).cause == "its process was ended by SIGKILL"


@pytest.mark.parametrize("text", ["", "x", "1", ":", "99999999999999:1", "1:", "-1:x"])
def test_what_names_no_process_is_none(text: str) -> None:
    assert alive(text) is None


def test_a_process_that_ended_before_it_was_looked_at_is_gone(
    launcher: SubprocessLauncher, tmp_path: Path
) -> None:
    script(tmp_path, "")
    handle = launcher.launch("s", 1)
    launcher._children[int(handle.partition(":")[0])].wait()
    assert alive(handle) is None
    assert launcher.poll(handle) is not None
    assert tag(2**22 + 1) == ""


@pytest.mark.parametrize("status", [None, 75])
def test_what_is_over_later_is_told_from_what_stays(status: int | None) -> None:
    """Also where another service had begun the process, and its status is not known."""
    found = process_exit("why", f"espalier: {NOT_NOW}the disk is full\n", status)
    assert (found.refusal, found.is_temporary) == ("the disk is full", True)
    assert not process_exit("why", "espalier: no such network\n", None).is_temporary
    lost = process_exit("why", f"espalier: {THIS_TIME}Ray does not start\n", status and EXIT_LOST)
    assert (lost.cause, lost.refusal) == ("Ray does not start", "")  # once more, then
    assert process_exit("why", "", 75).is_temporary  # where the disk was too full to say so


def test_a_process_that_cannot_be_started_is_told(
    launcher: SubprocessLauncher, tmp_path: Path
) -> None:
    script(tmp_path, SLEEPER)
    with pytest.raises(ServiceError, match="cannot start a process"):
        launcher.launch("missing", 1)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        *(("", ""), ("a\nespalier: no\n", "no"), ("espalier: no\nmore", ""), ("\n\n", "")),
        ("espalier: no (docs/how-to/budgets.md)", "no"),
        (f"espalier: OSError: oh: {UNFORESEEN}: please report it", ""),
    ],
)
def test_only_the_last_line_refuses(text: str, refusal: str) -> None:
    assert last_refusal(text) == refusal
