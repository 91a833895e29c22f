"""`espalier --server`: a real service, and one that is played where it must misbehave."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest
from ports import free_port
from samples import FinishedSearch, espalier, outcome
from serving import WITHOUT_RAY

import copycat
from search.client import Client
from search.config.explicit_settings import settings_key
from search.storage.layout import StudyKind

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

URL = "http://server:8000"
PAGE = " (docs/how-to/resuming.md)"
LINES = ["base network  2k FLOPs", "budget        flops ≤ 200"]


def one_line(*arguments: str | Path) -> str:
    completed = espalier(*arguments)
    assert (completed.status, completed.out) == (2, "")
    (line,) = completed.err.splitlines()
    return line


# ---- a service that is played


class Service:
    """Answers by `METHOD /path` and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, object]] = {}
        self.played: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        name = f"{request.method} {request.url.path}"
        if name in self.played:
            return self.played[name](request)
        problem = {"status_code": 404, "json": {"detail": f"nothing at {name}"}}
        return httpx.Response(**{"status_code": 200, **self.answers.get(name, problem)})

    @property
    def names(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.asked]

    def stands(self, name: str, state: str, *, wanted: str = "", reason: str = "") -> None:
        """Let it know a search in that state, which it has been ever since."""
        found = {"id": name, "name": wanted or name, "state": state, "reason": reason}
        found |= {"is_stopping": False, "progress": None, "ended_ms": None, "preflight": LINES}
        event = f"event: state\ndata: {json.dumps(found)}\n\n"
        for part in ("", "/stop", "/resume"):
            method = "POST" if part else "GET"
            self.answers[f"{method} /v1/searches/{name}{part}"] = {"json": found}
        self.answers["POST /v1/searches"] = {"json": found}
        self.answers[f"GET /v1/searches/{name}/events"] = {"text": event}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    transport = httpx.MockTransport(service)
    monkeypatch.setattr("search.client.Client", partial(Client, transport=transport))
    return service


def test_only_what_was_given_is_sent(played: Service, tmp_path: Path):
    file = tmp_path / "search.toml"
    file.write_text("trials = 3\n[training]\nepochs = 5\nrecipe = 'copycat'\n")
    played.stands("a", "failed", reason="no luck")
    espalier("--server", URL, "search", f"--config={file}", "--epochs=7", "--budget=flops=30%")
    request = played.asked[0]
    sent = {"trials": 3, "training": {"epochs": 7, "recipe": "copycat"}, "budget": ["flops=30%"]}
    assert json.loads(request.content) == sent
    assert request.headers["idempotency-key"] == settings_key(sent)


@pytest.mark.parametrize(
    ("words", "kind", "sent"),
    [
        (
            ["family", "digits/base@3", "--budgets=flops=9%", "--train", "--recipe=copycat"],
            "family",
            {"source": "digits/base@3", "budgets": ["flops=9%"], "training": {"recipe": "copycat"}},
        ),
        (
            ["correlate", "--criterion=taylor", "--epochs=3"],
            "correlation",
            {"criterion": ["taylor"], "training": {"epochs": 3}},
        ),
    ],
    ids=["family", "correlation"],
)
def test_other_studies_are_launched_with_what_was_given(
    played: Service,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    kind: StudyKind,
    sent: object,
):
    monkeypatch.setenv("ESPALIER_TRUST", "mine")  # for commands that work here
    played.stands("a", "failed", reason="no luck")
    assert "a has failed: no luck" in espalier("--server", URL, *words).err
    request = played.asked[0]
    assert (request.url.path, request.url.params["kind"]) == ("/v1/searches", kind)
    assert json.loads(request.content) == sent
    assert request.headers["idempotency-key"] == settings_key(sent, kind)
    assert request.headers["idempotency-key"] != settings_key(sent)
    assert played.names[1] == "POST /v1/searches/a/resume"


def test_a_ladder_on_a_server_is_what_its_preflight_says(played: Service):
    played.answers["POST /v1/preflight"] = {"json": {"lines": LINES}}
    done = espalier("--server", URL, "family", "digits/base", "--budgets=flops=9%")
    assert (done.status, done.err, done.out.splitlines()) == (0, "", LINES)
    assert played.names == ["POST /v1/preflight"]
    assert played.asked[0].url.params["kind"] == "family"
    for flag in ("--json", "--input=1x8x8", "--trust=mine"):
        name = flag.partition("=")[0]
        line = one_line("--server", URL, "family", "digits/base", flag)
        assert f"{name} has no effect on a server" in line


