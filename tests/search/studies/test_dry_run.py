"""What would fail after hours of training is told in one line, before there is a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from nets_of_users import Plain
from rich.console import Console
from samples import espalier, small_config
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

import search
from copycat import WidthProfile
from pruning.errors import (
    EspalierError,
    SearchFailedError,
    TrainingDivergedError,
    UnreachableBudgetError,
)
from search.config.correlation_config import CorrelationConfig
from search.config.data_config import DataConfig
from search.config.family_config import FamilyConfig
from search.config.iterative_config import IterativeConfig
from search.config.methods import METHODS
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.studies import correlation_study, dry_run, family_study
from search.studies.dry_run import dry_run_of_search
from search.studies.search_stages import trial_space
from search.studies.search_study import open_context
from search.trials.jobs import Job, Outcome, TrialJob
from search.trials.trial import perform


def config_of(folder: Path, network: str, **changes: object) -> SearchConfig:
    settings = {"model": f"nets_of_users:{network}", "budget": ("flops=60%",)}
    return small_config(folder, **(settings | changes))


FAILURES = {
    "PairInTraining": "the network must return logits in training mode too, got tuple",
    "Frozen": "outputs need no parameter that requires gradients",
    "WithoutGradients": "outputs need no parameter that requires gradients",
    "Double": "cannot run on inputs (1, 1, 8, 8) in float32: RuntimeError: ",
    "Random": "outputs differ from run to run",
    "RaisingInTraining": r"KeyError: 'no such\nlayer' (nets_of_users.py, line ",
    "ExitingInTraining": "SystemExit: 3",
    "OneImageInTraining": "RuntimeError: ",
    "Unpooling": "fvcore cannot count Unpooling: ",
    "Compiled": "fvcore cannot count Compiled: ",
    "SparseInTraining": "Tensor that doesn't have storage",
    "BufferInTraining": 'Unexpected key(s) in state_dict: "mean"',
    "LearningBesideItsWeights": "does not reproduce its probe output",
}

FAILURES_OF_FAMILIES = FAILURES | {"Double": "fails a dry run on 2 samples: RuntimeError: "}
"""A family's preflight does not run the network."""


def family_config(folder: Path, network: str, **changes: object) -> FamilyConfig:
    """A family of the shape of a pruned network, which is a profile alone."""
    profile = folder / "profile.json"
    profile.write_text(WidthProfile({"first.0": 5, "second.0": 6}).to_json())
    like = config_of(folder, network)
    settings = {
        "source": str(profile),
        "budgets": ("flops=60%",),
        "training": TrainingConfig(scratch_epochs=2, batch_size=32),
        **{name: getattr(like, name) for name in ("model", "data", "device", "name", "runs")},
    }
    return FamilyConfig(**(settings | changes))


def correlation_config(folder: Path, network: str, **changes: object) -> CorrelationConfig:
    like = config_of(folder, network)
    settings = {
        "criterion": ("taylor",),
        "training": TrainingConfig(epochs=2, batch_size=32),
        **{name: getattr(like, name) for name in ("model", "data", "device", "name", "runs")},
    }
    return CorrelationConfig(**(settings | changes))


STUDIES: dict[str, Callable[..., object]] = {
    "search-by-rni": lambda *network, **changes: search.run(config_of(*network, **changes)),
    "search-by-taylor": lambda *network, **changes: search.run(
        config_of(*network, criterion=("taylor",), **changes)
    ),
    "family": lambda *network, **changes: family_study.resume(family_config(*network, **changes)),
    "correlation": lambda *network, **changes: correlation_study.run(
        correlation_config(*network, **changes)
    ),
}


def message_of(study: str, folder: Path, network: str) -> str:
    """What a study says that fails before there is anything in its folder."""
    with pytest.raises(EspalierError) as error:
        STUDIES[study](folder, network)
    text = str(error.value)
    assert text.startswith(f"nets_of_users:{network}")
    assert "\n" not in text
    assert not (folder / "runs").exists()
    return text


@pytest.mark.parametrize("network", FAILURES)
@pytest.mark.parametrize("study", STUDIES)
def test_it_is_told_in_one_line_before_there_is_a_folder(tmp_path: Path, study: str, network: str):
    failures = FAILURES_OF_FAMILIES if study == "family" else FAILURES
    assert failures[network] in message_of(study, tmp_path, network)


@pytest.mark.parametrize("study", ["search-by-rni", "search-by-taylor"])
def test_what_cannot_be_folded_once_it_is_pruned_is_told_so_too(tmp_path: Path, study: str):
    text = message_of(study, tmp_path, "KeepingOnceNarrow")
    assert "KeepingOnceNarrow keeps 'seen', which was computed from parameters" in text


