"""Processes that read samples ahead of training, and stay from one reading to the next."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

_MOST_BY_DEFAULT = 8


def num_reading_processes(wanted: int | None, num_samples: int, *, pays_above: int) -> int:
    """As many as `wanted`; by default one for each core of the trial, none where none pays.

    A trial has as many cores as torch has threads in its process. None pays for at most
    `pays_above` samples, nor on a single core, which training needs itself.
    """
    if wanted is not None:
        return wanted
    cores = torch.get_num_threads()
    return min(_MOST_BY_DEFAULT, cores) if cores > 1 and num_samples > pays_above else 0


class ReadingProcesses:
    """Answers requests ahead of whoever asks, in processes that end with this object.

    dataset: gives the answer to a request, as `dataset[request]`; errors have to be answers, to
    keep their message. Processes have it as it was when the first request came.
    One reading has its processes for itself: another that begins meanwhile gets further ones,
    which stay as well. In another process it begins anew.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset
        self._idle: dict[tuple[int, bool], list[_Ahead]] = {}

    def __reduce__(self) -> tuple[type[ReadingProcesses], tuple[Dataset[Any]]]:
        return ReadingProcesses, (self._dataset,)

    def close(self) -> None:
        """End the processes that are idle; whoever asks again gets others."""
        self._idle.clear()

    def answers(self, requests: Sequence[Any], number: int, *, pinned: bool) -> Iterator[Any]:
        """In the order of the requests, by so many processes; by this one for none.

        pinned: whether tensors are in memory that a GPU reads while others work.
        """
        if not number:
            yield from map(self._dataset.__getitem__, requests)
            return
        idle = self._idle.setdefault((number, pinned), [])
        ahead = idle.pop() if idle else _Ahead(self._dataset, number, pinned=pinned)
        try:
            yield from ahead.answers(requests)
        except GeneratorExit:  # whoever asked needs no more
            idle.append(ahead)
            raise
        idle.append(ahead)


class _Ahead:
    """A DataLoader whose processes stay, and are given other requests each time."""

    def __init__(self, dataset: Dataset[Any], number: int, *, pinned: bool) -> None:
        self._requests: list[Any] = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # as was asked for
            self._loader = DataLoader(
                dataset,
                batch_size=None,
                sampler=self._requests,
                num_workers=number,
                collate_fn=_unchanged,
                pin_memory=pinned,
                persistent_workers=True,
                generator=torch.Generator(),  # or it would draw from torch's global one
            )

    def answers(self, requests: Sequence[Any]) -> Iterator[Any]:
        self._requests[:] = requests
        return iter(self._loader)


def _unchanged(answer: Any) -> Any:
    return answer
