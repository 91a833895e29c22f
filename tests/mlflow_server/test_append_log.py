"""Lines that are whole or not there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_server.append_log import _BLOCK, AppendLog, cut_torn_line, whole_lines


@contextmanager
def opened(file: Path) -> Iterator[AppendLog]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield AppendLog(descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_lines_come_back_with_the_byte_behind_each(file: Path) -> None:
    with opened(file) as log:
        ends = [log.append({"n": n}) for n in range(3)]
    assert [end for _, end in whole_lines(file)] == ends
    assert [line for line, _ in whole_lines(file, ends[0])] == [b'{"n":1}\n', b'{"n":2}\n']
    assert ends[-1] == file.stat().st_size


@pytest.mark.parametrize("torn", [b"x", b"x" * (_BLOCK - 1), b"x" * 3 * _BLOCK])
@pytest.mark.parametrize("whole", [b"", b"{}\n", b"\n" * _BLOCK])
def test_what_is_torn_is_not_read_and_cut_off(file: Path, whole: bytes, torn: bytes) -> None:
    file.write_bytes(whole + torn)
    assert b"".join(line for line, _ in whole_lines(file)) == whole
    cut_torn_line(file)
    assert file.read_bytes() == whole


def test_a_missing_file_has_no_lines_and_is_not_made(file: Path) -> None:
    assert list(whole_lines(file)) == []
    cut_torn_line(file)
    assert not file.exists()


def test_a_pipe_or_a_folder_is_refused_at_once(file: Path) -> None:
    os.mkfifo(file)
    for path in (file, file.parent):
        with pytest.raises(OSError, match="not a file"):
            list(whole_lines(path))


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(file: Path) -> None:
    """In a process of its own, whose files may not grow beyond 100 bytes."""
    script = (
        "import os, resource, signal, sys\n"
        "from mlflow_server.append_log import AppendLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "log = AppendLog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND))\n"
        "log.append({'n': 1})\n"
        "try:\n"
        "    log.append({'text': 'x' * 200})\n"
        "except OSError:\n"
        "    log.append({'n': 2})\n"
    )
    subprocess.run([sys.executable, "-c", script, file], check=True)
    assert file.read_bytes() == b'{"n":1}\n{"n":2}\n'
