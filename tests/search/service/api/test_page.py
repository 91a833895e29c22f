"""The page in a real browser, with a real service behind it."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from chromium import IN_A_BROWSER, chromium
from other_studies import finish, put
from ports import free_port
from samples import ABSOLUTE_ERROR, FinishedSearch, base_outcome, outcome, trial_job
from serving import ANSWER_SECONDS, WITHOUT_RAY, request

import copycat
from mlflow_server import schema
from search.config.search_config import SearchConfig
from search.storage.layout import CONFIG_FILE, EVENTS_FILE, LOG_FILE
from search.trials.jobs import job_to_mapping

pytestmark = [
    *IN_A_BROWSER,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

OVER = ("finished", "failed", "stopped")
PATIENCE_S = 600
"""For a small search, on a machine that may be busy."""
PATIENCE_MS = 1000 * PATIENCE_S

SMALL: dict[str, Any] = {
    "name": "small",
    "budget": ["flops=10%"],
    "data": {"limit_train": 240},
    "training": {"epochs": 2, "fine_tune_epochs": 1, "batch_size": 32},
    "study": {"tempered_trials": 0},
    "trials": 2,
    "ladder": [1.0, 0.5],
    "profiles": 1,
    "concurrency": 1,
}
LONG = {"name": "long", "trials": 3}
"""Of many epochs: it is stopped before it ends."""


@dataclass(frozen=True)
class Service:
    url: str
    runs: Path
    token: str = ""

    def call(self, method: str, path: str, content: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = request(
            method, self.url + path, json=content, headers=headers, timeout=ANSWER_SECONDS
        ).raise_for_status()
        return answer.json() if answer.content else None

    def state_of(self, search_id: str) -> str:
        return str(self.call("GET", f"/v1/searches/{search_id}")["state"])

    def wait_for(self, search_id: str, *states: str) -> str:
        for _ in range(10 * PATIENCE_S):
            state = self.state_of(search_id)
            if state in states:
                return state
            time.sleep(0.1)
        raise AssertionError(f"{search_id} is {state} after {PATIENCE_S} s")

    def end_searches(self) -> None:
        """Searches outlive their service."""
        ids = [item["id"] for item in self.call("GET", "/v1/searches")["items"]]
        for search_id in [found for found in ids if self.state_of(found) not in OVER]:
            self.call("POST", f"/v1/searches/{search_id}/stop")
            self.wait_for(search_id, *OVER)


@contextmanager
def serving(folder: Path, *further: str, token: str = "") -> Iterator[Service]:
    """One whose searches are without Ray."""
    port, mlflow_port = free_port(), free_port()
    command = [
        *(sys.executable, *WITHOUT_RAY, "serve", "--runs", str(folder / "runs")),
        *("--data-root", str(folder / "data"), "--port", str(port)),
        *("--mlflow-port", str(mlflow_port), *further),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    service = Service(f"http://127.0.0.1:{port}", folder / "runs", token)
    try:
        wait_until_ready(service, process, folder / "service.log")
        yield service
        service.end_searches()
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_until_ready(service: Service, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(10 * PATIENCE_S):
        assert process.poll() is None, log.read_text()
        try:
            if request("GET", f"{service.url}/readyz", timeout=10).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, finished_search: FinishedSearch
) -> Iterator[Service]:
    """One for the tests of this file, whose folder has a study of each kind."""
    folder = tmp_path_factory.mktemp("served")
    runs = shutil.copytree(finished_search.runs, folder / "runs")
    store_errors(runs)
    for kind in ("family", "correlation"):
        finish(put(runs, f"own-{kind}", kind), kind)
    with serving(folder) as service:
        yield service


@pytest.fixture(scope="module")
def finished(service: Service, finished_search: FinishedSearch) -> str:
    """A search that is finished."""
    search_id = finished_search.folder.name
    assert service.wait_for(search_id, *OVER) == "finished"
    return search_id


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@dataclass
class Watched:
    """A page and everything in it that a page of ours must not do."""

    page: Any
    service: Service
    refused: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(60_000)
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.service.url}/", "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")

    def _console(self, message: Any) -> None:
        # Chromium itself logs each answer of 400 and more; a test names those that it provokes
        answer = re.search(r"status of (\d+)", message.text)
        is_expected = answer is not None and int(answer[1]) in self.refused
        if message.type in ("error", "warning") and not is_expected:
            self.wrong.append(f"{message.type}: {message.text}")

    def open(self, route: str) -> Any:
        self.page.goto(f"{self.service.url}/#{route}")
        return self.page


@contextmanager
def looking(browser: Any, service: Service, **options: Any) -> Iterator[Watched]:
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, **options})
    watched = Watched(context.new_page(), service)
    yield watched
    context.close()
    assert watched.wrong == []


@pytest.fixture
def watched(browser: Any, service: Service) -> Iterator[Watched]:
    with looking(browser, service) as watched:
        yield watched


def field_of(page: Any, name: str) -> Any:
    return page.locator(f"[id='field-{name}']")


def fill_small(page: Any, name: str) -> None:
    for table in ("Search", "Data", "Training", "Study"):
        page.locator("summary", has_text=re.compile(f"^{table}$")).click()
    for key, value in {**SMALL, "name": name}.items():
        leaves = value if isinstance(value, dict) else {"": value}
        for leaf, content in leaves.items():
            text = ", ".join(map(str, content)) if isinstance(content, list) else str(content)
            field_of(page, f"{key}.{leaf}" if leaf else key).fill(text)


def points(page: Any) -> Any:
    return page.locator(".plot .scatterlayer .point")


def row_of(page: Any, key: str) -> Any:
    return page.locator(f"tr[data-key='{key}']:has(.links)")


def downloaded(page: Any, link: Any, folder: Path) -> Path:
    with page.expect_download() as caught:
        link.click()
    target = folder / str(caught.value.suggested_filename)
    caught.value.save_as(target)
    return target


# ---- the walk


def test_one_can_launch_watch_look_and_take_an_architecture_along(watched, service, tmp_path):
    page = watched.open("/launch")
    page.get_by_text("flops ≤ 239k (10 % of the base network)").wait_for()
    fill_small(page, "walk")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.wait_for_url("**/#/searches/walk")
    # samples are kept in the page itself: a reload would lose them
    page.evaluate(
        """() => {
            window.seen = [];
            setInterval(() => window.seen.push([
                document.querySelector(".state")?.textContent,
                document.querySelector("progress")?.value,
                document.querySelectorAll(".plot .scatterlayer .point").length,
            ]), 100);
        }"""
    )
    page.locator(".state", has_text="finished").wait_for(timeout=PATIENCE_MS)
    found = service.call("GET", "/v1/searches/walk/architectures")["items"]
    assert len(found) >= 4
    points(page).nth(len(found) - 1).wait_for()
    assert points(page).count() == len(found)
    check_samples(page.evaluate("window.seen"), len(found))
    check_verdict(page)
    assert page.get_by_text("It comes when the search is finished.").count() == 0
    check_table(page, found)
    check_trials(page, service)
    first = next(item for item in found if item["on_front"])
    check_run(page, service, first, "walk")
    check_files(page, first["key"], tmp_path)


def check_samples(seen: list[Any], num: int) -> None:
    states = list(dict.fromkeys(state for state, _, _ in seen))
    assert states[-2:] == ["running", "finished"]
    shares = [share for state, share, _ in seen if state == "running"]
    assert any(0 < share < 1 for share in shares)
    assert shares == sorted(shares)
    shown = [count for state, _, count in seen if state == "running"]
    assert any(0 < count < num for count in shown), "the plot is not live"


def check_verdict(page: Any) -> None:
    """What to take stands first; the comparisons fold away, and open by keyboard."""
    page.locator(".take p").first.wait_for()
    assert page.locator(".take p").first.inner_text().startswith("Take ")
    line = page.locator(".verdict li").first
    assert not line.is_visible()
    page.locator(".verdict summary").press("Enter")
    line.wait_for()


def check_table(page: Any, found: list[Any]) -> None:
    for item in found:
        cells = row_of(page, item["key"]).locator("th, td").all_inner_texts()
        assert cells[1] == ("yes" if item["on_front"] else "")
        assert cells[6] == f"{100 * item['validation_score']:.2f}\u00a0%"
        assert cells[7] == f"{100 * item['test_score']:.2f}\u00a0%"
    page.get_by_label("only the front").check()
    shown = page.locator("tr:has(.links)").evaluate_all("rows => rows.map(r => r.dataset.key)")
    assert shown == [i["key"] for i in found if i["on_front"] or i["origin"] == "base"]


def check_trials(page: Any, service: Service) -> None:
    trials = service.call("GET", "/v1/searches/walk")["progress"]["trials"]
    rows = page.locator("table", has_text="Every trial").locator("tbody tr")
    assert rows.count() == trials["planned"] == SMALL["trials"]
    stages = rows.locator("td:nth-of-type(4)").all_inner_texts()
    assert stages.count("finished") == trials["finished"]


def check_run(page: Any, service: Service, item: Any, search_id: str) -> None:
    """A point and a link both lead to the run in MLflow's pages."""
    place = service.call("GET", "/healthz")["mlflow_url"]
    with page.context.expect_page() as opened:
        row_of(page, item["key"]).get_by_text("MLflow").click()
    opened.value.wait_for_url(f"{place}/#/experiments/*/runs/*")
    opened.value.get_by_text(item["key"]).first.wait_for(timeout=PATIENCE_MS)
    opened.value.close()
    page.locator(".plot .nsewdrag").scroll_into_view_if_needed()
    box = points(page).last.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.locator(".card .profile").wait_for()
    key = page.locator(".card h3").inner_text()
    details = service.call("GET", f"/v1/architectures/{search_id}:{key}")
    widths = page.locator(".card tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[0].textContent, Number(row.cells[2].textContent)])"
    )
    assert dict(widths) == details["widths"] != {}
    with page.context.expect_page() as opened:
        page.mouse.down()
        page.mouse.up()
    opened.value.wait_for_url(f"{place}/#/experiments/*/runs/*")
    opened.value.get_by_text(key).first.wait_for(timeout=PATIENCE_MS)
    opened.value.close()


