"""Every block of README and docs/ runs, in order, in a folder as the pages describe it.

Searches are real but small: SMOKE is laid over the flags of each, jobs are performed in this
process in the place of Ray, and nothing is recorded in MLflow. What runs until Ctrl-C, installs
packages or is tested elsewhere is held against what it names. The page of the service is run with
a service. Blocks of the language `bash` need more than a machine has: see NOT_RUN.
"""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from markdown_blocks import PAGES, ROOT, Block, blocks
from PIL import Image
from samples import Workers, espalier
from serving import WITHOUT_RAY, Service

from mlflow_server import RecordedRun, RunRecorder
from mlflow_server.runs import Entry
from search.cli import cli

SMOKE = {
    "search": (
        *("--limit-train=60", "--batch-size=30", "--epochs=1", "--fine-tune-epochs=1"),
        *("--scratch-epochs=1", "--warmup-epochs=0", "--trials=1", "--profiles=1", "--ladder=1"),
        *("--tempered-trials=0", "--by-products=0", "--no-early-stopping", "--device=cpu"),
        *("--no-equal-compute-pairs", "--concurrency=1", "--cpus-per-trial=1", "--workers=0"),
    ),
    "family": ("--limit-train=60", "--batch-size=30", "--scratch-epochs=1", "--device=cpu"),
    "correlate": (
        *("--limit-train=60", "--batch-size=30", "--epochs=1", "--device=cpu"),
        "--scoring-batches=1",
    ),
}
"""Flags that make a command small, laid over its own."""

UNLESS = {
    "--epochs 0": ("--epochs",),
    "--set ": ("--trials",),
    "--targets ": ("--trials", "--by-products"),
    "--train-only": ("--ladder", "--profiles", "--by-products", "--tempered-trials"),
    "--ladder ": ("--ladder",),
}
"""By part of a command: the flags among them that would change what it shows, or be refused."""

FEW_STEPS = {"iterative": ("--iterative-units=150", "--iterative-minibatches=1")}
"""By part of a command: flags that it needs where training is short."""

SMALL_DATA = {"cifar10": "imagefolder:photos", "--download": "--no-download"}
SMALL_SETTINGS = {
    'source = "digits"': 'source = "digits"\nlimit_train = 240',
    "epochs = 20": "epochs = 2\nscratch_epochs = 2",
    "tune_epochs = 10": "tune_epochs = 1",
    "trials = 8": "trials = 1",
    "tempered_trials = 2": "tempered_trials = 0",
    "ladder = [1.0, 0.5, 0.25]": "ladder = [1.0]",
}
"""What stands in examples/digits.toml, and what a service is given in its place."""

WITH_A_SERVICE = ROOT / "docs" / "how-to" / "service.md"
FLAGS_ALONE = ("serve", "ui", "stop", "doctor")
"""Commands that run until Ctrl-C, end what runs, or judge the machine: their flags are read, and
so are those of searches on a cluster."""

LONG = (
    *("choosing-a-method", "budgets", "grids", "own-network"),
    *("own-task", "own-loop", "export", "families", "resuming"),
)
"""Pages whose blocks take more than ten seconds."""

NOT_RUN = {"deployment.md", "release.md"}
"""Pages of Docker, Kubernetes and package indexes, which say themselves what was tried of them."""

MACHINES = {"--ray-address", "--gpus-per-trial"}
"""Flags of commands that are not run: they need more than a machine has."""

ADDRESS = "http://127.0.0.1:8000"
EXTRAS = re.compile(r"\[([\w,]+)\]")

pytestmark = pytest.mark.filterwarnings("ignore")


class NoRecord(RunRecorder):
    """In the place of MLflow: forgets at once."""

    def write(self, entry: Entry) -> None:
        pass

    def keys(self) -> tuple[str, ...]:
        return ()

    def read(self, key: str) -> RecordedRun:
        raise AssertionError(f"nothing was kept of {key}")


