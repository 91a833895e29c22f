"""What lies in the folder of runs when a service starts: taken in, or set aside by itself."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from refusals import check_refused
from samples import ABSOLUTE_ERROR, base_outcome, outcome

from search.config.search_config import SearchConfig
from search.service.access.settings_policy import SettingsPolicy
from search.service.database.tables import SearchRow
from search.service.queue.adoption import adopt_searches
from search.service.runs_folder import EXPORTS_FOLDER
from search.storage.layout import CONFIG_FILE, EVENTS_FILE, RESULTS_FILE
from search.tasks.score import ACCURACY

BASE = {"flops": 2000, "params": 200}
LAUNCHED = {"event": "launched", "time_ms": 5, "pid": 1, "lines": ["base"], "trials": 2}
LAUNCHED |= {"base": BASE, "limits": {"flops": 1500}}
FINISHED = {"event": "finished", "time_ms": 6, "key": "t"}


@pytest.fixture
def empty(serve: Callable[..., Any], tmp_path: Path, patient: None) -> Iterator[Any]:
    """A service that knows no search."""
    with serve(tmp_path, builders=("allowed:net",)) as running:
        yield running


def settings(**changes: Any) -> dict[str, Any]:
    """As a search stores them that was run on the command line."""
    stored = dataclasses.asdict(SearchConfig(name="elsewhere").resolved())
    return json.loads(json.dumps(stored)) | changes


def put(service: Any, name: str, content: object = None, *events: Mapping[str, Any]) -> Path:
    folder: Path = service.runs / name
    folder.mkdir()
    text = content if isinstance(content, str) else json.dumps(content or settings())
    (folder / CONFIG_FILE).write_text(text)
    if events:
        (folder / EVENTS_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def finish(folder: Path, **changes: Any) -> None:
    found = [outcome(key, flops=1000).to_mapping() | changes for key in ("a-1", "b-2")]
    base = base_outcome(flops=2000, test_score=0.75).to_mapping()
    content = {"everything": found, "front": found[:1], "base_network": base}
    (folder / RESULTS_FILE).write_text(json.dumps(content))


def test_what_to_take_is_told_with_the_verdict(empty: Any) -> None:
    """As the search wrote it down; one of an older version has none."""
    folder = put(empty, "done", settings(), LAUNCHED)
    finish(folder)
    adopt(empty)
    content = json.loads((folder / RESULTS_FILE).read_text())
    content |= {"verdict": "Take a-1.\nIt won.", "contests": [], "notes": [], "failures": {}}
    (folder / RESULTS_FILE).write_text(json.dumps(content))
    told = empty.ask("GET", "/v1/searches/done/verdict").json
    assert (told["recommendations"], told["basis"], told["contrasts"]) == ([], "", [])
    sentences = {"recommendations": [{"text": "Take a-1."}], "basis": "Chosen by validation."}
    sentences["contrasts"] = [{"first": "a-1", "second": "uniform-b100", "finding": "undecided"}]
    (folder / RESULTS_FILE).write_text(json.dumps(content | sentences))
    told = empty.ask("GET", "/v1/searches/done/verdict").json
    assert told.items() >= sentences.items()
    assert told["lines"] == ["Take a-1.", "It won."]


def adopt(service: Any, policy: SettingsPolicy | None = None) -> None:
    adopt_searches(
        service.components.searches, service.runs, policy or service.components.policy, "cpu"
    )


def row(service: Any, name: str) -> SearchRow:
    found: SearchRow = service.components.searches.get(name)
    return found


def test_a_search_of_the_command_line_goes_on_here(empty: Any) -> None:
    put(empty, "mine", settings(), LAUNCHED)
    adopt(empty)
    found = row(empty, "mine")
    assert (found.state, found.reason, found.created_ms) == ("stopped", "", 5)
    assert empty.ask("POST", "/v1/searches/mine/resume").status == 200
    kept = row(empty, "mine").settings
    assert (kept["name"], kept["runs"], kept["device"]) == ("mine", str(empty.runs), "cpu")
    assert kept["data"]["root"] == str(empty.home / "data")


def test_a_finished_one_is_shown_with_its_networks(empty: Any) -> None:
    finish(put(empty, "done", settings(), LAUNCHED))
    adopt(empty)
    items = empty.ask("GET", "/v1/searches/done/architectures").json["items"]
    assert [(one["key"], one["score_against_base"]) for one in items] == [
        *(("base", 0), ("a-1", -0.25), ("b-2", -0.25)),
    ]
    front = empty.ask("GET", "/v1/searches/done/front").json
    assert (front["state"], [one["key"] for one in front["items"]]) == ("finished", ["a-1"])


def test_one_that_was_stopped_is_shown_with_what_it_found(empty: Any) -> None:
    found = [
        outcome("best", flops=1000, validation_score=0.8).to_mapping(),
        outcome("worse", flops=1200, validation_score=0.7).to_mapping(),
        base_outcome(flops=2000, validation_score=0.9).to_mapping(),
    ]
    put(empty, "mine", settings(), LAUNCHED, {**FINISHED, "outcomes": found})
    adopt(empty)
    items = empty.ask("GET", "/v1/searches/mine/architectures").json["items"]
    assert [(one["key"], one["on_front"]) for one in items] == [
        *(("base", False), ("best", True), ("worse", False)),
    ]
    assert [one["score_against_base"] for one in items] == [
        *(0, pytest.approx(-0.1), pytest.approx(-0.2)),
    ]


def test_errors_come_with_their_name_and_the_least_is_on_the_front(empty: Any) -> None:
    found = [
        outcome("least", flops=1000, validation_score=0.25).to_mapping(),
        outcome("worse", flops=1200, validation_score=0.75).to_mapping(),
        base_outcome(flops=2000, validation_score=0.5).to_mapping(),
    ]
    launched = {**LAUNCHED, "score": ABSOLUTE_ERROR.to_mapping()}
    put(empty, "mine", settings(), launched, {**FINISHED, "outcomes": found})
    put(empty, "old", settings(), LAUNCHED)
    adopt(empty)
    page = empty.ask("GET", "/v1/searches/mine/architectures").json
    assert page["score"] == ABSOLUTE_ERROR.to_mapping()
    assert [(one["key"], one["on_front"]) for one in page["items"]] == [
        *(("base", False), ("least", True), ("worse", False)),
    ]
    assert [one["score_against_base"] for one in page["items"]] == [0, 0.25, -0.25]
    front = empty.ask("GET", "/v1/searches/mine/front?sort=-validation_score").json
    assert [one["key"] for one in front["items"]] == ["least"]
    shown = empty.ask("GET", "/v1/searches/mine").json
    assert shown["progress"]["best"]["key"] == "least"
    assert shown["progress"]["hypervolume"] is None
    assert shown["score"] == ABSOLUTE_ERROR.to_mapping()
    assert empty.ask("GET", "/v1/searches/old").json["score"] == ACCURACY.to_mapping()


def test_what_the_service_decides_is_taken_from_it_alone(empty: Any) -> None:
    """No address, folder or memory of wherever the search was made."""
    content = settings(mlflow_url="http://evil.example", runs="/elsewhere", device="cuda")
    content["data"] |= {"root": "data", "download": True}
    content["resources"] |= {"ray_address": "evil.example:6379", "memory_gb": 4000.0}
    put(empty, "mine", content)
    adopt(empty)
    assert empty.ask("POST", "/v1/searches/mine/resume").status == 200
    kept = row(empty, "mine").settings
    text = json.dumps(kept)
    assert "evil.example" not in text
    assert "elsewhere" not in text
    assert "download" not in kept["data"]
    assert Path(kept["data"]["root"]).is_absolute()
    assert kept["resources"]["memory_gb"] == empty.components.policy.limits.memory_gb


REFUSED: dict[str, dict[str, Any]] = {
    "a builder": {"model": "os:system"},
    "images elsewhere": {"data": {"source": "imagefolder:/etc"}},
    "a table elsewhere": {"data": {"source": "csv:/etc/passwd"}},
    "data of one's own": {"data": {"source": "os:getcwd"}},
    "images above": {"data": {"source": "imagefolder:../runs"}},
    "a teacher elsewhere": {"training": {"distill_from": "/etc"}},
    "weights elsewhere": {"weights": "/etc/passwd"},
    "a study elsewhere": {"study": {"storage": "sqlite:////tmp/x"}},
    "a model of others": {"register": "production"},
    "a huge network": {"model": "wrn-100000-1000"},
    "many trials": {"trials": 10**9},
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_pass_the_rules_of_posted_ones(empty: Any, what: str) -> None:
    put(empty, "gift", settings(**REFUSED[what]))
    adopt(empty)
    found = row(empty, "gift")
    assert found.state == "failed"
    assert found.reason.startswith("it cannot go on here: ")
    check_refused(empty.ask("POST", "/v1/searches/gift/resume"), 409)
    assert row(empty, "gift").state == "failed"
    assert empty.launcher.launched == []


def test_a_network_of_more_parameters_than_allowed_does_not_go_on(empty: Any) -> None:
    """Whether it was adopted, or launched while the limit was higher."""
    put(empty, "mine", settings())
    adopt(empty)
    limits, data = empty.components.policy.limits, empty.home / "data"
    empty.components.policy = SettingsPolicy(
        data, limits=dataclasses.replace(limits, most_params=1000)
    )
    answer = empty.ask("POST", "/v1/searches/mine/resume")
    check_refused(answer, 409)
    assert "mine cannot go on here: digits-vgg has 288,170 parameters" in answer.json["detail"]
    assert row(empty, "mine").state == "stopped"
    assert empty.launcher.launched == []
    empty.components.policy = SettingsPolicy(data)
    assert empty.ask("POST", "/v1/searches/mine/resume").status == 200


def test_defaults_count_when_it_goes_on_too(empty: Any) -> None:
    put(empty, "mine", {"model": "digits-vgg", "budget": ["flops=50%"], "trials": 2})
    adopt(empty)
    limits = dataclasses.replace(empty.components.policy.limits, most_epochs=1)
    empty.components.policy = SettingsPolicy(empty.home / "data", limits=limits)
    answer = empty.ask("POST", "/v1/searches/mine/resume")
    check_refused(answer, 409)
    assert "training.epochs must be at most 1" in answer.json["detail"]


def test_what_the_operator_allows_later_goes_on(empty: Any) -> None:
    network = "search.models.digits:digits_vgg"
    put(empty, "gift", settings(model=network))
    adopt(empty)
    check_refused(empty.ask("POST", "/v1/searches/gift/resume"), 409)
    empty.components.policy = SettingsPolicy(empty.home / "data", (network,))
    assert empty.ask("POST", "/v1/searches/gift/resume").status == 200


def test_images_are_looked_for_below_the_data_of_the_service(
    empty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never below the folder that it happens to have been started in."""
    started_in = empty.home / "started"
    (started_in / "pictures").mkdir(parents=True)
    monkeypatch.chdir(started_in)
    put(empty, "mine", settings(data={"source": "imagefolder:pictures"}))
    adopt(empty)
    wanted = empty.home / "data" / "pictures"
    assert row(empty, "mine").settings["data"]["source"] == f"imagefolder:{wanted}"
    shown = empty.ask("GET", "/v1/searches/mine").body.decode()
    assert "imagefolder:pictures" in shown
    assert str(empty.home) not in shown


