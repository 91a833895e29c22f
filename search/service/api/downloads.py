"""Files that clients download, whole or in part."""

from __future__ import annotations

from typing import Any

from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from search.service.problem_details import ProblemError, documented

_MALFORMED, _BEYOND_THE_END = 400, 416


class RangeFileResponse(FileResponse):
    """A file; a malformed Range gives all of it (RFC 9110, 14.2), one beyond its end is refused."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def unless_refused(message: Message) -> None:
            if message.get("status") in (_MALFORMED, _BEYOND_THE_END):
                raise _RangeRefusalError(message)
            await send(message)

        try:
            await super().__call__(scope, receive, unless_refused)
        except _RangeRefusalError as refusal:
            if refusal.status == _BEYOND_THE_END:
                raise refusal.problem() from None
            headers = [header for header in scope["headers"] if header[0] != b"range"]
            await super().__call__({**scope, "headers": headers}, receive, send)


class _RangeRefusalError(Exception):
    """In place of the answer that Starlette was about to begin."""

    def __init__(self, start: Message) -> None:
        super().__init__()
        self.status: int = start["status"]
        self._headers = Headers(raw=start["headers"])

    def problem(self) -> ProblemError:
        content_range = self._headers["content-range"]
        size = content_range.rpartition("/")[2]
        return ProblemError(
            _BEYOND_THE_END,
            f"the file has {size} bytes",
            "Range",
            **{"Content-Range": content_range},
        )


def documented_file(media_type: str) -> dict[int | str, dict[str, Any]]:
    """For the API's description."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"content": content, "description": "The file"},
        206: {"description": "The parts of it that Range names"},
        **documented(404, 416),
    }
