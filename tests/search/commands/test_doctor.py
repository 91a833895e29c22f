"""What `espalier doctor` finds: of this machine, and of others that are made up."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import socket
import tempfile
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import espalier

from search.client import Client
from search.diagnosis import folders, hardware, network, packages, starts
from search.diagnosis.finding import Finding, size_text

SUBJECTS = {
    *("espalier", "python", "packages", "torch", "processors", "memory", "shared memory"),
    *("open files", "searches", "temporary files", "home", "port 8000", "port 5000"),
    *("extra onnx", "extra server", "extra cluster"),
}


def only(findings: Iterable[Finding] | Finding, state: str) -> list[Finding]:
    return [
        f for f in ([findings] if isinstance(findings, Finding) else findings) if f.state == state
    ]


@pytest.fixture
def nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine is like, its packages, memory and disk are well."""
    monkeypatch.setattr(packages, "_problem_with", lambda _: None)
    monkeypatch.setattr(hardware, "usable_memory", lambda: int(64e9))
    memory = SimpleNamespace(available=int(60e9))
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    usage = namedtuple("usage", "total used free")(int(1e12), 0, int(1e12))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)


def test_a_machine_that_is_well(
    nothing_wrong: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    completed = espalier("doctor", "--json")
    answer = json.loads(completed.out)
    findings = {row["subject"]: row for row in answer["findings"]}
    assert {s for s, row in findings.items() if row["state"] == "problem"} == set()
    assert (completed.status, completed.err, answer["is_well"]) == (0, "", True)
    assert findings.keys() >= SUBJECTS
    assert findings["espalier"]["found"] == importlib.metadata.version("espalier")
    assert f"torch {importlib.metadata.version('torch')}" in findings["packages"]["found"]
    assert [*tmp_path.iterdir()] == []


def test_what_is_wrong_is_told_with_the_mend(
    nothing_wrong: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "usable_memory", lambda: int(1e9))
    completed = espalier("doctor", "--runs", tmp_path)
    assert completed.status == 1
    assert "problem  memory           1.0 GB free of 1.0 GB" in completed.out
    assert "wrong: the smallest search takes 1.3 GB" in completed.out
    assert "mend:  end other programs" in completed.out


def test_a_package_of_another_version_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"click": "7.0", "rich": "", "tensorboardX": ""}
    known = packages._version
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, known(name)))
    wrong = {finding.subject: finding for finding in only(packages.check_packages(), "problem")}
    assert wrong.keys() >= {"click", "rich", "ray"}
    assert wrong["ray"].found.endswith(", without tensorboardX")
    assert wrong["ray"].mend.startswith("pip install 'ray[tune]>=")
    assert (wrong["click"].found, wrong["rich"].found) == ("7.0", "not installed")
    assert wrong["click"].mend == "pip install 'click>=8.1'"


def test_an_older_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
    assert "python" in {finding.subject for finding in only(packages.check_packages(), "problem")}


def test_without_its_metadata_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.metadata", missing)
    (finding,) = packages.check_packages()
    assert (finding.subject, finding.state) == ("espalier", "problem")


def test_a_torchvision_that_does_not_fit_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", fails)
    finding = packages.check_torch()
    assert finding.state == "problem"
    assert "operator torchvision::nms does not exist" in finding.wrong


@pytest.mark.parametrize(
    ("machine", "state", "wrong", "mend"),
    [
        ((1.0, 0), "problem", "the smallest search takes", "end other"),
        ((1.5, 0), "warning", "a trial per core (8 at once)", "--concurrency 1"),
        ((1.5, 2), "warning", "a trial per GPU (2 at once)", "--concurrency 1"),
        ((1.5, 1), "ok", "", ""),
        ((9.0, 0), "ok", "", ""),
    ],
    ids=str,
)
def test_memory_is_held_against_the_trials_that_run_at_once(
    monkeypatch: pytest.MonkeyPatch, machine: tuple[float, int], state: str, wrong: str, mend: str
) -> None:
    gigabytes, gpus = machine
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(hardware, "usable_memory", lambda: int(gigabytes * 1e9))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=int(64e9)))
    finding = hardware.check_memory()
    assert finding.state == state
    assert wrong in finding.wrong
    assert mend in finding.mend


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64_000_000))
    finding = hardware.check_shared_memory()
    assert (finding.state, finding.found) == ("warning", f"64 MB free in {tmp_path}")
    monkeypatch.setattr(hardware, "_SHARED_MEMORY", tmp_path / "none")
    assert hardware.check_shared_memory().state == "ok"


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert hardware.check_open_files().state == "warning"


