"""What MLflow is told of a search, read from the fake recorder."""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
from samples import (
    ABSOLUTE_ERROR,
    base_outcome,
    epoch_record,
    from_scratch_job,
    outcome,
    small_config,
    trial_job,
)

from mlflow_server import MemoryRecorder, RunRecorder, TrackingError, schema
from mlflow_server.runs import Entry, LogMetrics
from pruning.cost import Budget, Cost
from search.config.gates_config import GatesConfig
from search.results.contests import contests
from search.results.report import Results
from search.storage.layout import CURVE_FILE
from search.studies.search_study import search_run
from search.tasks.score import ACCURACY
from search.tracking.mlflow_record import MlflowRecord
from search.tracking.mlflow_runs import StudyRuns
from search.trials.job_context import JobContext
from search.trials.jobs import Ending, EpochRecord, Job, Outcome, State
from search.trials.preflight import Preflight


@pytest.fixture
def memory() -> MemoryRecorder:
    return MemoryRecorder("small")


def record_of(recorder: RunRecorder, context: JobContext) -> MlflowRecord:
    """As the session of a search begins it."""
    runs = StudyRuns(recorder, search_run(context))
    runs.begin()
    return MlflowRecord(runs, context.directory)


def concluded(record: MlflowRecord, results: Results, files: list[Path]) -> None:
    """As the session of a search ends it."""
    record.mark_front(results)
    beginning = [entry.text for entry in results.recommendations]
    record._runs.conclude(files, beginning=beginning, verdict=results.comparisons)


@pytest.fixture
def recording(memory: MemoryRecorder, context: JobContext) -> MlflowRecord:
    return record_of(memory, context)


TRIAL = trial_job(4, target_flops=123_456, strength=0.25)
TUNED = outcome(
    "fine-tuned-4",
    trial=4,
    flops=120_000,
    params=5000,
    validation_score=0.75,
    test_score=0.7,
    profile="abcdef01",
    channels=12,
    details={
        "score_before_pruning": 0.8,
        "score_after_pruning": 0.4,
        "sparsity": 0.5,
    },
)
PAIR = from_scratch_job("from-scratch-4", origin="from-scratch", trial=4, rung=None, alpha=1.0)
SCRATCH = outcome("from-scratch-4", origin="from-scratch", trial=4, profile="abcdef01")


def statuses(memory: MemoryRecorder) -> dict[str, str]:
    return {run.key: run.status for run in map(memory.read, memory.keys())}


def made(*sparsities: float | None) -> list[EpochRecord]:
    return [
        epoch_record(step, len(sparsities), sparsity=sparsity, time_ms=1000 * step)
        for step, sparsity in enumerate(sparsities, start=1)
    ]


def epochs(recording: MlflowRecord, job: Job, *sparsities: float | None) -> list[EpochRecord]:
    """Told of one by one."""
    records = made(*sparsities)
    for record in records:
        recording.epochs(job, [record])
    return records


def store_curve(context: JobContext, stored: Outcome, records: list[EpochRecord]) -> None:
    """As a job leaves it beside its network."""
    folder = context.directory / stored.path
    folder.mkdir(parents=True)
    (folder / CURVE_FILE).write_text(json.dumps([dataclasses.asdict(r) for r in records]))


def results(*everything: Outcome, front: tuple[Outcome, ...]) -> Results:
    base = Cost(1_000_000, 1000)
    return Results(base, "flops=10%", 10, everything, front, (), {})


def test_the_search_is_the_parent_and_says_what_was_asked_for(
    memory: MemoryRecorder, recording: MlflowRecord, preflight: Preflight
):
    run = memory.read("search")
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
        "warmup_epochs": "0",
        "optimizer": "sgd",
        "nesterov": "true",
        "ema_decay": "0.0",
        "label_smoothing": "0.0",
        "crop": "shifted",
        "augment": "none",
        "mixup": "0.0",
        "cutmix": "0.0",
        "equal_compute": "false",
        "compute_limit": "2.0",
        "distill": "false",
    }
    assert run.metrics == {
        schema.METRIC_BASE_FLOPS: ((0, preflight.base.flops),),
        schema.METRIC_BASE_NUM_PARAMS: ((0, preflight.base.params),),
        schema.METRIC_BASE_CHANNELS: ((0, preflight.base.channels),),
    }


