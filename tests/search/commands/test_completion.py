"""What the shell offers at Tab, and the scripts that make it ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from samples import espalier

from pruning.scaling_factors.gating import GRANULARITIES
from search import models
from search.cli import SUMMARIES, cli
from search.commands import completions
from search.config.methods import METHODS
from search.data import named_datasets
from search.tasks import registry as tasks


def offered(*words: str) -> list[str]:
    """For the last of these words, as far as it is typed, behind `espalier` and the others."""
    complete = ShellComplete(cli, {}, "espalier", "_ESPALIER_COMPLETE")
    return [item.value for item in complete.get_completions([*words[:-1]], words[-1])]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two searches and a study of a family, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "espalier-runs"
    for name in ("digits", "cifar"):
        (folder / name / "architectures" / "base").mkdir(parents=True)
        (folder / name / "architectures" / "base" / "architecture.json").touch()
        (folder / name / "search.json").touch()
    (folder / "ladder").mkdir()
    (folder / "ladder" / "family-settings.json").touch()
    (folder / "something-else").mkdir()
    return folder


def test_commands_are_offered_by_name() -> None:
    assert offered("") == list(SUMMARIES)
    assert offered("re") == [name for name in SUMMARIES if name.startswith("re")]


def test_names_that_are_offered_are_those_that_there_are() -> None:
    own = [name for name in models.names() if ":" not in name]
    assert sorted(completions.MODELS) == sorted(own)
    assert sorted(completions.GRANULARITIES) == sorted(GRANULARITIES)
    assert tuple(name for name in named_datasets.names() if ":" not in name) == completions.DATA
    assert tasks.names() == completions.TASKS


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("search", "--model", "wrn-40"), ["wrn-40-1", "wrn-40-2", "wrn-40-4"]),
        (("search", "--data", "ci"), ["cifar10", "cifar100"]),
        (("search", "--task", "seg"), ["segmentation"]),
        (("search", "--criterion", ""), list(METHODS)),
        (("search", "--criterion", "rni,obd-"), ["rni,obd-before-batchnorm"]),
        (("search", "--granularity", "filter+b"), ["filter+branch", "filter+block"]),
        (("search", "--schedule", "one-shot,i"), ["one-shot,iterative"]),
        (("search", "--recipe", "im"), ["imagenet"]),
        (("search", "--learning-rate-schedule", "cos"), ["cosine"]),
        (("search", "--device", "c"), ["cpu", "cuda"]),
        (("inspect", "lenet"), ["lenet3"]),
        (("export", "--format", "o"), ["onnx"]),
        (("serve", "--task", "seg"), []),
    ],
)
def test_names_of_settings_are_offered(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


@pytest.mark.parametrize("command", ["watch", "stop", "resume", "pareto", "report", "log", "ui"])
def test_searches_are_offered(runs: Path, command: str) -> None:
    assert offered(command, "") == ["cifar", "digits", "ladder"]
    assert offered(command, "d") == ["digits"]


def test_searches_of_another_folder_are_offered(runs: Path) -> None:
    runs.rename(runs.parent / "elsewhere")
    assert offered("watch", "") == []
    assert offered("watch", "--runs", "elsewhere", "d") == ["digits"]


@pytest.mark.parametrize("command", ["export", "latency", "family"])
def test_networks_are_offered(runs: Path, command: str) -> None:
    assert offered(command, "d") == ["digits/base"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    completed = espalier("completion", shell)
    assert (completed.status, completed.err) == (0, "")
    assert f"_ESPALIER_COMPLETE={shell}_complete" in completed.out


def test_the_program_answers_a_shell(tmp_path: Path) -> None:
    words = {
        "COMP_WORDS": "espalier search --model le",
        "COMP_CWORD": "3",
        "_ESPALIER_COMPLETE": "bash_complete",
    }
    main = "import sys; sys.argv = ['espalier']; from search.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main],
        cwd=tmp_path,
        env=os.environ | words,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain,lenet3\n", "")
