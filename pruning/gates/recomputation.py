"""Gradient checkpointing: what the backward pass runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch.utils import checkpoint

Function = Callable[..., Any]

_REENTRANT = "CheckpointFunction"
_GENERATORS = (
    "_checkpoint_without_reentrant_generator",
    "_checkpoint_without_reentrant_generator_impl",
)
"""What `checkpoint` hands the function to, by its names in the versions of torch."""


@contextmanager
def recomputing(
    again: Callable[[Function], Function], on_reentrant: Callable[[], None]
) -> Iterator[None]:
    """What is checkpointed inside the block runs as `again` of it when it is repeated.

    on_reentrant: called for every part that is checkpointed with use_reentrant=True.

    torch.utils.checkpoint offers no such hook: what it is made of is exchanged meanwhile.
    """
    originals = {
        name: vars(checkpoint)[name]
        for name in (_REENTRANT, *_GENERATORS)
        if name in vars(checkpoint)
    }

    def generator(original: Function) -> Function:
        return lambda function, *args, **kwargs: original(again(function), *args, **kwargs)

    def apply(function: Function, *args: Any) -> Any:
        on_reentrant()
        repeated, has_run = again(function), False

        def run(*inputs: Any) -> Any:
            nonlocal has_run
            if has_run:
                return repeated(*inputs)
            has_run = True
            return function(*inputs)

        return originals[_REENTRANT].apply(run, *args)

    for name in originals.keys() & set(_GENERATORS):
        setattr(checkpoint, name, generator(originals[name]))
    setattr(checkpoint, _REENTRANT, SimpleNamespace(apply=apply))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(checkpoint, name, original)