def check_files(page: Any, key: str, folder: Path) -> None:
    links = row_of(page, key).locator(".links")
    with zipfile.ZipFile(downloaded(page, links.get_by_text("Folder"), folder)) as archive:
        archive.extractall(folder)
    stored = copycat.read(folder / key)
    model = copycat.load(folder / key, trust=stored.builder.modules)
    with torch.no_grad():
        assert model(stored.example_input).shape == (len(stored.example_input), 10)
    assert downloaded(page, links.get_by_text("ONNX"), folder).name == f"{key}.onnx"
    assert "torch" in downloaded(page, links.get_by_text("Python"), folder).read_text()


# ---- the form


def store_errors(runs: Path) -> None:
    """A search that was stopped, as the command line leaves it; it measures an error."""
    folder = runs / "errors"
    folder.mkdir(parents=True)
    settings = dataclasses.asdict(SearchConfig(name="errors").resolved())
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    job = trial_job(0)
    base = {"flops": 2000, "params": 200}
    launched = {"pid": 1, "lines": [], "trials": 2, "base": base, "limits": {"flops": 1500}}
    epoch = {"stage": "training", "num_steps": 2, "train_loss": 1.0, "learning_rate": 0.1}
    records = [
        {**epoch, "step": step, "validation_score": 0.5 / step, "images": 100 * step}
        for step in (1, 2)
    ]
    outcomes = [
        base_outcome(flops=2000, validation_score=0.125),
        outcome("least", flops=1000, validation_score=0.25),
        outcome("worse", flops=1200, validation_score=0.75),
    ]
    events = [
        {"event": "launched", **launched, "score": ABSOLUTE_ERROR.to_mapping()},
        {"event": "started", "key": job.key, "job": job_to_mapping(job)},
        {"event": "epochs", "key": job.key, "records": records},
        {"event": "finished", "key": job.key, "outcomes": [o.to_mapping() for o in outcomes]},
        {"event": "interrupted"},
    ]
    lines = [json.dumps({"time_ms": time_ms, **event}) for time_ms, event in enumerate(events)]
    (folder / EVENTS_FILE).write_text("\n".join([*lines, ""]))
    (folder / LOG_FILE).write_text("trial 0: started\n")


