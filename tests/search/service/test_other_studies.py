"""Families and correlation studies over HTTP: what a search can do, by the same routes."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_studies import (
    CLASSES,
    FAMILY,
    NETWORK,
    SETTINGS,
    content_of,
    finish,
    put,
    store,
)
from refusals import check_refused, untouched
from samples import espalier
from serving import STEPWISE, WITHOUT_RAY, eventually
from serving import service as real_service

import copycat
from copycat.builder import Builder
from search.client import Client
from search.config.correlation_config import CorrelationConfig
from search.config.data_config import DataConfig
from search.config.settings import from_mapping
from search.config.training_config import TrainingConfig
from search.results.correlation import agreement
from search.results.correlation_report import CorrelationResults, content
from search.service.access.settings_policy import SettingsPolicy
from search.service.queue.adoption import adopt_searches
from search.service.runs_folder import refuse_constant
from search.service.service_config import LimitsConfig
from search.storage.layout import (
    ARCHITECTURES_FOLDER,
    RESULTS_FILES,
    SETTINGS_FILES,
    StudyKind,
)
from search.trials.preflight import Preflight

KINDS = tuple(SETTINGS)
TARGETS = ("/v1/searches", "/v1/preflight")


@pytest.fixture(scope="module")
def made(
    serve: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    patient: None,
    preflight: Preflight,
) -> Iterator[Any]:
    """A service with a finished search `done`, whose network fine-tuned-0 can be opened."""
    with serve(tmp_path_factory.mktemp("studies")) as running:
        running.finish("done", ["fine-tuned-0"])
        store(running.runs, preflight, data="digits")
        running.components.dispatcher.close()  # everything stays in the queue
        yield running


def post(service: Any, target: str, content: Any, kind: str, **headers: str) -> Any:
    body = json.dumps(content).encode()
    return service.ask("POST", f"{target}?kind={kind}", body, headers=headers, timeout=120)


def launched(service: Any, kind: StudyKind, **changes: Any) -> dict[str, Any]:
    answer = post(service, "/v1/searches", SETTINGS[kind] | changes, kind)
    assert answer.status == 201, answer.body
    content: dict[str, Any] = answer.json
    return content


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> StudyKind:
    found: StudyKind = request.param
    return found


# ---- from its settings to the queue, and out of it again


def test_it_is_queued_with_the_settings_of_its_kind(made: Any, kind: StudyKind) -> None:
    answer = launched(made, kind)
    assert (answer["kind"], answer["state"]) == (kind, "queued")
    row = made.components.searches.get(answer["id"])
    config = from_mapping(CLASSES[kind], row.settings)
    meant = from_mapping(CLASSES[kind], SETTINGS[kind])
    names = ("budgets", "seeds", "kinds") if kind == "family" else ("criterion", "model")
    assert all(getattr(config, name) == getattr(meant, name) for name in names)
    assert (config.runs, config.device) == (str(made.runs), "cpu")
    assert not {"runs", "mlflow_url", "trust"} & {*answer["settings"]}
    assert str(made.home) not in json.dumps(answer)


def test_what_the_list_says_of_each(made: Any) -> None:
    family, correlation = (launched(made, kind) for kind in KINDS)
    assert (family["model"], family["source"], family["data"]) == ("", NETWORK, "digits")
    assert family["budget"] == ["flops=20%", "flops=10%"]
    assert (correlation["model"], correlation["source"]) == ("digits-vgg", "")
    assert correlation["budget"] == []
    items = made.ask("GET", "/v1/searches").json["items"]
    assert {item["kind"] for item in items} == {"search", "family", "correlation"}
    for kind in ("search", "family", "correlation"):
        listed = made.ask("GET", f"/v1/searches?kind={kind}").json
        assert {item["kind"] for item in listed["items"]} == {kind}
        assert listed["total"] == sum(item["kind"] == kind for item in items)
    check_refused(made.ask("GET", "/v1/searches?kind=famly"), 422, field="kind")


def test_toml_says_the_same(made: Any) -> None:
    text = f'source = "{NETWORK}"\nbudgets = ["flops=20%"]\n[training]\nscratch_epochs = 3\n'
    headers = {"content-type": "application/toml"}
    answer = made.ask("POST", "/v1/searches?kind=family", text.encode(), headers=headers)
    assert answer.status == 201, answer.body
    assert answer.json["settings"]["training"]["scratch_epochs"] == 3


def test_a_recipe_is_what_it_is_on_the_command_line(made: Any) -> None:
    """A stage of fine-tuning, which a family has none of, is left out of it."""
    answer = launched(made, "family", training={"recipe": "fine-tune"})
    assert answer["settings"]["training"]["scratch_epochs"] == 160
    wrong = post(made, "/v1/searches", FAMILY | {"training": {"recipe": "x"}}, "family")
    check_refused(wrong, 422, field="training.recipe")


def test_the_preflight_says_what_there_would_be(made: Any) -> None:
    with untouched(made):
        family, correlation = (post(made, "/v1/preflight", SETTINGS[k], k).json for k in KINDS)
    assert family["base"]["params"] == correlation["base"]["params"] == 288_170
    rungs = [line for line in family["lines"] if line.startswith(("copycat ", "uniform "))]
    assert [line.split()[:2] for line in rungs] == [
        [kind, f"flops={limit}:"] for limit in ("239k", "479k") for kind in ("copycat", "uniform")
    ]
    assert "8 networks, every seed counted" in "".join(family["lines"])
    assert "criteria: taylor, magnitude-l1" in correlation["lines"][-1]


def test_a_repeated_request_begins_no_second_one(made: Any, kind: StudyKind) -> None:
    headers = {"idempotency-key": f"of-{kind}"}
    first = post(made, "/v1/searches", SETTINGS[kind], kind, **headers)
    again = post(made, "/v1/searches", SETTINGS[kind], kind, **headers)
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]
    other = post(made, "/v1/searches", SETTINGS[kind], "search", **headers)
    check_refused(other, 422, field="Idempotency-Key")


def test_it_is_stopped_resumed_and_removed(made: Any, kind: StudyKind) -> None:
    path = f"/v1/searches/{launched(made, kind)['id']}"
    assert made.ask("POST", f"{path}/stop").json["state"] == "stopped"
    answer = made.ask("POST", f"{path}/resume", timeout=120)
    assert (answer.status, answer.json["state"]) == (200, "queued"), answer.body
    assert made.ask("GET", f"{path}/trials").json["items"] == []
    assert made.ask("DELETE", path).status == 204
    assert made.ask("GET", path).status == 404


def test_one_that_is_resumed_is_held_against_what_is_there_now(
    made: Any, preflight: Preflight
) -> None:
    made.finish("gone", ["fine-tuned-0"])
    store(made.runs, preflight, name="gone", data="digits")
    path = f"/v1/searches/{launched(made, 'family', source='gone/fine-tuned-0')['id']}"
    made.ask("POST", f"{path}/stop")
    assert made.ask("DELETE", "/v1/searches/gone").status == 204
    answer = made.ask("POST", f"{path}/resume")
    check_refused(answer, 409)
    assert "cannot go on here: source: there is no gone/architectures" in answer.json["detail"]


def test_one_whose_search_is_removed_while_it_waits_takes_no_other_network(
    made: Any, preflight: Preflight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process begins in some folder, where another one of that name may lie."""
    made.finish("left", ["fine-tuned-0"])
    folder = store(made.runs, preflight, name="left", data="digits")
    shutil.copytree(folder, tmp_path / "left" / "fine-tuned-0")
    study = launched(made, "family", source="left/fine-tuned-0", name="waiting")["id"]
    settings = made.components.searches.get(study).settings
    (made.runs / study).mkdir()
    (made.runs / study / SETTINGS_FILES["family"]).write_text(json.dumps(settings))
    assert made.ask("DELETE", "/v1/searches/left").status == 204
    monkeypatch.chdir(tmp_path)
    done = espalier("resume", study, "--runs", made.runs)
    assert (done.status, done.out) == (2, "")
    assert "there is no architecture left:fine-tuned-0: its search was removed" in done.err
    assert len(done.err.splitlines()) == 1


