"""`search.Client` against a service that is played here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from samples import small_config

import search
from pruning.errors import ArchitectureError, ServiceError
from search import client as client_module
from search.client import Client
from search.config.explicit_settings import explicit_settings, settings_key
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.server_events import ServerEvent, server_events
from search.tracking import process_log

URL = "http://server:8000"
Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, **options: object) -> Client:
    return Client(URL, transport=httpx.MockTransport(answer), **options)


def always(status: int = 200, **content: object) -> Answer:
    return lambda _: httpx.Response(status, **content)


class Script:
    """Answers one request after the other, and keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests = list(answers), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def state(name: str) -> bytes:
    content = json.dumps({"id": "a", "state": name, "is_stopping": False})
    return f"event: state\ndata: {content}\n\n".encode()


def happening(number: int) -> bytes:
    content = json.dumps({"event": "expected", "time_ms": 0, "epochs": number})
    return f"event: expected\ndata: {content}\nid: {number}\n\n".encode()


class Torn(httpx.SyncByteStream):
    """A stream that breaks off behind these parts."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        raise httpx.ReadError("gone")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that the client made, in a time that passes with them alone."""
    pauses: list[float] = []

    class Time:
        sleep = staticmethod(pauses.append)

        @staticmethod
        def monotonic() -> float:
            return 1.0 + sum(pauses)

    for module in (client_module, process_log):
        monkeypatch.setattr(module, "time", Time)
    return pauses


# ---- what it is


