from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from torch import nn

from mlflow_server import (
    RunRecorder,
    TrackingError,
    artifact_root,
    connect,
    register,
    running_server,
    store_uri,
)

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 10)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def record(recorder: RunRecorder, *keys: str) -> None:
    recorder.open_run("search", kind="search", name="Search")
    for key in keys:
        recorder.open_run(key, kind="architecture", name=key, parent="search")


def loaded(place: str) -> Any:
    """The program in a model's folder or at its URI, read with pickle refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pytorch.load_model(place)


def require_same(program: Any, network: nn.Module) -> None:
    for number in (1, 2, 5):  # any number of images
        images = torch.randn(number, 3, 8, 8)
        torch.testing.assert_close(program(images), network(images))


@pytest.mark.filterwarnings("ignore")  # those of torch's and MLflow's own loading
def test_a_registered_architecture_is_loaded_from_the_store_and_through_a_server(
    store, network, images, monkeypatch
):
    key = "architecture/uniform-1"
    recorder = connect(store_uri(store), "digits")
    record(recorder, key)
    tracking_uri = mlflow.get_tracking_uri()
    done = register(store_uri(store), "digits", key, network, images, name="small digits")
    assert (done.version, done.alias, done.uri) == ("1", "best", "models:/small digits@best")
    assert mlflow.get_tracking_uri() == tracking_uri
    assert network(images).requires_grad

    (packed,) = artifact_root(store).rglob("MLmodel")
    require_same(loaded(str(packed.parent)), network)
    assert not list(packed.parent.rglob("*.pth"))
    described = mlflow.models.get_model_info(str(packed.parent))
    assert described.signature.inputs.inputs[0].shape == (-1, 3, 8, 8)
    assert described.signature.outputs.inputs[0].shape == (-1, 10)
    requirements = (packed.parent / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+" not in requirements

    client = mlflow.MlflowClient(store_uri(store), store_uri(store))
    version = client.get_model_version_by_alias("small digits", "best")
    assert version.run_id == recorder.run_id(key)
    assert version.tags["espalier.key"] == key
    with running_server(store, port=0) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.url)
        require_same(loaded(done.uri), network)


def test_registering_again_moves_the_alias_and_stores_nothing_twice(store, network, images):
    uri = store_uri(store)
    record(connect(uri, "s"), "architecture/a", "architecture/b")

    def call(key: str, alias: str = "best") -> str:
        return register(uri, "s", key, network, images, name="net", alias=alias).version

    assert call("architecture/a") == "1"
    assert call("architecture/b") == "2"
    assert call("architecture/a", "small") == "1"
    client = mlflow.MlflowClient(uri, uri)
    aliases = client.get_registered_model("net").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {"best": "2", "small": "1"}
    assert call("architecture/a") == "1"
    assert str(client.get_registered_model("net").aliases["best"]) == "1"
    assert len(list(artifact_root(store).rglob("MLmodel"))) == 2


def test_over_http(server_url, network, images):
    record(connect(server_url, "registered"), "architecture/a")
    done = register(server_url, "registered", "architecture/a", network, images, name="by http")
    client = mlflow.MlflowClient(server_url, server_url)
    assert client.get_model_version_by_alias("by http", "best").version == done.version


def test_an_architecture_without_a_run_is_one_line(store, network, images):
    record(connect(store_uri(store), "s"))
    with pytest.raises(TrackingError, match="has no run 'architecture/a'"):
        register(store_uri(store), "s", "architecture/a", network, images, name="net")


@pytest.mark.parametrize("given", [{"name": "a/b"}, {"name": ""}, {"name": "n", "alias": "v1"}])
def test_names_that_mlflow_does_not_take_are_one_line(store, network, images, given):
    record(connect(store_uri(store), "s"), "architecture/a")
    with pytest.raises(TrackingError, match=r"^MLflow at sqlite") as caught:
        register(store_uri(store), "s", "architecture/a", network, images, **given)
    assert "\n" not in str(caught.value)


def test_a_network_that_cannot_be_exported_is_one_line(store, images):
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum().item() > 0 else x.flatten(1) * 2

    record(connect(store_uri(store), "s"), "architecture/a")
    with pytest.raises(TrackingError, match="this network cannot be exported: ") as caught:
        register(store_uri(store), "s", "architecture/a", Undecided(), images, name="net")
    assert "\n" not in str(caught.value)


def test_a_full_or_blocked_store_is_one_line(store, network, images):
    record(connect(store_uri(store), "s"), "architecture/a")
    artifact_root(store).write_text("in the way")
    with pytest.raises(TrackingError, match="cannot store the model of 'architecture/a'"):
        register(store_uri(store), "s", "architecture/a", network, images, name="net")


def test_one_image_is_a_mistake_of_the_caller(tmp_path: Path, network, images):
    with pytest.raises(AssertionError, match="constant"):
        register(store_uri(tmp_path), "s", "a", network, images[:1], name="net")