def test_the_page_tells_a_score_by_its_own_name_and_what_it_costs_and_prints(watched):
    page = watched.open("/")
    best = "best 0.25 mean absolute error at 1k FLOPs, base 0.125"
    page.locator(".searches .best", has_text=best).wait_for()
    watched.open("/searches/errors")
    points(page).nth(2).wait_for()
    assert page.locator(".plot .ytitle").text_content() == "validation mean absolute error"
    for key, cells in (
        ("least", ["0.25", "", "0.125\u00a0worse"]),
        ("worse", ["0.75", "", "0.625\u00a0worse"]),
        ("base", ["0.125", "", "–"]),
    ):
        assert row_of(page, key).locator("td").all_inner_texts()[5:8] == cells
    shown = page.locator("tr.on-front").evaluate_all("rows => rows.map(r => r.dataset.key)")
    assert shown == ["least"]
    page.get_by_role("button", name="0", exact=True).click()
    page.locator(".curve .ytitle").wait_for()
    assert page.locator(".curve .ytitle").text_content() == "validation mean absolute error"
    page.get_by_text("200 images so far").wait_for()  # what it has cost
    page.get_by_text("Log", exact=True).press("Enter")
    page.locator("pre", has_text="trial 0: started").wait_for()
    heads = page.locator("th", has_text="validation mean absolute error")
    assert heads.count() == 2
    assert "accura" not in page.locator("body").inner_text().lower()