def test_the_settings_of_gates_are_recorded_where_a_search_has_some(tmp_path: Path):
    gates = GatesConfig(gate_form="clipped", gate_thresholds=("filter=0.4",), settle_epochs=2)
    gated = small_config(tmp_path, criterion=("scaling-factors",), gates=gates)
    assert gates.params(set().union(*gated.gated.values())) == {
        schema.PARAM_GATE_FORM: "clipped",
        schema.PARAM_GATE_PENALTY: "each",
        schema.PARAM_GATE_THRESHOLDS: "filter=0.4",
        schema.PARAM_SETTLE_EPOCHS: 2,
        schema.PARAM_GATES_AT: "consumer",
    }
    of_branches = small_config(tmp_path, granularity=("branch",))
    assert of_branches.gates.params(set().union(*of_branches.gated.values())) == {
        schema.PARAM_GATE_FORM: "sigmoid",
        schema.PARAM_GATE_PENALTY: "each",
        schema.PARAM_SETTLE_EPOCHS: 0,
    }
    plain = small_config(tmp_path, gates=GatesConfig(freeze_but=("last",)))
    params = plain.gates.params(set().union(*plain.gated.values()))
    assert params == {schema.PARAM_FREEZE_BUT: "last"}
    every = {**gates.params({"filter"}), **params}
    schema.require("param", [*every, schema.PARAM_GATE])


def test_a_trial_is_a_child_with_its_proposal(memory: MemoryRecorder, recording: MlflowRecord):
    recording.started(TRIAL)
    run = memory.read("trial/4")
    assert (run.kind, run.name, run.parent, run.status) == ("trial", "trial 4", "search", "running")
    assert run.params == {
        schema.PARAM_CRITERION: "rni",
        schema.PARAM_GRANULARITY: "filter",
        schema.PARAM_SPARSITY_STRENGTH: "0.25",
        schema.PARAM_SHIFT: "1.5",
        schema.PARAM_TARGET_FLOPS: "123456",
    }


def test_curves_have_a_step_per_epoch(memory: MemoryRecorder, recording: MlflowRecord):
    recording.started(TRIAL)
    records = epochs(recording, TRIAL, 0.25, 0.5, None)
    curves = memory.read("trial/4").metrics
    assert curves == {
        schema.METRIC_TRAIN_LOSS: tuple((r.step, r.train_loss) for r in records),
        schema.of_score(schema.METRIC_EPOCH_VALIDATION_SCORE): tuple(
            (r.step, r.validation_score) for r in records
        ),
        schema.METRIC_LEARNING_RATE_NOW: ((1, 0.1), (2, 0.1), (3, 0.1)),
        schema.METRIC_SPARSITY: ((1, 0.25), (2, 0.5)),
    }


def test_a_finished_trial_leaves_an_architecture_beside_it(
    memory: MemoryRecorder, recording: MlflowRecord, context: JobContext, preflight: Preflight
):
    recording.started(TRIAL)
    store_curve(context, TUNED, epochs(recording, TRIAL, 0.5, None))
    recording.finished(TRIAL, [TUNED])
    trial, architecture = memory.read("trial/4"), memory.read("architecture/fine-tuned-4")
    assert (trial.status, architecture.status) == ("finished", "finished")
    assert (architecture.kind, architecture.name) == ("architecture", "fine-tuned-4")
    assert architecture.parent == "search"
    for run in (trial, architecture):
        final = {name: curve[-1][1] for name, curve in run.metrics.items()}
        assert final[schema.of_score(schema.METRIC_VALIDATION_SCORE)] == 0.75
        assert final[schema.of_score(schema.METRIC_TEST_SCORE)] == 0.7
        assert final[schema.METRIC_VIEW_ORDER] == 0.75
        assert final[schema.METRIC_FLOPS] == 120_000
        assert final[schema.METRIC_FLOPS_SHARE] == 120_000 / preflight.base.flops
        assert final[schema.METRIC_NUM_PARAMS] == 5000
        assert final[schema.METRIC_CHANNELS] == 12
        assert run.tags[schema.TAG_ORIGIN] == "fine-tuned"
        assert run.tags[schema.TAG_ARCHITECTURE] == "fine-tuned-4"
        assert run.tags[schema.TAG_PROFILE] == "abcdef01"
    curve = schema.METRIC_TRAIN_LOSS
    assert architecture.metrics[curve] == trial.metrics[curve] == ((1, 2.0), (2, 1.0))


