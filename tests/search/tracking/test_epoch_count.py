"""Epochs that are done and still to come."""

from __future__ import annotations

from search.tracking.epoch_count import EpochCount


def test_epochs_that_a_job_turns_out_not_to_need_are_not_waited_for() -> None:
    """As where iterative pruning was over sooner than its trial had planned for."""
    count = EpochCount()
    count.begin(0.0)
    count.expect(7 + 7)
    for step in (1, 2):
        count.count("a", step, 7)
    assert count.remaining == 12
    count.count("a", 3, 5)
    assert count.remaining == 2 + 7
    for step in (4, 5):
        count.count("a", step, 5)
    count.settle("a", is_finished=True)
    assert (count.done, count.remaining) == (5, 7)


def test_what_an_earlier_process_did_not_need_is_not_waited_for_either() -> None:
    count = EpochCount()
    count.begin(0.0)
    count.expect(7)
    for step, num_steps in ((1, 7), (2, 7), (3, 5)):
        count.count("a", step, num_steps, is_replay=True)
    assert count.remaining == 2
