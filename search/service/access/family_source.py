"""What a family study is made from: networks and searches of this server, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from search.service.problem_details import ProblemError
from search.service.runs_folder import SEARCH_ID, RunsFolder
from search.storage.layout import ARCHITECTURES_FOLDER, RESULTS_FILE

_NAME = SEARCH_ID.strip("^$")
_NETWORK = re.compile(rf"({_NAME})[/:]({_NAME})(@[0-9A-Za-z_.=%,]{{1,60}})?")
_FORM = "SEARCH/NAME, or SEARCH/NAME@POINT, of a search on this server"


def named_in_runs(settings: Mapping[str, Any], runs: RunsFolder) -> dict[str, Any]:
    """The settings of a family, whose source and searches are there, by names of this server.

    With a colon the source is no path for the process of the study either, whatever is removed.
    Where they name no data, they have those that the source was trained on, as on the command line.
    Raises ProblemError 422 for everything else: a path is not even looked up.
    """
    search_id, key, point = _parts(settings.get("source"))
    stored = _architecture(runs, search_id, key)
    _require_searches(settings.get("include", []), runs)
    named = {**settings, "source": f"{search_id}:{key}{point}"}
    data, provenance = settings.get("data", {}), stored.get("provenance")
    trained_on = provenance.get("data") if isinstance(provenance, Mapping) else None
    if isinstance(data, Mapping) and trained_on:
        named["data"] = {"source": trained_on, **data}
    return named


def _parts(source: object) -> tuple[str, str, str]:
    """A search, the name of its network, and a point of its trajectory, which may be empty."""
    match = _NETWORK.fullmatch(source) if isinstance(source, str) else None
    if match is None:
        raise ProblemError(422, f"source must be {_FORM}", "source")
    return match[1], match[2], match[3] or ""


def _architecture(runs: RunsFolder, search_id: str, key: str) -> Mapping[str, Any]:
    try:
        return runs.json_object(search_id, ARCHITECTURES_FOLDER, key, "architecture.json")
    except ProblemError as error:
        raise ProblemError(422, f"source: {error.detail}", "source") from None


def _require_searches(include: object, runs: RunsFolder) -> None:
    for name in include if isinstance(include, list | tuple) else ():
        is_id = isinstance(name, str) and re.fullmatch(_NAME, name) is not None
        try:
            if not is_id:
                raise ProblemError(422, "searches are given by their names")
            runs.file(name, RESULTS_FILE)
        except ProblemError as error:
            detail = f"include must be finished searches on this server: {error.detail}"
            raise ProblemError(422, detail, "include") from None
