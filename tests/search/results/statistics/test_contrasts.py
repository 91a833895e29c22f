"""What is compared with what, by which test, and in which words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from samples import ABSOLUTE_ERROR, MEAN_IOU, base_outcome, outcome

from pruning import Budget
from search.results.contests import Contestant, contests
from search.results.statistics.contrasts import Contrast, contrasts, difference
from search.results.statistics.test_samples import NO_SAMPLES, TestSamples
from search.storage.layout import TEST_SAMPLES_FILE
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome

RUNGS = (("wide", Budget.parse("flops=5000")), ("tight", Budget.parse("flops=1000")))
UNIFORM = {"origin": "uniform", "trial": None}
NUM_TEST = 200


def stored(folder: Path, run: Outcome, num_wrong: int, start: int = 0) -> Outcome:
    """A network that is stored with what it has right: all but some samples in a row."""
    right = np.ones((NUM_TEST, 1), dtype=bool)
    right[start : start + num_wrong] = False
    place = folder / "architectures" / run.key
    place.mkdir(parents=True)
    np.save(place / TEST_SAMPLES_FILE, right)
    return dataclasses.replace(
        run, path=f"architectures/{run.key}", test_score=1 - num_wrong / NUM_TEST
    )


def seeds(
    key: str, scores: Sequence[float], first_seed: int = 0, **changes: object
) -> list[Outcome]:
    return [
        outcome(f"{key}-s{i}" if i else key, test_score=s, seed=first_seed + i, **changes)
        for i, s in enumerate(scores)
    ]


def told(
    everything: Sequence[Outcome],
    samples: TestSamples = NO_SAMPLES,
    base: Outcome | None = None,
    score: Score = ACCURACY,
    rungs: Sequence[tuple[str, Budget]] = RUNGS[:1],
) -> tuple[Contrast, ...]:
    return contrasts(contests(everything, rungs, score), everything, base, samples, score)


def pairs(made: Sequence[Contrast]) -> list[tuple[str, str, str]]:
    return [(c.place, c.first.key, c.second.key) for c in made]


def test_the_contrasts_are_those_that_were_fixed() -> None:
    """Each kind against uniform at each rung, each shape both ways, and the choice against base."""
    scratch = {"origin": "from-scratch", "trial": 0, "flops": 900}
    everything = [
        outcome("fine-tuned-0", flops=900, validation_score=0.9),
        outcome("from-scratch-0", **scratch),
        outcome("from-scratch-0-longer", equal_compute=True, **scratch),
        outcome("fine-tuned-1", flops=4000, validation_score=0.95),
        outcome("uniform-b100", flops=4500, **UNIFORM),
        outcome("uniform-b20", flops=950, validation_score=0.1, **UNIFORM),
    ]
    assert pairs(told(everything, base=base_outcome(), rungs=RUNGS)) == [
        ("wide", "fine-tuned-1", "uniform-b100"),
        ("wide", "from-scratch-0", "uniform-b100"),
        ("wide", "from-scratch-0-longer", "uniform-b100"),
        ("tight", "fine-tuned-0", "uniform-b20"),
        ("tight", "from-scratch-0", "uniform-b20"),
        ("tight", "from-scratch-0-longer", "uniform-b20"),
        ("shape of fine-tuned-0, 900 FLOPs", "from-scratch-0", "fine-tuned-0"),
        ("shape of fine-tuned-0, 900 FLOPs", "from-scratch-0-longer", "fine-tuned-0"),
        ("wide", "fine-tuned-1", "base"),
        ("tight", "fine-tuned-0", "base"),
    ]


def test_who_stands_for_a_kind_is_decided_by_validation_not_by_what_is_tested() -> None:
    everything = [
        outcome("fine-tuned-0", validation_score=0.9, test_score=0.1),
        outcome("fine-tuned-1", validation_score=0.8, test_score=1.0),
        outcome("uniform-b100", **UNIFORM),
    ]
    (contrast,) = told(everything)
    assert contrast.first.key == "fine-tuned-0"
    assert contrast.tries == (2, 1)
    assert "best of 2 against best of 1 by validation" in contrast.text


def test_single_networks_are_compared_on_the_same_samples(tmp_path: Path) -> None:
    tuned = stored(tmp_path, outcome("fine-tuned-0", flops=500), 2)
    uniform = stored(tmp_path, outcome("uniform-b100", flops=1000, **UNIFORM), 22)
    (contrast,) = told([tuned, uniform], TestSamples(tmp_path))
    assert contrast.difference.p_value == pytest.approx(2 / 2**20)
    assert contrast.finding == "better network"
    assert contrast.text == (
        "wide: pruned and fine-tuned against the uniformly narrowed network +10.0 points "
        "[+5.6, +14.2]: better network; p < 0.0001, McNemar's exact test on the same 200 test "
        "samples; at 0.5 times the FLOPs."
    )


def test_samples_that_are_missing_or_others_tell_nothing(tmp_path: Path) -> None:
    tuned = stored(tmp_path, outcome("fine-tuned-0"), 2)
    alone = outcome("uniform-b100", path="architectures/uniform-b100", **UNIFORM)
    place = tmp_path / alone.path
    place.mkdir()
    for content in (None, b"", b"no array", np.ones(3), np.ones((5, 1), dtype=bool)):
        if isinstance(content, bytes):
            (place / TEST_SAMPLES_FILE).write_bytes(content)
        elif content is not None:
            np.save(place / TEST_SAMPLES_FILE, content)
        (contrast,) = told([tuned, alone], TestSamples(tmp_path))
        assert not contrast.difference.is_told
        assert contrast.finding == "untested"
        assert "p =" not in contrast.text


def test_other_scores_are_compared_by_the_bootstrap(tmp_path: Path) -> None:
    ratio = Score("mean IoU", sums="mean of ratios")
    runs = []
    for number, parts in enumerate((9, 3)):
        run = outcome(f"fine-tuned-{number}", test_score=parts / 10)
        place = tmp_path / "architectures" / run.key
        place.mkdir(parents=True)
        np.save(place / TEST_SAMPLES_FILE, np.tile([parts, 10], (50, 1)))
        runs.append(Contestant((dataclasses.replace(run, path=f"architectures/{run.key}"),)))
    told = difference(*runs, TestSamples(tmp_path), ratio)
    assert told.value == pytest.approx(0.6)
    assert told.p_value is not None
    assert told.p_value < 0.01
    assert "bootstrap" in told.test
    assert not difference(*runs, TestSamples(tmp_path), MEAN_IOU).is_told


def test_several_seeds_are_compared_by_seeds() -> None:
    tuned = seeds("fine-tuned-0", (0.90, 0.91, 0.92), first_seed=10)
    uniform = seeds("uniform-b100", (0.86, 0.88, 0.87), **UNIFORM)
    (contrast,) = told([*tuned, *uniform])
    assert contrast.difference.test == "Welch's t-test over 3 and 3 seeds"
    same = seeds("fine-tuned-0", (0.90, 0.91, 0.92))
    (contrast,) = told([*same, *uniform])
    assert contrast.difference.test == "paired t-test over 3 seeds"


def test_the_run_that_was_chosen_does_not_judge() -> None:
    """It may have been the luckiest of many; the uniform network had no rival of its kind."""
    lucky = seeds("fine-tuned-0", (1.0, 0.90, 0.91, 0.92), first_seed=10, validation_score=0.9)
    rival = seeds("fine-tuned-1", (0.5, 0.5), first_seed=20, validation_score=0.8)
    uniform = seeds("uniform-b100", (0.86, 0.88, 0.87), **UNIFORM)
    (contrast,) = told([*lucky, *rival, *uniform])
    assert contrast.difference.test == "Welch's t-test over 3 and 3 seeds"
    assert contrast.difference.value == pytest.approx(0.04)
    assert contrast.first.test_score == pytest.approx(0.91)
    (alone,) = told([*lucky, *uniform])
    assert alone.difference.test == "Welch's t-test over 4 and 3 seeds"


def test_findings_are_adjusted_for_each_other(tmp_path: Path) -> None:
    """Six to none of fair coins is p = 0.03, which is nothing among two."""
    uniform = stored(tmp_path, outcome("uniform-b100", **UNIFORM), 6)
    tuned = stored(tmp_path, outcome("fine-tuned-0"), 0)
    samples = TestSamples(tmp_path)
    (lone,) = told([uniform, tuned], samples)
    assert lone.adjusted_p == pytest.approx(2 / 2**6)
    assert lone.finding == "better network"
    scratch = stored(tmp_path, outcome("from-scratch-5", origin="from-scratch", trial=5), 0)
    first, second = told([uniform, tuned, scratch], samples)
    assert first.adjusted_p == second.adjusted_p == pytest.approx(4 / 2**6)
    assert first.finding == "undecided"


def test_to_be_the_same_is_a_finding() -> None:
    shown = dict(zip(("value", "low", "high", "p_value"), (0.001, -0.003, 0.004, 0.4), strict=True))
    made = told([*seeds("fine-tuned-0", (0.9, 0.8)), *seeds("uniform-b100", (0.9, 0.7), **UNIFORM)])
    near = dataclasses.replace(made[0].difference, **shown)
    contrast = dataclasses.replace(made[0], difference=near, adjusted_p=0.4)
    assert contrast.finding == "same within 0.5 points"
    far = dataclasses.replace(contrast, difference=dataclasses.replace(near, high=0.006))
    assert far.finding == "undecided"
    of_errors = dataclasses.replace(contrast, score=ABSOLUTE_ERROR)
    assert of_errors.finding == "undecided"


def test_less_of_an_error_is_better() -> None:
    errors = (
        seeds("fine-tuned-0", (0.30, 0.31, 0.32)),
        seeds("uniform", (0.5, 0.52, 0.51), **UNIFORM),
    )
    (contrast,) = told([*errors[0], *errors[1]], score=ABSOLUTE_ERROR)
    assert contrast.difference.value == pytest.approx(0.2)
    assert "0.2 better [+0.1" in contrast.text
    assert contrast.finding == "better"


@pytest.mark.parametrize(
    ("flops", "compute", "costs"),
    [
        ((500, 1000), (0, 7), "at 0.5 times the FLOPs."),
        ((1000, 1000), (30, 10), "at 3 times the training compute."),
        ((500, 1000), (30, 10), "at 0.5 times the FLOPs and 3 times the training compute."),
        ((1040, 1000), (1000, 1040), None),
    ],
)
def test_costs_are_told_where_they_differ(flops, compute, costs) -> None:
    tuned = outcome("fine-tuned-0", flops=flops[0], compute=compute[0])
    uniform = outcome("uniform-b100", flops=flops[1], compute=compute[1], **UNIFORM)
    (contrast,) = told([tuned, uniform])
    assert contrast.text.endswith(costs or "untested.")


def test_differences_that_were_told_of_are_known_without_the_samples(tmp_path: Path) -> None:
    tuned = stored(tmp_path, outcome("fine-tuned-0"), 2)
    uniform = stored(tmp_path, outcome("uniform-b100", **UNIFORM), 22)
    samples = TestSamples(tmp_path)
    here = told([tuned, uniform], samples)
    elsewhere = TestSamples(None, json.loads(json.dumps(samples.differences)))
    assert told([tuned, uniform], elsewhere) == here
    other = stored(tmp_path, outcome("uniform-b50", **UNIFORM), 5)
    assert not told([tuned, other], elsewhere)[0].difference.is_told


def test_machines_are_told_all_of_it(tmp_path: Path) -> None:
    tuned = stored(tmp_path, outcome("fine-tuned-0"), 2)
    uniform = stored(tmp_path, outcome("uniform-b100", **UNIFORM), 22)
    (contrast,) = told([tuned, uniform], TestSamples(tmp_path))
    content = contrast.to_mapping()
    assert json.loads(json.dumps(content)) == content
    assert (content["first"], content["second"]) == ("fine-tuned-0", "uniform-b100")
    assert content["difference"] == pytest.approx(0.1)
    assert content["covers"] == "networks"
    assert content["low"] < content["difference"] < content["high"]