ENDINGS = {
    "EndingInTraining": "exit status 3 (nets_of_users.py, line ",
    "EndingInALoss": "which ends its process: exit status 4 (nets_of_users.py, line ",
    "CrashingInTraining": "SIGSEGV (nets_of_users.py, line ",
    "KilledInTraining": "ends the process when it runs: SIGKILL, as where memory runs out",
}

ENDED = [
    *(("search-by-taylor", network) for network in ENDINGS),
    ("family", "EndingInTraining"),
    ("family", "EndingInALoss"),
    ("correlation", "EndingInALoss"),
]

ENDED_STUDIES = """
import sys
from pathlib import Path
from pruning.errors import EspalierError
from test_dry_run import ENDED, STUDIES
for study, network in ENDED:
    try:
        STUDIES[study](Path(sys.argv[1]), network)
    except EspalierError as error:
        print(str(error))
"""
"""In a process of their own: one that has computed gradients does dry runs in itself."""


def test_what_ends_its_process_is_told_in_one_line_before_there_is_a_folder(tmp_path: Path):
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", ENDED_STUDIES, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line, (_, network) in zip(lines, ENDED, strict=True):
        assert line.startswith(f"nets_of_users:{network}")
        assert ENDINGS[network] in line
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


def test_a_process_that_has_computed_gradients_does_a_dry_run_itself(tmp_path: Path):
    torch.ones(1, requires_grad=True).sum().backward()
    with pytest.raises(EspalierError, match="outputs differ from run to run"):
        search.run(config_of(tmp_path, "Random", criterion=("taylor",)))


def test_the_command_line_prints_that_line(tmp_path: Path):
    flags = ("--model=nets_of_users:PairInTraining", "--budget=flops=60%", "--limit-train=40")
    done = espalier("search", *flags, "--runs", tmp_path / "runs")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "fails a dry run on 2 samples by rni: the network must return logits" in done.err
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_the_images_do_not_allow_is_refused_before_anything(tmp_path: Path):
    flags = ("--limit-train=40", "--runs", tmp_path / "runs")
    for bad, expected in (
        (("--recipe=imagenet", "--warmup-epochs=30"), "warmup_epochs must be below fine_tune_epo"),
        (("--mixup=-1",), "mixup must be at least 0, got -1.0"),
        (("--recipe=cifarr",), "recipe must be the name of a recipe, got 'cifarr': did you mean "),
        (("--distill-from=nowhere",), "holds no architecture.json"),
    ):
        done = espalier("search", *flags, *bad)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert expected in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", TrainingConfig.RECIPES)
def test_every_recipe_passes(tmp_path: Path, name: str):
    training = TrainingConfig(**TrainingConfig.RECIPES[name], distill=True)
    config = config_of(tmp_path, "Plain", training=training)
    context, data = open_context(config, Console(quiet=True))
    dry_run_of_search(context, data, trial_space(context, data))


@pytest.mark.parametrize(
    "network", ["Plain", "FrozenBody", "Detached", "DoubleInside", "DoubleAndBack", "Unlearned"]
)
def test_what_works_passes_by_every_method(tmp_path: Path, network: str):
    config = config_of(tmp_path, network, criterion=tuple(METHODS))
    context, data = open_context(config, Console(quiet=True))
    before = torch.get_rng_state()
    dry_run_of_search(context, data, trial_space(context, data))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == []


@dataclass
class Work:
    """Steps of optimizers, and how many samples the network ran on each time."""

    steps: int = 0
    samples: list[int] = field(default_factory=list)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """What a study does until it has been tried out, where it ends."""
    done = Work()

    def step(*_: object) -> None:
        done.steps += 1

    def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Plain):
            done.samples.append(len(inputs[0]))

    def tried(dry_run: Callable[..., None], *arguments: object) -> None:
        hook = register_module_forward_pre_hook(run)
        dry_run(*arguments)
        hook.remove()
        raise SearchFailedError("it has been tried out")

    for kind in ("search", "family", "correlation"):
        monkeypatch.setattr(f"search.studies.{kind}_study.try_out", tried)
    hook = register_optimizer_step_post_hook(step)
    yield done
    hook.remove()


SHORT, LONG = (8, 1), (64, 90)
"""Batch size and epochs."""


