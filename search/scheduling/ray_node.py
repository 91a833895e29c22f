"""The program that keeps a Ray: it starts one, prints where it is, and lives until its input ends.

    python ray_node.py SETTINGS     # of ray.init, as JSON

Printed is one line of JSON: `address`, or `error`, why there is none. It leads a process group
in which all processes of that Ray are but its workers, and which it ends when its input ends, as it
does when who started it is killed. Little but Ray is imported: nothing else has to be.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

_ATTEMPTS = 3
"""At a start that Ray itself gives up after half a minute: a busy machine may take longer."""

_OF_CLUSTERS = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods that start Ray's API server, its autoscaler and its log monitor.

Nothing here uses these processes, and `ray.init` waits for the first."""


def main() -> None:
    """See above."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray's own words are no answers
    try:
        _leave_out(_OF_CLUSTERS)
        answer = {"address": _started(json.loads(sys.argv[1]))}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)  # all of this Ray: by themselves some would stay for a minute


def _leave_out(methods: Sequence[str]) -> None:
    """Let Ray start without what these methods of its node start; there is no public setting."""
    from ray._private.node import Node  # noqa: PLC0415 - as in `_started`

    for method in methods:
        setattr(Node, method, lambda *_, **__: None)


def _started(settings: dict[str, Any]) -> str:
    """Where the Ray is that was started so."""
    import ray  # noqa: PLC0415 - whatever is wrong with it is told as an answer

    attempts = 0
    while True:
        attempts += 1
        try:
            context = ray.init(
                address="local",  # or Ray would join any cluster that runs on this machine
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                **settings,
            )
        except Exception as error:
            if "timed out during startup" not in str(error) or attempts == _ATTEMPTS:
                raise
            _end_children()
        else:
            return str(context.address_info["gcs_address"])


def _end_children() -> None:
    """End what an attempt has begun: it would keep the machine busy."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main()