def test_one_whose_included_search_is_removed_while_it_waits_takes_no_other(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.finish("included", ["fine-tuned-0"])
    shutil.copytree(made.runs / "included", tmp_path / "included")
    study = launched(made, "family", name="including")["id"]
    settings = made.components.searches.get(study).settings | {"include": ["included"]}
    (made.runs / study).mkdir()
    (made.runs / study / SETTINGS_FILES["family"]).write_text(json.dumps(settings))
    assert made.ask("DELETE", "/v1/searches/included").status == 204
    monkeypatch.chdir(tmp_path)
    done = espalier("resume", study, "--runs", made.runs)
    assert done.status == 2
    assert f"{made.runs / 'included'} holds no search" in done.err


# ---- what a family is made from


@pytest.mark.parametrize(
    "source",
    [
        *("/etc", "/etc/passwd", "..", "../done/fine-tuned-0", "done/../done/fine-tuned-0"),
        *("done/architectures/fine-tuned-0", "./done/fine-tuned-0", "done//fine-tuned-0"),
        *("profile.json", "done", "done/", "/fine-tuned-0", "done/fine-tuned-7", "none/base"),
        *("done/fine-tuned-0@", "done/fine-tuned-0@../x", "done\\fine-tuned-0", "~/x", ""),
        *("linked/fine-tuned-0", "done/linked", 5, None, ["done/fine-tuned-0"]),
    ],
    ids=str,
)
def test_no_source_leads_out(made: Any, source: object, tmp_path: Path) -> None:
    shutil.copytree(made.runs / "done", tmp_path / "elsewhere", dirs_exist_ok=True)
    networks = made.runs / "done" / ARCHITECTURES_FOLDER
    for link in (made.runs / "linked", networks / "linked"):
        link.unlink(missing_ok=True)
    (made.runs / "linked").symlink_to(tmp_path / "elsewhere")
    (networks / "linked").symlink_to(networks / "fine-tuned-0")
    asked = len(made.components.worker.asked)
    with untouched(made):
        for target in TARGETS:
            answer = post(made, target, FAMILY | {"source": source}, "family")
            check_refused(answer, 422, field="source")
            assert str(made.home) not in answer.json["detail"]
    assert len(made.components.worker.asked) == asked, "it was opened"


def test_a_source_is_needed(made: Any) -> None:
    check_refused(post(made, "/v1/searches", {}, "family"), 422, field="source")


@pytest.mark.parametrize("source", ["done:fine-tuned-0", "done/fine-tuned-0"])
def test_a_network_is_named_as_the_api_or_the_command_line_does(made: Any, source: str) -> None:
    assert launched(made, "family", source=source)["source"] == NETWORK


def test_a_network_of_the_runs_is_meant_whatever_lies_where_the_service_began(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / NETWORK
    shutil.copytree(made.runs / "done" / ARCHITECTURES_FOLDER / "fine-tuned-0", here)
    (here / "architecture.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert launched(made, "family")["source"] == NETWORK


@pytest.mark.parametrize("include", [["/etc"], ["../done"], ["none"], ["done/x"], [""], [5]])
def test_no_search_that_is_included_leads_out(made: Any, include: list[object]) -> None:
    with untouched(made):
        answer = post(made, "/v1/searches", FAMILY | {"include": include}, "family")
        check_refused(answer, 422, field="include")


def test_a_trajectory_that_is_not_there_is_told_without_a_path(made: Any) -> None:
    answer = post(made, "/v1/preflight", FAMILY | {"source": f"{NETWORK}@3"}, "family")
    check_refused(answer, 422, field="source")
    assert answer.json["detail"].startswith(
        "done/architectures/fine-tuned-0 has no trajectory (trajectory.json)"
    )


@pytest.mark.parametrize(
    ("data", "field"),
    [("csv:/etc/passwd", "data.source"), ("os:system", "data.source"), ("digits", None)],
)
def test_the_data_that_an_architecture_names_are_held_against_the_rules(
    made: Any, preflight: Preflight, data: str, field: str | None
) -> None:
    """They are taken where the request names none."""
    made.finish("from-elsewhere", ["fine-tuned-0"])
    store(made.runs, preflight, name="from-elsewhere", data=data)
    asked = FAMILY | {"source": "from-elsewhere/fine-tuned-0"}
    answer = post(made, "/v1/preflight", asked, "family")
    if field is None:
        assert answer.status == 200, answer.body
    else:
        check_refused(answer, 422, field=field)
    named = post(made, "/v1/preflight", asked | {"data": {"source": "digits"}}, "family")
    assert named.status == 200
    made.ask("DELETE", "/v1/searches/from-elsewhere")


def test_data_of_another_shape_are_refused(made: Any) -> None:
    content = FAMILY | {"data": {"source": "digits", "image_size": 16}}
    check_refused(post(made, "/v1/preflight", content, "family"), 422, field="data.source")


def test_a_stored_network_runs_only_what_the_operator_allows(
    made: Any, preflight: Preflight
) -> None:
    made.finish("foreign", ["fine-tuned-0"])
    folder = store(made.runs, preflight, name="foreign", data="digits")
    stored, model = copycat.read(folder), copycat.load(folder)
    theirs = dataclasses.replace(stored, builder=Builder("os:system"))
    copycat.save(folder, theirs, model)
    asked = FAMILY | {"source": "foreign/fine-tuned-0"}
    answer = post(made, "/v1/preflight", asked, "family")
    check_refused(answer, 422, field="source")
    assert "is not trusted" in answer.json["detail"]
    trusting = post(made, "/v1/preflight", asked | {"trust": ["os"]}, "family")
    check_refused(trusting, 422, field="trust")


# ---- what clients may ask for


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        ("family", {"training": {"scratch_epochs": 401}}, "training.scratch_epochs"),
        ("family", {"seeds": 3}, "budgets"),
        ("family", {"budgets": ["params=100:9999:1"]}, "budgets"),
        ("family", {"runs": "/tmp"}, "runs"),
        ("family", {"budgets": ["flops=x"]}, "budgets"),
        ("family", {"budgets": []}, "budgets"),
        ("family", {"kinds": ["copycats"]}, "kinds"),
        ("family", {"trials": 2}, "trials"),
        ("family", {"training": {"epochs": 3}}, "epochs"),
        ("correlation", {"training": {"epochs": 401}}, "training.epochs"),
        ("correlation", {"data": {"source": "csv:/etc/passwd"}}, "data.source"),
        ("correlation", {"model": "os:system"}, "model"),
        ("correlation", {"criterion": ["oracle"]}, "criterion"),
        ("correlation", {"resources": {"ray_address": "evil:1"}}, "resources.ray_address"),
        ("correlation", {"source": NETWORK}, "source"),
        ("correlation", {"model": "resnet56"}, "model"),
        ("search", {"source": NETWORK, "budget": ["flops=10%"]}, "source"),
    ],
    ids=str,
)
def test_no_more_than_the_operator_allows(
    made: Any, kind: StudyKind, changes: dict[str, Any], field: str
) -> None:
    before = made.components.policy
    limits = LimitsConfig(most_epochs=400, most_trials=8, most_params=300_000)
    made.components.policy = SettingsPolicy(made.home / "data", limits=limits)
    short = {"training": {"scratch_epochs": 10} if kind == "family" else {"epochs": 10}}
    content = (short | SETTINGS[kind] if kind in SETTINGS else {}) | changes
    try:
        with untouched(made):
            for target in TARGETS:
                check_refused(post(made, target, content, kind), 422, field=field)
    finally:
        made.components.policy = before


def test_a_study_works_no_longer_and_takes_no_more_than_it_may(made: Any, kind: StudyKind) -> None:
    before = made.components.policy
    limits = LimitsConfig(most_hours=1.5, memory_gb=3)
    made.components.policy = SettingsPolicy(made.home / "data", limits=limits)
    try:
        resources = launched(made, kind)["settings"]["resources"]
    finally:
        made.components.policy = before
    assert (resources["time_budget"], resources["memory_gb"]) == ("5400s", 3)


def test_a_kind_that_there_is_not(made: Any) -> None:
    with untouched(made):
        for target in TARGETS:
            check_refused(post(made, target, FAMILY, "families"), 422, field="kind")


def test_the_description_has_a_schema_for_each_kind(made: Any) -> None:
    schemas = made.ask("GET", "/openapi.json", timeout=120).json["components"]["schemas"]
    family, correlation = schemas["FamilySettings"], schemas["CorrelationSettings"]
    assert family["required"] == ["source"]
    assert "SEARCH/NAME" in family["properties"]["source"]["description"]
    assert {"budgets", "kinds", "seeds", "include"} <= {*family["properties"]}
    assert "gates_per" in correlation["properties"]
    data = [kind["properties"]["data"]["properties"]["source"] for kind in (family, correlation)]
    assert ["default" in source for source in data] == [False, True]
    assert "that the source was trained on" in data[0]["description"]
    for schema in (family, correlation):
        assert not {"runs", "trust", "mlflow_url", "device"} & {*schema["properties"]}
        assert "fine_tune_epochs" not in schema["properties"]["training"]["properties"]


# ---- what comes of it


def check_results(service: Any, study: str, kind: StudyKind) -> None:
    path = f"/v1/searches/{study}"
    results = service.ask("GET", f"{path}/results").json
    written = json.loads(json.dumps(content_of(kind)))
    assert results == {name: value for name, value in written.items() if name != "settings"}
    figure = service.ask("GET", f"{path}/figure")
    assert (figure.body, figure.headers["content-type"]) == (b"PNG", "image/png")
    items = service.ask("GET", f"{path}/architectures").json["items"]
    expected = ["base", "low", "worse", "high"] if kind == "family" else ["base"]
    assert [item["key"] for item in items] == expected
    assert all(item["slack"] == {} for item in items), "it has no budget"
    front = service.ask("GET", f"{path}/front").json["items"]
    assert [item["key"] for item in front] == (["low", "high"] if kind == "family" else [])
    report = service.ask("GET", f"{path}/report")
    assert (report.body, report.headers["content-type"]) == (b"page", "text/html; charset=utf-8")
    answer = service.ask("GET", f"{path}/verdict")
    check_refused(answer, 409)
    assert f"{study} is a {kind} study" in answer.json["detail"]


def test_the_queue_runs_it_and_its_results_are_read(
    serve: Callable[..., Any], tmp_path: Path, kind: StudyKind, preflight: Preflight
) -> None:
    with serve(tmp_path) as service:
        service.finish("done", ["fine-tuned-0"])
        store(service.runs, preflight, data="digits")
        study = launched(service, kind)["id"]
        searches = service.components.searches
        eventually(lambda: searches.get(study).handle)
        assert service.launcher.launched == [study]
        folder = service.runs / study
        stored = json.loads((folder / SETTINGS_FILES[kind]).read_text())
        assert from_mapping(CLASSES[kind], stored).name == study
        assert not {SETTINGS_FILES["search"]} & {file.name for file in folder.iterdir()}
        check_refused(service.ask("GET", f"/v1/searches/{study}/results"), 409)
        finish(folder, kind)
        service.launcher.interrupt(searches.get(study).handle)  # it has ended
        eventually(lambda: searches.get(study).state == "finished")
        check_results(service, study, kind)


def test_a_finished_one_in_the_folder_is_taken_in(made: Any, kind: StudyKind) -> None:
    folder = put(made.runs, f"own-{kind}", kind)
    finish(folder, kind)
    adopt(made)
    row = made.components.searches.get(folder.name)
    assert (row.kind, row.state, row.reason) == (kind, "finished", "")
    check_results(made, folder.name, kind)


def test_results_are_json_that_all_can_read(made: Any) -> None:
    """Scores of a criterion may be no numbers; what an older version wrote of them is refused."""
    folder = put(made.runs, "odd", "correlation")
    finish(folder, "correlation")
    adopt(made)
    scores = {"conv": np.array([1.0, math.nan, math.inf])}
    found = CorrelationResults((agreement("taylor", scores, scores),), 3, 10, 0.5, ())
    stored = content(found, CorrelationConfig(), {"taylor": scores}, scores)
    (folder / RESULTS_FILES["correlation"]).write_text(json.dumps(stored))
    answer = made.ask("GET", "/v1/searches/odd/results")
    assert answer.status == 200
    read = json.loads(answer.body, parse_constant=refuse_constant)
    assert read["oracle"] == {"conv": [1.0, None, None]}
    (folder / RESULTS_FILES["correlation"]).write_text(json.dumps({"oracle": math.nan}))
    check_refused(made.ask("GET", "/v1/searches/odd/results"), 409)


def adopt(service: Any) -> None:
    components = service.components
    adopt_searches(components.searches, service.runs, components.policy, "cpu")


def test_one_of_the_command_line_goes_on_here(made: Any, kind: StudyKind) -> None:
    put(made.runs, f"begun-{kind}", kind, trust=["os"])
    adopt(made)
    answer = made.ask("POST", f"/v1/searches/begun-{kind}/resume", timeout=120)
    assert (answer.status, answer.json["state"]) == (200, "queued"), answer.body
    assert "trust" not in made.components.searches.get(f"begun-{kind}").settings


@pytest.mark.parametrize("source", ["/etc", "../elsewhere/architectures/base", "none/base"])
def test_a_family_of_something_else_does_not_go_on_here(made: Any, source: str) -> None:
    name = f"from{len(source)}"
    put(made.runs, name, "family", source=source)
    adopt(made)
    answer = made.ask("POST", f"/v1/searches/{name}/resume")
    check_refused(answer, 409)
    assert "cannot go on here: source" in answer.json["detail"]


def test_where_things_lie_on_the_operator_s_machine_is_not_shown(made: Any) -> None:
    put(made.runs, "told", "family", source="/home/ann/runs/mine/architectures/base")
    adopt(made)
    shown = made.ask("GET", "/v1/searches/told").json
    assert shown["source"] == shown["settings"]["source"] == "mine/base"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"source": 5}', '{"model": ["a"]}'])
