"""What surrounds a service asks of it: orchestrators, Prometheus, pages of other sites."""

from pathlib import Path
from typing import Any

import pytest
from refusals import check_refused

from search.service.api.app import create_app
from search.service.database.idempotency import IdempotencyKey

PROBES = ("/livez", "/healthz", "/readyz", "/metrics")
POD = {"host": "10.1.2.3:8000"}
TOOLS = "https://tools.example"


@pytest.mark.parametrize("path", PROBES)
def test_probes_are_answered_under_any_address(service: Any, path: str) -> None:
    assert service.ask("GET", path, headers=POD).status in (200, 503)
    check_refused(service.ask("GET", "/v1/searches", headers=POD), 403)


def test_alive_is_told_whatever_is_away(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("asked for")

    monkeypatch.setattr(service.components.database, "session", fail)
    answer = service.ask("GET", "/livez")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.fixture
def resting(service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The service, while nothing is taken from its queue."""
    monkeypatch.setattr(service.components.dispatcher, "step", lambda: None)
    return service


def test_the_queue_is_measured(resting: Any) -> None:
    def measured() -> dict[str, float]:
        lines = resting.ask("GET", "/metrics").body.decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("espalier_"): float(value) for name, value in pairs}

    before = measured()
    assert before["queue_oldest_seconds"] == 0
    assert before["disk_free_bytes"] > 0
    assert before["streams"] == before["preflights_waiting"] == before["exports_waiting"] == 0
    searches = resting.components.searches
    searches.add("waits", {}, key=IdempotencyKey("", "", ""), is_taken=lambda _: False, frame={})
    assert measured()['searches{state="queued"}'] == before['searches{state="queued"}'] + 1
    assert 0 <= measured()["queue_oldest_seconds"] < 600
    searches.stop("waits")
    searches.remove("waits")


def test_pages_of_named_sites_may_ask(service: Any) -> None:
    service.app, before = create_app(service.components, origins=(TOOLS,)), service.app
    try:
        answer = service.ask("GET", "/v1/searches", headers={"origin": TOOLS})
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == TOOLS
        asked = {
            "origin": TOOLS,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,idempotency-key",
        }
        assert service.ask("OPTIONS", "/v1/searches", headers=asked).status == 200
        other = service.ask("GET", "/v1/searches", headers={"origin": "https://evil.example"})
        check_refused(other, 403)
        assert "access-control-allow-origin" not in other.headers
    finally:
        service.app = before


def test_the_page_names_nothing_by_an_absolute_path() -> None:
    """Below a prefix that a proxy has put before it, its parts are found all the same."""
    page = Path(__file__).parents[4] / "search" / "service" / "page"
    index = (page / "index.html").read_text()
    assert 'href="/' not in index
    assert 'src="/' not in index
    for script in page.glob("*.js"):
        text = script.read_text()
        assert 'src: "/' not in text
        assert 'from "/' not in text
        assert text.count("fetch(") == (1 if script.name == "api.js" else 0)


def test_a_wish_to_stop_can_be_taken_back(resting: Any) -> None:
    searches = resting.components.searches
    searches.add("hasty", {}, key=IdempotencyKey("", "", ""), is_taken=lambda _: False, frame={})
    path = "/v1/searches/hasty/stop"
    check_refused(resting.ask("DELETE", path), 409)
    resting.components.queue.take_next(1)
    check_refused(resting.ask("DELETE", path), 409)
    assert resting.ask("POST", path).json["is_stopping"] is True
    assert resting.ask("DELETE", path).json["is_stopping"] is False
    check_refused(resting.ask("DELETE", "/v1/searches/nope/stop"), 404)
    resting.components.queue.end("hasty", "stopped")
    check_refused(resting.ask("DELETE", path), 409)
    searches.remove("hasty")