def _pipe(name: str) -> Callable[[Any], None]:
    def make(service: Any) -> None:
        folder = put(service, "gift")
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def _link(name: str, target: str) -> Callable[[Any], None]:
    def make(service: Any) -> None:
        folder = put(service, "gift")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


def _folder(name: str) -> Callable[[Any], None]:
    def make(service: Any) -> None:
        folder = put(service, "gift")
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return make


def _content(*arguments: Any) -> Callable[[Any], None]:
    return lambda service: put(service, "gift", *arguments) and None


def _results(**changes: Any) -> Callable[[Any], None]:
    return lambda service: finish(put(service, "gift", settings(), LAUNCHED), **changes)


DAMAGED: dict[str, Callable[[Any], None]] = {
    "a budget of another kind": _content(settings(budget=5)),
    "a budget alone": _content({"budget": 5}),
    "bounds of another kind": _content(settings(budget=[5])),
    "data of another kind": _content(settings(data=7)),
    "a source of another kind": _content(settings(data={"source": 7})),
    "no model": _content(settings(model=None)),
    "a list": _content([1]),
    "a number": _content("7"),
    "nothing": _content(" "),
    "half of it": _content('{"model": "digits-vgg"'),
    "deep nesting": _content("[" * 100_000),
    "no text": _content("\0\ud83d".encode("utf-8", "replace").decode()),
    "far too much": _content(json.dumps(settings()) + " " * (2 << 20)),
    "a pipe of settings": _pipe(CONFIG_FILE),
    "a pipe of events": _pipe(EVENTS_FILE),
    "a pipe of results": _pipe(RESULTS_FILE),
    "a broken link": _link(CONFIG_FILE, "/none/such"),
    "a link out": _link(CONFIG_FILE, "/etc/passwd"),
    "a link to itself": _link(CONFIG_FILE, CONFIG_FILE),
    "events behind a link": _link(EVENTS_FILE, "/etc/passwd"),
    "an endless file": _link(RESULTS_FILE, "/dev/zero"),
    "a folder of settings": _folder(CONFIG_FILE),
    "a folder of events": _folder(EVENTS_FILE),
    "a time too late": _content(settings(), LAUNCHED | {"time_ms": 10**30}),
    "a limit that is no number": _content(settings(), LAUNCHED | {"limits": {"flops": 1e999}}),
    "no origin": _results(origin=None),
    "accuracy of another kind": _results(validation_score="x"),
    "accuracy that is no number": _results(validation_score=float("nan")),
    "more FLOPs than a database counts": _results(flops=10**40),
    "no test": _results(test_score=[]),
    "a key of another kind": _results(key={}),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_cannot_be_read_is_set_aside_by_itself(empty: Any, what: str) -> None:
    DAMAGED[what](empty)
    put(empty, "sound", settings(), LAUNCHED)
    adopt(empty)
    listed = empty.ask("GET", "/v1/searches")
    assert listed.status == 200
    found = {one["id"]: one for one in listed.json["items"]}
    assert found["sound"]["state"] == "stopped"
    assert found["gift"]["state"] == "failed"
    reason = found["gift"]["reason"]
    assert reason.startswith("its folder cannot be read: ")
    assert reason.isprintable()
    assert str(empty.home) not in reason
    for page in ("", "/front", "/architectures", "/verdict", "/results", "/events", "/report"):
        assert empty.ask("GET", f"/v1/searches/gift{page}").status in (200, 404, 409)
    check_refused(empty.ask("POST", "/v1/searches/gift/resume"), 409)


NO_EVENTS = {
    "a time that is none": _content(settings(), LAUNCHED | {"time_ms": "now"}),
    "a base that is none": _content(settings(), LAUNCHED | {"base": 7}),
    "lines that are none": _content(settings(), LAUNCHED | {"lines": 7}),
    "limits of another kind": _content(settings(), LAUNCHED | {"limits": {"flops": "x"}}),
}


@pytest.mark.parametrize("what", NO_EVENTS)
def test_a_line_that_is_no_event_is_passed_over_and_told(empty: Any, what: str) -> None:
    NO_EVENTS[what](empty)
    adopt(empty)
    (found,) = empty.ask("GET", "/v1/searches").json["items"]
    assert (found["state"], found["reason"]) == ("stopped", "1 line of events.jsonl cannot be read")


NAMES = ("a" * 200, "a b", "ä", "-rf", "$(id)", "a\nb", "\udcff")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_folder_of_a_name_that_no_search_has_is_left_out(empty: Any, name: str) -> None:
    put(empty, name)
    put(empty, "sound")
    adopt(empty)
    items = empty.ask("GET", "/v1/searches").json["items"]
    assert [one["id"] for one in items] == ["sound"]


def test_a_folder_that_was_mended_is_taken_in(empty: Any) -> None:
    folder = put(empty, "gift", "{")
    adopt(empty)
    assert row(empty, "gift").state == "failed"
    (folder / CONFIG_FILE).write_text(json.dumps(settings()))
    adopt(empty)
    assert (row(empty, "gift").state, row(empty, "gift").reason) == ("stopped", "")


def test_what_has_been_taken_in_is_not_read_again(empty: Any) -> None:
    folder = put(empty, "mine")
    adopt(empty)
    (folder / CONFIG_FILE).write_text(json.dumps(settings(model="os:system")))
    adopt(empty)
    assert row(empty, "mine").settings["model"] == "digits-vgg"


def test_what_was_checked_is_what_runs(empty: Any) -> None:
    """The file may have been changed since it was adopted."""
    folder = put(empty, "mine")
    adopt(empty)
    (folder / CONFIG_FILE).write_text(json.dumps(settings(model="os:system")))
    assert empty.ask("POST", "/v1/searches/mine/resume").status == 200
    deadline = time.monotonic() + 20
    while not empty.launcher.launched and time.monotonic() < deadline:
        time.sleep(0.01)
    assert empty.launcher.launched == ["mine"]
    assert json.loads((folder / CONFIG_FILE).read_text()) == row(empty, "mine").settings


@pytest.mark.parametrize("is_linked", [False, True])
def test_exports_found_in_a_folder_are_not_handed_out(empty: Any, is_linked: bool) -> None:
    folder = put(empty, "gift", settings(), LAUNCHED)
    finish(folder)
    exports = folder / EXPORTS_FOLDER
    outside = empty.home / "outside"
    (outside if is_linked else exports).mkdir()
    if is_linked:
        exports.symlink_to(outside)
    (exports / "a-1.py").write_text("import os; os.system('id')\n")
    adopt(empty)
    assert b"os.system" not in empty.ask("GET", "/v1/architectures/gift:a-1/python").body
    assert not exports.exists()
    assert (outside / "a-1.py").exists() == is_linked