@pytest.fixture(scope="session")
def desk(
    made_once: Callable[[str, Callable[[Path], object]], Path],
) -> Path:
    """What pages speak of: files that they show, images, examples, a finished search `digits`."""

    def make(folder: Path) -> None:
        draw_photos(folder / "photos")
        for part in ("examples", "experiments"):
            shutil.copytree(ROOT / part, folder / part)
        for page in PAGES:
            for block in blocks(page):
                if block.title and "/" not in block.title:
                    (folder / block.title).write_text(block.text)
        with pytest.MonkeyPatch.context() as patch:
            prepare(patch, folder)
            run_espalier(["search", "--config", "examples/digits.toml"], "desk", ["--trials=3"])

    return made_once("docs-desk", make)


def draw_photos(folder: Path) -> None:
    """Noise, more of it red in cats and green in dogs."""
    generator = torch.Generator().manual_seed(0)
    rows = ["path,label,split"]
    for part, count in (("train", 60), ("test", 8)):
        for channel, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(90, (16, 16, 3), generator=generator)
                pixels[:, :, channel] += 120
                file = folder / part / name / f"{number}.png"
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(file)
                rows.append(f"{file.relative_to(folder.parent)},{name},{part}")
    (folder.parent / "photos.csv").write_text("\n".join(rows))


