"""Ports for servers in other processes, and for those that are started again on the same one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_PORTS = range(10_000, 32_000)
"""Below those that the system gives to connections: nobody is given one of them meanwhile."""


def free_port() -> int:
    """One that nobody listens on; another process that asks hardly comes to the same."""
    generator = random.SystemRandom()
    while True:
        port = generator.choice(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
