"""An S3 for tests, served from memory by a thread of the test run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest


@contextmanager
def running_s3() -> Iterator[str]:
    """An S3 without a bucket, as long as the block runs: its address, `127.0.0.1:PORT`."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"{host}:{port}"
        # The servers of a process share their buckets, which outlive a server.
        httpx.post(f"http://{address}/moto-api/reset").raise_for_status()
        yield address
    finally:
        server.stop()
