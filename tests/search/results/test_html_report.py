"""The report of a search: one page, offline, safe, and true to the results."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from samples import (
    ABSOLUTE_ERROR,
    MEAN_IOU,
    base_outcome,
    espalier,
    small_config,
    stored_outcome,
)

from pruning.errors import SearchStateError
from search.config.search_config import SearchConfig
from search.results.contests import contests
from search.results.html_report import report_page
from search.results.report import Results
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import EpochRecord, Outcome
from search.trials.pareto import front
from search.trials.preflight import Preflight

EVIL = "</script><img src=x onerror=alert(1)> & <b>bold</b>"

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """The tags of a page, and the content of its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text: list[str] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = (dict(attrs).get("id") or "code") if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def _widths(preflight: Preflight) -> dict[str, int]:
    return {name: preflight.graph.group(name).width for name in preflight.groups}


def save_results(
    config: SearchConfig,
    preflight: Preflight,
    everything: list[Outcome],
    base_network: Outcome | None = None,
) -> Results:
    rungs = [("all of it", preflight.limits), ("half of it", preflight.limits.scaled(0.5))]
    results = Results(
        base=preflight.base,
        budget=str(preflight.budget),
        num_test=400,
        everything=tuple(everything),
        front=tuple(front(everything, ACCURACY)),
        contests=contests(everything, rungs, ACCURACY),
        failures={"trial 7": EVIL},
        notes=(EVIL,),
        limits=preflight.limits,
        base_widths=_widths(preflight),
        base_network=base_network,
    )
    (config.directory / "results.json").write_text(json.dumps(results.to_mapping()))
    return results


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    config = small_config(tmp_path, trials=4)
    config.directory.mkdir(parents=True)
    (config.directory / "search.json").write_text(json.dumps(dataclasses.asdict(config)))
    return config


@pytest.fixture
def results(config: SearchConfig, preflight: Preflight) -> Results:
    """Two shapes, one of them also from scratch with two seeds and at equal compute."""
    tuned = [
        stored_outcome(
            config, preflight, number, dict(zip(preflight.groups, widths, strict=True)), accuracy
        )
        for number, widths, accuracy in (
            (0, (8, 9, 10, 11, 12, 13), 0.9),
            (1, (3, 4, 6, 5, 4, 3), 0.8),
        )
    ]
    same = {"origin": "from-scratch", "validation_score": 0.7, "compute": 2e9}
    scratch = [
        dataclasses.replace(tuned[0], key=key, **same, **more)
        for key, more in (
            ("from-scratch-0", {"test_score": 0.61}),
            ("from-scratch-0-s1", {"test_score": 0.63, "seed": 2**21}),
            ("from-scratch-0-longer", {"equal_compute": True}),
        )
    ]
    return save_results(config, preflight, [*tuned, *scratch])


@pytest.fixture
def page(config: SearchConfig, results: Results) -> Page:
    return Page(report_page(config.directory))


def save_curve(config: SearchConfig, key: str, num_epochs: int) -> None:
    epochs = [
        EpochRecord("from scratch", step, num_epochs, 0.5, step / num_epochs, 0.1)
        for step in range(1, num_epochs + 1)
    ]
    content = json.dumps([dataclasses.asdict(epoch) for epoch in epochs])
    (config.directory / "architectures" / key / "curve.json").write_text(content)


def figures(page: Page) -> dict[str, dict[str, list[dict[str, object]]]]:
    found: dict[str, dict[str, list[dict[str, object]]]]
    found = json.loads(page.scripts["data"])["figures"]
    return found


