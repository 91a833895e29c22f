"""A password that a process finds in a file instead of in its environment."""

import os

import pytest

from mlflow_server import TrackingError
from mlflow_server.credentials_file import (
    CREDENTIALS_VARIABLE,
    PASSWORD,
    USER,
    take_credentials,
    write_credentials,
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    file = tmp_path / "credentials"
    for name in (USER, PASSWORD):
        monkeypatch.setenv(name, "of another server")  # and is put back after the test
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(file))
    return file


def test_what_is_written_is_taken(file):
    write_credentials(file, "ann", "first")
    write_credentials(file, "ann", "50% ü")
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    take_credentials()
    assert (os.environ[USER], os.environ[PASSWORD]) == ("ann", "50% ü")


def test_without_a_file_the_environment_stays(file, monkeypatch):
    monkeypatch.delenv(CREDENTIALS_VARIABLE)
    take_credentials()
    assert os.environ[PASSWORD] == "of another server"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"MLFLOW_TRACKING_USERNAME": "ann"}'])
def test_a_file_that_cannot_be_read_is_told_in_one_line(file, content):
    if content is not None:
        file.write_text(content)
    with pytest.raises(TrackingError, match=CREDENTIALS_VARIABLE) as caught:
        take_credentials()
    assert "\n" not in str(caught.value)
    assert os.environ[PASSWORD] == "of another server"
