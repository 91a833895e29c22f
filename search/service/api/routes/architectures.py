"""/v1/architectures: networks, shown and downloaded."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from search.service.access.tokens import Caller
from search.service.api.components import Components
from search.service.api.dependencies import ArchitectureId, InComponents, Reader
from search.service.api.downloads import RangeFileResponse, documented_file
from search.service.database.tables import ArchitectureRow
from search.service.problem_details import ProblemError, documented
from search.service.runs_folder import EXPORTS_FOLDER
from search.service.schemas import SEPARATOR, Architecture, ArchitectureDetails, RunPlace
from search.service.torch_worker.tasks import export_architecture
from search.storage.layout import ARCHITECTURES_FOLDER

router = APIRouter(
    prefix="/v1/architectures",
    tags=["architectures"],
    responses=documented(401, 403, 404, 422, 429),
)

_JSON_FILE, _WEIGHTS_FILE = "architecture.json", "weights.safetensors"
_BINARY = "application/octet-stream"


@router.get(
    "/{architecture_id}",
    response_model=ArchitectureDetails,
    responses=documented(409),
)
def show(architecture_id: ArchitectureId, components: InComponents, _: Reader) -> Response:
    """What it costs, how good it is, its widths, and where its files are."""
    row = _row(components, architecture_id)
    search = components.searches.get(row.search_id)
    file = _content(components, row)
    outcome = dict(row.outcome)
    try:
        if search.state != "finished":
            outcome.pop("test_score", None)
        removed = [
            {"kind": kind, "name": name}
            for kind, names in file.get("removed", {}).items()
            for name in names
        ]
        shown = ArchitectureDetails(
            **Architecture.of(row, search, components.architectures.base(row.search_id)),
            widths=file["widths"],
            removed=removed,
            file=file,
            outcome=outcome,
        )
    except (KeyError, AttributeError, TypeError, ValueError):
        raise ProblemError(409, f"the {_JSON_FILE} of {row.key} is damaged") from None
    return JSONResponse(shown.model_dump())


@router.get(
    "/{architecture_id}/weights",
    response_class=RangeFileResponse,
    responses=documented_file(_BINARY),
)
def weights(
    architecture_id: ArchitectureId, components: InComponents, _: Reader
) -> RangeFileResponse:
    """Its weights.safetensors."""
    row = _row(components, architecture_id)
    file = _file(components, row, _WEIGHTS_FILE)
    return RangeFileResponse(file, media_type=_BINARY, filename=f"{row.key}.safetensors")


@router.get(
    "/{architecture_id}/folder",
    response_class=Response,
    responses=documented_file("application/zip"),
)
def folder(architecture_id: ArchitectureId, components: InComponents, _: Reader) -> Response:
    """Both of its files, zipped: unpacked, a folder that copycat.load opens."""
    row = _row(components, architecture_id)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        text = json.dumps(_content(components, row), indent=2) + "\n"
        archive.writestr(f"{row.key}/{_JSON_FILE}", text)
        archive.write(_file(components, row, _WEIGHTS_FILE), f"{row.key}/{_WEIGHTS_FILE}")
    disposition = f'attachment; filename="{row.key}.zip"'
    return Response(
        content.getvalue(),
        media_type="application/zip",
        headers={"Content-Disposition": disposition},
    )


@router.get(
    "/{architecture_id}/onnx",
    response_class=RangeFileResponse,
    responses={**documented_file(_BINARY), **documented(503)},
)
async def onnx(
    architecture_id: ArchitectureId, components: InComponents, caller: Reader
) -> RangeFileResponse:
    """The network as one ONNX file, which was run and compared before it was stored."""
    return await _export(components, caller, architecture_id, "onnx", _BINARY)


@router.get(
    "/{architecture_id}/python",
    response_class=RangeFileResponse,
    responses={**documented_file("text/plain"), **documented(503)},
)
async def python(
    architecture_id: ArchitectureId, components: InComponents, caller: Reader
) -> RangeFileResponse:
    """A Python module that makes the network with torch alone; weights come beside it."""
    return await _export(components, caller, architecture_id, "py", "text/plain")


@router.get(
    "/{architecture_id}/run",
    status_code=307,
    response_class=RedirectResponse,
    responses={
        200: {
            "model": RunPlace,
            "description": "Its address, for clients that accept application/json only",
        },
        307: {"description": "To its run in MLflow's pages"},
    },
)
async def run(
    architecture_id: ArchitectureId,
    components: InComponents,
    _: Reader,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Its run in MLflow's pages; 404 while MLflow has none of it."""
    row = await run_in_threadpool(_row, components, architecture_id)
    mlflow = components.mlflow
    url = None if mlflow is None else await mlflow.run_page(row.search_id, row.key)
    if url is None:
        raise ProblemError(404, f"MLflow has no run of {architecture_id} for now")
    if accept == "application/json":  # a page cannot follow to another origin
        return JSONResponse({"url": url})
    return RedirectResponse(url)


def _row(components: Components, architecture_id: str) -> ArchitectureRow:
    search_id, _, key = architecture_id.partition(SEPARATOR)
    return components.architectures.get(search_id, key)


def _content(components: Components, row: ArchitectureRow) -> dict[str, Any]:
    """Its file, without its test score until its search is over."""
    content = components.runs.json_object(row.search_id, ARCHITECTURES_FOLDER, row.key, _JSON_FILE)
    provenance = content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise ProblemError(409, f"the {_JSON_FILE} of {row.key} is damaged")
    if components.searches.get(row.search_id).state != "finished":
        provenance.pop("test_score", None)
    return content


def _file(components: Components, row: ArchitectureRow, name: str) -> Path:
    return components.runs.file(row.search_id, ARCHITECTURES_FOLDER, row.key, name)


async def _export(
    components: Components, caller: Caller, architecture_id: str, suffix: str, media_type: str
) -> RangeFileResponse:
    """The export, made the first time that someone asks for it."""
    row = await run_in_threadpool(_row, components, architecture_id)
    source = _file(components, row, _JSON_FILE).parent
    target = components.runs.folder(row.search_id) / EXPORTS_FOLDER / f"{row.key}.{suffix}"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        components.runs.folder(row.search_id, EXPORTS_FOLDER)
        fresh = target.with_name(f".{os.urandom(4).hex()}-{target.name}")
        arguments = (source, suffix, fresh, components.policy.builders)
        await components.exporter.run(export_architecture, *arguments, caller=caller.name)
        fresh.replace(target)
    return RangeFileResponse(
        components.runs.file(row.search_id, EXPORTS_FOLDER, target.name),
        media_type=media_type,
        filename=target.name,
    )
