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


class _Entered(NamedTuple):
    """A module that runs: its name, the way to it, and how often what was called since."""

    name: str
    way: str
    counts: Counter[str]


class CallSites:
    """Numbers the calls of a running network, module by module.

    Numbers begin anew whenever a module is entered, so that networks that take another number
    of steps in one of their parts make the same calls in the others.
    """

    def __init__(self) -> None:
        self._entered = [_Entered("", "", Counter())]

    @property
    def module(self) -> str:
        """The name of the innermost module that runs."""
        return self._entered[-1].name

    def next(self, function: Any) -> CallSite:
        """The site of a call that is being made."""
        name = getattr(function, "__name__", "")
        _, way, counts = self._entered[-1]
        counts[name] += 1
        return CallSite(way, name, counts[name])

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
                    _, around, counts = self._entered[-1]
                    counts[f"{name}."] += 1  # no function has such a name
                    way = f"{around}/{name}:{counts[f'{name}.']}"
                self._entered.append(_Entered(name, way, Counter()))

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def place(self) -> list[_Entered]:
        """Where the network is now, for `back_at`."""
        return [entered._replace(counts=entered.counts.copy()) for entered in self._entered]

    @contextmanager
    def back_at(self, place: list[_Entered]) -> Iterator[None]:
        """Inside the block, calls are numbered as from that place on."""
        before = self._entered
        self._entered = [entered._replace(counts=entered.counts.copy()) for entered in place]
        try:
            yield
        finally:
            self._entered = before
