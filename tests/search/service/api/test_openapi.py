"""The API does what its description says: requests made from it, good and bad, find no way out."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, settings

from search.service.api.app import ROUTERS

with warnings.catch_warnings():  # of what it imports itself
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis import checks as all_checks

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:schemathesis")

NAMES = {"search_id": "done", "architecture_id": "done:a-1", "number": 0}
all_checks.load_all_checks()
CHECKS = [
    all_checks.not_a_server_error,
    *(
        all_checks.CHECKS.get_one(name)
        for name in (
            *(
                "status_code_conformance",
                "content_type_conformance",
                "response_headers_conformance",
            ),
            *("response_schema_conformance", "negative_data_rejection", "unsupported_method"),
            *("use_after_free", "ensure_resource_availability", "allow_header_conformance"),
        )
    ),
]
"""All but those of which tokens (tests of `access/`) and meaningless settings are the reason."""


@pytest.fixture(scope="module")
def reached(service: Any) -> Callable[..., Any]:
    """The app under the name that it answers to, with its lifespan left to the fixture."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        await service.app({**scope, "headers": [(b"host", b"127.0.0.1"), *others]}, receive, send)

    return app


@pytest.fixture(scope="module")
def description(reached: Any, service: Any) -> Any:
    service.ask("GET", "/openapi.json", timeout=120)  # imports what settings are made of
    return schemathesis.openapi.from_asgi("/openapi.json", reached)


OPERATIONS = [
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and route.include_in_schema
    for method in sorted(route.methods)
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_described(
    description: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = description[path][method]
    if mode is GenerationMode.NEGATIVE and not _has_input(operation):
        return

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answers(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    answers()


def _has_input(operation: Any) -> bool:
    return bool(list(operation.iter_parameters()) or list(operation.body))


def test_what_there_is_is_as_described(description: Any, service: Any) -> None:
    """With names that there are, every operation that changes nothing succeeds."""
    paths = set()
    for method, path in OPERATIONS:
        if method == "GET":
            operation = description[path][method]
            names = {name: value for name, value in NAMES.items() if name in operation.path}
            response = operation.Case(path_parameters=names).call_and_validate(
                checks=CHECKS, timeout=60
            )
            is_there = operation.path.rsplit("/", 1)[-1] != "run"  # there is no MLflow
            assert response.status_code == (200 if is_there else 404), operation.path
            paths.add(operation.path)
    assert paths >= {path for method, path in service.routes() if method == "GET" and "v1" in path}
