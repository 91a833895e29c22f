"""Distillation against Hinton's equations, and what a teacher must know."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import from_scratch_job, small_config, stored_outcome, trial_job
from torch import Tensor, nn

import copycat
from pruning.errors import ArchitectureError, ConfigError
from search.config.training_config import TrainingConfig
from search.data.data import Sample
from search.data.datasets import ImageData
from search.tasks.classification import Classification
from search.training.distillation import Distillation, distilled
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, TrialJob
from search.trials.preflight import Preflight
from search.trials.trial import perform

CPU = torch.device("cpu")


class Says(nn.Module):
    """Puts out what it was given, whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0


def loss_of(teacher: Tensor, outputs: Tensor, temperature: float, weight: float) -> Tensor:
    """The loss of a network that puts out `outputs`."""
    task = Distillation(Classification(), Says(teacher), temperature=temperature, weight=weight)
    return task.training_step(lambda images: outputs, (IMAGES, LABELS))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = torch.zeros(5, 1, 8, 8)
LABELS = torch.tensor([0, 1, 2, 2, 0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_that_of_the_equation(temperature: float, weight: float):
    z, v = drawn(5, 3, seed=1), 3 * drawn(5, 3, seed=2)
    expected = 0.0
    for i in range(5):
        own = [float(x) for x in z[i].exp() / z[i].exp().sum()]
        soft = (z[i] / temperature).exp() / (z[i] / temperature).exp().sum()
        wanted = (v[i] / temperature).exp() / (v[i] / temperature).exp().sum()
        divergence = float((wanted * (wanted / soft).log()).sum())
        entropy = -float(torch.tensor(own[LABELS[i]]).log())
        expected += ((1 - weight) * entropy + weight * temperature**2 * divergence) / 5
    loss = loss_of(v, z, temperature, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_hot_gradient_is_that_of_matching_logits():
    """Hinton et al., equation 4: for large T, T² · dKL/dz → (z − v) / N with means removed."""
    z, v = drawn(5, 3, seed=1).requires_grad_(), drawn(5, 3, seed=2)
    loss_of(v, z, 1000.0, 1.0).backward()
    difference = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    assert torch.allclose(z.grad, difference.detach() / 3 / 5, atol=1e-4)


def test_nothing_is_left_to_learn_from_equal_outputs_and_the_teacher_learns_nothing():
    z = drawn(5, 3, seed=1).requires_grad_()
    teacher = Says(z.detach().clone())
    task = Distillation(Classification(), teacher, temperature=4.0, weight=1.0)
    loss = task.training_step(lambda images: z, (IMAGES, LABELS))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert torch.allclose(z.grad, torch.zeros(()), atol=1e-5)
    assert teacher.logits.grad is None


def known_to(preflight: Preflight) -> dict[str, Any]:
    """What a teacher must be for."""
    return {
        "input_shape": preflight.input_shape,
        "classes": preflight.classes,
        "trust": preflight.builder.modules,
    }


@pytest.fixture
def teacher(context: JobContext, preflight: Preflight) -> Path:
    """An architecture in the folder of the small search."""
    widths = dict.fromkeys(preflight.groups, 6)
    return context.config.directory / stored_outcome(context.config, preflight, 0, widths, 0.5).path


def test_a_teacher_is_loaded_as_it_was_stored(teacher: Path, preflight: Preflight):
    config = TrainingConfig(distill_from=str(teacher), distill_temperature=2, distill_weight=0.25)
    task = distilled(Classification(), config, CPU, **known_to(preflight))
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    outputs = drawn(4, 10, seed=5)
    by_hand = Distillation(Classification(), copycat.load(teacher), temperature=2, weight=0.25)
    found, expected = (
        one.training_step(lambda _: outputs, (images, labels)) for one in (task, by_hand)
    )
    assert torch.equal(found, expected)
    plain = Classification()
    assert distilled(plain, TrainingConfig(), CPU, **known_to(preflight)) is plain


def test_a_teacher_of_other_images_or_classes_is_refused(teacher: Path, preflight: Preflight):
    config = TrainingConfig(distill_from=str(teacher))
    wide = dataclasses.replace(preflight, sample=Sample(torch.zeros(1, 1, 9, 9), preflight.classes))
    with pytest.raises(ConfigError, match=r"the same inputs: .* has 1×8×8, the data 1×9×9"):
        distilled(Classification(), config, CPU, **known_to(wide))
    other = dataclasses.replace(preflight, sample=Sample(preflight.example_input, ("a", "b")))
    with pytest.raises(ConfigError, match=r"the same classes: .* has 0, 1, 2, .* the data a, b"):
        distilled(Classification(), config, CPU, **known_to(other))
    with pytest.raises(ArchitectureError, match=r"holds no architecture\.json"):
        distilled(
            Classification(), TrainingConfig(distill_from="nowhere"), CPU, **known_to(preflight)
        )


def test_a_member_learns_from_the_teacher(
    tmp_path: Path, teacher: Path, preflight: Preflight, digits: ImageData
):
    """With labels ignored, a member ends elsewhere than by itself; its file says from whom."""
    job = from_scratch_job(widths=dict.fromkeys(preflight.groups, 6))
    weights = {}
    for name, weight in (("alone", 0.0), ("taught", 1.0)):
        training = TrainingConfig(
            1, 1, 1, batch_size=32, distill_from=str(teacher), distill_weight=weight
        )
        config = small_config(tmp_path, name=name, training=training)
        (outcome,) = perform(job, JobContext(config, preflight, "cpu"), digits, _ignored)
        stored = config.directory / outcome.path
        assert copycat.read(stored).provenance["distill_from"] == str(teacher)
        weights[name] = next(copycat.load(stored).parameters())
    plain = JobContext(small_config(tmp_path, name="plain"), preflight, "cpu")
    (outcome,) = perform(job, plain, digits, _ignored)
    without = next(copycat.load(plain.config.directory / outcome.path).parameters())
    assert torch.equal(weights["alone"], without)
    assert not torch.equal(weights["taught"], without)


@pytest.mark.parametrize("job", [trial_job(), None], ids=["trial", "member"])
def test_with_distill_smaller_networks_imitate_the_trained_base(
    tmp_path: Path,
    teacher: Path,
    preflight: Preflight,
    digits: ImageData,
    job: TrialJob | None,
):
    """Sparse training does not, fine-tuning and training from scratch do."""
    job = job or from_scratch_job(widths=dict.fromkeys(preflight.groups, 6))
    stored, weights, before = {}, {}, {}
    for name, changes in (
        ("plain", {}),
        ("alone", {"distill": True, "distill_weight": 0.0}),
        ("taught", {"distill": True, "distill_weight": 1.0}),
    ):
        training = TrainingConfig(1, 1, 1, batch_size=32, **changes)
        config = small_config(tmp_path, name=name, training=training)
        context = JobContext(config, preflight, "cpu")
        shutil.copytree(teacher, config.directory / "architectures" / "base")
        outcome, *_ = perform(job, context, digits, _ignored)
        stored[name] = copycat.read(config.directory / outcome.path).provenance
        weights[name] = next(copycat.load(config.directory / outcome.path).parameters())
        before[name] = outcome.details
    assert context.teacher == str(config.directory / "architectures" / "base")
    assert [stored[name].get("distill_from") for name in stored] == [None, "base", "base"]
    assert before["plain"] == before["alone"] == before["taught"]
    assert torch.equal(weights["plain"], weights["alone"])
    assert not torch.equal(weights["plain"], weights["taught"])


def test_the_base_itself_imitates_nobody(tmp_path: Path, preflight: Preflight, digits: ImageData):
    """Its folder, which is the teacher's, is not there yet."""
    training = TrainingConfig(1, 1, 1, batch_size=32, distill=True)
    context = JobContext(small_config(tmp_path, training=training), preflight, "cpu")
    widths = {name: preflight.graph.group(name).width for name in preflight.groups}
    job = from_scratch_job("base", origin="base", widths=widths)
    (outcome,) = perform(job, context, digits, _ignored)
    stored = context.config.directory / outcome.path
    assert str(stored) == context.teacher
    assert "distill_from" not in copycat.read(stored).provenance
    assert context.task_of_smaller is not context.task


def _ignored(records: Sequence[EpochRecord]) -> None:
    """Nobody listens."""
