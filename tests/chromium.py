"""Chromium, in which tests look at pages."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")

IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(_PROGRAM is None, reason="there is no chromium here"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="playwright is not installed"
    ),
]
"""Marks of the tests that do."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright."""
    from playwright import sync_api  # noqa: PLC0415 - which need not be installed

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_PROGRAM, args=arguments)
        yield browser
        browser.close()
