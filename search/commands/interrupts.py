"""Ctrl-C, and what stands for it: one line on what is kept, and one exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from search.system.exit_status import EXIT_INTERRUPTED


@contextmanager
def ending_on_interrupt(message: str = "") -> Iterator[None]:
    """Ends the process with status 130 if the block is interrupted, after printing the message."""
    try:
        yield
    except KeyboardInterrupt:
        if message:
            click.echo(f"\n{message}", err=True)
        sys.exit(EXIT_INTERRUPTED)


def interrupt_on_signals() -> None:
    """Treat SIGTERM and SIGHUP, as machines and terminals send them, like Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