def test_nothing_is_loaded_from_elsewhere(page: Page):
    """No address that a browser would fetch, and an order to fetch none."""
    for tag, attributes in page.tags:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & attributes.keys(), tag
        assert tag not in ("link", "base", "iframe")
        assert "url(" not in (attributes.get("style") or "")
    for address in ("url(", "@import", "fetch(", "http"):
        assert address not in page.scripts["code"]
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert [(policy or "").split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_the_page_says_what_the_results_say(page: Page, results: Results):
    assert page.words.index("Verdict") < page.words.index("Front")
    for line in results.verdict.splitlines():
        assert line in page.words
    for text in ("all of it", "from scratch, equal compute", "62.0 ± 1.4 %", "2G"):
        assert text in page.words
    for stored in results.everything:
        assert stored.key in page.words
        assert f"{stored.validation_score:.2%}" in page.words


@pytest.fixture
def with_base(config: SearchConfig, preflight: Preflight, results: Results) -> Results:
    """The same with the base network, trained."""
    stored = stored_outcome(config, preflight, 9, _widths(preflight), 0.95)
    base = base_outcome(
        flops=preflight.base.flops,
        params=preflight.base.params,
        validation_score=0.95,
        test_score=0.75,
        path=stored.path,
    )
    return save_results(config, preflight, list(results.everything), base)


def test_the_page_begins_with_what_to_take(config: SearchConfig, with_base: Results):
    page = Page(report_page(config.directory))
    start = page.words.index("Take fine-tuned-0 within all of it: 50.0 % (base 75.0 %) at ")
    half = page.words.index("Take fine-tuned-0 within half of it")
    assert start < half < page.words.index("Smaller networks than digits-vgg")
    assert start < 60
    assert "Chosen by validation accuracy" in page.words


def test_the_base_network_is_first_in_every_table_and_drawn(
    config: SearchConfig, with_base: Results
):
    text = report_page(config.directory)
    page = Page(text)
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    first_rows = [re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1] for table in tables]
    assert len(first_rows) == 3
    for row in first_rows:
        assert re.search(r">\s*base\s*<", row)
        assert "100 %" in row
    assert "−25.0 points" in page.words
    assert "−13.0 points" in page.words
    base = next(t for t in figures(page)["front"]["data"] if t["meta"] == "base")
    assert (base["x"], base["marker"]["symbol"]) == ([with_base.base.flops], ["star"])
    assert base["x"][0] not in figures(page)["front"]["data"][0]["x"]


def test_details_fold_away_and_open_by_keyboard(page: Page, results: Results):
    """What a details element hides, its summary shows, which the keyboard reaches."""
    folded = [tag for tag, _ in page.tags if tag == "details"]
    assert len([tag for tag, _ in page.tags if tag == "summary"]) == len(folded) == 2


def test_texts_of_others_stay_texts(config: SearchConfig, results: Results):
    text = report_page(config.directory)
    assert EVIL not in text
    assert text.count(html.escape(EVIL, quote=False)) == 2
    page = Page(text)
    assert EVIL in page.words
    assert "img" not in [tag for tag, _ in page.tags]


def test_names_of_networks_cannot_leave_the_data_of_the_plots(
    config: SearchConfig, results: Results, preflight: Preflight
):
    odd = dataclasses.replace(results.everything[0], key=EVIL, validation_score=0.99)
    save_results(config, preflight, [*results.everything, odd])
    page = Page(report_page(config.directory))
    assert "img" not in [tag for tag, _ in page.tags]
    assert json.loads(page.scripts["data"])["first"] == EVIL


def test_the_plot_holds_every_network_and_the_front(page: Page, results: Results):
    line, *origins = figures(page)["front"]["data"]
    assert (line["x"], line["meta"]) == ([o.flops for o in results.front], "front")
    assert [trace["meta"] for trace in origins] == ["fine-tuned", "from-scratch"]
    shown = {
        key: (flops, accuracy)
        for trace in origins
        for key, flops, accuracy in zip(trace["customdata"], trace["x"], trace["y"], strict=True)
    }
    assert shown == {
        o.key: (o.flops, pytest.approx(100 * o.validation_score)) for o in results.everything
    }


def test_the_ways_to_show_and_hide_are_of_the_keyboard_too(page: Page):
    boxes = [a["value"] for tag, a in page.tags if tag == "input" and a["type"] == "checkbox"]
    assert boxes == ["fine-tuned", "from-scratch"]
    (plot,) = [a for _, a in page.tags if a.get("id") == "front-plot"]
    assert plot["tabindex"] == "0"
    assert plot["aria-label"]


