"""Calls in a thread, so that training need not wait for a disk or for another process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BackgroundCalls(Generic[Item]):
    """Passes items on in a thread, in order, all that wait together.

    call: called in the thread, which lasts as long as there is something to be passed on. What it
    raises is raised by the next `put` or `flush`. A process that ends by itself waits for it.
    most: of the items that wait, so many stay, the newest; None for all.
    every_seconds: between the ends of calls and the beginnings of the next, unless `flush` waits.
    Items are put by one thread alone.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], None],
        *,
        most: int | None = None,
        every_seconds: float = 0.0,
    ) -> None:
        self._call, self._every_seconds = call, every_seconds
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque(maxlen=most)
        self._is_urgent = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Have the item, which must not change any more, passed on."""
        self._raise_error()
        with self._changed:
            self._waiting.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="background calls")
                self._thread.start()

    def flush(self) -> None:
        """Wait until everything is passed on."""
        with self._changed:
            thread, self._is_urgent = self._thread, True
            self._changed.notify()
        if thread is not None:
            thread.join()
        self._is_urgent = False
        self._raise_error()

    def _work(self) -> None:
        try:
            while items := self._taken():
                self._call(items)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_urgent, self._every_seconds)
        except BaseException as error:
            with self._changed:
                self._error, self._thread = error, None
                self._waiting.clear()

    def _taken(self) -> list[Item]:
        """Everything that waits; if nothing does, the thread is about to end."""
        with self._changed:
            items = list(self._waiting)
            self._waiting.clear()
            if not items:
                self._thread = None
            return items

    def _raise_error(self) -> None:
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error
