"""Errors that nobody foresaw."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from pruning.errors import ConfigError, LostProcessError
from search.system.error_log import as_error


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_one_line_tells_what_failed_and_a_file_the_rest(tmp_path: Path, capfd) -> None:
    def fail() -> None:
        with as_error(LostProcessError, "Ray does not start here"):
            os.write(2, b"49 lines in C++\n")
            raise RuntimeError("a reason\nand more")

    with pytest.raises(LostProcessError) as caught:
        fail()
    message = str(caught.value)
    found = re.fullmatch(r"Ray does not start here: a reason \(details are in (.+)\)", message)
    assert found is not None
    text = Path(found[1]).read_text()
    assert text.startswith("49 lines in C++\nTraceback")
    assert text.endswith("RuntimeError: a reason\nand more\n")
    assert [*tmp_path.iterdir()] == [Path(found[1])]
    assert capfd.readouterr().err == ""


def test_where_all_goes_well_nothing_is_kept(tmp_path: Path, capfd) -> None:
    with as_error(ConfigError, "never"):
        os.write(2, b"noise\n")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"
    assert [*tmp_path.iterdir()] == []


def test_without_a_folder_for_files_the_line_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with (
        pytest.raises(ConfigError, match=r"^it fails: a reason$"),
        as_error(ConfigError, "it fails"),
    ):
        raise RuntimeError("a reason")
