"""Takes in the studies that lie in the folder of runs and that the database does not know.

A folder may have been copied in, shared or restored from an archive: nothing in it is trusted.
What a search asks for passes the rules of what clients may ask for, and what cannot be read is
set aside by itself, as a failed search that says why.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pruning.errors import first_line
from search.service.access.settings_policy import SettingsPolicy, require_shape
from search.service.database.searches import Searches
from search.service.database.tables import ArchitectureRow, SearchRow, State
from search.service.database.transactions import now_ms
from search.service.problem_details import ProblemError
from search.service.queue.result_rows import (
    architecture_rows,
    finished_rows,
    marked_front,
    newest_frame,
)
from search.service.runs_folder import EXPORTS_FOLDER, SEARCH_ID
from search.service.schemas import Architecture, SearchDetails
from search.storage.layout import (
    EVENTS_FILE,
    RESULTS_FILES,
    SETTINGS_FILES,
    StudyKind,
    study_kind,
)
from search.tracking.event_file import Event, EventFile
from search.tracking.search_state import SearchState

_MAX_BYTES = 1 << 20
"""Of a file of settings."""

_MAX_NAME = 100
_log = logging.getLogger(__name__)


def adopt_searches(searches: Searches, runs: Path, policy: SettingsPolicy, device: str) -> None:
    """Take in the searches of the folder that the database does not know, or could not read.

    device: what they go on with.
    """
    for folder in sorted(runs.iterdir()):
        kind = study_kind(folder)
        if folder.is_symlink() or kind is None:
            continue  # what is written behind a link would be written elsewhere
        if re.fullmatch(SEARCH_ID, folder.name) is None:
            _log.warning("%r in the folder of runs is left out: no search has that name", folder)
            continue
        try:
            row = searches.get(folder.name)
        except ProblemError:
            pass
        else:
            if row.settings:
                continue
            searches.remove(folder.name)  # it was set aside: it may have been mended since
        _adopt(searches, folder, kind, policy, device)


def _adopt(
    searches: Searches, folder: Path, kind: StudyKind, policy: SettingsPolicy, device: str
) -> None:
    try:
        searches.adopt(*read_rows(folder, kind, policy, device))
    except Exception as error:  # whatever may lie there, the other searches are not to suffer
        reason = f"its folder cannot be read: {_message(error)}"
        _log.warning("%s is set aside: %s", folder.name, reason)
        searches.adopt(_row(folder, kind, {}, "failed", reason), ())
    _remove_exports(folder)


def read_rows(
    folder: Path, kind: StudyKind, policy: SettingsPolicy, device: str
) -> tuple[SearchRow, list[ArchitectureRow]]:
    """The rows of a study that was made without the service; raises whatever its files cause."""
    content = require_shape(json.loads(_read_plain_file(folder / SETTINGS_FILES[kind])), kind)
    file, search_state = EventFile(folder / EVENTS_FILE), SearchState()
    events = list(file.read()) if _is_there(file.path) else []
    for event in events:
        search_state.take(event)
    is_finished = _is_there(folder / RESULTS_FILES[kind])
    architectures = finished_rows(kind, folder) if is_finished else []
    if not architectures:
        architectures = marked_front(architecture_rows(folder.name, events), search_state.score)
    state: State = "finished" if is_finished else "stopped"
    reason = file.damage
    try:
        allowed = policy.resolve_stored({**content, "name": folder.name}, kind)
        content = {**allowed, "device": device, "mlflow_url": ""}
    except ProblemError as error:
        if not is_finished:
            state, reason = "failed", f"it cannot go on here: {error.detail}"
    settings = {**content, "name": folder.name, "runs": str(folder.parent)}
    row = _row(folder, kind, settings, state, reason, search_state=search_state, events=events)
    _require_showable(row, architectures)
    return row, architectures


def _row(
    folder: Path,
    kind: StudyKind,
    settings: Mapping[str, Any],
    state: State,
    reason: str,
    *,
    search_state: SearchState | None = None,
    events: Sequence[Event] = (),
) -> SearchRow:
    begun_ms = int(events[0]["time_ms"]) if events else now_ms()
    return SearchRow(
        id=folder.name,
        name=folder.name[:_MAX_NAME],
        kind=kind,
        state=state,
        reason=reason,
        wish="",
        owner="",
        settings=dict(settings),
        progress={} if search_state is None else search_state.progress(),
        frame=newest_frame(events) or {},
        handle="",
        launches=0,
        losses=0,
        epochs=0 if search_state is None else search_state.num_epochs,
        priority=0,
        created_ms=begun_ms,
        started_ms=begun_ms,
        ended_ms=int(events[-1]["time_ms"]) if events else begun_ms,
    )


def _require_showable(row: SearchRow, architectures: Sequence[ArchitectureRow]) -> None:
    """ValueError unless it can be shown as the API's description says."""
    search = SearchDetails.of(row)
    base_row = next((found for found in architectures if found.origin == "base"), None)
    shown = [Architecture.of(architecture, row, base_row) for architecture in architectures]
    json.dumps([search, shown], allow_nan=False)
    SearchDetails.model_validate(search)
    for architecture in shown:
        Architecture.model_validate(architecture)


def _is_there(file: Path) -> bool:
    """Whether it is a file; ValueError if something else has its name."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise ValueError(f"{file.name} is no plain file")
    return True


def _read_plain_file(file: Path) -> bytes:
    """The content of a file that is no link, and no pipe that may never end."""
    if not _is_there(file):
        raise ValueError(f"{file.name} is missing")
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{file.name} has more than {_MAX_BYTES:,} bytes")
    return content


def _message(error: Exception) -> str:
    """One line that says what is wrong, without a path of this machine."""
    if isinstance(error, ProblemError):
        text = error.detail
    elif isinstance(error, OSError):
        text = error.strerror or type(error).__name__
    else:
        text = f"{type(error).__name__}: {first_line(error)}"
    return "".join(character if character.isprintable() else "�" for character in text)[:300]


def _remove_exports(folder: Path) -> None:
    """Exports are a service's own to make: a module found there may be anybody's code."""
    exports = folder / EXPORTS_FOLDER
    with suppress(OSError):
        if exports.is_symlink() or exports.is_file():
            exports.unlink()
        else:
            shutil.rmtree(exports, ignore_errors=True)
