"""What lies in a folder of searches runs no code that nobody at the terminal has named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from samples import espalier, stored_outcome

import copycat
from copycat.architecture.document import to_json
from pruning.errors import ArchitectureError, ModelError
from search.config.data_config import DataConfig
from search.config.search_config import SearchConfig
from search.models import own_module, require_trusted
from search.results.report import Results
from search.service.torch_worker.tasks import Refusal, export_architecture
from search.trials.preflight import Preflight


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hostile(here: Path, preflight: Preflight) -> Path:
    """The folder of a search that was copied in: model and builder run a command of a shell."""
    config = SearchConfig(model="os:system", name="gift")
    widths = {name: preflight.graph.group(name).width for name in preflight.groups}
    outcome = stored_outcome(config, preflight, 0, widths, 0.5)
    folder = config.directory / outcome.path
    builder = copycat.Builder("os:system", {"command": f"touch {here / 'ran'}"})
    file = folder / "architecture.json"
    file.write_text(to_json(dataclasses.replace(copycat.read(folder), builder=builder)))
    (config.directory / "search.json").write_text(json.dumps(dataclasses.asdict(config)))
    results = Results(preflight.base, "flops=10%", 359, (outcome,), (outcome,), (), {})
    (config.directory / "results.json").write_text(json.dumps(results.to_mapping()))
    return config.directory


COMMANDS = (
    ("export", "{network}", "--out", "net"),
    ("export", "{network}", "--out", "net", "--format", "onnx"),
    ("export", "{network}", "--out", "net", "--format", "pt2"),
    ("export", "{network}", "--as-python", "net.py"),
    ("export", "{network}", "--register", "name"),
    ("latency", "{network}"),
    ("inspect", "{network}"),
    ("family", "{network}", "--budgets", "flops=50%"),
    ("resume", "gift"),
    ("trial", "gift", "0"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_folder_that_was_copied_in_runs_nothing(
    hostile: Path, here: Path, words: tuple[str, ...]
) -> None:
    (network,) = (hostile / "architectures").iterdir()
    for named in (f"gift/{network.name}", network):  # by its search, and as a folder
        done = espalier(*(word.replace("{network}", str(named)) for word in words))
        assert done.status == 2
        (line,) = done.err.splitlines()
        assert "os" in line
        assert "--trust os" in line
    assert not (here / "ran").exists()
    assert not (here / "net").exists()


@pytest.mark.parametrize("form", ["onnx", "py"])
def test_a_service_exports_nothing_by_code_of_the_folder(
    hostile: Path, here: Path, form: str
) -> None:
    (network,) = (hostile / "architectures").iterdir()
    for trust in ((), ("samples:small_network",), ("os:getcwd",)):
        found = export_architecture(network, form, here / "net", trust)
        assert isinstance(found, Refusal)
        assert "not trusted" in found.detail
    assert not (here / "ran").exists()
    assert not (here / "net").exists()


def test_what_only_shows_a_folder_runs_nothing(hostile: Path, here: Path) -> None:
    for words in (("list",), ("pareto", "gift"), ("report", "gift")):
        espalier(*words)
    assert not (here / "ran").exists()


def test_another_module_of_the_same_search_is_not_trusted(hostile: Path, here: Path) -> None:
    """What is trusted is what was named, not what lies beside it."""
    (network,) = (hostile / "architectures").iterdir()
    done = espalier("export", network, "--out", "net", "--trust", "samples")
    assert (done.status, (here / "ran").exists()) == (2, False)


def test_trust_may_be_said_once_for_all_commands(
    hostile: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_TRUST", "os samples")
    (network,) = (hostile / "architectures").iterdir()
    done = espalier("export", network, "--out", "net")
    assert "not trusted" in done.err  # os.system is defined in another module
    monkeypatch.setenv("ESPALIER_TRUST", "samples os:system")
    espalier("export", network, "--out", "net")
    assert (here / "ran").exists()  # as its user has asked for


@pytest.mark.parametrize(
    ("name", "module"),
    [("resnet56", ""), ("torchvision:resnet18", ""), ("nets.a:make", "nets.a"), (":x", "")],
)
def test_whose_code_a_network_is(name: str, module: str) -> None:
    assert own_module(name) == module


@pytest.mark.parametrize("trust", [("nets",), ("nets.a",), ("nets.a:make",), ("x", "nets")])
def test_a_network_that_is_allowed(trust: tuple[str, ...]) -> None:
    require_trusted("nets.a:make", trust, "search.json")


@pytest.mark.parametrize("trust", [(), ("net",), ("nets.a:made",), ("nets.a.b",), ("",)])
def test_a_network_that_is_not(trust: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=r"search\.json names the network nets\.a:make"):
        require_trusted("nets.a:make", trust, "search.json")


@pytest.mark.parametrize("trust", [(), ("other",), ("data_of_users:noisy",)])
def test_data_of_a_folder_that_was_copied_in_are_not_read(
    here: Path, trust: tuple[str, ...]
) -> None:
    """By what goes on with a search, and by what trains a stored network's family."""
    config = SearchConfig(name="gift", data=DataConfig("data_of_users:raises"))
    config.directory.mkdir(parents=True)
    (config.directory / "search.json").write_text(json.dumps(dataclasses.asdict(config.resolved())))
    for words in (("resume", "gift"), ("trial", "gift", "0")):
        done = espalier(*words, *(word for name in trust for word in ("--trust", name)))
        assert (done.status, done.out) == (2, "")
        expected = "names the data data_of_users:raises, which is code: if it is yours, allow it by"
        assert expected in done.err
    done = espalier("resume", "gift", "--trust", "data_of_users:raises")
    assert "data_of_users:raises failed: ValueError: no luck" in done.err


def test_data_that_a_stored_network_names_are_not_read(here: Path, preflight: Preflight) -> None:
    config = SearchConfig(name="gift")
    outcome = stored_outcome(config, preflight, 0, {}, 0.5)
    file = config.directory / outcome.path / "architecture.json"
    stored = copycat.read(file.parent)
    data = {"data": "data_of_users:raises"}
    file.write_text(to_json(dataclasses.replace(stored, provenance=data)))
    words = ("family", f"gift/{outcome.key}", "--budgets=flops=50%", "--train")
    assert "which is code: if it is yours, allow it by name" in espalier(*words).err
    for allowed in ("--trust=data_of_users", "--data=data_of_users:raises"):
        assert "data_of_users:raises failed: ValueError" in espalier(*words, allowed).err


def test_one_callable_is_trusted_without_its_module(hostile: Path) -> None:
    """An operator allows `os:getcwd`, say, and no other function of that module."""
    (network,) = (hostile / "architectures").iterdir()
    with pytest.raises(ArchitectureError, match="not trusted"):
        copycat.load(network, trust=["os:getcwd"])
