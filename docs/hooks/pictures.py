"""Makes figures and screenshots of docs/pictures/ again, from real runs: `make pictures`.

    python docs/hooks/pictures.py [--runs FOLDER] [--only report|pages|site]

The search of examples/digits.toml gives the front and the report (its own folder of runs, or one
that holds a finished `digits`); the tests that look at MLflow's pages and at the service's give the
rest. It takes some minutes and Chromium. `site` shoots three pages of the built site, at the width
of a desktop and of a phone, into build/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
TESTS = (
    *("tests/mlflow_server/test_browser.py", "tests/search/service/api/test_page.py"),
    *("-k", "table_shows or chart or averages or budget_that_cannot or keyboard_what or phone"),
)
SITE_PAGES = (
    *("index.html", "concepts/channel-graph/index.html"),
    "reference/commands/search/index.html",
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
MOST_BYTES = 150_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder with a finished search `digits`")
    parser.add_argument("--only", choices=("report", "pages", "site"))
    options = parser.parse_args()
    if options.only in (None, "report"):
        with tempfile.TemporaryDirectory() as temporary:
            draw_report(options.runs or searched(Path(temporary)))
    if options.only in (None, "pages"):
        draw_pages()
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


def draw_pages() -> None:
    """MLflow's pages and the service's, as the tests look at them."""
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
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser: Browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        for name, (address, (width, height)) in views.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.wait_for_timeout(1500)  # charts are drawn
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


def make_small(file: Path) -> None:
    """At most MOST_BYTES: fewer colours, then fewer pixels."""
    if file.stat().st_size <= MOST_BYTES:
        return
    picture = Image.open(file).convert("RGB")
    while True:
        picture.quantize(128).save(file, optimize=True)
        if file.stat().st_size <= MOST_BYTES:
            return
        picture = picture.resize((picture.width * 9 // 10, picture.height * 9 // 10))


if __name__ == "__main__":
    main()
