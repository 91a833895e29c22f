"""What MLflow is told of a search, read from the fake recorder."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
from samples import epoch_record, member_task, outcome, small_config, trial_task

from mlflow_server import MemoryRecorder, RunRecorder, TrackingError, schema
from mlflow_server.runs import Entry
from search.preflight import Preflight
from search.recording import SEARCH, Recording
from search.tasks import EpochRecord, Task


@pytest.fixture
def memory() -> MemoryRecorder:
    return MemoryRecorder("small")


@pytest.fixture
def recording(memory: MemoryRecorder, tmp_path: Path, preflight: Preflight) -> Recording:
    return Recording(memory, small_config(tmp_path), preflight)


TRIAL = trial_task(4, target_flops=123_456, strength=0.25)
TUNED = outcome(
    "fine-tuned-4",
    trial=4,
    flops=120_000,
    params=5000,
    validation_accuracy=0.75,
    test_accuracy=0.7,
    profile="abcdef01",
    details={
        "accuracy_before_pruning": 0.8,
        "accuracy_after_pruning": 0.4,
        "sparsity": 0.5,
    },
)
PAIR = member_task("from-scratch-4", origin="from-scratch", trial=4, rung=None, alpha=1.0)
SCRATCH = outcome("from-scratch-4", origin="from-scratch", trial=4, profile="abcdef01")


def statuses(memory: MemoryRecorder) -> dict[str, str]:
    return {run.key: run.status for run in map(memory.read, memory.keys())}


def epochs(recording: Recording, task: Task, *sparsities: float | None) -> list[EpochRecord]:
    records = [
        epoch_record(step, len(sparsities), sparsity=sparsity)
        for step, sparsity in enumerate(sparsities, start=1)
    ]
    for record in records:
        recording.epoch(task, record)
    return records


def test_the_search_is_the_parent_and_says_what_was_asked_for(
    memory: MemoryRecorder, recording: Recording, preflight: Preflight
):
    run = memory.read(SEARCH)
    assert (run.kind, run.name, run.parent, run.status) == ("search", "small", None, "running")
    assert run.params == {
        "model": "digits-vgg",
        "data": "digits",
        "budget": "flops=10%",
        "criterion": "rni",
        "granularity": "filter",
        "seed": "0",
        "trials": "2",
        "epochs": "1",
        "fine_tune_epochs": "1",
        "scratch_epochs": "1",
        "batch_size": "32",
        "learning_rate": "0.1",
        "weight_decay": "0.0001",
        "schedule": "rni",
        "nesterov": "true",
        "equal_compute": "false",
        "compute_limit": "2.0",
        "distill_temperature": "4.0",
        "distill_weight": "0.9",
    }
    assert run.metrics == {
        schema.METRIC_BASE_FLOPS: ((0, preflight.base.flops),),
        schema.METRIC_BASE_NUM_PARAMS: ((0, preflight.base.params),),
    }


def test_a_trial_is_a_child_with_its_proposal(memory: MemoryRecorder, recording: Recording):
    recording.started(TRIAL)
    run = memory.read("trial/4")
    assert (run.kind, run.name, run.parent, run.status) == ("trial", "trial 4", SEARCH, "running")
    assert run.params == {
        schema.PARAM_CRITERION: "rni",
        schema.PARAM_GRANULARITY: "filter",
        schema.PARAM_SPARSITY_STRENGTH: "0.25",
        schema.PARAM_SHIFT: "1.5",
        schema.PARAM_TARGET_FLOPS: "123456",
    }


def test_curves_have_a_step_per_epoch(memory: MemoryRecorder, recording: Recording):
    recording.started(TRIAL)
    records = epochs(recording, TRIAL, 0.25, 0.5, None)
    curves = memory.read("trial/4").metrics
    assert curves == {
        schema.METRIC_TRAIN_LOSS: tuple((r.step, r.train_loss) for r in records),
        schema.METRIC_EPOCH_VALIDATION_ACCURACY: tuple(
            (r.step, r.validation_accuracy) for r in records
        ),
        schema.METRIC_LEARNING_RATE_NOW: ((1, 0.1), (2, 0.1), (3, 0.1)),
        schema.METRIC_SPARSITY: ((1, 0.25), (2, 0.5)),
    }


def test_a_finished_trial_leaves_an_architecture_beside_it(
    memory: MemoryRecorder, recording: Recording, preflight: Preflight
):
    recording.started(TRIAL)
    epochs(recording, TRIAL, 0.5, None)
    recording.finished(TRIAL, TUNED)
    trial, architecture = memory.read("trial/4"), memory.read("architecture/fine-tuned-4")
    assert (trial.status, architecture.status) == ("finished", "finished")
    assert (architecture.kind, architecture.name) == ("architecture", "fine-tuned-4")
    assert architecture.parent == SEARCH
    for run in (trial, architecture):
        final = {name: curve[-1][1] for name, curve in run.metrics.items()}
        assert final[schema.METRIC_VALIDATION_ACCURACY] == 0.75
        assert final[schema.METRIC_TEST_ACCURACY] == 0.7
        assert final[schema.METRIC_FLOPS] == 120_000
        assert final[schema.METRIC_FLOPS_SHARE] == 120_000 / preflight.base.flops
        assert final[schema.METRIC_NUM_PARAMS] == 5000
        assert run.tags[schema.TAG_ORIGIN] == "fine-tuned"
        assert run.tags[schema.TAG_ARCHITECTURE] == "fine-tuned-4"
        assert run.tags[schema.TAG_PROFILE] == "abcdef01"
    curve = schema.METRIC_TRAIN_LOSS
    assert architecture.metrics[curve] == trial.metrics[curve] == ((1, 2.0), (2, 1.0))


def test_accuracy_is_recorded_before_and_after_each_step_of_a_trial(
    memory: MemoryRecorder, recording: Recording
):
    recording.started(TRIAL)
    recording.finished(TRIAL, TUNED)
    final = {name: curve[-1][1] for name, curve in memory.read("trial/4").metrics.items()}
    assert final[schema.METRIC_ACCURACY_BEFORE_PRUNING] == 0.8
    assert final[schema.METRIC_ACCURACY_AFTER_PRUNING] == 0.4
    assert final[schema.METRIC_ACCURACY_AFTER_FINE_TUNING] == 0.75
    assert final[schema.METRIC_SPARSITY] == 0.5


def test_the_profile_ties_a_pair(memory: MemoryRecorder, recording: Recording):
    recording.started(TRIAL)
    recording.finished(TRIAL, TUNED)
    recording.started(PAIR)
    assert memory.read("architecture/from-scratch-4").status == "running"
    epochs(recording, PAIR, None)
    recording.finished(PAIR, SCRATCH)
    tied = [
        run.tags[schema.TAG_ORIGIN]
        for run in map(memory.read, memory.keys())
        if run.kind == "architecture" and run.tags.get(schema.TAG_PROFILE) == "abcdef01"
    ]
    assert sorted(tied) == ["fine-tuned", "from-scratch"]


def test_a_member_is_one_run_with_its_factor(memory: MemoryRecorder, recording: Recording):
    task = member_task(alpha=0.375)
    recording.started(task)
    epochs(recording, task, None, None)
    recording.finished(task, outcome("uniform-b100", origin="uniform", trial=None))
    run = memory.read("architecture/uniform-b100")
    assert memory.keys() == (SEARCH, "architecture/uniform-b100")
    assert (run.kind, run.parent, run.status) == ("architecture", SEARCH, "finished")
    assert run.params == {schema.PARAM_ALPHA: "0.375"}
    assert [step for step, _ in run.metrics[schema.METRIC_TRAIN_LOSS]] == [1, 2]
    assert run.description


@pytest.mark.parametrize(
    ("task", "key"), [(TRIAL, "trial/4"), (PAIR, "architecture/from-scratch-4")]
)
def test_a_failure_is_recorded_with_its_reason(
    memory: MemoryRecorder, recording: Recording, task: Task, key: str
):
    recording.started(task)
    epochs(recording, task, None)
    recording.failed(task, "training diverged")
    run = memory.read(key)
    assert run.status == "failed"
    assert run.tags[schema.TAG_FAILURE] == "training diverged"
    assert len(memory.keys()) == 2


def test_a_loss_that_is_no_number_is_recorded_as_such(memory: MemoryRecorder, recording: Recording):
    recording.started(TRIAL)
    recording.epoch(TRIAL, epoch_record(train_loss=math.nan))
    ((_, loss),) = memory.read("trial/4").metrics[schema.METRIC_TRAIN_LOSS]
    assert math.isnan(loss)


def test_the_end_marks_the_front_and_attaches_files(
    memory: MemoryRecorder, recording: Recording, tmp_path: Path
):
    recording.started(TRIAL)
    recording.finished(TRIAL, TUNED)
    recording.started(PAIR)
    recording.finished(PAIR, SCRATCH)
    files = [tmp_path / "front.png", tmp_path / "results.json"]
    for file in files:
        file.write_text("content")
    recording.conclude({SCRATCH.key: SCRATCH}, [TUNED, SCRATCH], files)
    marks = {
        run.key: run.tags[schema.TAG_ON_FRONT]
        for run in map(memory.read, memory.keys())
        if run.kind == "architecture"
    }
    assert marks == {
        "architecture/fine-tuned-4": "false",
        "architecture/from-scratch-4": "true",
    }
    parent = memory.read(SEARCH)
    assert parent.files == ("front.png", "results.json")
    assert parent.metrics[schema.METRIC_FRONT_SIZE] == ((0, 1.0),)
    assert set(statuses(memory).values()) == {"finished"}


def test_an_architecture_of_an_earlier_process_gets_its_mark(
    memory: MemoryRecorder, recording: Recording
):
    recording.conclude({TUNED.key: TUNED}, [TUNED], [])
    run = memory.read("architecture/fine-tuned-4")
    assert (run.tags[schema.TAG_ON_FRONT], run.status) == ("true", "finished")


def test_an_interruption_leaves_nothing_running(memory: MemoryRecorder, recording: Recording):
    recording.started(TRIAL)
    recording.finished(TRIAL, TUNED)
    recording.started(other := trial_task(5))
    epochs(recording, other, None)
    recording.started(PAIR)
    recording.interrupted()
    assert statuses(memory) == {
        SEARCH: "killed",
        "trial/4": "finished",
        "architecture/fine-tuned-4": "finished",
        "trial/5": "killed",
        "architecture/from-scratch-4": "killed",
    }
    assert memory.read("trial/5").tags[schema.TAG_FAILURE] == "stopped before its end"


class Interrupted(RunRecorder):
    """Writes to memory, until Ctrl-C comes instead of one entry; as in the background, no error
    of a single entry reaches the caller."""

    def __init__(self, memory: MemoryRecorder) -> None:
        self.memory, self.left = memory, math.inf

    def write(self, entry: Entry) -> None:
        self.left -= 1
        if self.left == 0:
            self.left = math.inf
            raise KeyboardInterrupt
        with suppress(TrackingError):
            self.memory.write(entry)


@pytest.mark.parametrize("entry", range(1, 14))
def test_not_even_halfway_through_a_result(
    memory: MemoryRecorder, tmp_path: Path, preflight: Preflight, entry: int
):
    interrupted = Interrupted(memory)
    recording = Recording(interrupted, small_config(tmp_path), preflight)
    recording.started(TRIAL)
    epochs(recording, TRIAL, None)
    interrupted.left = entry

    def finish() -> None:
        recording.finished(TRIAL, TUNED)
        recording.conclude({TUNED.key: TUNED}, [TUNED], [])

    with pytest.raises(KeyboardInterrupt):
        finish()
    recording.interrupted()
    assert "running" not in statuses(memory).values()


def test_what_an_earlier_process_left_running_is_closed(
    memory: MemoryRecorder, recording: Recording, tmp_path: Path, preflight: Preflight
):
    recording.started(TRIAL)
    epochs(recording, TRIAL, None)
    again = Recording(memory, small_config(tmp_path), preflight)
    again.lost(TRIAL)
    assert statuses(memory) == {SEARCH: "running", "trial/4": "killed"}
    assert memory.read("trial/4").tags[schema.TAG_FAILURE] == "stopped before its end"
    assert memory.read("trial/4").metrics


def test_a_search_that_found_nothing_has_failed(memory: MemoryRecorder, recording: Recording):
    recording.started(TRIAL)
    recording.failed(TRIAL, "no luck")
    recording.found_nothing("all 1 trials failed")
    run = memory.read(SEARCH)
    assert (run.status, run.tags[schema.TAG_FAILURE]) == ("failed", "all 1 trials failed")


def test_a_search_that_goes_on_is_the_same_run(
    memory: MemoryRecorder, recording: Recording, tmp_path: Path, preflight: Preflight
):
    recording.started(TRIAL)
    recording.interrupted()
    Recording(memory, small_config(tmp_path), preflight)
    assert memory.keys() == (SEARCH, "trial/4")
    run = memory.read(SEARCH)
    assert run.status == "running"
    assert schema.TAG_FAILURE not in run.tags
    assert memory.read("trial/4").status == "killed"