def test_a_budget_that_cannot_be_reached_is_refused_at_its_field(watched):
    watched.refused = {422}
    page = watched.open("/launch")
    budget = field_of(page, "budget")
    budget.fill("flops=0.0001%")
    error = page.locator("[id='field-budget-error']")
    error.get_by_text("the budget cannot be reached").wait_for()
    assert budget.get_attribute("aria-invalid") == "true"
    assert "field-budget-error" in budget.get_attribute("aria-describedby")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.locator("[id='field-budget']:focus").wait_for()
    assert page.url.endswith("/#/launch")
    budget.fill("flops=25%")
    page.get_by_text("flops ≤ 598k (25 % of the base network)").wait_for()
    assert error.inner_text() == ""
    assert budget.get_attribute("aria-invalid") is None


def test_a_wrong_setting_in_a_fold_opens_it(watched):
    watched.refused = {422}
    page = watched.open("/launch")
    page.get_by_text("448 channels in 6 groups").wait_for()
    assert not field_of(page, "training.batch_size").is_visible()
    field_of(page, "training.batch_size").evaluate(
        "f => { f.value = 'many'; f.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    page.locator("[id='field-training.batch_size-error']:not(:empty)").wait_for()
    assert field_of(page, "training.batch_size").is_visible()


def test_the_form_has_every_setting_with_its_help_and_sends_what_differs(watched, service):
    page = watched.open("/launch")
    page.get_by_text("448 channels in 6 groups").wait_for()
    described = service.call("GET", "/openapi.json")["components"]["schemas"]["SearchSettings"]
    expected = {}
    for name, part in described["properties"].items():
        inner = part.get("properties")
        options = {f"{name}.{leaf}": o for leaf, o in inner.items()} if inner else {name: part}
        expected |= {key: option["description"] for key, option in options.items()}
    fields = page.locator(".field").evaluate_all(
        """fields => fields.map(f => {
            const control = f.querySelector("input, select");
            const isLabelled = control.labels.length === 1;
            return [control.name, isLabelled ? f.querySelector(".help").textContent : "no label"];
        })"""
    )
    assert len(fields) == len(expected)
    assert dict(fields) == expected
    with page.expect_request("**/v1/preflight?kind=search") as asked:
        field_of(page, "trials").fill("3")
    assert asked.value.post_data_json == {"trials": 3}
    page.locator("summary", has_text=re.compile("^Data$")).click()
    with page.expect_request("**/v1/preflight?kind=search") as asked:
        field_of(page, "data.flip").select_option("false")
    assert asked.value.post_data_json == {"trials": 3, "data": {"flip": False}}


def test_typing_is_answered_once(watched):
    page = watched.open("/launch")
    page.get_by_text("448 channels in 6 groups").wait_for()
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request) if "preflight" in request.url else 0)
    field_of(page, "budget").fill("")
    field_of(page, "budget").press_sequentially("flops=50%", delay=20)
    page.get_by_text("50 % of the base network").wait_for()
    assert [request.post_data_json for request in asked] == [{"budget": ["flops=50%"]}]


