"""Recording runs in MLflow, straight into a SQLite store or through a server."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never, final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from mlflow_server import schema
from mlflow_server.errors import TrackingError
from mlflow_server.reach import is_outage, prepare_for_server, tracking_error
from mlflow_server.runs import (
    EndRun,
    Entry,
    LogFile,
    LogMetrics,
    OpenRun,
    RecordedRun,
    RunRecorder,
    RunStatus,
    SetTags,
    changed_params,
    conflicting_params,
    never_opened,
    own_tags,
    require_file,
)
from mlflow_server.store import (
    PROXIED,
    SQLITE_PREFIX,
    artifact_root,
    creating,
    database_uri,
    local_folder,
    why_not_a_store,
)

_STATUS: dict[str, RunStatus] = {
    "RUNNING": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}


def connect(
    tracking_uri: str, search_name: str, *, artifact_location: str | None = None
) -> "MlflowRecorder":
    """A recorder for one search, whose experiment (of that name) is created if need be.

    `tracking_uri` is `sqlite:///…`, as `store_uri` gives it, or the `http(s)://…` of an MLflow
    server. A SQLite store is created if it is missing; files then go to `mlartifacts` beside the
    database, under names that stay valid when the folder is moved and when a server serves it.
    `artifact_location` is a URI that replaces this place for a new experiment; it has no
    effect on an experiment that exists, nor with a server, which decides itself.

    Raises TrackingError, within seconds, if the store cannot be opened, the server does not
    answer, its address holds a password, or the experiment was deleted.
    """
    if tracking_uri.startswith(("http://", "https://")):
        prepare_for_server(tracking_uri)
        return _open_experiment(tracking_uri, search_name, None, None)
    if not tracking_uri.startswith(SQLITE_PREFIX):
        raise TrackingError(
            f"runs are recorded in sqlite:///… or http(s)://…, got {tracking_uri!r}"
        )
    database = Path(tracking_uri.removeprefix(SQLITE_PREFIX)).resolve()
    uri = database_uri(database)
    store = database.parent
    location = artifact_location or f"{PROXIED}:/{_as_folder(search_name)}"
    try:
        ensure_database(database)
        return _open_experiment(uri, search_name, location, artifact_root(store))
    except OSError as error:
        raise TrackingError(f"cannot write to the store {store}: {error}") from error


def ensure_database(database: Path) -> None:
    """Create MLflow's database if it is missing; TrackingError if the file is something else.

    The database gets its name once it is complete: MLflow cannot be relied on to finish one
    whose creation was interrupted.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    with creating(database.parent):
        if database.exists():
            problem = why_not_a_store(database)
            if problem is not None:
                raise TrackingError(f"{database} is not an MLflow database: {problem}")
            return
        unfinished = database.with_name(f"{database.name}.new")
        unfinished.unlink(missing_ok=True)
        MlflowClient(tracking_uri=database_uri(unfinished))
        unfinished.rename(database)


