"""What a service writes down of requests: those that change something, and those not let in."""

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from search.service.access import audit_log as audit
from search.service.access.audit_log import AUDIT_FILE
from search.service.access.tokens import ROLES

STOP = "/v1/searches/done/stop"


@pytest.fixture(scope="module")
def running(
    serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, patient: None
) -> Iterator[Any]:
    with serve(tmp_path_factory.mktemp("audited"), roles=ROLES) as running:
        running.finish()
        yield running


@pytest.fixture
def audited(running: Any) -> Any:
    """A service with tokens that has written nothing down so far."""
    (running.runs / AUDIT_FILE).unlink(missing_ok=True)
    return running


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every test have its lines, whatever others have had refused."""
    monkeypatch.setattr(audit, "_REFUSED_LINES", type(audit._REFUSED_LINES)(10**6))


def lines(service: Any) -> list[dict[str, Any]]:
    file = service.runs / AUDIT_FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def bearer(service: Any, role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {service.tokens[role]}"}


def test_what_changes_something_is_written_down(audited: Any) -> None:
    audited.ask("DELETE", "/v1/searches/none", headers=bearer(audited, "admin"))
    body = b'{"priority": 1}'
    target = "/v1/searches/done/priority?a=b"
    audited.ask("PUT", target, body, headers=bearer(audited, "admin"))
    first, second = lines(audited)
    assert second.pop("time_ms") >= first.pop("time_ms") > 10**12
    common = {"who": "admin", "address": "127.0.0.1"}
    assert first == common | {"method": "DELETE", "path": "/v1/searches/none", "status": 404}
    assert second == common | {"method": "PUT", "path": "/v1/searches/done/priority", "status": 200}
    assert stat.S_IMODE((audited.runs / AUDIT_FILE).stat().st_mode) == 0o600


def test_who_is_not_let_in_is_written_down_without_the_token(audited: Any) -> None:
    audited.ask("GET", "/v1/searches", headers={"authorization": "Bearer espalier_wrong"})
    audited.ask("POST", STOP, headers=bearer(audited, "reader"))
    audited.ask("GET", "/v1/models", headers={"host": "evil.example"})
    token = audited.tokens["admin"]
    audited.ask("GET", f"/v1/searches/{token}?token={token}")
    found = [(line["who"], line["method"], line["status"]) for line in lines(audited)]
    assert found == [
        *(("", "GET", 401), ("reader", "POST", 403), ("", "GET", 403), ("", "GET", 401)),
    ]
    text = (audited.runs / AUDIT_FILE).read_text()
    assert "wrong" not in text
    assert not any(secret in text for secret in audited.tokens.values())


def test_what_is_only_looked_at_is_not(audited: Any) -> None:
    for target in ("/v1/searches", "/v1/searches/none", "/livez", "/metrics"):
        audited.ask("GET", target, headers=bearer(audited, "reader"))
    audited.ask("POST", "/v1/preflight", b"{", headers=bearer(audited, "writer"))
    assert lines(audited) == []


def test_a_path_cannot_forge_a_line(audited: Any) -> None:
    audited.ask("DELETE", "/v1/searches/x%0a%7b%22who%22%3a%22me%22%7d" + "y" * 999)
    (line,) = lines(audited)
    assert line["path"].startswith('/v1/searches/x\n{"who":"me"}yyy')
    assert len(line["path"]) == 300


def test_requests_in_vain_do_not_fill_the_disk(
    audited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_REFUSED_LINES", type(audit._REFUSED_LINES)(5, 999))
    for _ in range(20):
        audited.ask("POST", STOP)
    assert len(lines(audited)) == 5
    audited.ask(
        "PUT", "/v1/searches/done/priority", b'{"priority": 1}', headers=bearer(audited, "admin")
    )
    assert lines(audited)[-1]["status"] == 200


def test_a_full_disk_fails_no_request(
    audited: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a line that was written then is cut off, and the next one is whole."""
    write = os.write
    put = ("PUT", "/v1/searches/done/priority", b'{"priority": 1}')
    audited.ask(*put, headers=bearer(audited, "admin"))

    def half(descriptor: int, content: bytes) -> int:
        if b'"status"' not in content:
            return write(descriptor, content)
        write(descriptor, content[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow_server.append_log.os.write", half)
        for _ in range(3):
            assert audited.ask(*put, headers=bearer(audited, "admin")).status == 200
    assert sum("lacks lines" in record.message for record in caplog.records) == 1
    audited.ask(*put, headers=bearer(audited, "admin"))
    assert [line["status"] for line in lines(audited)] == [200, 200]


def test_a_link_is_not_written_through(audited: Any) -> None:
    target = audited.home / "elsewhere"
    target.write_text("precious")
    (audited.runs / AUDIT_FILE).symlink_to(target)
    assert audited.ask("POST", STOP, headers=bearer(audited, "admin")).status == 409
    assert target.read_text() == "precious"