def test_another_search_begins_with_the_settings_of_the_first(watched, service, finished):
    settings = json.loads((service.runs / finished / CONFIG_FILE).read_text())
    page = watched.open(f"/searches/{finished}")
    page.get_by_role("link", name="Launch another like it").click()
    page.get_by_text("448 channels in 6 groups").wait_for()
    assert field_of(page, "training.epochs").input_value() == str(settings["training"]["epochs"])
    rungs = field_of(page, "ladder").input_value().split(", ")
    assert [float(rung) for rung in rungs] == settings["ladder"]
    assert field_of(page, "name").input_value() == ""


# ---- other studies

OTHER_SMALL: dict[str, dict[str, str]] = {
    "family": {
        "name": "from-page-family",
        "budgets": "flops=20%",
        "kinds": "uniform",
        "seeds": "1",
        "training.scratch_epochs": "1",
    },
    "correlation": {
        "name": "from-page-correlation",
        "criterion": "magnitude-l1",
        "training.epochs": "1",
    },
}


def test_studies_of_other_kinds_are_launched_from_the_page_and_listed(watched, service, finished):
    watched.refused = {422}  # a family has no source to begin with
    page = watched.open("/launch")
    front = service.call("GET", f"/v1/searches/{finished}/front")["items"]
    network = f"{finished}/{front[0]['key']}"
    seen = {"family": "uniform", "correlation": "criteria"}
    for kind, settings in OTHER_SMALL.items():
        page.get_by_label("Kind").select_option(kind)
        page.get_by_role("heading", name=f"Launch a {kind} study").wait_for()
        if kind == "family":
            page.locator("[id='field-source-error']", has_text="source must be SEARCH").wait_for()
            page.locator(f"#choices-source option[value='{network}']").wait_for(state="attached")
            field_of(page, "source").fill(network)
        for name, text in settings.items():
            field_of(page, name).fill(text)
        lines = page.get_by_label("Preflight")
        lines.get_by_text(seen[kind]).first.wait_for()
        assert page.locator("[aria-invalid]").count() == 0
        page.get_by_role("button", name="Launch", exact=True).click()
        page.wait_for_url(f"**/#/searches/{settings['name']}")
        page.get_by_role("link", name="Searches", exact=True).click()
        page.get_by_label("Kind").select_option(kind)
        page.locator(f"li[data-key='{settings['name']}']", has_text=f"{kind} study").wait_for()
        page.get_by_role("link", name="Launch", exact=True).click()
    sent = service.call("GET", "/v1/searches/from-page-family")["settings"]
    assert (sent["source"], sent["budgets"], sent["seeds"]) == (network, ["flops=20%"], 1)
    sent = service.call("GET", "/v1/searches/from-page-correlation")["settings"]
    assert (sent["criterion"], sent["training"]["epochs"]) == (["magnitude-l1"], 1)


def test_a_family_of_what_is_not_there_is_refused_at_its_field(watched, finished):
    watched.refused = {422}
    page = watched.open("/launch?kind=family")
    field_of(page, "source").fill("nothing/there")
    error = page.locator("[id='field-source-error']", has_text="nothing")
    error.wait_for()
    page.get_by_role("button", name="Launch", exact=True).click()
    page.locator("[id='field-source']:focus").wait_for()
    assert page.url.endswith("/#/launch?kind=family")


def test_another_study_begins_with_the_settings_of_one_of_its_kind(watched):
    watched.refused = {422}  # its source is not here
    page = watched.open("/searches/own-family")
    page.get_by_role("link", name="Launch another like it").click()
    page.get_by_role("heading", name="Launch a family study").wait_for()
    assert field_of(page, "source").input_value() == "done/fine-tuned-0"
    assert field_of(page, "budgets").input_value() == "flops=20%, flops=10%"
    assert field_of(page, "seeds").input_value() == "2"
    page.locator("[id='field-source-error']:not(:empty)").wait_for()


# ---- with a keyboard


def tab_to(page: Any, target: Any, most: int = 80) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if target.evaluate("node => node === document.activeElement"):
            outline = target.evaluate("node => getComputedStyle(node).outlineStyle")
            assert outline != "none", "one does not see where the focus is"
            return
    raise AssertionError(f"{target} is not reached by {most} tabs")


