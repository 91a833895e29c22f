"""/v1/architectures: networks to look at and to take along."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from search.service import schemas as d
from search.service.access.tokens import Caller
from search.service.api.components import EXPORTS, ArchitectureId, InParts, Parts, Reader
from search.service.api.downloads import StoredFile, stored_file
from search.service.database.tables import ArchitectureRow
from search.service.mlflow.credentials import Login
from search.service.problem_details import ProblemError, documented
from search.service.torch_worker.tasks import exported
from search.storage.layout import ARCHITECTURES_FOLDER

router = APIRouter(
    prefix="/v1/architectures",
    tags=["architectures"],
    responses=documented(401, 403, 404, 422, 429),
)

_JSON_FILE, _WEIGHTS_FILE = "architecture.json", "weights.safetensors"
_BINARY = "application/octet-stream"
_MLFLOW_SECONDS = 5.0


@router.get(
    "/{architecture_id}",
    response_model=d.ArchitectureDetails,
    responses=documented(409),
)
def show(architecture_id: ArchitectureId, parts: InParts, _: Reader) -> Response:
    """What it costs, how good it is, its widths, and where its files are."""
    row = _row(parts, architecture_id)
    search = parts.searches.get(row.search_id)
    file = _content(parts, row)
    outcome = dict(row.outcome)
    try:
        if search.state != "finished":
            outcome.pop("test_accuracy", None)
        removed = [
            {"kind": kind, "name": name}
            for kind, names in file.get("removed", {}).items()
            for name in names
        ]
        shown = d.ArchitectureDetails(
            **d.Architecture.of(row, search),
            widths=file["widths"],
            removed=removed,
            file=file,
            outcome=outcome,
        )
    except (KeyError, AttributeError, TypeError, ValueError):
        raise ProblemError(409, f"the {_JSON_FILE} of {row.key} is damaged") from None
    return JSONResponse(shown.model_dump())


@router.get("/{architecture_id}/weights", response_class=StoredFile, responses=stored_file(_BINARY))
def weights(architecture_id: ArchitectureId, parts: InParts, _: Reader) -> StoredFile:
    """Its weights.safetensors."""
    row = _row(parts, architecture_id)
    file = _stored(parts, row, _WEIGHTS_FILE)
    return StoredFile(file, media_type=_BINARY, filename=f"{row.key}.safetensors")


@router.get(
    "/{architecture_id}/folder", response_class=Response, responses=stored_file("application/zip")
)
def folder(architecture_id: ArchitectureId, parts: InParts, _: Reader) -> Response:
    """Both of its files, zipped: unpacked, a folder that copycat.load opens."""
    row = _row(parts, architecture_id)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        described = json.dumps(_content(parts, row), indent=2) + "\n"
        archive.writestr(f"{row.key}/{_JSON_FILE}", described)
        archive.write(_stored(parts, row, _WEIGHTS_FILE), f"{row.key}/{_WEIGHTS_FILE}")
    disposition = f'attachment; filename="{row.key}.zip"'
    return Response(
        content.getvalue(),
        media_type="application/zip",
        headers={"Content-Disposition": disposition},
    )


@router.get(
    "/{architecture_id}/onnx",
    response_class=StoredFile,
    responses={**stored_file(_BINARY), **documented(503)},
)
async def onnx(architecture_id: ArchitectureId, parts: InParts, caller: Reader) -> StoredFile:
    """The network as one ONNX file, which was run and compared before it was stored."""
    return await _exported(parts, caller, architecture_id, "onnx", _BINARY)


@router.get(
    "/{architecture_id}/python",
    response_class=StoredFile,
    responses={**stored_file("text/plain"), **documented(503)},
)
async def python(architecture_id: ArchitectureId, parts: InParts, caller: Reader) -> StoredFile:
    """A Python module that makes the network with torch alone; weights come beside it."""
    return await _exported(parts, caller, architecture_id, "py", "text/plain")


@router.get(
    "/{architecture_id}/run",
    status_code=307,
    response_class=RedirectResponse,
    responses={
        200: {
            "model": d.RunPlace,
            "description": "Its address, for clients that accept application/json only",
        },
        307: {"description": "To its run in MLflow's pages"},
    },
)
async def run(
    architecture_id: ArchitectureId,
    parts: InParts,
    _: Reader,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Its run in MLflow's pages; 404 while MLflow has none of it."""
    row = await run_in_threadpool(_row, parts, architecture_id)
    found = await _mlflow_run(parts.mlflow_url, parts.mlflow_login, row)
    if found is None:
        raise ProblemError(404, f"MLflow has no run of {architecture_id} for now")
    place = parts.mlflow_place.rstrip("/") + found
    if accept == "application/json":  # a page cannot follow to another origin
        return JSONResponse({"url": place})
    return RedirectResponse(place)


async def _mlflow_run(url: str, login: Login | None, row: ArchitectureRow) -> str | None:
    """Where it is below MLflow's address."""
    if not url:
        return None
    api = f"{url.rstrip('/')}/api/2.0/mlflow"
    asked = {
        "filter": f"tags.`espalier.architecture` = '{row.key}' "
        "and tags.`espalier.kind` = 'architecture'",
        "max_results": 1,
    }
    auth = None if login is None else login.pair
    try:
        async with httpx.AsyncClient(timeout=_MLFLOW_SECONDS, auth=auth) as client:
            found = await client.get(
                f"{api}/experiments/get-by-name", params={"experiment_name": row.search_id}
            )
            experiment = found.raise_for_status().json()["experiment"]["experiment_id"]
            answer = await client.post(
                f"{api}/runs/search", json={**asked, "experiment_ids": [experiment]}
            )
            (run,) = answer.raise_for_status().json()["runs"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return f"/#/experiments/{experiment}/runs/{quote(run['info']['run_id'])}"


def _row(parts: Parts, architecture_id: str) -> ArchitectureRow:
    search_id, _, key = architecture_id.partition(d.SEPARATOR)
    return parts.searches.architecture(search_id, key)


def _content(parts: Parts, row: ArchitectureRow) -> dict[str, Any]:
    """Its file, without test accuracy until its search is over."""
    found = parts.content(row.search_id, ARCHITECTURES_FOLDER, row.key, _JSON_FILE)
    provenance = found.get("provenance", {})
    if not isinstance(provenance, dict):
        raise ProblemError(409, f"the {_JSON_FILE} of {row.key} is damaged")
    if parts.searches.get(row.search_id).state != "finished":
        provenance.pop("test_accuracy", None)
    return found


def _stored(parts: Parts, row: ArchitectureRow, name: str) -> Path:
    return parts.file(row.search_id, ARCHITECTURES_FOLDER, row.key, name)


async def _exported(
    parts: Parts, caller: Caller, architecture_id: str, suffix: str, media_type: str
) -> StoredFile:
    """The export, made the first time that someone asks for it."""
    row = await run_in_threadpool(_row, parts, architecture_id)
    source = _stored(parts, row, _JSON_FILE).parent
    target = parts.folder(row.search_id) / EXPORTS / f"{row.key}.{suffix}"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        parts.folder(row.search_id, EXPORTS)
        fresh = target.with_name(f".{os.urandom(4).hex()}-{target.name}")
        builders = parts.rules.builders
        await parts.exporter.do(exported, source, suffix, fresh, builders, who=caller.name)
        fresh.replace(target)
    return StoredFile(
        parts.file(row.search_id, EXPORTS, target.name),
        media_type=media_type,
        filename=target.name,
    )
