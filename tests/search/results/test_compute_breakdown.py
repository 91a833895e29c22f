"""Where the compute of a search went."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from search.results.compute_breakdown import (
    BASE,
    SPARSE,
    TUNING,
    ComputeBreakdown,
    compute_breakdown,
)

Event = dict[str, Any]


def epochs(key: str, stage: str, flops: int, *numbers: tuple[int, int, int]) -> Event:
    """Of a network; numbers: of each epoch its step, images since the job began, and second.

    An epoch has 10 images.
    """
    records = [
        {
            **{"stage": stage, "step": step, "images": images, "compute": 10.0 * flops},
            "time_ms": 1000 * second,
        }
        for step, images, second in numbers
    ]
    return {"event": "epochs", "key": key, "time_ms": records[-1]["time_ms"], "records": records}


def started(key: str, second: int, **job: object) -> Event:
    return {"event": "started", "key": key, "time_ms": 1000 * second, "job": job}


def finished(key: str, *flops: int) -> Event:
    found = [{"flops": count} for count in flops]
    return {"event": "finished", "key": key, "time_ms": 0, "outcomes": found}


def search() -> Iterator[Event]:
    yield {"event": "launched", "base": {"flops": 1000}, "time_ms": 0}
    yield started("base", 0, origin="base")
    yield epochs("base", "from scratch", 1000, (1, 10, 5))
    yield finished("base", 1000)
    yield started("fine-tuned-0", 0, proposal={})
    yield epochs("fine-tuned-0", "sparse training", 1000, (1, 10, 4))
    yield epochs("fine-tuned-0", "sparse training", 1000, (2, 20, 6))
    yield epochs("fine-tuned-0", "fine-tuning", 300, (3, 30, 7))
    yield epochs("fine-tuned-0", "fine-tuning", 100, (4, 40, 8))
    yield finished("fine-tuned-0", 300, 100)
    yield started("fine-tuned-1", 8, proposal={})
    yield epochs("fine-tuned-1", "sparse training", 1000, (1, 10, 11))
    yield {
        "event": "ended",
        "time_ms": 0,
        "key": "fine-tuned-1",
        "state": "stopped early",
        "reason": "late",
    }
    yield started("uniform-b100", 20, origin="uniform")
    yield epochs("uniform-b100", "from scratch", 200, (1, 10, 22))
    yield finished("uniform-b100", 200)


def test_each_stage_has_its_images_compute_and_time() -> None:
    found = compute_breakdown(search())
    rows = {s.name: (s.trainings, s.images, s.compute, s.seconds) for s in found.stages}
    assert rows == {
        BASE: (1, 10, 10_000, 5),
        SPARSE: (2, 30, 30_000, 6 + 3),
        TUNING: (1, 20, 20 * 200, 2),
        "uniformly narrowed": (1, 10, 2000, 2),
    }
    assert found.compute == 46_000
    assert found.compute_of_trials == 34_000


def test_full_training_of_each_candidate_is_what_sharing_and_stopping_spare() -> None:
    """Two products and one that was stopped, each with all the images of sparse training."""
    found = compute_breakdown(search())
    assert found.num_candidates == 3
    assert found.compute_if_full == 3 * 20 * 1000 + 4000


def test_what_is_told_again_after_a_restart_counts_once() -> None:
    told = [*search()]
    again = [
        {"event": "launched", "base": {"flops": 1000}, "time_ms": 100_000},
        started("fine-tuned-2", 200, proposal={}),
        epochs("fine-tuned-2", "sparse training", 1000, (1, 10, 203)),
        {"event": "launched", "base": {"flops": 1000}, "time_ms": 900_000},
        started("fine-tuned-2", 1000, proposal={}),
        epochs("fine-tuned-2", "sparse training", 1000, (1, 10, 203), (2, 20, 1002)),
    ]
    before, after = compute_breakdown(told), compute_breakdown([*told, *again])
    sparse = {s.name: s for s in before.stages}[SPARSE], {s.name: s for s in after.stages}[SPARSE]
    assert sparse[1].images - sparse[0].images == 20
    assert sparse[1].seconds - sparse[0].seconds == pytest.approx(3 + 2)


def test_a_method_that_prunes_first_trains_the_smaller_network() -> None:
    events = [
        *search(),
        started("fine-tuned-5", 30, proposal={}),
        epochs("fine-tuned-5", "training", 70, (1, 10, 31)),
        finished("fine-tuned-5", 70),
    ]
    sparse = {s.name: s for s in compute_breakdown(events).stages}[SPARSE]
    assert sparse.compute == 30_000 + 700


def test_each_network_counts_as_it_is_at_the_time() -> None:
    """Shapes that are judged, and a network that shrinks while it trains."""
    events = [
        *search(),
        started("fine-tuned-6", 30, proposal={}),
        epochs("fine-tuned-6", "iterative pruning", 600, (1, 10, 31)),
        epochs("fine-tuned-6", "iterative pruning", 150, (2, 20, 32)),
        epochs("fine-tuned-6", "judging", 40, (3, 30, 33)),
        epochs("fine-tuned-6", "fine-tuning", 70, (4, 40, 34)),
        finished("fine-tuned-6", 70),
    ]
    rows = {s.name: s for s in compute_breakdown(events).stages}
    assert rows[SPARSE].compute == 30_000 + 6000 + 1500
    assert rows[TUNING].compute == 4000 + 400 + 700


def test_nothing_is_known_of_nothing_and_all_of_it_is_json() -> None:
    assert compute_breakdown([]).stages == ()
    found = compute_breakdown(search())
    content = json.loads(json.dumps(found.to_mapping()))
    assert content["compute"] == 46_000
    assert ComputeBreakdown.from_mapping(content) == found