def test_bars_show_what_remains_of_each_layer(page: Page, preflight: Preflight):
    labels = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    base = [preflight.graph.group(name).width for name in preflight.groups]
    kept = zip((8, 9, 10, 11, 12, 13), base, strict=True)
    expected = "channels per layer: " + ", ".join(f"{one} of {of}" for one, of in kept)
    assert expected in labels
    assert all((a["d"] or "").count("M") == len(base) for tag, a in page.tags if tag == "path")


def test_bars_can_do_without_the_base_network(config: SearchConfig, results: Results):
    content = json.loads((config.directory / "results.json").read_text())
    (config.directory / "results.json").write_text(json.dumps(content | {"base_widths": {}}))
    labels = [
        a["aria-label"] for tag, a in Page(report_page(config.directory)).tags if tag == "svg"
    ]
    assert "channels per layer: 8, 9, 10, 11, 12, 13" in labels


def test_slack_is_shown_with_its_sign(page: Page, results: Results):
    limit = results.bounds.limit("flops")
    for stored in results.front:
        assert f"{100 * (limit - stored.flops) / limit:+.2f} %" in page.words


def test_learning_curves_are_shown_where_there_are_some(config: SearchConfig, results: Results):
    assert "curves" not in figures(Page(report_page(config.directory)))
    save_curve(config, "fine-tuned-0", 450)
    page = Page(report_page(config.directory))
    curves = {trace["name"]: trace for trace in figures(page)["curves"]["data"]}
    assert "Learning curves" in page.words
    found = curves["fine-tuned-0"]
    assert len(found["x"]) <= 200
    assert (found["x"][-1], found["y"][-1]) == (450, 100)
    assert found["meta"] == "fine-tuned"


def test_a_curve_that_was_cut_off_is_left_out(config: SearchConfig, results: Results):
    save_curve(config, "fine-tuned-0", 3)
    assert "curves" in figures(Page(report_page(config.directory)))
    file = config.directory / "architectures" / "fine-tuned-0" / "curve.json"
    file.write_bytes(file.read_bytes()[:-20])
    assert "curves" not in figures(Page(report_page(config.directory)))


def test_the_commands_of_the_page_repeat_the_search(config: SearchConfig, page: Page):
    (command,) = re.findall(r"espalier search (.*?) take the recommended", page.words)
    from search.commands.flags import overridden  # noqa: PLC0415
    from search.commands.search import search  # noqa: PLC0415
    from search.config.settings import from_mapping  # noqa: PLC0415

    context = search.make_context("search", command.split())
    given = {name: value for name, value in context.params.items() if name != "config_file"}
    assert from_mapping(SearchConfig, overridden({}, given)) == config
    assert "--trials=4" in command
    assert not any(
        default in command for default in ("--model", "--validation", "flip", "--divisor")
    )
    assert f"espalier export small/fine-tuned-0 --out my-network --runs {config.runs}" in page.words


@pytest.mark.parametrize(
    ("score", "first", "number"),
    [(MEAN_IOU, "fine-tuned-0", "90.00%"), (ABSOLUTE_ERROR, "from-scratch-0", "0.9")],
)
def test_the_page_tells_scores_by_their_own_name(
    config: SearchConfig, results: Results, score: Score, first: str, number: str
):
    rungs = [(contest.label, contest.limits) for contest in results.contests]
    found = dataclasses.replace(
        results,
        score=score,
        front=tuple(front(results.everything, score)),
        contests=contests(results.everything, rungs, score),
    )
    save_curve(config, "fine-tuned-0", 3)
    (config.directory / "results.json").write_text(json.dumps(found.to_mapping()))
    page = Page(report_page(config.directory))
    assert json.loads(page.scripts["data"])["first"] == first
    assert number in page.words
    assert f"test {score.name}" in page.words
    shown = page.words + json.dumps(page.tags) + page.scripts["data"]
    assert "accura" not in shown.lower()
    drawn = json.loads(page.scripts["data"])["figures"]
    for figure in drawn.values():
        assert figure["layout"]["yaxis"]["title"]["text"] == score.axis("validation")
    value = score.plotted(0.9)
    assert value in [y for trace in drawn["front"]["data"] for y in trace["y"]]


