"""The wheel that is released: what is in it, and that it works where nothing else of ours is."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pruning", "copycat", "mlflow_server", "search")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CLASSIFIER = "Programming Language :: Python :: 3."
VERSIONS = [f"3.{text[len(CLASSIFIER) :]}" for text in PROJECT["classifiers"] if CLASSIFIER in text]
"""Of Python that the metadata names."""
OTHER_VERSIONS = [text for text in VERSIONS if text != f"3.{sys.version_info.minor}"]

PURE_PYTHON = ("click", "rich", "markdown_it", "mdurl", "pygments", "packaging")
"""Of the dependencies, what the command line starts with; these files do for every Python."""

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] in {"pruning", "copycat", "mlflow_server", "search"}:
            raise
"""
"""Prints the modules that can be imported; fails if one cannot that lacks no dependency."""

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"

SEARCH = (
    *("search", "--budget=flops=10%", "--trials=1", "--ladder=1", "--profiles=1", "--name=s"),
    *("--limit-train=100", "--batch-size=16", "--epochs=1", "--fine-tune-epochs=1"),
    *("--scratch-epochs=1", "--by-products=0", "--tempered-trials=0", "--device=cpu"),
)


def build(folder: Path) -> None:
    """Put the wheel of this source tree into the folder; nothing is fetched."""
    source = folder / "source"
    for package in PACKAGES:
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=without)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def wheel(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    (file,) = made_once("wheel", build).glob("*.whl")
    return file


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `espalier` and `python` where the wheel is installed.

    What it depends on is that of this environment, whose copy of Espalier is out of reach: files
    that name further folders (.pth) are read in an environment's own folder only.
    """
    environment = tmp_path_factory.mktemp("clean") / "venv"
    packages = install(wheel, environment, Path(sys.executable))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def install(wheel: Path, environment: Path, python: Path) -> Path:
    """Make an environment of this Python with the wheel alone; its folder of packages."""
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True, env=outside())
    (packages,) = environment.glob("lib/python*/site-packages")
    # --ignore-installed: what is installed beside it is no reason to leave anything out
    target = ("--python", environment / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", *target)
    flags = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--ignore-installed")
    subprocess.run([*pip, "install", *flags, wheel], check=True, env=outside())
    return packages


@pytest.fixture(scope="module", params=OTHER_VERSIONS)
def elsewhere(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The wheel under another Python that is at hand: its folders of programs and of packages."""
    name = f"python{request.param}"
    beside = Path(sys.base_prefix).parent.glob(f"*/bin/{name}")  # where pyenv has them, and uv
    on_path = (Path(folder) / name for folder in os.get_exec_path())
    python = next(filter(runs, (*beside, *on_path)), None)
    if python is None:
        pytest.skip(f"there is no {name} here")
    environment = tmp_path_factory.mktemp(name) / "venv"
    packages = install(wheel, environment, python)
    return environment / "bin", packages


def runs(python: Path) -> bool:
    """Whether this is a Python that starts; pyenv has files of that name which do not."""
    command = (python, "-c", "import venv")
    return (
        python.exists()
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


def outside() -> dict[str, str]:
    """The environment variables of somebody who has no clone of this repository."""
    return {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}


def output(folder: Path, *command: str | Path) -> str:
    """What a command prints that is run in this folder and succeeds without a warning."""
    done = subprocess.run(
        command, cwd=folder, env=outside(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_file_of_the_packages_is_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*"))
    ours = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed == ours
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


def test_its_metadata_is_the_projects(metadata: Message) -> None:
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == f">={VERSIONS[0]}"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Provides-Extra") == list(PROJECT["optional-dependencies"])
    needed = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert len(needed) == len(PROJECT["dependencies"])


def test_it_runs_from_where_it_is_installed(programs: Path, tmp_path: Path) -> None:
    files = "import pruning, copycat, mlflow_server, search; print(search.__file__)"
    assert str(programs.parent / "lib") in output(tmp_path, programs / "python", "-c", files)
    version = output(tmp_path, programs / "espalier", "--version")
    assert version.split()[-1] == PROJECT["version"]
    assert (
        "search for smaller networks" in output(tmp_path, programs / "espalier", "--help").lower()
    )


def test_a_database_of_a_service_is_made_by_its_migrations(programs: Path, tmp_path: Path) -> None:
    create = (programs / "espalier", "token", "create", "anna")
    subprocess.run(create, cwd=tmp_path, env=outside(), check=True, capture_output=True)
    assert "anna  writer" in output(tmp_path, programs / "espalier", "token", "list")


def test_another_python_reads_all_of_it(elsewhere: tuple[Path, Path], tmp_path: Path) -> None:
    programs, packages = elsewhere
    python = (programs / "python", "-W", "error")
    folders = [packages / package for package in PACKAGES]
    assert not output(tmp_path, *python, "-m", "compileall", "-q", *folders)
    names = output(tmp_path, *python, "-c", "import sys; print(*sys.stdlib_module_names)").split()
    files = [file for folder in folders for file in folder.rglob("*.py")]
    ours = set().union(*map(imported_packages, files)) & sys.stdlib_module_names
    assert "json" in ours
    assert ours <= set(names)
    assert all((folder / "py.typed").exists() for folder in folders)


def test_another_python_imports_what_needs_nothing_else(
    elsewhere: tuple[Path, Path], tmp_path: Path
) -> None:
    programs, packages = elsewhere
    files = [
        file.relative_to(packages) for name in PACKAGES for file in packages.glob(f"{name}/**/*.py")
    ]
    files = [
        file for file in files if file.name != "__main__.py" and "migrations" not in file.parts
    ]
    modules = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    command = (programs / "python", "-W", "error", "-c", IMPORT_ALL, *modules)
    imported = output(tmp_path, *command).split()
    assert {"pruning", "mlflow_server", "search", "search.storage.layout"} <= set(imported)


def test_another_python_starts_the_command(elsewhere: tuple[Path, Path], tmp_path: Path) -> None:
    programs, packages = elsewhere
    for name in PURE_PYTHON:
        (packages / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    version = output(tmp_path, programs / "espalier", "--version")
    assert version.split()[-1] == PROJECT["version"]


def imported_packages(file: Path) -> set[str]:
    """The first names of all that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    of = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in (*plain, *of)}


@pytest.mark.slow
def test_a_search_runs_from_it(programs: Path, tmp_path: Path) -> None:
    assert "Pareto front" in output(tmp_path, programs / "espalier", *SEARCH)
    assert (tmp_path / "espalier-runs" / "s" / "report.html").exists()
