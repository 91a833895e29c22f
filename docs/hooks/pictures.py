"""Makes figures and screenshots of docs/pictures/ again, from real runs: `make pictures`.

    python docs/hooks/pictures.py [--runs FOLDER] [--only report|service|mlflow|site]

The search of examples/digits.toml, or that of a folder of runs which holds a finished `digits`,
gives the front, the report and what the service's page shows; the tests that look at MLflow's pages
give the rest. It takes some minutes and Chromium. `site` shoots three pages of the built site, at
the width of a desktop and of a phone, into build/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Playwright, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
TESTS = (
    "tests/mlflow_server/test_browser.py",
    *("-k", "table_shows or chart or averages"),
)
SITE_PAGES = (
    *("index.html", "concepts/channel-graph/index.html"),
    "reference/commands/search/index.html",
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SERVICE_PAGES = (
    ("service-searches", "/", (1200, 560), "li[data-key='digits'] progress"),
    ("service-search", "/searches/digits", (1200, 1000), ".plot .point"),
    ("service-phone", "/searches/digits", (390, 844), ".plot .point"),
    ("service-launch", "/launch", (1200, 1000), "[id='field-budget']"),
)
"""Name, route, size of the window, and what is there once the page is."""

PATIENCE_MS = 120_000
MOST_BYTES = 150_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder with a finished search `digits`")
    parser.add_argument("--only", choices=("report", "service", "mlflow", "site"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.only in (None, "report", "service"):
            runs = options.runs or searched(Path(temporary))
        if options.only in (None, "report"):
            draw_report(runs)
        if options.only in (None, "service"):
            draw_service(runs)
    if options.only in (None, "mlflow"):
        draw_mlflow()
    if options.only == "site":
        draw_site()
    for file in PICTURES.glob("*.png"):
        make_small(file)


def searched(folder: Path) -> Path:
    """The folder of runs in which `make search` was performed."""
    example = ROOT / "examples" / "digits.toml"
    command = [sys.executable, "-m", "search.cli", "search", "--config", str(example)]
    subprocess.run([*command, "--runs", str(folder)], check=True, cwd=ROOT)
    return folder


def draw_report(runs: Path) -> None:
    """The front as the search drew it, and the beginning of its report."""
    shutil.copyfile(runs / "digits" / "front.png", PICTURES / "front-digits.png")
    report = runs / "digits" / "report.html"
    command = [sys.executable, "-m", "search.cli", "report", "digits", "--runs", str(runs)]
    subprocess.run([*command, "--out", str(report)], check=True, cwd=ROOT)
    shoot({"report-digits": (report.as_uri(), (1180, 1500))}, PICTURES)


def draw_service(runs: Path) -> None:
    """The service's page, of a service that finds the search in its folder."""
    port = free_port()
    command = [sys.executable, "-m", "search.cli", "serve", "--runs", str(runs)]
    command += ["--port", str(port), "--mlflow-port", str(free_port())]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=ROOT) as service, sync_playwright() as driver:
        try:
            wait_for(f"{address}/v1/searches/digits/verdict")
            browser = chromium(driver)
            for name, route, (width, height), mark in SERVICE_PAGES:
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(f"{address}/#{route}")
                page.locator(mark).first.wait_for(timeout=PATIENCE_MS)
                if route == "/launch":
                    page.locator("[id='field-budget']").fill("flops=25%")
                    page.get_by_text("(25 % of the base network)").wait_for(timeout=PATIENCE_MS)
                page.wait_for_timeout(1500)
                page.screenshot(path=PICTURES / f"{name}.png")
                page.close()
            browser.close()
        finally:
            service.terminate()


def wait_for(address: str) -> None:
    """Until it answers with success; TimeoutError after two minutes."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < deadline:
        try:
            if httpx.get(address).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError(address)


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def draw_mlflow() -> None:
    """MLflow's pages, as the tests look at them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", *TESTS]
        subprocess.run(
            command, check=True, cwd=ROOT, env={**os.environ, "ESPALIER_SCREENSHOTS": folder}
        )
        for file in Path(folder).glob("*.png"):
            shutil.copyfile(file, PICTURES / file.name)


def draw_site() -> None:
    """Pages of build/docs, to be looked at."""
    site = ROOT / "build" / "docs"
    views = {
        f"{page.split('/')[-2] if '/' in page else 'start'}-{name}": ((site / page).as_uri(), size)
        for page in SITE_PAGES
        for name, size in SIZES.items()
    }
    shoot(views, ROOT / "build")


def shoot(views: dict[str, tuple[str, tuple[int, int]]], folder: Path) -> None:
    """A picture by name of each address, in a window of this size."""
    with sync_playwright() as driver:
        browser = chromium(driver)
        for name, (address, (width, height)) in views.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.wait_for_timeout(1500)  # charts are drawn
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


def chromium(driver: Playwright) -> Browser:
    """The browser that is installed."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    return driver.chromium.launch(executable_path=path, args=arguments)


def make_small(file: Path) -> None:
    """At most MOST_BYTES: fewer colours, the rare ones kept, then fewer pixels."""
    if file.stat().st_size <= MOST_BYTES:
        return
    picture = Image.open(file).convert("RGB")
    while True:
        picture.quantize(128, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
        if file.stat().st_size <= MOST_BYTES:
            return
        picture = picture.resize((picture.width * 9 // 10, picture.height * 9 // 10))


if __name__ == "__main__":
    main()