def test_importing_it_needs_neither_torch_nor_the_service():
    script = (
        "import sys, search; search.Client('http://x')\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna', 'fastapi', 'sqlalchemy')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_it_is_exported():
    assert search.Client is Client
    assert "Client" in search.__all__


@pytest.mark.parametrize(
    "url", ["server:8000", "ftp://server", "http://", "", "http://a:b", "http://a?b=c"]
)
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ServiceError, match="http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("token", ["a\nb", "é"])
def test_a_token_that_no_header_can_carry_is_refused(token: str):
    with pytest.raises(ServiceError, match="token"):
        Client(URL, token)


def test_the_token_is_the_argument_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    answer = Script(*(httpx.Response(200, json={}) for _ in range(3)))
    client(answer).search("a")
    monkeypatch.setenv("ESPALIER_TOKEN", "secret")
    client(answer).search("a")
    client(answer, token="other").search("a")
    sent = [request.headers.get("authorization") for request in answer.requests]
    assert sent == [None, "Bearer secret", "Bearer other"]


# ---- what goes wrong


def test_a_refusal_is_the_sentence_of_the_service():
    problem = {"status": 422, "detail": "no network is\n called 'foo'", "field": "model"}
    with pytest.raises(ServiceError, match=r"^no network is called 'foo'$"):
        client(always(422, json=problem)).launch({"model": "foo"})


@pytest.mark.parametrize(
    "answer",
    [
        always(404, text="<html>"),
        always(502, json=["detail"]),
        always(200, text="<html>hello"),
        always(200, json=[]),
        always(302, headers={"location": "http://elsewhere"}),
    ],
)
def test_what_is_no_such_service_is_told(answer: Answer):
    with pytest.raises(ServiceError, match="does not answer like a service of Espalier"):
        client(answer).search("a")


def test_an_unreachable_service_is_told_at_once():
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        Client("http://127.0.0.1:9").searches()


@pytest.mark.parametrize("name", ["", "a/b", "../a"])
def test_a_search_is_no_path(name: str):
    with pytest.raises(ServiceError, match="by its name"):
        client(always(json={})).search(name)


@pytest.mark.parametrize("name", ["a", "a/", "/b", "a/b/c", "a:b:c"])
def test_an_architecture_has_two_names(name: str):
    with pytest.raises(ServiceError, match="SEARCH/NAME"):
        client(always(json={})).architecture(name)


# ---- launching


def test_settings_go_as_they_are_given_under_their_key():
    answer = Script(httpx.Response(201, json={"id": "a"}))
    settings = {"budget": ["flops=10%"], "training": {"epochs": 3}}
    assert client(answer).launch(settings, key=settings_key(settings)) == {"id": "a"}
    (request,) = answer.requests
    assert json.loads(request.content) == settings
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == settings_key(settings)


@pytest.mark.parametrize(
    ("config", "kind", "sent"),
    [
        (SearchConfig(trials=3), "search", {"trials": 3}),
        (search.FamilyConfig("a/b", seeds=2), "family", {"source": "a/b", "seeds": 2}),
        (search.CorrelationConfig(seed=5), "correlation", {"seed": 5}),
    ],
    ids=["search", "family", "correlation"],
)
def test_the_class_of_settings_says_what_is_launched(config: object, kind: str, sent: object):
    answer = Script(*(httpx.Response(201, json={"id": "a"}) for _ in range(3)))
    served = client(answer)
    served.launch(config)
    served.preflight(config)
    served.launch(sent, kind=kind)
    for request, path in zip(answer.requests, ("searches", "preflight", "searches"), strict=True):
        assert (request.url.path, request.url.params["kind"]) == (f"/v1/{path}", kind)
        assert json.loads(request.content) == sent


def test_studies_of_one_kind_are_asked_for():
    answer = Script(httpx.Response(200, json={"items": [], "next_offset": None}))
    assert client(answer).searches(kind="family") == []
    assert answer.requests[0].url.params["kind"] == "family"


@pytest.mark.parametrize("read", [Client.family, Client.correlation])
def test_results_of_something_else_are_told_in_a_sentence(read: Callable[..., object]):
    with pytest.raises(ServiceError, match="the results of a cannot be read"):
        read(client(always(json={"verdict": ""})), "a")


def test_a_figure_comes_as_it_is():
    assert client(always(content=b"PNG")).figure("a") == b"PNG"


def test_without_a_key_none_is_sent():
    answer = Script(httpx.Response(201, json={}))
    client(answer).launch({})
    assert "idempotency-key" not in answer.requests[0].headers


def test_a_key_is_that_of_the_settings_in_any_order():
    first = settings_key({"a": 1, "b": {"c": 2, "d": 3}})
    assert first == settings_key({"b": {"d": 3, "c": 2}, "a": 1})
    assert first != settings_key({"a": 1, "b": {"c": 2, "d": 4}})


def test_of_a_config_only_what_is_no_default_goes(tmp_path: Path):
    config = small_config(tmp_path)
    given = explicit_settings(config)
    assert given["trials"] == 2
    assert given["ladder"] == [1.0, 0.5]
    assert given["data"] == {"limit_train": 240}
    assert "mlflow_url" not in given
    assert "resources" not in given
    assert from_mapping(SearchConfig, given) == config


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_settings_that_json_cannot_say_are_refused(value: object):
    with pytest.raises(ServiceError, match="cannot be sent"):
        client(always(json={})).launch({"trials": value})


# ---- looking


def test_all_pages_are_listed_and_nothing_twice():
    """A search that arrives between two requests shifts the second page by one."""
    answer = Script(
        httpx.Response(200, json={"items": [{"id": "c"}, {"id": "b"}], "next_offset": 2}),
        httpx.Response(200, json={"items": [{"id": "b"}, {"id": "a"}], "next_offset": None}),
    )
    found = client(answer).searches(state="running")
    assert [one["id"] for one in found] == ["c", "b", "a"]
    queries = [dict(request.url.params) for request in answer.requests]
    assert [query["offset"] for query in queries] == ["0", "2"]
    assert {query["state"] for query in queries} == {"running"}


def test_the_front_is_asked_for_within_bounds():
    answer = Script(httpx.Response(200, json={"items": [{"id": "a:b"}]}))
    found = client(answer).front("a", flops_max="25%", params_max=300, sort="-flops")
    assert found == [{"id": "a:b"}]
    query = dict(answer.requests[0].url.params)
    assert query == {"flops_max": "25%", "params_max": "300", "sort": "-flops"}


def test_a_verdict_is_its_lines():
    assert client(always(json={"lines": ["one", "two"]})).verdict("a") == "one\ntwo"


def test_results_of_another_version_are_told():
    with pytest.raises(ServiceError, match="another version"):
        client(always(json={"base": {}})).results("a")


def test_waiting_ends_with_the_search_or_the_patience(slept: list[float]):
    answer = Script(*(httpx.Response(200, json={"state": s}) for s in ("running", "stopped")))
    assert client(answer).wait("a") == {"state": "stopped"}
    assert len(slept) == 1
    with pytest.raises(ServiceError, match="still running after 3 s"):
        client(always(json={"state": "running"})).wait("a", timeout_seconds=3)
    assert 3 <= sum(slept) <= 5


def test_a_log_is_followed_until_the_search_is_over(slept: list[float]):
    def part(text: str, offset: int) -> httpx.Response:
        return httpx.Response(200, text=text, headers={"Next-Offset": str(offset)})

    running, over = ({"json": {"state": state}} for state in ("running", "stopped"))
    answer = Script(
        *(httpx.Response(200, **running), part("one\n", 4)),
        *(httpx.Response(200, **running), part("", 4)),
        *(httpx.Response(200, **over), part("two\n", 8)),
        *(httpx.Response(200, **over), part("", 8)),
    )
    assert list(client(answer).log("a", follow=True)) == ["one\n", "two\n"]
    asked = [request.url.params["offset"] for request in answer.requests[1::2]]
    assert asked == ["0", "4", "4", "8"]
    assert len(slept) == 1
    answer = Script(
        *(httpx.Response(200, **running), part("one\n", 4)),
        *(httpx.Response(200, **running), part("", 4)),
    )
    assert list(client(answer).log("a")) == ["one\n"]


def test_a_log_of_what_is_no_such_service_is_told():
    answer = Script(httpx.Response(200, json={"state": "x"}), httpx.Response(200, text="<html>"))
    with pytest.raises(ServiceError, match="does not answer like a service of Espalier"):
        list(client(answer).log("a"))


@pytest.mark.parametrize("name", ["trials", "architectures"])
def test_items_come_from_all_pages(name: str):
    answer = Script(
        httpx.Response(200, json={"items": [{"id": 0}], "next_offset": 1}),
        httpx.Response(200, json={"items": [{"id": 1}], "next_offset": None}),
    )
    assert [item["id"] for item in getattr(client(answer), name)("a")] == [0, 1]
    assert [request.url.params["offset"] for request in answer.requests] == ["0", "1"]
    assert {request.url.path for request in answer.requests} == {f"/v1/searches/a/{name}"}


def test_a_trial_has_a_number_and_a_repeat():
    answer = Script(httpx.Response(200, json={"curve": []}))
    assert client(answer).trial("a", 3, 1) == {"curve": []}
    assert answer.requests[0].url.raw_path == b"/v1/searches/a/trials/3?repeat=1"


def test_a_stop_is_taken_back():
    answer = Script(httpx.Response(200, json={"id": "a", "is_stopping": False}))
    assert client(answer).go_on("a")["is_stopping"] is False
    (request,) = answer.requests
    assert (request.method, request.url.path) == ("DELETE", "/v1/searches/a/stop")


def test_a_priority_is_put():
    answer = Script(httpx.Response(200, json={"priority": 3}))
    assert client(answer).set_priority("a", 3) == {"priority": 3}
    (request,) = answer.requests
    assert (request.method, request.url.path) == ("PUT", "/v1/searches/a/priority")
    assert json.loads(request.content) == {"priority": 3}


# ---- events


def test_events_are_parsed_from_any_pieces():
    text = (
        b": alive\n\nevent: a\ndata: 1\ndata: 2\nid: 7\n\ndata:x\xe2\x80\xa8y\r\n\r\ndata: torn\n"
    )
    expected = [ServerEvent("a", "1\n2", "7"), ServerEvent("message", "x\u2028y", "")]
    for size in (1, 3, len(text)):
        parts = [text[i : i + size] for i in range(0, len(text), size)]
        assert list(server_events(parts)) == expected


def test_events_come_until_the_search_is_over():
    body = state("running") + happening(1) + state("finished") + happening(2)
    found = list(client(always(content=body)).events("a"))
    assert [event["event"] for event in found] == ["state", "expected", "state", "expected"]
    assert [event["epochs"] for event in found if "epochs" in event] == [1, 2]


def test_a_broken_stream_goes_on_behind_the_last_event(slept: list[float]):
    """Also where the search is over already and only its last events are missing."""
    answer = Script(
        httpx.Response(200, stream=Torn(state("running"), happening(1))),
        httpx.ConnectError("nobody"),
        httpx.Response(503, json={"detail": "starting"}),
        httpx.Response(200, content=state("running")),  # the service was closed
        httpx.Response(200, stream=Torn(state("finished"))),
        httpx.Response(200, content=state("finished") + happening(2)),
    )
    found = list(client(answer).events("a"))
    assert [event.get("epochs", event.get("state")) for event in found] == [
        *("running", 1, "finished", 2)
    ]
    sent = [request.headers.get("last-event-id") for request in answer.requests]
    assert sent == [None, *["1"] * 5]
    assert len(slept) == 5


def test_patience_is_bounded(slept: list[float]):
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody")

    with pytest.raises(ServiceError, match="cannot be reached: nobody"):
        list(client(answer, patience_seconds=30).events("a"))
    assert 30 <= sum(slept) <= 40
    assert max(slept) <= 5


def test_a_refused_stream_is_not_asked_for_again(slept: list[float]):
    answer = Script(httpx.Response(404, json={"detail": "there is no search 'a'"}))
    with pytest.raises(ServiceError, match="there is no search 'a'"):
        list(client(answer).events("a"))
    assert slept == []


def test_a_damaged_event_is_told():
    with pytest.raises(ServiceError, match="damaged"):
        list(client(always(content=b"event: state\ndata: {\n\n")).events("a"))


# ---- taking along


def packed(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, name.rpartition("/")[2])
    return content.getvalue()


def test_a_download_is_the_two_files_and_nothing_else(tmp_path: Path):
    names = ("k/architecture.json", "k/weights.safetensors", "../evil", "/etc/evil")
    answer = Script(httpx.Response(200, content=packed(*names)))
    target = client(answer).download("a/k", tmp_path / "net")
    assert answer.requests[0].url.path == "/v1/architectures/a:k/folder"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("architecture.json", "net", "weights.safetensors")
    ]
    assert (target / "architecture.json").read_text() == "architecture.json"


@pytest.mark.parametrize("content", [b"no zip", packed("k/architecture.json")])
def test_a_damaged_download_leaves_nothing(tmp_path: Path, content: bytes):
    with pytest.raises(ServiceError, match="damaged"):
        client(always(content=content)).download("a/k", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / "net").write_text("precious")
    with pytest.raises(ArchitectureError, match="already exists"):
        client(always(content=b"onnx")).export("a/k", "onnx", tmp_path / "net")
    assert (tmp_path / "net").read_text() == "precious"


def test_an_export_that_breaks_off_leaves_nothing(tmp_path: Path):
    with pytest.raises(ServiceError, match="cannot be reached: gone"):
        client(always(stream=Torn(b"half"))).export("a/k", "onnx", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    client(always(content=b"whole")).export("a/k", "onnx", tmp_path / "net")
    assert (tmp_path / "net").read_bytes() == b"whole"
