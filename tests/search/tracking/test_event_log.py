"""What others can know of a search while it runs."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from samples import (
    ABSOLUTE_ERROR,
    epoch_record,
    from_scratch_job,
    hypervolume,
    outcome,
    quick_config,
    trial_job,
)

from pruning.errors import DiskFullError, LostProcessError, SearchFailedError
from search.storage.layout import EVENTS_FILE
from search.studies.search_study import run
from search.tasks.score import ACCURACY
from search.tracking.event_file import EventFile
from search.tracking.event_log import EventLog, Replay
from search.tracking.search_state import SearchState
from search.trials.job_context import JobContext
from search.trials.jobs import (
    Ending,
    FromScratchJob,
    Observer,
    job_from_mapping,
    job_to_mapping,
)


@pytest.fixture
def event_log(context: JobContext) -> EventLog:
    context.directory.mkdir(parents=True)
    return EventLog(context, "search", context.config.trials)


@pytest.fixture
def file(context: JobContext) -> Path:
    return context.directory / EVENTS_FILE


def search_state_of(file: Path) -> SearchState:
    search_state = SearchState()
    for event in EventFile(file).read():
        search_state.take(event)
    return search_state


def kinds(file: Path) -> list[str]:
    return [event["event"] for event in EventFile(file).read()]


@pytest.mark.parametrize("job", [trial_job(3), from_scratch_job(removed=(("block", "x"),))])
def test_a_job_survives_json(job) -> None:
    again = job_from_mapping(json.loads(json.dumps(job_to_mapping(job))))
    assert again.key == job.key
    if isinstance(job, FromScratchJob):
        assert again.profile.digest == job.profile.digest
    else:
        assert again == job


def test_every_event_of_a_search_can_be_followed(event_log: EventLog, file: Path, context) -> None:
    with event_log:
        event_log.expect(10)
        event_log.started(trial_job())
        event_log.epochs(trial_job(), [epoch_record(1)])
        event_log.epochs(trial_job(), [epoch_record(2)])
        event_log.finished(trial_job(), [outcome(validation_score=0.8), outcome("half", flops=500)])
        event_log.started(from_scratch_job())
        event_log.ended(from_scratch_job(), Ending("failed", "no luck"))
    assert kinds(file) == [
        *("launched", "expected", "started", "epochs", "epochs", "finished", "started", "ended"),
        "concluded",
    ]
    first = next(EventFile(file).read())
    assert first["lines"] == context.preflight.describe()
    assert first["base"]["flops"] == context.preflight.base.flops
    progress = search_state_of(file).progress()
    assert progress["trials"]["finished"] == 1
    assert progress["trials"]["planned"] == context.config.trials
    assert progress["networks"] == 2
    assert progress["best"]["validation_score"] == 0.8
    assert progress["hypervolume"] == hypervolume(
        [outcome(validation_score=0.8), outcome("half", flops=500)],
        context.preflight.reference,
        ACCURACY,
    )
    assert progress["epochs"] == progress["expected_epochs"] == 2
    assert progress["seconds_left"] is None


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (SearchFailedError("all 2 trials failed"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (DiskFullError("make room"), "interrupted"),
        (LostProcessError("Ray does not start here"), "interrupted"),
        (RuntimeError("a bug"), "launched"),
    ],
)
def test_the_last_event_says_how_it_ended(
    event_log: EventLog, file: Path, error: BaseException, end: str
) -> None:
    with pytest.raises(type(error)), event_log:
        raise error
    assert kinds(file)[-1] == end
    found = search_state_of(file).end
    assert (found is None) == (end == "launched")
    if end == "failed":
        assert found is not None
        assert found["reason"] == "all 2 trials failed"


def test_a_torn_line_is_not_read_and_cut_off(event_log: EventLog, file: Path) -> None:
    with event_log:
        event_log.expect(1)
    content = file.read_bytes()
    file.write_bytes(content + b'{"event":"expec')
    assert len(kinds(file)) == 3
    with event_log:
        pass
    assert kinds(file) == ["launched", "expected", "concluded", "launched", "concluded"]
    assert file.read_bytes().startswith(content)


def test_reading_goes_on_where_it_was(event_log: EventLog, file: Path) -> None:
    reader = EventFile(file)
    assert (list(reader.read()), reader.offset) == ([], 0)  # there is no file yet
    with event_log:
        assert [event["event"] for event in reader.read()] == ["launched"]
        event_log.expect(1)
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
    event_log: EventLog, file: Path, damage: str
) -> None:
    with event_log:
        with file.open("ab") as stream:
            stream.write(NO_EVENTS[damage] + b"\n")
        event_log.expect(1)
    reader = EventFile(file)
    assert [event["event"] for event in reader.read()] == ["launched", "expected", "concluded"]
    assert (reader.num_damaged, reader.damage) == (1, "1 line of events.jsonl cannot be read")
    search_state_of(file).progress()


@pytest.mark.parametrize("how", ["replaced", "cut short"])
def test_a_file_that_became_another_is_read_from_its_beginning(
    event_log: EventLog, file: Path, how: str
) -> None:
    with event_log:
        event_log.expect(1)
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
    event_log: EventLog, file: Path
) -> None:
    with event_log:
        event_log.expect(20)
        event_log.started(trial_job())
        event_log.epochs(trial_job(), [epoch_record(1, 10)])
    with event_log:
        search_state = search_state_of(file)
        assert search_state.progress()["trials"]["waiting"] == 1
        event_log.expect(20)
        event_log.started(trial_job())
        event_log.epochs(trial_job(), [epoch_record(step, 10) for step in (1, 2, 3)])
        search_state = search_state_of(file)
        assert search_state.num_epochs == 3
        assert search_state.seconds_left is None  # nothing was done in this process's time
        event_log.epochs(trial_job(), [epoch_record(4, 10)])
        search_state = search_state_of(file)
        assert search_state.num_epochs == 4
        assert search_state.seconds_left is not None
        assert search_state.progress()["running"][0]["step"] == 4


def test_a_replay_tells_what_an_observer_was_told(event_log: EventLog, file: Path) -> None:
    told: list[tuple[str, str]] = []

    class Listener(Observer):
        def started(self, job) -> None:
            told.append(("started", job.key))

        def epochs(self, job, records) -> None:
            told.append((f"epoch {records[-1].step}", job.key))

        def finished(self, job, outcomes) -> None:
            told.append((outcomes[0].key, job.key))

        def ended(self, job, ending) -> None:
            told.append((str(ending), job.key))

    with event_log:
        event_log.started(trial_job())
        event_log.epochs(trial_job(), [epoch_record(1)])
        event_log.finished(trial_job(), [outcome("x")])
        event_log.started(from_scratch_job())
        event_log.ended(from_scratch_job(), Ending("infeasible", "too large"))
    replay = Replay(Listener())
    for event in EventFile(file).read():
        replay.take(event)
    key = trial_job().key
    assert told == [
        *(("started", key), ("epoch 1", key), ("x", key)),
        *(("started", "uniform-b100"), ("infeasible: too large", "uniform-b100")),
    ]


def test_a_search_feeds_all_that_happens(workers, tmp_path: Path) -> None:

    config = quick_config(tmp_path)
    found = run(config)
    file = config.directory / EVENTS_FILE
    assert kinds(file)[0] == "launched"
    assert kinds(file)[-1] == "concluded"
    search_state = search_state_of(file)
    assert search_state.networks.keys() == {o.key for o in found.results.networks}
    run(config)  # again: everything is there
    assert search_state_of(file).progress()["networks"] == len(found.results.networks)


def test_the_best_of_a_score_to_minimise_is_the_least(context: JobContext) -> None:
    preflight = dataclasses.replace(context.preflight, score=ABSOLUTE_ERROR)
    context = dataclasses.replace(context, preflight=preflight)
    context.directory.mkdir(parents=True)
    found = [outcome(validation_score=0.8), outcome("better", validation_score=0.3)]
    with EventLog(context) as log:
        log.finished(trial_job(), found)
    state = search_state_of(context.directory / EVENTS_FILE)
    assert state.score == ABSOLUTE_ERROR
    assert state.progress()["best"]["key"] == "better"
    assert state.progress()["hypervolume"] is None  # it has no worst value to measure from


def test_events_from_before_there_were_scores_are_of_accuracy(
    event_log: EventLog, file: Path
) -> None:
    with event_log:
        pass
    first, *rest = file.read_text().splitlines()
    launched = json.loads(first)
    del launched["score"]
    file.write_text("\n".join([json.dumps(launched), *rest, ""]))
    assert search_state_of(file).score == ACCURACY