def test_networks_are_told_by_target_where_there_are_several(
    config: SearchConfig, preflight: Preflight, page: Page, with_base: Results
):
    assert "Targets" not in page.words
    named = [
        dataclasses.replace(o, target=f"params={o.trial}k", tried=EVIL, trial=0)
        for o in with_base.everything
        if o.origin == "fine-tuned"
    ]
    save_results(config, preflight, named, with_base.base_network)
    words = Page(report_page(config.directory)).words
    assert "Targets Test accuracy of each trial at each target" in words
    assert f"trial method params=0k params=1k base 75.0 % 75.0 % 0 {EVIL}" in words


def test_equal_searches_give_equal_pages(config: SearchConfig, results: Results):
    assert report_page(config.directory) == report_page(config.directory)


# ---- the command


def test_the_report_lies_in_the_folder_of_the_search(config: SearchConfig, results: Results):
    completed = espalier("report", "small", "--runs", config.runs)
    file = config.directory / "report.html"
    assert (completed.status, completed.err) == (0, "")
    first, *_, last = completed.out.splitlines()
    assert first.startswith("Take fine-tuned-0 within all of it: 50.0 %")
    assert last == f"{file} holds the report of small"
    assert file.read_text() == report_page(config.directory)


def test_the_report_is_written_where_it_is_asked_for(
    config: SearchConfig, results: Results, tmp_path: Path
):
    completed = espalier("report", config.directory, "--out", tmp_path / "here.html")
    assert completed.status == 0
    assert (tmp_path / "here.html").stat().st_size > 1_000_000
    assert not (config.directory / "report.html").exists()


def test_an_unfinished_search_has_no_report(config: SearchConfig, tmp_path: Path):
    completed = espalier("report", "small", "--runs", config.runs, "--out", tmp_path / "r.html")
    assert completed.status == 2
    assert "has not finished" in completed.err
    assert len(completed.err.splitlines()) == 1
    assert not (tmp_path / "r.html").exists()


def test_a_place_that_cannot_be_written_is_named(
    config: SearchConfig, results: Results, tmp_path: Path
):
    completed = espalier("report", config.directory, "--out", tmp_path / "no" / "r.html")
    assert completed.status == 2
    assert f"{tmp_path}/no/r.html cannot be written: No such file" in completed.err


@pytest.mark.parametrize("text", ["", "[]", '{"models": 3}'])
def test_settings_of_another_version_are_named(config: SearchConfig, results: Results, text: str):
    (config.directory / "search.json").write_text(text)
    with pytest.raises(SearchStateError, match=r"search\.json is damaged, or of another version"):
        report_page(config.directory)


# ---- in a browser


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("sandbox", [False, True], ids=["file", "sandboxed as in MLflow"])
def test_a_browser_draws_the_page(
    config: SearchConfig, results: Results, tmp_path: Path, sandbox: bool
):
    """Offline: no host name resolves. MLflow shows artifacts in a frame without an origin."""
    save_curve(config, "fine-tuned-0", 10)
    text = report_page(config.directory)
    file = tmp_path / "report.html"
    if sandbox:
        tell = "<script>addEventListener('load', () => setTimeout(() => parent.postMessage("
        tell += "document.documentElement.outerHTML, '*'), 3000))</script>"
        inner = html.escape(text.replace("</body>", f"{tell}</body>"))
        text = "<script>onmessage = (e) => { document.body.innerHTML = e.data; }</script><body>"
        text += f'<iframe sandbox="allow-scripts" srcdoc="{inner}"></iframe>'
    file.write_text(text)
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--disable-features=IsolateSandboxedIframes"]  # or time is not virtual in them
    command += ["--virtual-time-budget=9000", "--dump-dom"]
    drawn = subprocess.run(
        [*command, file.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert drawn.count('class="plot-container') >= 2
    assert len(re.findall('<path class="point', drawn)) >= len(results.everything)
    assert re.search(r'<aside id="card"[^>]*><h3>fine-tuned-0</h3>', drawn)