def test_one_that_cannot_be_read_is_set_aside_until_it_is_mended(
    made: Any, kind: StudyKind, content: str
) -> None:
    folder = put(made.runs, f"broken-{kind}-{content.encode().hex()}", kind)
    file = folder / SETTINGS_FILES[kind]
    whole = file.read_text()
    file.write_text(content)
    adopt(made)
    shown = made.ask("GET", f"/v1/searches/{folder.name}").json
    assert (shown["kind"], shown["state"]) == (kind, "failed")
    assert "its folder cannot be read" in shown["reason"]
    file.write_text(whole)
    adopt(made)
    assert made.components.searches.get(folder.name).state == "stopped"


# ---- the whole way, by a real service and its processes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_what_was_found_is_made_into_a_family_and_its_criteria_are_compared(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other in one queue; the family is stopped in between, and goes on."""
    data = {"source": "digits", "limit_train": 120}
    small = {"data": data, "training": {"scratch_epochs": 2, "batch_size": 32}}
    shutil.copytree(empty_store, tmp_path / "runs")
    allowed = ("--builder", "stepwise:Stepwise")
    with (
        real_service(tmp_path, *allowed, program=WITHOUT_RAY) as running,
        Client(running.url) as client,
    ):
        running.hold()  # which writes the network
        running.release()
        training = {"epochs": 1, "fine_tune_epochs": 1, "scratch_epochs": 1, "batch_size": 32}
        settings = {**STEPWISE, "trials": 1, "data": data, "training": training}
        search = running.launch(**settings)
        running.wait_for(search, "finished")
        running.hold()
        key = next(row["key"] for row in client.front(search) if row["origin"] == "fine-tuned")
        asked = {"source": f"{search}:{key}", "budgets": ["flops=9%"], "seeds": 2, **small}
        family = client.launch({**asked, "include": [search]}, kind="family")["id"]
        running.get_on(family, 3)
        assert client.stop(family)["is_stopping"]
        running.wait_for(family, "stopped")
        begun = running.epochs(family)
        running.release()
        client.resume(family)
        config = CorrelationConfig(
            criterion=("taylor", "magnitude-l1"),
            data=DataConfig(limit_train=120),
            training=TrainingConfig(epochs=1, batch_size=32),
            scoring_batches=1,
        )
        correlation = client.launch(config)["id"]
        running.wait_for(family, "finished")
        running.wait_for(correlation, "finished")

        events = [event["event"] for event in client.events(family)]
        assert events.count("launched") == 2
        assert 0 < begun < running.epochs(family)
        study = client.family(family)
        kinds = [point.kind for point in study.points]
        assert kinds == ["fine-tuned", "copycat", "uniform", "from-scratch"]
        assert {point.num_runs for point in study.points if point.kind != "fine-tuned"} == {2}
        stored = client.architectures(family)
        assert len(stored) == 1 + 2 * 3, "the base network, and each shape with two seeds"
        monkeypatch.syspath_prepend(tmp_path)  # where the network's module is
        member = client.download(stored[-1]["id"], tmp_path / "member")
        copycat.load(member, trust=["stepwise"])
        agreements = client.correlation(correlation).agreements
        assert {row.criterion for row in agreements} == {"taylor", "magnitude-l1"}
        for name in (search, family, correlation):
            assert client.figure(name).startswith(b"\x89PNG")
        assert {row["kind"]: row["id"] for row in client.searches()} == {
            "search": search,
            "family": family,
            "correlation": correlation,
        }
        assert str(tmp_path) not in json.dumps([client.search(family), client.search(correlation)])