@pytest.mark.parametrize(
    ("study", "steps"),
    [
        ("search-by-rni", 3),  # of training, of fine-tuning, and of a member of a family
        ("search-by-taylor", 3),
        ("family", 3),  # of the base network, and of a member of each kind
        ("correlation", 5),  # of training and fine-tuning by the criterion, and by the oracle
    ],
)
def test_it_takes_as_little_however_long_the_study_is(
    tmp_path: Path, work: Work, study: str, steps: int
):
    """One step of each training, on two samples, and few runs beside: seconds anywhere."""
    for size, epochs in (SHORT, LONG):
        training = TrainingConfig(epochs, epochs, epochs, batch_size=size)
        changes: dict[str, object] = {"data": DataConfig(limit_train=20 * size)}
        if study == "family":
            training = TrainingConfig(scratch_epochs=epochs, batch_size=size)
            changes |= {"kinds": ("copycat", "uniform"), "budgets": ("flops=60%", "flops=40%")}
        elif study == "correlation":
            training = TrainingConfig(epochs=epochs, batch_size=size)
        changes["training"] = training
        if study != "family":
            changes["scoring_batches"] = epochs
        with pytest.raises(SearchFailedError, match="it has been tried out"):
            STUDIES[study](tmp_path, "Plain", **changes)
        assert work.steps == steps
        assert max(work.samples) == 2
        assert len(work.samples) < 15 * steps
        work.steps, work.samples[:] = 0, []


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What dry runs do."""
    jobs: list[Job] = []

    def noted(job: Job, *rest: object) -> tuple[Outcome, ...]:
        jobs.append(job)
        return perform(job, *rest)

    monkeypatch.setattr(dry_run, "perform", noted)
    return jobs


def test_every_method_and_every_granularity_is_tried(tmp_path: Path, performed: list[Job]):
    mixtures = ("filter", "branch", "filter+block")
    config = small_config(
        tmp_path,
        model="samples:small_residual",
        budget=("flops=60%",),
        criterion=("rni", "oracle", "scaling-factors"),
        granularity=mixtures,
    )
    context, data = open_context(config, Console(quiet=True))
    dry_run_of_search(context, data, trial_space(context, data))
    trials = [job.proposal for job in performed if isinstance(job, TrialJob)]
    assert [(trial.criterion, trial.granularity) for trial in trials] == [
        ("rni", "filter"),
        ("oracle", "filter"),
        ("scaling-factors", "filter"),
        ("rni", "branch"),
        ("rni", "filter+block"),
    ]
    assert [job.key for job in performed[len(trials) :]] == ["narrowed"]


def test_every_method_is_tried_by_every_schedule(tmp_path: Path, performed: list[Job]):
    """In one step, however long the search has for it; what comes of both is stored and loaded."""
    config = small_config(
        tmp_path,
        model="samples:small_network",
        budget=("flops=60%",),
        criterion=("fisher", "oracle"),
        schedule=("iterative", "one-shot"),
        training=TrainingConfig(1, 9, batch_size=32),
        iterative=IterativeConfig(epochs=8, units=1, minibatches=3),
    )
    context, data = open_context(config, Console(quiet=True))
    dry_run_of_search(context, data, trial_space(context, data))
    trials = [job.proposal for job in performed if isinstance(job, TrialJob)]
    assert [(trial.criterion, trial.schedule) for trial in trials] == [
        (criterion, schedule)
        for schedule in ("iterative", "one-shot")
        for criterion in ("fisher", "oracle")
    ]


@pytest.mark.parametrize(
    ("targets", "suffixes"),
    [
        (("flops=60%", "flops=40%", "flops=30%"), ("-flops-60pct", "-flops-40pct")),
        ((), ("",)),  # half of the least FLOPs that a trial is pruned to are out of reach
    ],
)
def test_a_descent_is_tried_also_where_nothing_but_its_networks_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: tuple[str, ...],
    suffixes: tuple[str, ...],
):
    done: list[str] = []

    def noted(job: Job, *rest: object) -> tuple[Outcome, ...]:
        outcomes = perform(job, *rest)
        done.extend(outcome.key for outcome in outcomes)
        return outcomes

    monkeypatch.setattr(dry_run, "perform", noted)
    config = small_config(
        tmp_path,
        model="samples:small_network",
        budget=("flops=60%",),
        criterion=("magnitude-l1",),
        targets=targets,
        training=TrainingConfig(0, 9, batch_size=32),
        study=StudyConfig(tempered_trials=0, descend=True),
    )
    context, data = open_context(config, Console(quiet=True))
    dry_run_of_search(context, data, trial_space(context, data))
    assert done == [*(f"fine-tuned-0{suffix}" for suffix in suffixes), "narrowed"]


def test_a_trial_that_diverges_or_cannot_meet_the_budget_need_not_be_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = config_of(tmp_path, "Plain")
    context, data = open_context(config, Console(quiet=True))
    for error in (TrainingDivergedError("nan"), UnreachableBudgetError("too small")):
        raised: list[Exception] = []
        monkeypatch.setattr(dry_run, "perform", failing(error, raised))
        dry_run_of_search(context, data, trial_space(context, data))
        assert set(raised) == {error}


def failing(error: Exception, raised: list[Exception] | None = None) -> Callable[..., None]:
    def perform(*_: object) -> None:
        if raised is not None:
            raised.append(error)
        raise error

    return perform