def test_the_results_of_other_studies_are_printed_as_here(
    played: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    per_layer = {"pearson": 0.5, "spearman": 0.25, "kendall": None}
    row = {"layers": {}, "all_layers": per_layer}
    correlation = {"criteria": {"taylor": row}, "num_units": 3, "num_images": 64}
    correlation |= {"validation_score": 0.9}
    run = {"kind": "copycat", "place": "flops=9%", "seed": 0, "search": ""}
    run |= {"outcome": dataclasses.asdict(outcome("low", flops=500))}
    family = {"runs": [run], "num_test": 10, "notes": ["a note"], "failures": {}}
    for kind, file, content in (
        ("family", "family", family),
        ("correlation", "correlation", correlation),
    ):
        folder = tmp_path / "espalier-runs" / "a"
        folder.mkdir(parents=True)
        (folder / f"{file}-settings.json").write_text("{}")
        (folder / f"{file}.json").write_text(json.dumps(content))
        played.stands("a", "finished")
        played.answers["GET /v1/searches/a"]["json"]["kind"] = kind
        played.answers["GET /v1/searches/a/results"] = {"json": content}
        monkeypatch.chdir(tmp_path)
        here, there = espalier("watch", "a"), espalier("--server", URL, "watch", "a")
        assert (there.status, there.err) == (0, "")
        assert there.out.split("Stored on")[0] == here.out.split("Stored in")[0]
        assert there.out.endswith(f"Stored on {URL}\n")
        shutil.rmtree(tmp_path / "espalier-runs")


def test_a_list_of_a_server_says_of_what_kind_each_is(played: Service):
    played.stands("a", "finished")
    found = played.answers["GET /v1/searches/a"]["json"]
    items = [{**found, "kind": "family"}, {**found, "id": "b"}]  # one of an older version
    played.answers["GET /v1/searches"] = {"json": {"items": items, "next_offset": None}}
    kinds = [row["kind"] for row in json.loads(espalier("--server", URL, "list", "--json").out)]
    assert kinds == ["family", "search"]


def test_a_search_that_fails_says_why(played: Service):
    played.stands("a", "failed", reason="no luck")
    assert one_line("--server", URL, "watch", "a") == f"espalier: a has failed: no luck{PAGE}"


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_the_same_command_goes_on_with_what_was_stopped(played: Service, state: str):
    played.stands("a", state, reason="no luck")
    espalier("--server", URL, "search")
    assert played.names[:2] == ["POST /v1/searches", "POST /v1/searches/a/resume"]


def test_another_name_and_the_queue_are_told(played: Service, monkeypatch: pytest.MonkeyPatch):
    """It waits until somebody follows it, and fails then."""
    played.stands("a-2", "queued", wanted="a")
    events = Client.events

    def followed(client: Client, name: str) -> Iterator[Mapping[str, object]]:
        played.stands("a-2", "failed", wanted="a", reason="no luck")
        return events(client, name)

    monkeypatch.setattr(Client, "events", followed)
    done = espalier("--server", URL, "search")
    assert done.out.splitlines() == [
        f"{URL} has another a: this search is a-2 there",
        *LINES,
        "a-2 waits in the queue",
    ]
    assert (done.status, done.err) == (2, f"espalier: a-2 has failed: no luck{PAGE}\n")


def test_ctrl_c_leaves_the_search_alone(played: Service, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    played.stands("a", "running")
    monkeypatch.setattr(Client, "events", interrupted)
    done = espalier("--server", URL, "search")
    assert done.status == 130
    assert done.err.strip() == (
        f"No longer watching; the search goes on. Watch it with  espalier --server {URL} watch a  "
        f"or end it with  espalier --server {URL} stop a"
    )
    assert "POST /v1/searches/a/stop" not in played.names


def test_stop_waits_until_it_has_ended(played: Service):
    played.stands("a", "stopped")
    done = espalier("--server", URL, "stop", "a")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("a is stopped. Kept are ")
    assert done.out.endswith(f"go on with  espalier --server {URL} resume a\n")
    assert played.names == ["POST /v1/searches/a/stop", "GET /v1/searches/a"]


def test_the_log_of_a_search_is_printed(played: Service):
    played.stands("a", "finished")

    def log(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        headers = {"Next-Offset": "8"}
        return httpx.Response(200, text="one\ntwo\n"[offset:], headers=headers)

    played.played["GET /v1/searches/a/log"] = log
    for flags in ([], ["--follow"]):
        done = espalier("--server", URL, "log", "a", *flags)
        assert (done.status, done.out, done.err) == (0, "one\ntwo\n", "")


def test_a_search_on_a_server_is_resumed_there(played: Service):
    played.stands("a", "stopped")
    espalier("--server", URL, "resume", "a")
    assert "POST /v1/searches/a/resume" in played.names
    assert "is the server's to decide" in one_line("--server", URL, "resume", "a", "--device=cpu")
    assert "--trust has no effect" in one_line("--server", URL, "resume", "a", "--trust=mine")


def test_a_wish_to_stop_is_taken_back_by_resuming(played: Service):
    played.stands("a", "failed", reason="no luck")
    found = played.answers["GET /v1/searches/a"]["json"]
    played.answers["GET /v1/searches/a"] = {"json": {**found, "is_stopping": True}}
    played.answers["DELETE /v1/searches/a/stop"] = {"json": found}
    espalier("--server", URL, "resume", "a")
    assert "DELETE /v1/searches/a/stop" in played.names
    assert "POST /v1/searches/a/resume" not in played.names


@pytest.mark.parametrize("value", ["5", "-5"])
def test_a_priority_is_set_on_a_server(played: Service, value: str):
    played.answers["PUT /v1/searches/a/priority"] = {"json": {}}
    done = espalier("--server", URL, "priority", "a", value)
    assert (done.status, done.out) == (0, f"a has priority {value}\n")
    assert json.loads(played.asked[-1].content) == {"priority": int(value)}
    assert "-1000<=x<=1000" in one_line("--server", URL, "priority", "a", "1001")
    assert "--server" in one_line("priority", "a", value)


def test_the_environment_names_a_server_too(played: Service, monkeypatch: pytest.MonkeyPatch):
    played.answers["GET /v1/searches"] = {"json": {"items": [], "next_offset": None}}
    monkeypatch.setenv("ESPALIER_SERVER", URL)
    assert espalier("list").status == 0
    assert played.names == ["GET /v1/searches"]


def test_a_folder_on_the_command_line_beats_the_environment(
    played: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("ESPALIER_SERVER", URL)
    assert espalier("list", "--json", "--runs", tmp_path).out == "[]\n"
    assert played.asked == []
    assert "leave out one of them" in one_line("--server", URL, "list", "--runs", tmp_path)


def test_the_token_comes_from_a_file(played: Service, tmp_path: Path):
    played.answers["GET /v1/searches"] = {"json": {"items": [], "next_offset": None}}
    (tmp_path / "token").write_text("secret\n")
    espalier("--server", URL, "--token-file", tmp_path / "token", "list")
    assert played.asked[0].headers["authorization"] == "Bearer secret"
    line = one_line("--server", URL, "--token-file", tmp_path / "nope", "list")
    assert "nope cannot be read" in line


@pytest.mark.parametrize(
    "command",
    ["trial", "ui", "latency", "inspect", "serve", "token"],
)
def test_other_commands_refuse_a_server(command: str, monkeypatch: pytest.MonkeyPatch):
    line = one_line("--server", URL, command)
    assert line == f"espalier: `espalier {command}` works on this machine: leave out --server"
    monkeypatch.setenv("ESPALIER_SERVER", URL)
    assert espalier(command, "--help").status == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["export", "a/b", "--out=o", "--format=pt2"], "safetensors or onnx, not pt2"),
        (["export", "a/b", "--register=r"], "leave out --register"),
        (["export", "a", "--out=o"], "SEARCH/NAME"),
        (["pareto", "a/b"], "by its name"),
        (["pareto", "a"], "nothing at GET /v1/searches/a/results"),
        (["report", "a", "--out=o"], "nothing at GET /v1/searches/a"),
    ],
)
def test_refusals_are_one_line(
    played: Service,
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert expected in one_line("--server", URL, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_a_server_does_without_torch():
    script = (
        "import sys, httpx, functools, search.client as c; from search.cli import main\n"
        "page = {'items': [], 'next_offset': None}\n"
        "answer = httpx.MockTransport(lambda _: httpx.Response(200, json=page))\n"
        "c.Client = functools.partial(c.Client, transport=answer)\n"
        f"sys.argv = ['espalier', '--server', {URL!r}, 'list', '--json']\n"
        "main(); print([m for m in ('torch', 'ray', 'mlflow', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout == "[]\n[]\n"


# ---- a real service, which has the finished search, against its folder


@pytest.fixture(scope="module")
def server(
    finished_search: FinishedSearch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of `espalier serve` on a copy of the searches; new ones are without Ray."""
    folder = tmp_path_factory.mktemp("served")
    runs = folder / finished_search.runs.name
    shutil.copytree(finished_search.runs, runs)
    command = [sys.executable, *WITHOUT_RAY, "serve", "--port=0", f"--mlflow-port={free_port()}"]
    command += [f"--runs={runs}", f"--data-root={folder / 'data'}", "--device=cpu"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ, cwd=folder
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line, (folder / "log").read_text()
        yield line.split(" at ")[1].split()[0]
        process.terminate()
        process.wait(90)


@pytest.fixture
def both(
    server: str, finished_search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, Path, Path]]:
    """The command here and there, each in a folder of its own; what it printed, which is equal."""

    def compared(*arguments: str) -> tuple[str, Path, Path]:
        here, there = tmp_path / "here", tmp_path / "there"
        for folder in (here, there):
            folder.mkdir(exist_ok=True)
        monkeypatch.chdir(here)
        local = espalier(*arguments, "--runs", finished_search.runs)
        monkeypatch.chdir(there)
        remote = espalier("--server", server, *arguments)
        assert (local.status, local.err) == (remote.status, remote.err) == (0, "")
        assert remote.out == local.out
        assert remote.out
        return remote.out, here, there

    return compared


@pytest.mark.parametrize("flags", [[], ["--json"], ["--csv"], ["--max=flops=5%"]], ids=str)
def test_a_front_is_listed_alike(both, flags: list[str]):
    both("pareto", "tiny", *flags)


def test_a_report_is_alike(both):
    _, here, there = both("report", "tiny", "--out=page.html")
    page = (there / "page.html").read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert page == (here / "page.html").read_bytes()


def test_exports_are_alike(both, finished_search: FinishedSearch):
    name = f"tiny/{finished_search.results.front[0].key}"
    both("export", name, "--out=net", "--as-python=net.py")
    _, here, there = both("export", name, "--out=net.onnx", "--format=onnx")
    files = ["net.onnx", "net.py", "net/architecture.json", "net/weights.safetensors"]
    for file in files:
        assert (there / file).read_bytes() == (here / file).read_bytes(), file
    copycat.load(there / "net")


def test_what_is_watched_and_listed_is_alike(server: str, finished_search: FinishedSearch):
    """But for where it is stored."""
    local = espalier("watch", "tiny", "--runs", finished_search.runs)
    remote = espalier("--server", server, "watch", "tiny")
    assert (local.status, remote.status, remote.err) == (0, 0, "")
    assert remote.out.split("\nStored")[0] == local.out.split("\nStored")[0]
    assert f"espalier --server {server} pareto tiny\n" in remote.out
    here, there = (
        json.loads(espalier(*where, "list", "--json", *runs).out)
        for where, runs in (((), ("--runs", finished_search.runs)), (("--server", server), ()))
    )
    assert there == here


def test_python_has_it_all(server: str, finished_search: FinishedSearch, tmp_path: Path):
    with Client(server) as client:
        assert client.results("tiny") == finished_search.results
        assert client.verdict("tiny") == finished_search.results.verdict
        keys = [found["key"] for found in client.front("tiny")]
        assert keys == [outcome.key for outcome in finished_search.results.front]
        copycat.load(client.download(f"tiny:{keys[0]}", tmp_path / "net"))
        assert client.architecture(f"tiny/{keys[0]}")["key"] == keys[0]


@pytest.mark.slow
def test_a_search_is_launched_watched_and_taken_along(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # On a busy machine it takes minutes, each of which has a line.
    monkeypatch.setattr("search.tracking.terminal_progress._SECONDS_PER_LINE", math.inf)
    flags = ["--budget=flops=10%", "--trials=2", "--ladder=1", "--profiles=1"]
    flags += ["--limit-train=240", "--batch-size=32", "--epochs=1", "--fine-tune-epochs=1"]
    flags += ["--tempered-trials=0", "--concurrency=1", "--name=tiny"]
    first = espalier("--server", server, "search", *flags)
    assert (first.status, first.err) == (0, "")
    assert first.out.startswith(f"{server} has another tiny: this search is tiny-2 there\n")
    again = espalier("--server", server, "search", *flags)
    waiting = "tiny-2 waits in the queue\n"  # said where nobody took it by the first look at it
    assert (again.status, again.out) == (0, first.out.replace(waiting, ""))
    with Client(server) as client:
        assert [found["name"] for found in client.searches()] == ["tiny", "tiny"]
        key = client.front("tiny-2")[0]["key"]
    done = espalier("--server", server, "export", f"tiny-2/{key}", "--out", tmp_path / "net")
    assert done.status == 0
    copycat.load(tmp_path / "net")
