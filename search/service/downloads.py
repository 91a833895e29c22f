"""Files that a client may take along, whole or in part."""

from __future__ import annotations

from typing import Any

from fastapi.responses import FileResponse
from starlette.responses import MalformedRangeHeader, RangeNotSatisfiable

from search.service.problems import ProblemError, documented


class StoredFile(FileResponse):
    """A file; a malformed Range gives all of it (RFC 9110, 14.2), one beyond its end is refused."""

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []
        except RangeNotSatisfiable:
            raise ProblemError(
                416,
                f"the file has {file_size} bytes",
                "Range",
                **{"Content-Range": f"bytes */{file_size}"},
            ) from None


def stored_file(media_type: str) -> dict[int | str, dict[str, Any]]:
    """For the API's description."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"content": content, "description": "The file"},
        206: {"description": "The parts of it that Range names"},
        **documented(404, 416),
    }
