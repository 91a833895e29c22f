"""What the service must refuse: a list of attempts, most of them on every route there is.

Each gets problem details with a status below 500, and leaves nothing stored, launched or written.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from refusals import ID, check_refused, every_route, untouched

from search.service.access import request_guard as guards
from search.service.access.tokens import ROLES, all_tokens, create, revoke
from search.service.database.search_queue import SearchQueue
from search.service.mlflow import connection
from search.service.mlflow.connection import MlflowConnection

OPEN = {"/", "/assets/{name}", "/livez", "/healthz", "/readyz", "/openapi.json"}
"""Paths that need no token: they tell nothing of any search."""

PROBES = {"/livez", "/healthz", "/readyz", "/metrics"}
"""Paths that are answered under any host name."""

PLACES = (
    *("..", ".", "%2e%2e", "%2e", "../..", "..%2f..", "..%2f..%2f..%2fetc%2fpasswd", "....//"),
    *("%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd", "file:%2f%2f%2fetc%2fpasswd", "~", "-"),
    *("..%5c..", "%5c..%5c", "C:%5cWindows", "%00", "done%00", "done%00.json", "done%0a", "%0d%0a"),
    *("%c0%ae%c0%ae", "%ff%fe", "%252e%252e", "done%2f..%2fdone", "done%2fsearch.json", ".lock"),
    *(
        "done:..",
        "done:.",
        "done:..%2fa-1",
        "done:a-1%2f..",
        "..:a-1",
        "done:%2fetc",
        "done:a-1%00",
    ),
    *(
        "done:..%2f..%2fservice.db",
        "service.db",
        "a" * 400,
        f"done:{'a' * 400}",
        "done%20",
        "$(id)",
    ),
)
"""Instead of a name in a path."""


def test_the_list_of_routes_is_whole(service: Any) -> None:
    described = service.ask("GET", "/openapi.json").json["paths"]
    paths = {path for _, path in service.routes()}
    assert set(described) | OPEN == paths
    assert len(every_route(service)) >= len(paths)


# ---- names in paths


@pytest.mark.parametrize("place", PLACES)
def test_no_name_in_a_path_leads_out(service: Any, place: str) -> None:
    with untouched(service):
        for method, path in service.routes():
            if "{" in path:
                target = re.sub(r"{\w+}", lambda _: place, path)
                check_refused(service.ask(method, target), 404, 405, 422)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW", "CONNECT"])
def test_no_other_method_does_anything(service: Any, method: str) -> None:
    with untouched(service):
        taken = every_route(service, method)
        for _, target in every_route(service):
            if (method, target) not in taken:
                check_refused(service.ask(method, target), 405)


def test_links_out_of_the_folder_of_runs_are_not_followed(service: Any) -> None:
    """A whole folder, one folder in it, and one file."""
    outside = service.home / "outside"
    outside.mkdir(exist_ok=True)
    secret = b'{"verdict": "secret", "event": "secret", "time_ms": 1}\n'
    for name in ("whole", "part", "file"):
        service.finish(name, ["a-1"])
    for file in (p for p in (service.runs / "whole").rglob("*") if p.is_file()):
        file.write_bytes(secret)
    (service.runs / "whole").rename(outside / "whole")
    (service.runs / "whole").symlink_to(outside / "whole")
    (service.runs / "part" / "architectures").rename(outside / "architectures")
    (service.runs / "part" / "architectures").symlink_to(outside / "architectures")
    (outside / "secret").write_bytes(secret)
    linked = ("results.json", "report.html", "events.jsonl", "exports/a-1.onnx")
    for name in (*linked, "architectures/a-1/weights.safetensors"):
        (service.runs / "file" / name).unlink()
        (service.runs / "file" / name).symlink_to(outside / "secret")
    with untouched(service):
        for name in ("whole", "part", "file"):
            for _, target in every_route(service, "GET"):
                answer = service.ask("GET", target.replace(ID, name, 1))
                assert answer.status < 500
                assert b"secret" not in answer.body, (name, target)
                if target.rsplit("/", 1)[-1] in ("weights", "folder"):
                    check_refused(answer, 404)


def test_exports_are_not_written_through_a_link(service: Any) -> None:
    service.finish("export_architecture", ["a-1"])
    outside, exports = service.home / "elsewhere", service.runs / "export_architecture" / "exports"
    exports.rename(outside)
    exports.symlink_to(outside)
    for file in outside.iterdir():
        file.unlink()
    with untouched(service):
        for form in ("onnx", "python"):
            check_refused(
                service.ask("GET", f"/v1/architectures/export_architecture:a-1/{form}"), 404
            )
    assert "export_architecture" not in service.components.exporter.asked


# ---- who asks, and from where

OTHERS = (
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:8001"},
    {"origin": "http://127.0.0.1:8000.evil.example"},
    {"origin": "http://evil@127.0.0.1:8000"},
    {"origin": "127.0.0.1:8000"},
    {"origin": "http://[::1"},
    {"origin": ""},
    {"origin": "null", "host": ""},
    {"host": "evil.example"},
    {"host": "evil.example:8000"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "evil.example@127.0.0.1"},
    {"host": "127.0.0.1/evil.example"},
    {"host": "127.0.0.1#.evil.example"},
    {"host": "[::1"},
    {"host": "169.254.169.254"},
    {"host": ""},
)


@pytest.mark.parametrize("headers", OTHERS, ids=str)
def test_no_other_site_is_served(service: Any, headers: dict[str, str]) -> None:
    with untouched(service):
        for method, target in every_route(service):
            if target in PROBES and "origin" not in headers:
                continue  # under the address of a pod
            body = json.dumps({"data": {"source": "digits"}}).encode()
            check_refused(service.ask(method, target, body, headers=headers), 403)


@pytest.mark.parametrize("name", [b"host", b"origin", b"authorization", b"idempotency-key"])
def test_a_header_that_decides_is_given_once(service: Any, name: bytes) -> None:
    pairs = [(b"host", b"127.0.0.1:8000"), (name, b"127.0.0.1:8000"), (name, b"evil.example")]
    with untouched(service):
        for method, target in every_route(service):
            check_refused(service.ask(method, target, headers=pairs), 400)


@pytest.fixture(scope="module")
def guarded(
    serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, patient: None
) -> Iterator[Any]:
    """A service with a token of each role."""
    with serve(tmp_path_factory.mktemp("guarded"), roles=ROLES) as running:
        running.finish()
        running.finish("written")
        running.put("written", owner="writer")
        yield running


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Bearer espalier_",
            "Basic {admin}",
            "{admin}",
        ),
        *("Bearer {admin}x", "Bearer {admin} {admin}", "Bearer\t{admin}", "Bearer {hash}"),
        *("Bearer ﾿", "Bearer " + "a" * 60_000, "Bearer \x00{admin}"),
    ],
)
def test_nobody_gets_in_without_a_token(guarded: Any, given: str) -> None:
    engine = guarded.components.database.engine
    digest = next(row.digest for row in all_tokens(engine) if row.name == "admin")
    given = given.replace("{admin}", guarded.tokens["admin"]).replace("{hash}", digest)
    with untouched(guarded):
        for (method, target), (_, path) in zip(every_route(guarded), guarded.routes(), strict=True):
            answer = guarded.ask(method, target, headers={"authorization": given} if given else {})
            if path in OPEN:
                assert answer.status in (200, 503)
            else:
                check_refused(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_to_read_changes_nothing(guarded: Any) -> None:
    headers = {"authorization": f"Bearer {guarded.tokens['reader']}"}
    with untouched(guarded):
        for method, target in every_route(guarded):
            answer = guarded.ask(method, target, b"{}", headers=headers)
            if method == "GET":
                assert answer.status not in (401, 403)
            else:
                check_refused(answer, 403)


def bearer(service: Any, role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {service.tokens[role]}"}


CHANGES = (("POST", "/stop"), ("POST", "/resume"), ("DELETE", ""))


@pytest.mark.parametrize(("method", "what"), CHANGES, ids=str)
def test_searches_of_others_are_for_an_admin(guarded: Any, method: str, what: str) -> None:
    """Those that nobody launched here, too."""
    others = f"/v1/searches/{ID}{what}"
    with untouched(guarded):
        answer = guarded.ask(method, others, headers=bearer(guarded, "writer"))
        check_refused(answer, 403)
        assert "admin" in answer.json["detail"]
        missing = f"/v1/searches/none{what}"
        check_refused(guarded.ask(method, missing, headers=bearer(guarded, "writer")), 404)
        check_refused(guarded.ask(method, f"/v1/searches/written{what}", headers={}), 401)
    if method == "POST":  # allowed, but it is over
        for target in (others, f"/v1/searches/written{what}"):
            check_refused(guarded.ask(method, target, headers=bearer(guarded, "admin")), 409)
        own = guarded.ask(method, f"/v1/searches/written{what}", headers=bearer(guarded, "writer"))
        check_refused(own, 409)


def test_priorities_are_set_by_an_admin(guarded: Any) -> None:
    target = "/v1/searches/written/priority"
    with untouched(guarded):
        answer = guarded.ask("PUT", target, b'{"priority": 3}', headers=bearer(guarded, "writer"))
        check_refused(answer, 403)
        for body in (b"", b"{", b"3", b'{"priority": 1001}', b'{"priority": "x"}', b"[" * 9999):
            answer = guarded.ask("PUT", target, body, headers=bearer(guarded, "admin"))
            check_refused(answer, 400, 422)
        missing = target.replace("written", "none")
        answer = guarded.ask("PUT", missing, b'{"priority": 3}', headers=bearer(guarded, "admin"))
        check_refused(answer, 404)
    answer = guarded.ask("PUT", target, b'{"priority": 3}', headers=bearer(guarded, "admin"))
    assert (answer.status, answer.json["priority"]) == (200, 3)
    guarded.put("written", priority=0)


def test_no_address_of_mlflow_without_a_token(guarded: Any) -> None:
    guarded.components.mlflow = MlflowConnection("http://127.0.0.1:1")
    try:
        for target in ("/healthz", "/readyz"):
            for headers in ({}, {"authorization": "Bearer wrong"}):
                assert guarded.ask("GET", target, headers=headers).json["mlflow_url"] == ""
            known = guarded.ask("GET", target, headers=bearer(guarded, "reader"))
            assert known.json["mlflow_url"] == "http://127.0.0.1:1"
    finally:
        guarded.components.mlflow = None


def test_people_are_told_of_the_public_address_of_mlflow(
    guarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Client(httpx.AsyncClient):
        """MLflow, which has one run."""

        def __init__(self, **more: Any) -> None:
            super().__init__(transport=httpx.MockTransport(self._answer), **more)

        @staticmethod
        def _answer(request: httpx.Request) -> httpx.Response:
            asked.append(str(request.url.copy_with(query=None)))
            found = {"experiment": {"experiment_id": "1"}, "runs": [{"info": {"run_id": "a"}}]}
            return httpx.Response(200, json=found)

    monkeypatch.setattr(connection.httpx, "AsyncClient", Client)
    known = bearer(guarded, "reader")
    assert guarded.ask("GET", "/healthz", headers=known).json["mlflow_url"] == ""
    there = MlflowConnection("http://127.0.0.1:1", "https://mlflow.example/us/")
    monkeypatch.setattr(guarded.components, "mlflow", there)
    shown = guarded.ask("GET", "/healthz", headers=known).json["mlflow_url"]
    assert shown == "https://mlflow.example/us/"
    answer = guarded.ask("GET", f"/v1/architectures/{ID}:a-1/run", headers=known)
    assert answer.headers["location"] == "https://mlflow.example/us/#/experiments/1/runs/a"
    api = "http://127.0.0.1:1/api/2.0/mlflow"
    assert asked == [f"{api}/experiments/get-by-name", f"{api}/runs/search"]


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_stream_ends_with_its_token(
    guarded: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = guarded.components.database.engine
    token = create(engine, how, "reader", days=None if how == "revoked" else 2 / 86_400)
    guarded.components.tokens.refresh()
    guarded.finish(f"watched-{how}")
    guarded.put(f"watched-{how}", state="queued")
    monkeypatch.setattr(SearchQueue, "take_next", lambda *_: [])
    headers = {"authorization": f"Bearer {token}"}

    def end() -> None:
        if how == "revoked":
            revoke(engine, how)

    timer = threading.Timer(0.5, end)
    timer.start()
    answer = guarded.ask("GET", f"/v1/searches/watched-{how}/events", headers=headers)
    assert answer.status == 200
    assert b"event: state" in answer.body  # and it ended: nothing else would have ended it
    check_refused(guarded.ask("GET", "/v1/searches", headers=headers), 401)


def test_too_many_requests_are_put_off(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_READS", 600), ("_CHANGES", 601)):
        monkeypatch.setattr(guards, name, type(guards._READS)(5, seconds))
    for method, target in (("GET", "/healthz"), ("DELETE", "/v1/searches/none")):
        answers = [  # each with another made-up token: it counts as one who asks
            guarded.ask(method, target, headers={"authorization": f"Bearer {number}"})
            for number in range(8)
        ]
        assert [answer.status == 429 for answer in answers] == [False] * 5 + [True] * 3
        check_refused(answers[-1], 429)
        assert int(answers[-1].headers["retry-after"]) > 0
        known = {"authorization": f"Bearer {guarded.tokens['writer']}"}
        assert guarded.ask(method, target, headers=known).status != 429