def prepare(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Commands are started in `folder`, and train here, without Ray, MLflow and figures."""
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    patch.setenv("COLUMNS", "120")
    patch.delenv("ESPALIER_TRUST", raising=False)
    patch.setattr("search.studies.session.run_recorder", lambda *_: NoRecord())
    Workers().take_over(patch)


def run_espalier(words: list[str], place: str, further: list[str] | None = None) -> str:
    """What the command prints, made small; it has to end well."""
    name, command = words[0], " ".join([*words, ""])
    words = [SMALL_DATA.get(word, word) for word in words]
    without = {flag for part, flags in UNLESS.items() if part in command for flag in flags}
    smaller = [flag for flag in SMOKE.get(name, ()) if flag.partition("=")[0] not in without]
    smaller += [flag for part, flags in FEW_STEPS.items() if part in command for flag in flags]
    if name != "search" and "--train" not in words:
        smaller = [*SMOKE[name]] if name == "correlate" else []
    done = espalier(*words, *smaller, *(further or []))
    assert done.status == 0, f"{place}: espalier {shlex.join(words)}: {done.err}"
    return done.out


def read_flags(words: list[str]) -> None:
    """UsageError for flags that the command does not have."""
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    assert command is not None, words
    command.make_context(words[0], words[1:], parent=context)


def run_command(words: list[str], patch: pytest.MonkeyPatch, place: str) -> None:
    """One command of a shell block."""
    program, *rest = words
    if program == "espalier" and (rest[0] in FLAGS_ALONE or MACHINES & set(rest)):
        read_flags(rest)
    elif program == "espalier":
        run_espalier(rest, place)
    elif program == "export":
        patch.setenv(*rest[0].split("=", 1))
    elif program == "python" and rest[0].startswith("examples/"):
        test = f'"{Path(rest[0]).stem}'  # they take longer, and have tests of their own
        tests = [*(ROOT / "tests").rglob("test_*.py")]
        assert any(test in file.read_text() or Path(rest[0]).stem in file.name for file in tests)
    elif program == "python":
        runpy.run_path(rest[0], run_name="__main__")
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    else:
        require_known(words)


def require_known(words: list[str]) -> None:
    """What is not run: it has to name extras, files and modules that there are."""
    known = ("pip", "python3", "source", "curl")
    assert words[0] in known, f"tests/docs does not know how to run {words}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words if words[0] == "pip" else ():
        for found in EXTRAS.finditer(word):
            assert {*found[1].split(",")} <= {*extras["optional-dependencies"]}, words
    for before, word in itertools.pairwise(words):
        if before == "--constraint":
            assert (ROOT / word).exists()


def run_block(block: Block, names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """One block: shell commands one by one, Python with what blocks before it defined."""
    if block.title or block.language not in ("sh", "python"):
        return
    if block.language == "python":
        padding = "\n" * (block.line - 1)  # so that tracebacks name the page's own lines
        exec(compile(padding + block.text, str(block.page), "exec"), names)
    else:
        for words in block.commands:
            run_command(words, patch, block.place)


def opened(desk: Path, tmp_path: Path) -> Path:
    """A copy of the desk for one page."""
    return Path(shutil.copytree(desk, tmp_path / "desk", symlinks=True))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page.stem in LONG else page
        for page in PAGES
        if page != WITH_A_SERVICE and any(b.language in ("sh", "python") for b in blocks(page))
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_blocks_run(
    page: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch, opened(desk, tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        run_block(block, names, monkeypatch)


@pytest.mark.slow
def test_blocks_run_with_a_service(
    desk: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real service and a search by it, which is small and without Ray."""
    folder = opened(desk, tmp_path)
    shutil.rmtree(folder / "espalier-runs")
    shutil.copytree(empty_store, folder / "espalier-runs")
    settings = folder / "examples" / "digits.toml"
    small = settings.read_text()
    for whole, part in SMALL_SETTINGS.items():
        assert whole in small
        small = small.replace(whole, part)
    settings.write_text(small)
    monkeypatch.chdir(folder)
    service = Service(folder / "espalier-runs", program=WITHOUT_RAY)
    service.start()
    try:
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks(WITH_A_SERVICE):
            text = block.text.replace(ADDRESS, service.url)
            if block.language == "python":
                exec(compile(text, str(block.page), "exec"), names)
            elif block.language == "sh":
                run_against_service(text.replace("\\\n", " "))
    finally:
        service.stop()


def run_against_service(text: str) -> None:
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[1:2] == ["serve"]:
            read_flags(words[1:])
        elif words[0] == "curl":
            done = subprocess.run(
                ["curl", "--fail-with-body", "--silent", "--show-error", *words[1:]],
                capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        elif words:
            done = espalier(*words[1:])
            assert done.status == 0, done.err


def test_what_is_not_run_is_on_its_pages() -> None:
    languages = {"", "sh", "python", "text", "toml", "json", "bash"}
    for page in PAGES:
        for block in blocks(page):
            assert block.language in languages, block.place
            assert block.language != "bash" or page.name in NOT_RUN, block.place


def test_every_method_recipe_and_kind_of_family_is_described() -> None:
    from search.config.family_config import KINDS  # noqa: PLC0415
    from search.config.methods import METHODS  # noqa: PLC0415
    from search.config.training_config import TrainingConfig  # noqa: PLC0415

    described = {
        "reference/methods.md": METHODS,
        "how-to/recipes.md": TrainingConfig.RECIPES,
        "concepts/families.md": [kind.partition(":")[0] for kind in KINDS],
    }
    for page, names in described.items():
        text = (ROOT / "docs" / page).read_text()
        undescribed = [name for name in names if not re.search(rf"`{name}[`:]", text)]
        assert undescribed == [], f"describe them in docs/{page}"


def test_every_file_of_a_study_is_described() -> None:
    from search.storage import layout  # noqa: PLC0415

    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    names = [value for name, value in vars(layout).items() if name.endswith(("_FILE", "_RESULTS"))]
    assert len(names) > 8
    assert [name for name in names if f"`{name}`" not in text] == []


def test_pages_and_pictures_that_are_named_are_there() -> None:
    """As far as no build is needed for it: README's links, and the size of what is committed."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
    assert len(text.splitlines()) < 150
    pictures = [*(ROOT / "docs" / "pictures").iterdir()]
    assert [file.name for file in pictures if file.stat().st_size > 150_000] == []
