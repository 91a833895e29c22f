"""The journal of an Optuna study, mended: lines that nothing can be made of are set aside.

A journal is what happened, in order, a line of JSON each; trials are known by how many were
created before them. A line that was lost may have created one: where something happens to a
trial that is not there yet, one is put in. It may have told anything of the trials that were
under way then: they do not end, and are done again like any that was left half done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow_server.append_log import whole_lines
from search.storage.atomic_files import write_durably

_CREATE_STUDY, _CREATE_TRIAL, _SET_STATE, _ATTRIBUTES = 0, 4, 6, (8, 9)
"""Of Optuna's operations, as the file numbers them."""

_ENDS = (1, 2, 3)
"""Of a trial's states, likewise: complete, pruned, failed."""

_DAMAGED = ".damaged"


def mend(file: Path) -> str:
    """Leave a journal that can be read; what was lost, in a line, or nothing.

    An unfinished last line is cut off without a word: its process was killed. Whatever else is
    no operation goes into a file beside it.
    """
    lost: list[bytes] = []
    content = b"".join(map(_line, _complete(_operations(file, lost))))
    if not file.exists() or content == file.read_bytes():
        return ""
    aside = file.with_name(file.name + _DAMAGED)
    if lost:
        with aside.open("ab") as stream:
            stream.writelines(lost)
    write_durably(file, content)
    if not lost:
        return ""
    lines_lost = "1 line" if len(lost) == 1 else f"{len(lost)} lines"
    return (
        f"{file}: {lines_lost} could not be read and now lie in {aside.name}; what they told of a "
        "trial is done again"
    )


def _operations(file: Path, lost: list[bytes]) -> Iterator[dict[str, Any] | None]:
    """Those of all lines; None, and the line in `lost`, where a part of one is none."""
    for line, _ in whole_lines(file):
        try:
            operations = list(_in_line(line.decode()))
        except ValueError:
            lost.append(line)
            yield None
        else:
            yield from operations


def _in_line(text: str) -> Iterator[dict[str, Any]]:
    """One operation, none in a blank line, or several where an end of line was lost."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        operation, end = decoder.raw_decode(rest)
        if not _is_operation(operation):
            raise ValueError("no operation")
        yield operation
        rest = rest[end:].lstrip()


def _is_operation(value: Any) -> bool:
    if not (isinstance(value, dict) and {"op_code", "worker_id"} <= value.keys()):
        return False
    wanted = {_CREATE_TRIAL: "study_id", _SET_STATE: "state"}.get(value["op_code"], "op_code")
    numbers = [value[name] for name in ("op_code", wanted, "trial_id") if name in value]
    return wanted in value and all(isinstance(number, int) for number in numbers)


def _complete(records: Iterable[dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    """The operations, with all trials that they take for granted; doubtful ones do not end."""
    operations: list[dict[str, Any]] = []
    doubtful: set[int] = set()
    under_way: set[int] = set()
    num_studies, num_trials, study_id = 0, 0, 0
    for operation in records:
        if operation is None:
            doubtful |= under_way
            continue
        kind, trial = operation["op_code"], operation.get("trial_id", -1)
        if kind == _CREATE_STUDY:
            num_studies += 1
            study_id = num_studies - 1
        elif kind == _CREATE_TRIAL:
            study_id = operation["study_id"]
            under_way.add(num_trials)
            num_trials += 1
        elif kind == _SET_STATE and operation["state"] in _ENDS:
            under_way.discard(trial)
        for missing in range(num_trials, trial + 1):
            under_way.add(missing)
            doubtful.add(missing)
            num_trials += 1
            operations.append(_new_trial(study_id, operation["worker_id"]))
        operations.append(operation)
    for operation in operations:
        is_end = operation["op_code"] in _ATTRIBUTES or operation.get("state") in _ENDS
        if not (is_end and operation.get("trial_id") in doubtful):
            yield operation


def _new_trial(study_id: int, worker_id: str) -> dict[str, Any]:
    begun = datetime.now(UTC).replace(tzinfo=None).isoformat()
    operation = {"op_code": _CREATE_TRIAL, "worker_id": worker_id, "study_id": study_id}
    return operation | {"datetime_start": begun}


def _line(operation: dict[str, Any]) -> bytes:
    return json.dumps(operation, separators=(",", ":")).encode() + b"\n"
