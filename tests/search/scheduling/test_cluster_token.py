"""A Ray cluster that asks for a token, as a driver elsewhere meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.scheduling.own_ray import own_ray
from search.scheduling.share import Share

pytestmark = pytest.mark.slow

JOINING = """
import sys

from search.scheduling.ray_executor import _ray
from search.scheduling.share import Share

with _ray(sys.argv[1], Share(1, 1, 0.0), 0):
    print("joined")
"""
SEARCH = (
    *("search", "--budget=flops=10%", "--trials=1", "--limit-train=100", "--epochs=1"),
    *("--fine-tune-epochs=1", "--scratch-epochs=1", "--device=cpu", "--name=s"),
)


@pytest.fixture
def address() -> str:
    """Of a cluster with a token; that of this process, which has one of its own."""
    return own_ray(Share(1, 1, 0.0)).address()


def run(*command: str, folder: Path, token: str) -> subprocess.CompletedProcess[str]:
    """By a process of its own: Ray reads the token once in the life of one."""
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_token_that_is_refused_is_told_in_a_line(address: str, tmp_path: Path) -> None:
    right = os.environ["RAY_AUTH_TOKEN"]
    joined = run("-c", JOINING, address, folder=tmp_path, token=right)
    assert (joined.stdout, joined.stderr) == ("joined\n", "")
    refused = run(
        *("-m", "search.cli", *SEARCH, f"--ray-address={address}"),
        folder=tmp_path,
        token=right[::-1],
    )
    assert refused.returncode == 2, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"espalier: no Ray cluster answers at {address}, or not to this token")
