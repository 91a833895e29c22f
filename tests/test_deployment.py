"""What deploy/ starts: files that fit each other and the code, and the same processes run here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from ports import free_port
from postgresql import QUOTED, Cluster, postgres_binary, running_cluster
from s3 import running_s3

from search.client import Client
from search.commands.flags import overridden
from search.commands.serve import serve
from search.config.settings import from_mapping
from search.service.service_config import ServiceConfig

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
PACKAGES = ("pruning", "copycat", "mlflow_server", "search")
COMPOSE: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def example(file: Path) -> dict[str, str]:
    """The variables that an example of an environment file sets."""
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def manifests() -> list[dict[str, Any]]:
    """Everything that the manifests of Kubernetes make."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert {*listed} == {file.name for file in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    return [part for name in listed for part in yaml.safe_load_all((KUBERNETES / name).read_text())]


def containers() -> list[dict[str, Any]]:
    """Of all pods, those that set up others included."""
    pods = []
    for part in manifests():
        spec = part.get("spec", {})
        groups = [spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", []), spec]
        pods += [group["template"]["spec"] for group in groups if group and "template" in group]
    return [each for pod in pods for each in pod.get("initContainers", []) + pod["containers"]]


def test_every_variable_of_compose_is_in_the_example_and_the_other_way_round() -> None:
    texts = [(DEPLOY / name).read_text() for name in ("compose.yaml", "compose.cuda.yaml")]
    used = {name for text in texts for name, _, _ in VARIABLE.findall(text)}
    assert used == example(DEPLOY / ".env.example").keys()


def test_what_others_must_not_know_is_asked_for_and_has_no_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for name in ("POSTGRES_PASSWORD", "MLFLOW_PASSWORD", "S3_SECRET_KEY", "RAY_TOKEN"):
        kinds = {kind for found, kind, _ in VARIABLE.findall(text) if found == name}
        assert "?" in kinds
        assert "-" not in kinds


def test_every_service_that_stays_is_watched() -> None:
    for name, service in COMPOSE.items():
        is_over_soon = service.get("restart") == "no"
        assert is_over_soon or {"healthcheck", "restart"} <= service.keys(), name


def test_keys_that_kubernetes_reads_are_in_its_secrets() -> None:
    keys = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for container in containers()
        for variable in container.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert keys == example(KUBERNETES / "secrets.env.example").keys()


def test_the_service_is_started_with_settings_that_there_are() -> None:
    (kubernetes,) = (each["command"] for each in containers() if each["name"] == "service")
    configs = []
    for command in (COMPOSE["service"]["command"], kubernetes):
        program, verb, *flags = (VARIABLE.sub("2", word) for word in command)
        assert (program, verb) == ("espalier", "serve")
        given = serve.make_context("serve", flags).params
        configs.append(from_mapping(ServiceConfig, overridden({}, given), "the command"))
    compose, kubernetes_config = configs
    assert compose.host == "0.0.0.0"
    for name in ("runs", "data_root", "host", "mlflow_url", "max_running"):
        assert getattr(compose, name) == getattr(kubernetes_config, name)


def test_the_cluster_runs_the_ray_that_is_installed_in_the_image() -> None:
    (cluster,) = (part for part in manifests() if part["kind"] == "RayCluster")
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['spec']['rayVersion']}" in pinned


def test_images_hold_all_packages_and_run_without_rights() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for package in PACKAGES:
        assert f"COPY {package} {package}" in lines
        assert f"!{package}" in ignored
    targets = "\n".join(lines).split("\nFROM ")[3:]
    assert [target.splitlines()[0] for target in targets] == ["base AS cpu", "base AS cuda"]
    for target in targets:
        assert re.findall(r"^USER (.*)", target, re.MULTILINE) == ["10001:10001"]
    users = [
        each.get("securityContext", {}) for each in containers() if each["image"] == "espalier"
    ]
    assert len(users) == 5
    assert all(user.get("allowPrivilegeEscalation") is False for user in users)


# ---- the same processes


