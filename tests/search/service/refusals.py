"""What it means that the service refuses something; for the tests of attempts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from search.service.problem_details import MEDIA_TYPE

ID, ARCHITECTURE = "done", "done:a-1"
"""What the service of conftest.py has finished."""


def every_route(service: Any, method: str = "") -> list[tuple[str, str]]:
    """Method and target, with names that there are."""
    names = {"search_id": ID, "architecture_id": ARCHITECTURE, "name": "style.css", "number": "0"}
    return [
        (verb, re.sub(r"{(\w+)}", lambda found: names[found[1]], path))
        for verb, path in service.routes()
        if method in ("", verb)
    ]


def check_refused(answer: Any, *statuses: int, field: str | None = None) -> None:
    """It is refused with one of the statuses, by problem details that a person can read."""
    assert answer.status in statuses, (answer.status, answer.body[:300])
    assert answer.headers["content-type"] == MEDIA_TYPE
    problem = answer.json
    assert problem["status"] == answer.status
    assert problem["title"]
    assert problem["detail"].isprintable()
    assert 8 < len(problem["detail"]) < 1000
    if field is not None:
        assert problem["field"] == field


@contextmanager
def untouched(service: Any) -> Iterator[None]:
    """Nothing is stored, launched or written meanwhile."""
    before = service.trace()
    yield
    assert service.trace() == before
