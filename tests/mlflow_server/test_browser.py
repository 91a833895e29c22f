"""The saved views in a real browser: what MLflow's pages make of what we write.

The screenshots in docs/ are made again where ESPALIER_SCREENSHOTS names a folder for them.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import IN_A_BROWSER, chromium
from recorded import ORIGINS, accuracy, record_search

from mlflow_server import Views, connect, running_server, store_uri, view_links

pytestmark = [
    *IN_A_BROWSER,
    # SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

NUM_EACH = 3
NUM_ALL = 1 + NUM_EACH * len(ORIGINS)
SECONDS = 60_000
"""Milliseconds to wait for what the page loads, on a machine that may be busy."""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(SECONDS)
        # A panel that MLflow opens once for everyone who is new.
        seen = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
        page.add_init_script(seen)
        yield page


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Views]:
    store = Path(shutil.copytree(empty_store, tmp_path_factory.mktemp("looked at") / "store"))
    record_search(connect(store_uri(store), "digits"), NUM_EACH)
    with running_server(store, port=0) as server:
        yield view_links(store_uri(store), "digits", address=server.url)


def opened(page: Any, link: str) -> Any:
    page.goto("about:blank")
    page.goto(link)
    for origin in ORIGINS:
        page.get_by_text(f"Group: {origin}", exact=True).first.wait_for()
    return page


def keep(page: Any, name: str) -> None:
    folder = os.environ.get("ESPALIER_SCREENSHOTS")
    if folder:
        page.mouse.move(0, 0)
        page.wait_for_timeout(2000)  # charts fade in
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_table_shows_each_origin_with_its_average_and_its_members(page, views):
    opened(page, views.table)
    for origin in ORIGINS:
        for number in range(NUM_EACH):
            page.get_by_role("link", name=f"{origin}-{number}", exact=True).wait_for()
        shares = [0.1 + 0.4 * (number + 1) / NUM_EACH for number in range(NUM_EACH)]
        mean = sum(round(accuracy(origin, share), 4) for share in shares) / NUM_EACH
        shown = re.compile(f"{mean:.9f}"[:-1])
        page.locator("[role=gridcell]").get_by_text(shown).first.wait_for()
    headers = page.get_by_role("columnheader").evaluate_all(
        "headers => headers.map(h => [h.getBoundingClientRect().left, h.innerText.trim()])"
    )
    columns = ["validation_accuracy", "test_accuracy", "flops", "num_params", "espalier.on_front"]
    seen = dict.fromkeys(name for _, name in sorted(headers) if name in columns)
    assert list(seen) == columns
    # the base, then the best first, and neither the search itself nor a trial among them
    links = page.get_by_role("link", name=re.compile(r"^(base|[a-z-]+-\d)$")).evaluate_all(
        "links => links.map(link => [link.getBoundingClientRect().top, link.innerText])"
    )
    names = [name for _, name in sorted(links)]  # rows are placed, not in the page's order
    members = [f"{origin}-{number}" for origin in ORIGINS for number in reversed(range(NUM_EACH))]
    assert names == ["base", *members]
    page.get_by_text(f"{NUM_ALL} matching runs").wait_for()
    assert page.get_by_text("Espalier: architectures by origin").is_visible()
    keep(page, "mlflow-table")


def test_the_chart_has_a_point_for_every_architecture_in_the_colour_of_its_origin(page, views):
    opened(page, views.chart)
    page.get_by_text("flops vs. validation_accuracy").wait_for()
    page.get_by_text("epoch_validation_accuracy").first.wait_for()
    first = page.locator(".js-plotly-plot").first
    first.locator(".scatterlayer .point").nth(NUM_ALL - 1).wait_for()
    points = first.locator(".scatterlayer .point")
    assert points.count() == NUM_ALL
    colours = points.evaluate_all("points => points.map(point => getComputedStyle(point).fill)")
    assert len(set(colours)) == len(ORIGINS) + 1
    assert "rgb(213, 94, 0)" in colours  # that of fine-tuned networks
    curves = page.locator(".js-plotly-plot").nth(1).locator(".scatterlayer .js-line")
    assert curves.count() >= NUM_ALL
    keep(page, "mlflow-chart")


def test_the_averages_have_a_bar_for_every_origin(page, views):
    opened(page, views.averages)
    page.get_by_text("Mean of each origin").wait_for()
    first = page.locator(".js-plotly-plot").first
    first.locator(".barlayer .point").nth(len(ORIGINS)).wait_for()
    assert first.locator(".barlayer .point").count() == len(ORIGINS) + 1
    keep(page, "mlflow-averages")