def test_accuracy_is_recorded_before_and_after_each_step_of_a_trial(
    memory: MemoryRecorder, recording: MlflowRecord
):
    recording.started(TRIAL)
    recording.finished(TRIAL, [TUNED])
    final = {name: curve[-1][1] for name, curve in memory.read("trial/4").metrics.items()}
    assert final[schema.of_score(schema.METRIC_SCORE_BEFORE_PRUNING)] == 0.8
    assert final[schema.of_score(schema.METRIC_SCORE_AFTER_PRUNING)] == 0.4
    assert final[schema.of_score(schema.METRIC_SCORE_AFTER_FINE_TUNING)] == 0.75
    assert final[schema.METRIC_SPARSITY] == 0.5


def test_a_score_is_recorded_under_its_own_name(memory: MemoryRecorder, context: JobContext):
    """An error has no worst value that a hypervolume could be measured from."""
    preflight = dataclasses.replace(context.preflight, score=ABSOLUTE_ERROR)
    recording = record_of(memory, dataclasses.replace(context, preflight=preflight))
    recording.started(TRIAL)
    epochs(recording, TRIAL, None)
    recording.finished(TRIAL, [TUNED])
    names = {name for run in map(memory.read, memory.keys()) for name in run.metrics}
    assert {name for name in names if "mean_absolute_error" in name} == {
        *("validation_mean_absolute_error", "test_mean_absolute_error"),
        *("epoch_validation_mean_absolute_error", "mean_absolute_error_before_pruning"),
        *("mean_absolute_error_after_pruning", "mean_absolute_error_after_fine_tuning"),
    }
    assert not [name for name in names if "accuracy" in name or "score" in name]
    assert schema.METRIC_HYPERVOLUME not in names
    assert memory.read("search").tags[schema.TAG_SCORE] == "mean absolute error"
    assert memory.read("search").tags[schema.TAG_SCORE_METRIC] == "mean_absolute_error"
    assert memory.read("search").tags[schema.TAG_SCORE_DIRECTION] == "minimize"


def test_a_lower_error_is_a_gain_against_the_base(memory: MemoryRecorder, context: JobContext):
    preflight = dataclasses.replace(context.preflight, score=ABSOLUTE_ERROR)
    recording = record_of(memory, dataclasses.replace(context, preflight=preflight))
    recording.started(TRIAL)
    recording.finished(TRIAL, [TUNED])
    base = base_outcome(test_score=TUNED.test_score + 0.25)
    recording.log_against_base({TUNED.key: TUNED}, base)
    gains = memory.read(f"architecture/{TUNED.key}").metrics["mean_absolute_error_against_base"]
    assert gains[-1][1] == pytest.approx(0.25)
    order = memory.read(f"architecture/{TUNED.key}").metrics[schema.METRIC_VIEW_ORDER]
    assert order[-1][1] == -TUNED.validation_score


def test_the_profile_ties_a_pair(memory: MemoryRecorder, recording: MlflowRecord):
    recording.started(TRIAL)
    recording.finished(TRIAL, [TUNED])
    recording.started(PAIR)
    assert memory.read("architecture/from-scratch-4").status == "running"
    epochs(recording, PAIR, None)
    recording.finished(PAIR, [SCRATCH])
    tied = [
        run.tags[schema.TAG_ORIGIN]
        for run in map(memory.read, memory.keys())
        if run.kind == "architecture" and run.tags.get(schema.TAG_PROFILE) == "abcdef01"
    ]
    assert sorted(tied) == ["fine-tuned", "from-scratch"]