@pytest.mark.parametrize(
    ("built_for", "visible", "wrong"),
    [
        (None, None, "torch is built for the CPU"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES is ''"),
        ("13.0", None, "torch, built for CUDA 13.0, cannot use the driver"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    built_for: str | None,
    visible: str | None,
    wrong: str,
) -> None:
    version = SimpleNamespace(cuda=built_for)
    absent = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(hardware, "torch", SimpleNamespace(version=version, cuda=absent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(hardware, "_DRIVER", tmp_path / "none")
    (finding,) = hardware.check_devices()
    assert finding.state == "ok"
    monkeypatch.setattr(hardware, "_DRIVER", tmp_path)
    (finding,) = hardware.check_devices()
    assert (finding.state, finding.wrong) == ("warning", wrong)


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (finding,) = folders.check_runs(tmp_path / "new" / "runs")
    assert finding.wrong in ("", "the disk is almost full")
    (finding,) = folders.check_runs(Path("/proc/runs"))
    assert (finding.subject, finding.state) == ("searches", "problem")


def test_a_store_that_is_none_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, and longer than nothing" * 9)
    (finding,) = only(folders.check_runs(tmp_path), "problem")
    assert finding.subject == "MLflow's store"


@pytest.mark.parametrize(("free", "state"), [(10e9, "ok"), (1e9, "warning"), (1e6, "problem")])
def test_a_disk_that_is_almost_full_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, state: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=int(free)))
    (finding,) = folders.check_runs(tmp_path)
    assert finding.state == state
    assert size_text(free) in finding.found


def test_without_a_folder_for_temporary_files_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert folders.check_temporary_folder().state == "problem"


def test_a_home_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc")
    assert folders.check_home().state == "warning"


def test_a_port_that_is_taken_is_a_warning(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr(network, "_PORTS", {free_port: "espalier serve --port 0"})
    assert [finding.state for finding in network.check_ports()] == ["ok"]
    with socket.create_server(("127.0.0.1", free_port)):
        (finding,) = network.check_ports()
    assert (finding.state, finding.mend) == ("warning", "take another: espalier serve --port 0")


def test_a_proxy_that_does_not_answer_is_a_warning_without_its_password(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert [finding.found for finding in network.check_proxies()] == ["none"]
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{free_port}")
    (finding,) = network.check_proxies()
    assert (finding.subject, finding.state) == ("https proxy", "warning")
    assert finding.found == f"127.0.0.1:{free_port}"
    assert "secret" not in str(finding)
    with socket.create_server(("127.0.0.1", free_port)):
        assert [finding.state for finding in network.check_proxies()] == ["ok"]


def test_servers_that_do_not_answer_are_problems(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    for finding in (
        network.check_mlflow(url),
        network.check_cluster(f"127.0.0.1:{free_port}"),
        network.check_cluster(url),
        network.check_service(url, ""),
    ):
        assert finding.state == "problem", finding
    with socket.create_server(("127.0.0.1", free_port)):
        assert network.check_cluster(f"127.0.0.1:{free_port}").state == "ok"


@pytest.mark.parametrize(("is_ours", "state"), [(True, "ok"), (False, "problem")])
def test_a_cluster_runs_the_same_ray(
    monkeypatch: pytest.MonkeyPatch, is_ours: bool, state: str
) -> None:
    version = importlib.metadata.version("ray") if is_ours else "1.0"
    answer = network.httpx.Response(
        200,
        json={"ray_version": version},
        request=network.httpx.Request("GET", "http://head"),
    )
    monkeypatch.setattr("httpx.get", lambda *_, **__: answer)
    assert network.check_cluster("http://head:8265").state == state


def test_parts_of_a_service_that_do_not_work_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"version": "1", "parts": {"database": True, "mlflow": False}}
    monkeypatch.setattr(Client, "health", lambda _: health)
    finding = network.check_service("http://127.0.0.1:8000", "")
    assert (finding.state, finding.wrong) == ("warning", "not working: mlflow")
    monkeypatch.setattr(Client, "health", lambda _: health | {"parts": {"database": True}})
    assert network.check_service("http://127.0.0.1:8000", "").state == "ok"


def test_a_server_that_does_not_start_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert starts.start_mlflow().state == "problem"


@pytest.mark.slow
def test_ray_and_mlflow_are_started() -> None:
    assert starts.start_mlflow().state == "ok"
    assert starts.start_ray().state == "ok"
