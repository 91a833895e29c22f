"""Which call of a torch function it is: known again when a network runs another time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn


class CallSite(NamedTuple):
    """The `number`-th call of a function since its module was entered.

    module: the innermost one that runs, as the way to it: names of modules, from the outermost
        on, each with how often it was entered since the one around it was.
    """

    module: str
    function: str
    number: int


class CallSites:
    """Numbers the calls of a running network, module by module.

    Numbers begin anew whenever a module is entered, so that networks that take another number
    of steps in one of their parts make the same calls in the others.
    """

    def __init__(self) -> None:
        self._entered: list[tuple[str, Counter[str]]] = [("", Counter())]

    def next(self, function: Any) -> CallSite:
        """The site of a call that is being made."""
        name = getattr(function, "__name__", "")
        module, counts = self._entered[-1]
        counts[name] += 1
        return CallSite(module, name, counts[name])

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, calls are those of the modules of `model` that make them."""
        handles = []

        def leave(*_: object) -> None:
            self._entered.pop()

        for name, module in model.named_modules():

            def enter(_module: nn.Module, _inputs: Any, name: str = name) -> None:
                way = name  # of the outermost one: every run of the network begins anew
                if len(self._entered) > 1:
                    around, counts = self._entered[-1]
                    counts[f"{name}."] += 1  # no function has such a name
                    way = f"{around}/{name}:{counts[f'{name}.']}"
                self._entered.append((way, Counter()))

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def place(self) -> list[tuple[str, Counter[str]]]:
        """Where the network is now, for `back_at`."""
        return [(module, counts.copy()) for module, counts in self._entered]

    @contextmanager
    def back_at(self, place: list[tuple[str, Counter[str]]]) -> Iterator[None]:
        """Inside the block, calls are numbered as from that place on."""
        before = self._entered
        self._entered = [(module, counts.copy()) for module, counts in place]
        try:
            yield
        finally:
            self._entered = before