def test_a_member_is_one_run_with_its_factor(memory: MemoryRecorder, recording: MlflowRecord):
    job = from_scratch_job(alpha=0.375)
    recording.started(job)
    epochs(recording, job, None, None)
    recording.finished(job, [outcome("uniform-b100", origin="uniform", trial=None)])
    run = memory.read("architecture/uniform-b100")
    assert memory.keys() == ("search", "architecture/uniform-b100")
    assert (run.kind, run.parent, run.status) == ("architecture", "search", "finished")
    assert run.params == {schema.PARAM_ALPHA: "0.375"}
    assert [step for step, _ in run.metrics[schema.METRIC_TRAIN_LOSS]] == [1, 2]
    assert run.description


@pytest.mark.parametrize(
    ("job", "key"), [(TRIAL, "trial/4"), (PAIR, "architecture/from-scratch-4")]
)
def test_a_failure_is_recorded_with_its_reason(
    memory: MemoryRecorder, recording: MlflowRecord, job: Job, key: str
):
    recording.started(job)
    epochs(recording, job, None)
    recording.ended(job, Ending("failed", "training diverged"))
    run = memory.read(key)
    assert run.status == "failed"
    assert run.tags[schema.TAG_FAILURE] == "training diverged"
    assert run.tags[schema.TAG_STATE] == "failed"
    assert len(memory.keys()) == 2


@pytest.mark.parametrize("state", ["stopped early", "infeasible"])
def test_what_came_to_nothing_is_no_failure(
    memory: MemoryRecorder, recording: MlflowRecord, state: State
):
    recording.started(TRIAL)
    recording.ended(TRIAL, Ending(state, "others were better"))
    run = memory.read("trial/4")
    assert run.status == "killed"
    assert run.tags[schema.TAG_STATE] == state
    assert run.tags[schema.TAG_FAILURE] == f"{state}: others were better"


def test_a_loss_that_is_no_number_is_recorded_as_such(
    memory: MemoryRecorder, recording: MlflowRecord
):
    recording.started(TRIAL)
    recording.epochs(TRIAL, [epoch_record(train_loss=math.nan)])
    ((_, loss),) = memory.read("trial/4").metrics[schema.METRIC_TRAIN_LOSS]
    assert math.isnan(loss)


def test_the_end_marks_the_front_and_attaches_files(
    memory: MemoryRecorder, recording: MlflowRecord, tmp_path: Path
):
    recording.started(TRIAL)
    recording.finished(TRIAL, [TUNED])
    recording.started(PAIR)
    recording.finished(PAIR, [SCRATCH])
    files = [tmp_path / "front.png", tmp_path / "results.json"]
    for file in files:
        file.write_text("content")
    concluded(recording, results(TUNED, SCRATCH, front=(SCRATCH,)), files)
    marks = {
        run.key: run.tags[schema.TAG_ON_FRONT]
        for run in map(memory.read, memory.keys())
        if run.kind == "architecture"
    }
    assert marks == {
        "architecture/fine-tuned-4": "false",
        "architecture/from-scratch-4": "true",
    }
    parent = memory.read("search")
    assert parent.files == ("front.png", "results.json")
    assert parent.metrics[schema.METRIC_FRONT_SIZE] == ((0, 1.0),)
    assert set(statuses(memory).values()) == {"finished"}


