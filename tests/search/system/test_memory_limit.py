"""Memory that a process may take is what it was given."""

import resource
import subprocess
import sys

import pytest

from search.system.memory_limit import memory_limited

PROGRAM = """
import torch
from search.system.memory_limit import memory_limited
torch.zeros(1)
for gigabytes, megabytes in ((4, 8000), (4, 100), (None, 5000)):
    with memory_limited(gigabytes):
        try:
            torch.empty(megabytes * 10**6, dtype=torch.uint8)
        except RuntimeError as error:
            print("refused", "allocate" in str(error))
        else:
            print("given")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_what_takes_more_fails_and_the_process_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["refused True", "given", "given"]


def test_the_limit_is_gone_afterwards() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limited(64.0):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        assert 64 * 10**9 <= soft < 128 * 10**9
        with memory_limited(1000.0):  # a stricter one stays
            assert resource.getrlimit(resource.RLIMIT_DATA) == (soft, hard)
        with memory_limited(None):
            assert resource.getrlimit(resource.RLIMIT_DATA) == (soft, hard)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