class Here:
    """What Compose would start, as processes of this machine: addresses and folders differ."""

    def __init__(self, folder: Path, database: Cluster, objects: str) -> None:
        self.ports = {name: free_port() for name in ("service", "mlflow", "ray", "jobs", "agent")}
        self.folder, self.database = folder, database
        self.settings = example(DEPLOY / ".env.example") | {"POSTGRES_PASSWORD": QUOTED}
        self._places = {
            "@postgres/": f"@127.0.0.1:{database.port}/",
            "objects:8333": objects,
            "mlflow:5000": f"127.0.0.1:{self.ports['mlflow']}",
            "127.0.0.1:5000": f"127.0.0.1:{self.ports['mlflow']}",
            "--port=5000": f"--port={self.ports['mlflow']}",
            "ray-head:8265": f"127.0.0.1:{self.ports['jobs']}",
            "127.0.0.1:8265": f"127.0.0.1:{self.ports['jobs']}",
            "--dashboard-port=8265": f"--dashboard-port={self.ports['jobs']}",
            "--port=6379": f"--port={self.ports['ray']}",
            "127.0.0.1:8000": f"127.0.0.1:{self.ports['service']}",
            "--object-store-memory=1000000000": "--object-store-memory=100000000",
            **{f"=/{name}": f"={folder / name}" for name in ("runs", "data", "mlflow")},
        }

    def _text(self, text: str) -> str:
        text = VARIABLE.sub(lambda found: self.settings[found[1]] or found[3] or "", text)
        for place, ours in self._places.items():
            text = text.replace(place, ours)
        return text.replace("$$", "$")

    def environment(self, name: str) -> dict[str, str]:
        """Of a service of Compose, and what an image would bring."""
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {key: self._text(text) for key, text in COMPOSE[name].get("environment", {}).items()}
        return os.environ | {"PATH": programs, "HOME": str(self.folder)} | own

    def command(self, name: str, words: list[str] | None = None) -> list[str]:
        program, *rest = map(self._text, words or COMPOSE[name]["command"])
        beginnings = {
            "python": [sys.executable],
            "espalier": [sys.executable, "-m", "search.cli"],
            "ray": [sys.executable, "-c", "from ray.scripts.scripts import main; main()"],
        }
        return [*beginnings[program], *rest]

    def run(self, name: str, words: list[str] | None = None) -> str:
        """What a command prints that comes to its end, as `docker compose run` has it."""
        done = subprocess.run(
            self.command(name, words),
            cwd=self.folder,
            env=self.environment(name),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, name: str, *further: str) -> Iterator[None]:
        """The service, as long as the block; its output is in a file of its name."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*self.command(name), *further],
                cwd=self.folder,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield
        finally:
            _end(process)

    def wait(self, name: str, seconds: float = 120.0) -> None:
        """Until its health check succeeds."""
        kind, *check = COMPOSE[name]["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + seconds
        while True:
            with suppress(AssertionError):
                self.run(name, check)
                return
            assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
            time.sleep(0.5)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and whatever it has started."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for each in [process, *started]:
        with suppress(psutil.Error):
            each.kill()
    process.wait()
    psutil.wait_procs(started, timeout=10)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """One that leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="esp", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def here(short_folder: Path) -> Iterator[Here]:
    """PostgreSQL with the databases of databases.sql, and an S3 without a bucket."""
    with running_cluster() as cluster, running_s3() as s3:
        for name in re.findall(r"CREATE DATABASE (\w+);", (DEPLOY / "databases.sql").read_text()):
            cluster.make_database(name)
        yield Here(short_folder, cluster, s3)


SEARCH = {
    "name": "first",
    "budget": ["flops=10%"],
    "trials": 1,
    "ladder": [1.0],
    "profiles": 1,
    "concurrency": 1,
    "data": {"limit_train": 100},
    "training": {"epochs": 1, "fine_tune_epochs": 1, "scratch_epochs": 1, "batch_size": 16},
    "study": {"by_products": 0, "tempered_trials": 0},
}


@pytest.mark.slow
def test_what_compose_starts_searches_together(here: Here) -> None:
    for name in ("runs", "data", "mlflow"):
        (here.folder / name).mkdir()
    ray = here.ports
    with ExitStack() as stack:
        here.run("bucket")
        head = (f"--temp-dir={here.folder}/r", f"--dashboard-agent-listen-port={ray['agent']}")
        any_port = ("--min-worker-port=0", "--max-worker-port=0")  # a free one may be among Ray's
        stack.enter_context(here.running("ray-head", *head, *any_port, "--num-cpus=2"))
        stack.enter_context(here.running("mlflow"))
        token = here.run("service", shlex.split("espalier token create anna --role=admin"))
        here.wait("ray-head")
        here.wait("mlflow")
        stack.enter_context(here.running("service", f"--port={ray['service']}"))
        here.wait("service")
        host = {"Host": here.settings["ESPALIER_HOST"]}  # as the proxy passes it on
        service = f"http://127.0.0.1:{ray['service']}"
        assert httpx.get(f"{service}/v1/searches", headers=host).status_code == 401
        with Client(service, token.strip()) as client:
            name = client.launch(SEARCH)["id"]
            answer = client.wait(name, 600)
            assert answer["state"] == "finished", (answer["reason"], [*client.log(name)])
            assert all(client.health()["parts"].values())
        _require_recorded(here, name)
        _require_restorable(here)


def _require_recorded(here: Here, name: str) -> None:
    """MLflow has the search, for who has the password, and its files are in the bucket."""
    url = f"http://127.0.0.1:{here.ports['mlflow']}/api/2.0/mlflow/experiments/get-by-name"
    query = {"experiment_name": name}
    assert httpx.get(url, params=query).status_code == 401
    password = here.settings["MLFLOW_PASSWORD"]
    assert httpx.get(url, params=query, auth=("admin", password)).is_success
    boto3 = pytest.importorskip("boto3")
    variables = here.environment("bucket")
    objects = boto3.client(
        "s3",
        endpoint_url=variables["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_DEFAULT_REGION"],
    )
    keys = [each["Key"] for each in objects.list_objects_v2(Bucket="espalier")["Contents"]]
    assert any(key.startswith("mlflow/") and key.endswith(".html") for key in keys), keys


def _require_restorable(here: Here) -> None:
    """A dump of the service's database, restored under another name, knows the token."""
    dump, restore = postgres_binary("pg_dump"), postgres_binary("pg_restore")
    if dump is None or restore is None:
        return
    file, kept = here.folder / "espalier.dump", here.database
    flags = ("--format=custom", f"--file={file}")
    subprocess.run([dump, *flags, kept.url()], check=True, capture_output=True)
    kept.make_database("restored")
    again = kept.url(name="restored")
    flags = ("--clean", "--if-exists", f"--dbname={again}")
    subprocess.run([restore, *flags, str(file)], check=True, capture_output=True)
    variables = here.environment("service") | {"ESPALIER_SERVICE_DATABASE": again}
    listed = here.command("service", ["espalier", "token", "list"])
    done = subprocess.run(listed, env=variables, capture_output=True, text=True, check=True)
    assert "anna  admin" in done.stdout