def test_every_run_says_what_it_gave_up_and_the_search_what_to_take(
    memory: MemoryRecorder, recording: MlflowRecord
):
    base = base_outcome(validation_score=0.9, test_score=0.95)
    for job, found in ((from_scratch_job("base", origin="base"), base), (TRIAL, TUNED)):
        recording.started(job)
        recording.finished(job, [found])
    found = dataclasses.replace(
        results(TUNED, front=(TUNED,)),
        contests=contests([TUNED], [("all of it", Budget.parse("flops=500k"))], ACCURACY),
        base_network=base,
    )
    concluded(recording, found, [])
    runs = [memory.read(f"architecture/{key}") for key in ("base", "fine-tuned-4")]
    assert [run.tags[schema.TAG_ORIGIN] for run in runs] == ["base", "fine-tuned"]
    assert [run.tags[schema.TAG_ON_FRONT] for run in runs] == ["false", "true"]
    against = [
        run.metrics[schema.of_score(schema.METRIC_SCORE_AGAINST_BASE)][-1][1] for run in runs
    ]
    assert against == [0, pytest.approx(-0.25)]
    order = [run.metrics[schema.METRIC_VIEW_ORDER][-1][1] for run in runs]
    assert order == [math.inf, TUNED.validation_score]
    description = memory.read("search").description
    assert description.startswith(found.recommendations[0].text)
    assert description.startswith("Take fine-tuned-4 within all of it: 70.0 % (base 95.0 %) at ")
    assert description.endswith("\n\n".join(["## Verdict", *found.comparisons]))


def test_an_architecture_of_an_earlier_process_gets_its_mark(
    memory: MemoryRecorder, recording: MlflowRecord, context: JobContext
):
    recording.started(TRIAL)
    recording.finished(TRIAL, [TUNED])
    concluded(record_of(memory, context), results(TUNED, front=(TUNED,)), [])
    run = memory.read("architecture/fine-tuned-4")
    assert (run.tags[schema.TAG_ON_FRONT], run.status) == ("true", "finished")


def test_an_interruption_leaves_nothing_running(memory: MemoryRecorder, recording: MlflowRecord):
    recording.started(TRIAL)
    recording.finished(TRIAL, [TUNED])
    recording.started(other := trial_job(5))
    epochs(recording, other, None)
    recording.started(PAIR)
    recording._runs.interrupted()
    assert statuses(memory) == {
        "search": "killed",
        "trial/4": "finished",
        "architecture/fine-tuned-4": "finished",
        "trial/5": "killed",
        "architecture/from-scratch-4": "killed",
    }
    assert memory.read("trial/5").tags[schema.TAG_FAILURE] == "stopped before its end"


