"""What deploy/ starts: its files fit each other and the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

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