def test_one_that_waits_is_given_a_priority(watched, service):
    for name in ("first", "second"):  # one runs at a time
        service.call("POST", "/v1/searches", {**LONG, "name": name})
    page = watched.open("/searches/second")
    field = page.get_by_label("Priority")
    field.wait_for()
    assert field.input_value() == "0"
    field.fill("7")
    with page.expect_response("**/priority") as answer:
        field.press("Enter")
    assert answer.value.status == 200
    assert service.call("GET", "/v1/searches/second")["priority"] == 7
    watched.open("/").get_by_role("heading", name="Searches").wait_for()  # before it is gone
    for name in ("second", "first"):
        service.call("POST", f"/v1/searches/{name}/stop")
        service.wait_for(name, *OVER)
        service.call("DELETE", f"/v1/searches/{name}")


def test_a_keyboard_launches_stops_and_removes(watched, service):
    page = watched.open("/")
    page.get_by_role("heading", name="Searches").wait_for()
    tab_to(page, page.locator("nav a", has_text="Launch"))
    page.keyboard.press("Enter")
    page.get_by_text("448 channels in 6 groups").wait_for()
    for name in ("trials", "name"):
        tab_to(page, field_of(page, name))
        page.keyboard.press("Control+A")
        page.keyboard.type(str(LONG[name]))
    tab_to(page, page.get_by_role("button", name="Launch", exact=True))
    with page.expect_request("**/v1/searches?kind=search") as sent:
        page.keyboard.press("Enter")
    assert re.fullmatch("[0-9a-f]{32}", sent.value.headers["idempotency-key"])
    assert sent.value.post_data_json == LONG
    page.wait_for_url("**/#/searches/long")
    page.locator("h1", has_text="long").wait_for()
    stop = page.get_by_role("button", name="Stop")
    stop.wait_for()
    tab_to(page, stop)
    page.keyboard.press("Enter")
    page.locator(".state", has_text="stopped").wait_for(timeout=PATIENCE_MS)
    assert page.get_by_role("button", name="Resume").is_visible()
    remove = page.get_by_role("button", name="Remove").first
    tab_to(page, remove)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert service.state_of("long") == "stopped"
    page.keyboard.press("Enter")  # the focus is back on the button
    dialog.wait_for()
    page.keyboard.press("Enter")  # on Cancel, which comes first
    dialog.wait_for(state="hidden")
    assert service.state_of("long") == "stopped"
    page.keyboard.press("Enter")
    tab_to(page, dialog.get_by_role("button", name="Remove"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/")
    assert "long" not in [item["id"] for item in service.call("GET", "/v1/searches")["items"]]


def test_the_table_does_with_a_keyboard_what_the_plot_does_with_a_mouse(watched, service, finished):
    page = watched.open(f"/searches/{finished}")
    base, *found = service.call("GET", f"/v1/searches/{finished}/architectures")["items"]
    assert base["origin"] == "base"  # it kept all channels, which its card need not show
    row_of(page, found[0]["key"]).wait_for()
    tab_to(page, row_of(page, found[0]["key"]).locator("button"))
    page.keyboard.press("Enter")
    page.locator(".card h3", has_text=found[0]["key"]).wait_for()
    page.locator(".card .profile").wait_for()
    link = row_of(page, found[0]["key"]).get_by_text("MLflow")
    tab_to(page, link)
    with page.context.expect_page() as opened:
        page.keyboard.press("Enter")
    opened.value.wait_for_url("**/#/experiments/*/runs/*")


# ---- how it looks


@pytest.mark.parametrize(
    "route", ["/", "/launch", "/launch?kind=family", "/searches/{}", "/searches/nowhere"]
)
def test_a_phone_scrolls_only_downwards(browser, service, finished, route):
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with looking(browser, service, **phone) as watched:
        watched.refused = {404, 422}  # 422: of a family that has no source yet
        page = watched.open(route.format(finished))
        marks = {
            "/": ".searches li",
            "/launch": ".about",
            "/launch?kind=family": ".error:not(:empty)",
            "/searches/nowhere": "#notice:not(:empty)",
        }
        page.locator(marks.get(route, ".plot .point")).first.wait_for()
        for fold in page.locator("details").all():
            fold.evaluate("fold => { fold.open = true; }")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        beyond = page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter(node =>
                !node.closest(".scroll, .plot, pre, .profile, .skip")
                && node.getBoundingClientRect().right > 391).map(node => node.outerHTML)"""
        )
        assert beyond == []


def test_the_list_tells_how_each_search_stands_and_filters_by_state(watched, service, finished):
    page = watched.open("/")
    item = page.locator(f"li[data-key='{finished}']")
    item.get_by_text("finished").wait_for()
    best = service.call("GET", f"/v1/searches/{finished}")["progress"]["best"]
    text = item.inner_text()
    assert "digits-vgg on digits, flops=10%" in text
    assert f"best {100 * best['validation_score']:.1f}\u00a0%" in text
    assert item.locator("progress").evaluate("bar => bar.value") == 1
    page.get_by_label("State").select_option("failed")
    page.get_by_text("No search is failed.").wait_for()
    assert item.count() == 0
    page.go_back()
    item.wait_for()


def test_other_studies_are_listed_by_kind_and_shown_with_their_results(watched):
    page = watched.open("/")
    page.get_by_text("family study: done/fine-tuned-0 on digits, flops=20%, flops=10%").wait_for()
    page.get_by_label("Kind").select_option("correlation")
    page.locator("li", has_text="own-family").wait_for(state="detached")
    study = page.locator("li", has_text="own-correlation")
    study.get_by_text("correlation study: digits-vgg on digits").wait_for()
    study.get_by_role("link").click()
    criterion = page.locator("table", has_text="Correlation with the oracle").locator("tbody tr")
    criterion.wait_for()
    cells = criterion.locator("th, td").all_inner_texts()
    assert cells == ["taylor", *2 * ["0.500", "–", "0.250"]]
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings == ["Results", "Architectures"]
    page = watched.open("/searches/own-family")
    point = page.locator("table", has_text="Mean and deviation").locator("tbody tr")
    point.wait_for()
    cells = [text.replace("\u00a0", " ") for text in point.locator("th, td").all_inner_texts()]
    assert cells == [
        *("copycat", "flops=10%", "300", "900", "75.00 % ± 1.00 %", "−5.0 points", "2"),
    ]
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings == ["Pareto front", "Results", "Architectures"]
    points(page).nth(3).wait_for()
    assert page.get_by_text("Launch another like it").is_visible()


def test_origins_have_the_colours_that_mlflow_shows(watched):
    page = watched.open("/")
    colours = page.evaluate("import('/assets/plot.js').then(plot => plot.COLOURS)")
    assert colours == schema.COLOURS


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, service, scheme):
    with looking(browser, service, color_scheme=scheme) as watched:
        page = watched.open("/launch")
        page.locator(".about").first.wait_for()
        names = ("--text", "--quiet", "--accent", "--danger", "--good", "--ground", "--raised")
        found = page.evaluate(
            """names => {
                const style = getComputedStyle(document.documentElement);
                return names.map(name => style.getPropertyValue(name));
            }""",
            names,
        )
        *inks, ground, raised = (luminance(colour.strip()) for colour in found)
        for ink in inks:
            for behind in (ground, raised):
                least, most = sorted((ink, behind))
                assert (most + 0.05) / (least + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG defines it."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ---- with tokens


def run_token_command(runs: Path) -> str:
    command = [sys.executable, "-m", "search.cli", "token", "create", "ann", "--runs", str(runs)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_token_is_asked_for_and_sent_with_everything(
    browser, service, finished, tmp_path, empty_store
):
    shutil.copytree(empty_store, tmp_path / "runs")
    token = run_token_command(tmp_path / "runs")
    shutil.copytree(service.runs / finished, tmp_path / "runs" / finished)
    with (
        serving(tmp_path, token=token) as guarded,
        looking(browser, guarded) as watched,
    ):
        watched.refused = {401, 404}
        page = watched.open(f"/searches/{finished}")
        page.get_by_label("Token").fill("espalier_wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("This token is not known here.").wait_for()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        points(page).first.wait_for()
        page.locator("table", has_text="Every trial").locator("tbody tr").first.wait_for()
        first = page.locator("tr:has(.links)").first
        saved = downloaded(page, first.get_by_text("Folder"), tmp_path)
        assert zipfile.is_zipfile(saved)
        report = downloaded(page, page.get_by_text("The whole report"), tmp_path)
        assert "<html" in report.read_text()
        first.get_by_text("MLflow").click()  # of which this service's MLflow knows nothing
        page.get_by_text("MLflow has no run of").wait_for()
        page.get_by_role("button", name="Forget the token").click()
        page.get_by_label("Token").wait_for()
        assert points(page).count() == 0