class Written(RunRecorder):
    """Keeps what was written."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self.entries.append(entry)


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


@pytest.mark.parametrize("entry", range(1, 13))
def test_not_even_halfway_through_a_result(memory: MemoryRecorder, context: JobContext, entry: int):
    interrupted = Interrupted(memory)
    recording = record_of(interrupted, context)
    recording.started(TRIAL)
    store_curve(context, TUNED, epochs(recording, TRIAL, None))
    interrupted.left = entry

    def finish() -> None:
        recording.finished(TRIAL, [TUNED])
        concluded(recording, results(TUNED, front=(TUNED,)), [])

    with pytest.raises(KeyboardInterrupt):
        finish()
    recording._runs.interrupted()
    assert "running" not in statuses(memory).values()


def test_what_an_earlier_process_left_running_goes_on_under_its_key(
    memory: MemoryRecorder, recording: MlflowRecord, context: JobContext
):
    """Its first epochs are told again, with the times that they had."""
    records = made(0.5, 0.5, None)
    recording.started(TRIAL)
    for record in records[:2]:
        recording.epochs(TRIAL, [record])
    again = record_of(memory, context)
    again.started(TRIAL)
    again.epochs(TRIAL, records[:2])
    again.epochs(TRIAL, records[2:])
    again.finished(TRIAL, [TUNED])
    expected = {"search": "running", "trial/4": "finished", "architecture/fine-tuned-4": "finished"}
    assert statuses(memory) == expected
    curve = memory.read("trial/4").metrics[schema.METRIC_TRAIN_LOSS]
    assert [(step, value) for step, value in dict(curve).items()] == [
        (record.step, record.train_loss) for record in records
    ]


def test_points_have_the_time_at_which_their_epochs_ended(context: JobContext):
    written = Written()
    recording = record_of(written, context)
    recording.started(TRIAL)
    records = made(0.5, None)
    for _ in range(2):  # the second time after a restart
        recording.epochs(TRIAL, records)
    written_points = [e for e in written.entries if isinstance(e, LogMetrics)]
    points = [e for e in written_points if e.key == "trial/4"]
    assert {(e.step, e.time_ms) for e in points} == {(1, 1000), (2, 2000)}
    store_curve(context, TUNED, records)
    recording.finished(TRIAL, [TUNED])
    written_points = [e for e in written.entries if isinstance(e, LogMetrics)]
    final = [e for e in written_points if schema.of_score(schema.METRIC_TEST_SCORE) in e.metrics]
    assert {(e.key, e.time_ms) for e in final} == {
        ("trial/4", 2000),
        ("architecture/fine-tuned-4", 2000),
    }


def test_by_products_are_architectures_with_curves_of_their_own(
    memory: MemoryRecorder, recording: MlflowRecord, context: JobContext
):
    half = dataclasses.replace(
        TUNED, key="fine-tuned-4-t50", flops=60_000, path="architectures/fine-tuned-4-t50"
    )
    records = made(0.5, None, None)
    store_curve(context, TUNED, records[:2])
    store_curve(context, half, [records[0], dataclasses.replace(records[2], step=2)])
    recording.started(TRIAL)
    recording.epochs(TRIAL, records)
    recording.finished(TRIAL, [TUNED, half])
    own, product = (memory.read(f"architecture/{found.key}") for found in (TUNED, half))
    assert product.status == own.status == "finished"
    loss = schema.METRIC_TRAIN_LOSS
    assert own.metrics[loss] == tuple((r.step, r.train_loss) for r in records[:2])
    assert product.metrics[loss] == ((1, records[0].train_loss), (2, records[2].train_loss))
    assert product.metrics[schema.METRIC_FLOPS][-1][1] == 60_000
    assert memory.read("trial/4").metrics[schema.METRIC_FLOPS][-1][1] == 120_000


def test_the_hypervolume_grows_with_every_network_over_restarts(
    memory: MemoryRecorder, recording: MlflowRecord, context: JobContext, preflight: Preflight
):
    """A rectangle of accuracy × spared FLOPs; a dominated network adds nothing."""
    reference = preflight.reference
    half = int(math.sqrt(reference.flops * reference.least_flops))
    spared = reference.sparing(half)

    def volumes() -> list[tuple[int, float]]:
        return [*memory.read("search").metrics[schema.METRIC_HYPERVOLUME]]

    one, two, three = (from_scratch_job(key) for key in "abc")
    recording.started(one)
    recording.finished(one, [found := outcome("a", flops=half, validation_score=0.5)])
    expected = [(1, pytest.approx(spared * reference.worth(0.5, ACCURACY)))]
    assert volumes() == expected
    again = record_of(memory, context)
    again.known([found])
    again.started(two)
    again.finished(two, [outcome("b", flops=half, validation_score=0.25)])
    expected.append((2, expected[0][1]))
    assert volumes() == expected
    again.started(three)
    again.finished(three, [outcome("c", flops=half, validation_score=0.75)])
    expected.append((3, pytest.approx(spared * reference.worth(0.75, ACCURACY))))
    assert volumes() == expected


def test_a_repetition_is_a_run_of_its_own(memory: MemoryRecorder, recording: MlflowRecord):
    recording.started(TRIAL)
    recording.started(dataclasses.replace(TRIAL, repeat=1))
    assert memory.keys() == ("search", "trial/4", "trial/4-s1")
    assert memory.read("trial/4-s1").params == memory.read("trial/4").params


def test_a_search_that_found_nothing_has_failed(memory: MemoryRecorder, recording: MlflowRecord):
    recording.started(TRIAL)
    recording.ended(TRIAL, Ending("failed", "no luck"))
    recording._runs.failed("all 1 trials failed")
    run = memory.read("search")
    assert (run.status, run.tags[schema.TAG_FAILURE]) == ("failed", "all 1 trials failed")


def test_a_search_that_goes_on_is_the_same_run(
    memory: MemoryRecorder, recording: MlflowRecord, context: JobContext
):
    recording.started(TRIAL)
    recording._runs.interrupted()
    record_of(memory, context)
    assert memory.keys() == ("search", "trial/4")
    run = memory.read("search")
    assert run.status == "running"
    assert schema.TAG_FAILURE not in run.tags
    assert memory.read("trial/4").status == "killed"
