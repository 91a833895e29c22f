"""What others can know of a search while it runs."""

import json
import os
from pathlib import Path

import pytest
from samples import epoch_record, member_task, outcome, quick_config, trial_task

from pruning.errors import DiskFullError, SearchFailedError
from search.results.front import hypervolume
from search.storage.layout import FEED_FILE
from search.studies.search_study import run
from search.tracking.event_log import Feed, Replay
from search.tracking.search_state import EventFile, Standing
from search.trials.job_context import Workshop
from search.trials.jobs import Bystander, Ending, MemberTask, task_from_mapping, task_to_mapping


@pytest.fixture
def feed(workshop: Workshop) -> Feed:
    workshop.directory.mkdir(parents=True)
    return Feed(workshop)


@pytest.fixture
def file(workshop: Workshop) -> Path:
    return workshop.directory / FEED_FILE


def standing_of(file: Path) -> Standing:
    standing = Standing()
    for event in EventFile(file).read():
        standing.take(event)
    return standing


def kinds(file: Path) -> list[str]:
    return [event["event"] for event in EventFile(file).read()]


@pytest.mark.parametrize("task", [trial_task(3), member_task(removed=(("block", "x"),))])
def test_a_task_survives_json(task) -> None:
    again = task_from_mapping(json.loads(json.dumps(task_to_mapping(task))))
    assert again.key == task.key
    if isinstance(task, MemberTask):
        assert again.profile.digest == task.profile.digest
    else:
        assert again == task


def test_every_event_of_a_search_can_be_followed(feed: Feed, file: Path, workshop) -> None:
    with feed:
        feed.expect(10)
        feed.started(trial_task())
        feed.epochs(trial_task(), [epoch_record(1)])
        feed.epochs(trial_task(), [epoch_record(2)])
        feed.finished(trial_task(), [outcome(validation_accuracy=0.8), outcome("half", flops=500)])
        feed.started(member_task())
        feed.ended(member_task(), Ending("failed", "no luck"))
    assert kinds(file) == [
        *("launched", "expected", "started", "epochs", "epochs", "finished", "started", "ended"),
        "concluded",
    ]
    first = next(EventFile(file).read())
    assert first["lines"] == workshop.preflight.describe()
    assert first["base"]["flops"] == workshop.preflight.base.flops
    progress = standing_of(file).progress()
    assert progress["trials"]["finished"] == 1
    assert progress["trials"]["planned"] == workshop.config.trials
    assert progress["networks"] == 2
    assert progress["best"]["validation_accuracy"] == 0.8
    assert progress["hypervolume"] == hypervolume(
        [outcome(validation_accuracy=0.8), outcome("half", flops=500)],
        workshop.preflight.base.flops,
    )
    assert progress["epochs"] == progress["expected_epochs"] == 2
    assert progress["seconds_left"] is None


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (SearchFailedError("all 2 trials failed"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (DiskFullError("make room"), "interrupted"),
        (RuntimeError("a bug"), "launched"),
    ],
)
def test_the_last_event_says_how_it_ended(
    feed: Feed, file: Path, error: BaseException, end: str
) -> None:
    with pytest.raises(type(error)), feed:
        raise error
    assert kinds(file)[-1] == end
    found = standing_of(file).end
    assert (found is None) == (end == "launched")
    if end == "failed":
        assert found is not None
        assert found["reason"] == "all 2 trials failed"


def test_a_torn_line_is_not_read_and_cut_off(feed: Feed, file: Path) -> None:
    with feed:
        feed.expect(1)
    content = file.read_bytes()
    file.write_bytes(content + b'{"event":"expec')
    assert len(kinds(file)) == 3
    with feed:
        pass
    assert kinds(file) == ["launched", "expected", "concluded", "launched", "concluded"]
    assert file.read_bytes().startswith(content)


def test_reading_goes_on_where_it_was(feed: Feed, file: Path) -> None:
    reader = EventFile(file)
    assert (list(reader.read()), reader.offset) == ([], 0)  # there is no file yet
    with feed:
        assert [event["event"] for event in reader.read()] == ["launched"]
        feed.expect(1)
        assert [event["event"] for event in reader.read()] == ["expected"]
    assert reader.offset < os.path.getsize(file)
    assert not reader.is_another()


