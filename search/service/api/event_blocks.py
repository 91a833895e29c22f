"""The events of searches as they go over the wire, read once for all who follow them."""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from mlflow_server.append_log import open_file
from search.service.database.tables import SearchRow
from search.service.problem_details import ProblemError
from search.service.runs_folder import RunsFolder
from search.storage.layout import EVENTS_FILE
from search.tracking.event_file import EventFile

_BLOCK = 2**18
_MOST_BYTES, _BYTES_AROUND = 2**23, 2**9
"""Of all blocks that are kept, and of what Python keeps around each."""

Block = tuple[bytes, int]
"""Some events, and the byte of the file behind them."""

_Key = tuple[str, int, int, bool]


class EventBlocks:
    """Gives the events behind an offset, in blocks that all streams share.

    Used by the event loop alone. Who follows a search to its newest event asks for the same blocks
    as all others, wherever each began: one of them reads, checks and writes out what is new.
    """

    def __init__(self, runs: RunsFolder) -> None:
        self._runs = runs
        self._blocks: OrderedDict[_Key, Block] = OrderedDict()
        self._size = 0
        self._reading: dict[_Key, asyncio.Future[Block | None]] = {}

    async def behind(self, row: SearchRow, offset: int) -> Block | None:
        """The next events; None if there are none now, or they cannot be read."""
        key = row.id, row.created_ms, offset, row.state == "finished"
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.ensure_future(run_in_threadpool(self._read, row.id, offset, key[-1]))
            self._reading[key] = reading
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        block = await asyncio.shield(reading)
        if block is not None and key not in self._blocks:
            self._keep(key, block)
        return block

    def first_offset(self, search_id: str, offset: int) -> int:
        """Where a stream that was at `offset` goes on: there, if a line ends there, or anew."""
        try:
            path = self._runs.file(search_id, EVENTS_FILE)
            return offset if _ends_line(path, offset) else 0
        except (ProblemError, OSError):  # it has not begun, or cannot be read
            return 0

    def _keep(self, key: _Key, block: Block) -> None:
        self._blocks[key] = block
        self._size += len(block[0]) + _BYTES_AROUND
        while self._size > _MOST_BYTES:
            _, (content, _) = self._blocks.popitem(last=False)
            self._size -= len(content) + _BYTES_AROUND

    def _read(self, search_id: str, offset: int, is_final: bool) -> Block | None:
        try:
            file = EventFile(self._runs.file(search_id, EVENTS_FILE), offset)
            block = bytearray()
            for event, line in file.lines():
                is_hidden = event == "finished" and not is_final
                data = _without_test_score(line) if is_hidden else line.rstrip()
                block += b"event: %b\ndata: %b\nid: %d\n\n" % (event.encode(), data, file.offset)
                if len(block) > _BLOCK:
                    break
        except (ProblemError, OSError):
            return None
        return (bytes(block), file.offset) if block else None


def _without_test_score(line: bytes) -> bytes:
    """It stays hidden until the search is over."""
    event = json.loads(line)
    for outcome in event["outcomes"]:
        outcome["test_score"] = None
    return json.dumps(event, separators=(",", ":")).encode()


def _ends_line(file: Path, offset: int) -> bool:
    with open_file(file) as stream:
        if not 0 < offset <= os.fstat(stream.fileno()).st_size:
            return offset == 0
        stream.seek(offset - 1)
        return stream.read(1) == b"\n"
