"""Stored architectures as models of MLflow's registry, which others load by name and alias.

The files are torch.export's pt2, which needs neither our code nor pickle to be read.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from mlflow_server import schema
from mlflow_server.errors import TrackingError
from mlflow_server.reach import tracking_error
from mlflow_server.store import SQLITE_PREFIX, artifact_root, local_folder
from mlflow_server.tracking import connect

_REQUIRED = ("torch", "numpy")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model; `uri` is what MLflow's load functions take."""

    name: str
    version: str
    alias: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


def register(
    tracking_uri: str,
    search_name: str,
    key: str,
    model: Any,
    example_input: Any,
    *,
    name: str,
    alias: str = "best",
) -> Registered:
    """Make the architecture whose run has this key the version of `name` that `alias` names.

    model: a torch.nn.Module of stock operators in eval mode, on the CPU; it is left as it is.
    example_input: a float32 tensor of two images or more; the model takes any number of them.
    What is registered under this name already is not stored again, it only gets the alias,
    which another version loses. Call it once the run is recorded: with a BackgroundRecorder,
    after `close`. Raises TrackingError if there is no such run, the name or alias is not one
    that MLflow takes, or the model cannot be exported or stored.
    """
    assert len(example_input) >= 2, "of one image, export would take the number for a constant"
    recorder = connect(tracking_uri, search_name)
    tracking_uri, run_id = recorder.tracking_uri, recorder.run_id(key)
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    try:
        number = _registered_before(client, name, run_id)
        if number is None:
            with TemporaryDirectory(prefix="espalier-model-") as folder:
                saved = Path(folder) / "model"
                _save(model, example_input, saved)
                _require_name(client, name)
                model_id, source = _upload(client, recorder.experiment_id, run_id, key, saved)
            created = client.create_model_version(
                name,
                source,
                run_id,
                tags={schema.TAG_SEARCH: search_name, schema.TAG_KEY: key},
                description=f"{key} of the search {search_name}",
                model_id=model_id,
            )
            number = str(created.version)
        client.set_registered_model_alias(name, alias, number)
    except MlflowException as error:
        raise tracking_error(tracking_uri, error) from error
    return Registered(name, number, alias)


def _registered_before(client: Any, name: str, run_id: str) -> str | None:
    """The version that this run has under this name."""
    # Filtered here: a filter would take a name with a quote for something else.
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    numbers = [found.version for found in versions if found.name == name]
    return str(max(numbers, key=int)) if numbers else None


def _require_name(client: Any, name: str) -> None:
    """Make the name in the registry, if it is new."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _save(model: Any, example_input: Any, folder: Path) -> None:
    """Write the model as MLflow keeps it: pt2, its signature, an example, what it needs."""
    import mlflow.pytorch  # noqa: PLC0415 - imports torch, for this only

    images = example_input.detach().cpu().numpy()
    logits = model(example_input).detach().cpu().numpy()
    try:
        with _quiet():
            mlflow.pytorch.save_model(
                model,
                folder,
                signature=infer_signature(images, logits),
                input_example=images,
                pip_requirements=[
                    f"{package}=={_public_version(package)}" for package in _REQUIRED
                ],
                serialization_format="pt2",
            )
    except MlflowException:
        raise
    except Exception as error:  # torch.export may raise anything
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrackingError(f"this network cannot be exported: {first_line}") from error


def _public_version(package: str) -> str:
    """Without the part that says for which device it was built: that is on no package index."""
    return version(package).partition("+")[0]


def _upload(client: Any, experiment_id: str, run_id: str, key: str, saved: Path) -> tuple[str, str]:
    """Store the files as a model of this run; return the model's id and where it is."""
    logged = client.create_logged_model(
        experiment_id,
        name=key.replace("/", "-"),  # MLflow takes no slash here
        source_run_id=run_id,
        tags={schema.TAG_KEY: key},
    )
    try:
        if not client.tracking_uri.startswith(SQLITE_PREFIX):
            client.log_model_artifacts(logged.model_id, str(saved))
            source = f"models:/{logged.model_id}"
        else:
            # Without a server MLflow would look for models:/… in its global tracking URI.
            source = logged.artifact_location
            store = Path(client.tracking_uri.removeprefix(SQLITE_PREFIX)).parent
            folder = local_folder(source, artifact_root(store))
            if folder is None:
                client.log_model_artifacts(logged.model_id, str(saved))
            else:
                shutil.copytree(saved, folder, dirs_exist_ok=True)
        client.finalize_logged_model(logged.model_id, "READY")
    except OSError as error:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise TrackingError(f"cannot store the model of {key!r}: {error}") from error
    return str(logged.model_id), str(source)


@contextmanager
def _quiet() -> Iterator[None]:
    """What exporting warns of or logs is not shown."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