NO_EVENTS = {
    "blank": b"",
    "text": b"nonsense",
    "zeros": bytes(40),
    "no UTF-8": b"\xff\xfe",
    "another JSON": b"[1, 2]",
    "unknown": b'{"event": "exploded", "time_ms": 1}',
    "no time": b'{"event": "concluded"}',
    "lacks a field": b'{"event": "failed", "time_ms": 1}',
    "no records": b'{"event": "epochs", "time_ms": 1, "key": "t", "records": []}',
    "wrong type": b'{"event": "expected", "time_ms": 1, "epochs": "many"}',
    "no cost": b'{"event": "launched", "time_ms": 1, "pid": 1, "lines": [], "trials": 1,'
    b' "base": {}, "limits": {}}',
    "half an outcome": b'{"event": "finished", "time_ms": 1, "key": "t",'
    b' "outcomes": [{"key": "x"}]}',
    "glued": b'{"event": "expec{"event": "expected", "time_ms": 1, "epochs": 3}',
}


@pytest.mark.parametrize("damage", NO_EVENTS)
def test_whatever_is_no_event_is_passed_over_and_counted(
    feed: Feed, file: Path, damage: str
) -> None:
    with feed:
        with file.open("ab") as stream:
            stream.write(NO_EVENTS[damage] + b"\n")
        feed.expect(1)
    reader = EventFile(file)
    assert [event["event"] for event in reader.read()] == ["launched", "expected", "concluded"]
    assert (reader.num_damaged, reader.damage) == (1, "1 line of events.jsonl cannot be read")
    standing_of(file).progress()


@pytest.mark.parametrize("how", ["replaced", "cut short"])
def test_a_file_that_became_another_is_read_from_its_beginning(
    feed: Feed, file: Path, how: str
) -> None:
    with feed:
        feed.expect(1)
    reader = EventFile(file)
    assert not reader.is_another()
    assert len(list(reader.read())) == 3
    first = file.read_bytes().splitlines(keepends=True)[0]
    if how == "replaced":
        file.write_bytes(first.replace(b'"pid":', b'"pid":1') * 9)
    else:
        file.write_bytes(first)
    assert reader.is_another()
    assert len(list(reader.read())) == (9 if how == "replaced" else 1)
    assert not reader.is_another()


def test_epochs_of_an_earlier_process_count_once_and_are_no_measure_of_pace(
    feed: Feed, file: Path
) -> None:
    with feed:
        feed.expect(20)
        feed.started(trial_task())
        feed.epochs(trial_task(), [epoch_record(1, 10)])
    with feed:
        standing = standing_of(file)
        assert standing.progress()["trials"]["waiting"] == 1
        feed.expect(20)
        feed.started(trial_task())
        feed.epochs(trial_task(), [epoch_record(step, 10) for step in (1, 2, 3)])
        standing = standing_of(file)
        assert standing.num_epochs == 3
        assert standing.seconds_left is None  # nothing was done in this process's time
        feed.epochs(trial_task(), [epoch_record(4, 10)])
        standing = standing_of(file)
        assert standing.num_epochs == 4
        assert standing.seconds_left is not None
        assert standing.progress()["running"][0]["step"] == 4


def test_a_replay_tells_what_an_observer_was_told(feed: Feed, file: Path) -> None:
    told: list[tuple[str, str]] = []

    class Listener(Bystander):
        def started(self, task) -> None:
            told.append(("started", task.key))

        def epochs(self, task, records) -> None:
            told.append((f"epoch {records[-1].step}", task.key))

        def finished(self, task, outcomes) -> None:
            told.append((outcomes[0].key, task.key))

        def ended(self, task, ending) -> None:
            told.append((str(ending), task.key))

    with feed:
        feed.started(trial_task())
        feed.epochs(trial_task(), [epoch_record(1)])
        feed.finished(trial_task(), [outcome("x")])
        feed.started(member_task())
        feed.ended(member_task(), Ending("infeasible", "too large"))
    replay = Replay(Listener())
    for event in EventFile(file).read():
        replay.take(event)
    key = trial_task().key
    assert told == [
        *(("started", key), ("epoch 1", key), ("x", key)),
        *(("started", "uniform-b100"), ("infeasible: too large", "uniform-b100")),
    ]


def test_a_search_feeds_all_that_happens(workers, tmp_path: Path) -> None:

    config = quick_config(tmp_path)
    found = run(config)
    file = config.directory / FEED_FILE
    assert kinds(file)[0] == "launched"
    assert kinds(file)[-1] == "concluded"
    standing = standing_of(file)
    assert standing.found.keys() == {o.key for o in found.results.everything}
    run(config)  # again: everything is there
    assert standing_of(file).progress()["networks"] == len(found.results.everything)