@final
class MlflowRecorder(RunRecorder):
    """Writes the runs of one search to one MLflow experiment, at once.

    Made by `connect`. It keeps no state but the ids of the runs it has met, so several may
    write to one search, as long as each key is first opened by one of them. Over HTTP a call
    is tried once: wrap it in a BackgroundRecorder, which tries again.
    """

    def __init__(
        self,
        client: Any,
        experiment_id: str,
        search_name: str,
        *,
        tracking_uri: str,
        local_artifacts: Path | None,
    ) -> None:
        self.experiment_id = experiment_id
        self.search_name = search_name
        self.tracking_uri = tracking_uri
        self._client = client
        self._local_artifacts = local_artifacts
        self._run_ids: dict[str, str] = {}

    def run_id(self, key: str) -> str:
        """MLflow's id of a run, as its pages use it; TrackingError if it was never opened."""
        run_id = self._find(key)
        if run_id is None:
            raise TrackingError(never_opened(key, self.search_name))
        return run_id

    def read(self, key: str) -> RecordedRun:
        """What is recorded of a run; TrackingError if it was never opened."""
        try:
            return self._read(key)
        except MlflowException as error:
            raise tracking_error(self.tracking_uri, error) from error

    def write(self, entry: Entry) -> None:
        try:
            self._write(entry)
        except MlflowException as error:
            raise tracking_error(self.tracking_uri, error) from error

    def write_metrics(self, entries: Sequence[LogMetrics]) -> None:
        try:
            self._log_metrics(entries)
        except MlflowException as error:
            raise tracking_error(self.tracking_uri, error) from error

    def _write(self, entry: Entry) -> None:
        match entry:
            case OpenRun():
                self._open(entry)
            case LogMetrics():
                self._log_metrics([entry])
            case SetTags():
                self._client.log_batch(self.run_id(entry.key), tags=_run_tags(entry.tags))
            case LogFile():
                self._log_file(entry)
            case EndRun():
                self._end(entry)
            case _:
                assert_never(entry)

    def _find(self, key: str) -> str | None:
        """The id of the run of this key; the oldest if the experiment somehow has several."""
        if key not in self._run_ids:
            runs = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{schema.TAG_KEY}` = '{key}'",
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
            if not runs:
                return None
            self._run_ids[key] = runs[0].info.run_id
        return self._run_ids[key]

    def _open(self, entry: OpenRun) -> None:
        tags = own_tags(entry, self.search_name) | {schema.MLFLOW_DESCRIPTION: entry.description}
        if entry.parent is not None:
            tags[schema.MLFLOW_PARENT] = self.run_id(entry.parent)
        if (origin := entry.tags.get(schema.TAG_ORIGIN)) in schema.COLOURS:
            tags[schema.MLFLOW_RUN_COLOUR] = schema.COLOURS[origin]
        run_id = self._find(entry.key)
        if run_id is None:
            run = self._client.create_run(
                self.experiment_id, start_time=entry.time_ms, tags=tags, run_name=entry.name
            )
            self._run_ids[entry.key] = run.info.run_id
        else:
            run = self._continue(run_id, entry.name, tags)
        recorded = run.data.params
        new = [Param(name, text) for name, text in entry.params.items() if name not in recorded]
        if new:
            self._client.log_batch(run.info.run_id, params=new)
        if conflicts := changed_params(recorded, entry.params):
            raise TrackingError(conflicting_params(entry.key, conflicts))

    def _continue(self, run_id: str, name: str, tags: dict[str, str]) -> Any:
        run = self._client.get_run(run_id)
        self._client.update_run(run_id, status="RUNNING", name=name)
        if schema.TAG_FAILURE in run.data.tags:
            self._client.delete_tag(run_id, schema.TAG_FAILURE)
        self._client.log_batch(run_id, tags=_run_tags(tags))
        return run

    def _log_metrics(self, entries: Sequence[LogMetrics]) -> None:
        metrics = [
            Metric(name, value, entry.time_ms, entry.step)
            for entry in entries
            for name, value in entry.metrics.items()
        ]
        self._client.log_batch(self.run_id(entries[0].key), metrics=metrics)

    def _log_file(self, entry: LogFile) -> None:
        require_file(entry.path)
        run_id = self.run_id(entry.key)
        folder = self._folder_of(self._client.get_run(run_id).info.artifact_uri)
        try:
            if folder is None:
                self._client.log_artifact(run_id, str(entry.path), entry.folder)
            else:
                _copy_whole(entry.path, folder / (entry.folder or ""))
        except OSError as error:
            # An error of a file names it; one of the connection to a server does not.
            raise TrackingError(
                f"cannot store {entry.path} with the run: {error}",
                is_transient=folder is None and error.filename is None and is_outage(error),
            ) from error

    def _folder_of(self, artifact_uri: str) -> Path | None:
        """The folder where a server would look for these files; None to leave it to MLflow."""
        if self._local_artifacts is None:
            return None
        return local_folder(artifact_uri, self._local_artifacts)

    def _end(self, entry: EndRun) -> None:
        run_id = self.run_id(entry.key)
        if entry.reason is not None:
            self._client.set_tag(run_id, schema.TAG_FAILURE, entry.reason)
        self._client.set_terminated(run_id, entry.status.upper(), end_time=entry.time_ms)

    def _read(self, key: str) -> RecordedRun:
        run = self._client.get_run(self.run_id(key))
        tags = run.data.tags
        parent_id = tags.get(schema.MLFLOW_PARENT)
        parent = None if parent_id is None else self._client.get_run(parent_id)
        return RecordedRun(
            key=key,
            kind=tags[schema.TAG_KIND],
            name=run.info.run_name,
            parent=None if parent is None else parent.data.tags[schema.TAG_KEY],
            status=_STATUS[run.info.status],
            description=tags.get(schema.MLFLOW_DESCRIPTION, ""),
            params=dict(run.data.params),
            tags={name: text for name, text in tags.items() if not name.startswith("mlflow.")},
            metrics={name: self._curve(run.info.run_id, name) for name in run.data.metrics},
            files=tuple(sorted(self._files(run.info))),
        )

    def _curve(self, run_id: str, name: str) -> tuple[tuple[int, float], ...]:
        history = self._client.get_metric_history(run_id, name)
        points = sorted(history, key=lambda metric: (metric.step, metric.timestamp))
        return tuple((point.step, point.value) for point in points)

    def _files(self, info: Any) -> list[str]:
        folder = self._folder_of(info.artifact_uri)
        if folder is not None:
            return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        found: list[str] = []
        folders = [""]
        while folders:
            for item in self._client.list_artifacts(info.run_id, folders.pop()):
                (folders if item.is_dir else found).append(item.path)
        return found


def _open_experiment(
    tracking_uri: str, search_name: str, location: str | None, local_artifacts: Path | None
) -> MlflowRecorder:
    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        experiment = client.get_experiment_by_name(search_name)
        if experiment is None:
            experiment = _create_experiment(client, search_name, location)
    except MlflowException as error:
        raise tracking_error(tracking_uri, error) from error
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {search_name!r} was deleted: "
            "restore it there, or give the search another name"
        )
    return MlflowRecorder(
        client,
        experiment.experiment_id,
        search_name,
        tracking_uri=tracking_uri,
        local_artifacts=local_artifacts,
    )


def _create_experiment(client: Any, search_name: str, location: str | None) -> Any:
    try:
        client.create_experiment(search_name, artifact_location=location)
    except MlflowException as error:
        # Another process may have created it since; then it is there to be used.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_experiment_by_name(search_name)


def _run_tags(tags: Mapping[str, str]) -> list[Any]:
    return [RunTag(name, text) for name, text in tags.items()]


def _as_folder(search_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", search_name)


def _copy_whole(path: Path, folder: Path) -> None:
    """Copy the file so that it appears under its name only once it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{os.getpid()}"
    shutil.copyfile(path, unfinished)
    unfinished.replace(folder / path.name)
