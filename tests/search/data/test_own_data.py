"""Data of people's own: parts that share nothing, minibatches that come again, clear errors."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_of_users
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from pruning.errors import ConfigError, DataError
from search.config.data_config import DataConfig
from search.config.training_config import TrainingConfig
from search.data.data import Part
from search.data.own.labels import class_names, known_labels
from search.data.own.own_data import DatasetData, load
from search.tasks.classification import Classification
from search.training.trainer import Trainer

CPU = torch.device("cpu")
PARTS: tuple[Part, ...] = ("train", "validation", "test")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on


def opened(name: str, *, seed: int = 0, has_classes: bool = True, **settings: Any) -> DatasetData:
    """What a callable of `data_of_users` returns."""
    config = DataConfig(f"data_of_users:{name}", **settings)
    return load(config, has_classes=has_classes, seed=seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(data: DatasetData, part: Part) -> list[int]:
    """Which samples a part has: noise is less than one."""
    batches = data.loader(part, device=CPU, batch_size=7).in_order()
    return [int(x) for inputs, _ in batches for x in inputs[:, 0, 0].tolist()]


def equal(first: Any, second: Any) -> bool:
    """Whether minibatches, or lists of them, are equal to the bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return len(first) == len(second) and all(map(equal, first, second))


# ---- parts


@pytest.mark.parametrize("name", ["plain", "noisy", "streams", "shuffled_streams"])
def test_parts_share_no_sample_and_lose_none(name: str) -> None:
    data = opened(name)
    parts = {part: numbers(data, part) for part in PARTS}
    assert {part: data.count(part) for part in PARTS} == {p: len(n) for p, n in parts.items()}
    assert sorted(parts["train"] + parts["validation"]) == list(range(60))
    assert parts["test"] == list(range(100, 112))
    assert len(parts["validation"]) == 12


@pytest.mark.parametrize("name", ["with_targets", "streams_of_all_parts"])
def test_a_validation_part_of_its_own_is_taken(name: str) -> None:
    data = opened(name)
    assert sorted(numbers(data, "train")) == list(range(60))
    assert numbers(data, "validation") == list(range(100, 109))
    with pytest.raises(ConfigError, match="validation_fraction has no effect on data_of_users:"):
        opened(name, validation_fraction=0.5)


def test_the_split_is_seeded_and_keeps_the_shares_of_classes() -> None:
    first, again, other = (numbers(opened("plain", seed=s), "validation") for s in (0, 0, 1))
    assert first == again != other
    assert np.bincount(np.array(first) % 3).tolist() == [4, 4, 4]


def test_fewer_samples_are_used_if_wanted() -> None:
    for name in ("plain", "streams"):
        data = opened(name, limit_train=20, validation_fraction=0.25)
        assert [data.count(part) for part in PARTS] == [15, 5, 12]
        few = data.few(2)
        assert [len(numbers(few, part)) for part in PARTS] == [2, 2, 2]
        assert set(numbers(few, "train")) < set(numbers(data, "train"))


def test_what_is_held_out_of_a_stream_stays_held_out() -> None:
    """Also when it is shuffled: otherwise samples would change sides from epoch to epoch."""
    data = opened("shuffled_streams")
    loader = data.loader("train", device=CPU, batch_size=5)
    held_out = set(numbers(data, "validation"))
    for seed in range(3):
        epoch = [int(x) for b, _ in loader.shuffled(generator(seed)) for x in b[:, 0, 0].tolist()]
        assert held_out.isdisjoint(epoch)
        assert len(epoch) == 48
    (counted, *_, how) = data.notes
    assert counted == (
        "the train part of data_of_users:shuffled_streams was read once, to count its 60 samples"
    )
    assert how.startswith("every 5th sample of the train part of data_of_users:shuffled_streams")


def test_a_stream_with_a_validation_part_has_an_order_of_its_own() -> None:
    loader = opened("streams_of_all_parts").loader("train", device=CPU, batch_size=10)
    first, again, other = (list(loader.shuffled(generator(seed))) for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


# ---- minibatches


def epochs(data: DatasetData) -> Iterator[Any]:
    """Minibatches of two epochs, of a third that is left early, and of one after that."""
    loader = data.loader("train", device=CPU, batch_size=7)
    for seed in range(2):
        yield list(loader.shuffled(generator(seed)))
    yield list(itertools.islice(loader.shuffled(generator(2)), 2))
    yield list(loader.shuffled(generator(3)))
    validation = data.loader("validation", device=CPU, batch_size=3)
    yield list(validation.in_order())
    yield list(validation.in_order())


@pytest.mark.parametrize(
    ("name", "workers"), [("noisy", 1), ("noisy", 2), ("streams_of_all_parts", 2)]
)
def test_processes_read_the_same_minibatches(name: str, workers: int) -> None:
    alone = list(epochs(opened(name, workers=0)))
    together = list(epochs(opened(name, workers=workers)))
    assert equal(alone, together)
    assert equal(alone[-1], alone[-2])
    assert not equal(alone[0], alone[1])


@pytest.mark.parametrize("name", ["noisy", "streams_of_all_parts"])
def test_reading_leaves_the_global_generators_alone(name: str) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    list(epochs(opened(name, workers=0)))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def test_minibatches_do_not_depend_on_what_training_draws() -> None:
    loader = opened("noisy").loader("train", device=CPU, batch_size=7)
    undisturbed = list(loader.shuffled(generator()))
    disturbed = []
    for batch in loader.shuffled(generator()):
        random.random(), np.random.random(), torch.rand(3)
        disturbed.append(batch)
    assert equal(undisturbed, disturbed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_minibatches() -> None:
    """From processes, through pinned memory; tuples stay what they are."""
    for name in ("noisy", "nested"):
        data = opened(name, has_classes=False, workers=2)
        there, here = (
            list(data.loader("train", device=device, batch_size=3).shuffled(generator()))
            for device in (torch.device("cuda"), CPU)
        )
        assert len(there) == len(here) > 1
        for (x, y), (expected, target) in zip(there, here, strict=True):
            assert y.device.type == "cuda"
            assert torch.equal(y.cpu(), target)
            if name == "nested":
                assert isinstance(x["pair"], tuple)
                x, expected = x["pair"][1], expected["pair"][1]  # noqa: PLW2901
            assert torch.equal(x.cpu(), expected)


def test_a_single_sample_at_the_end_sits_out() -> None:
    loader = opened("plain").loader("train", device=CPU, batch_size=47)
    assert [len(targets) for _, targets in loader.shuffled(generator())] == [47]


@pytest.mark.parametrize("name", ["noisy", "streams_of_all_parts"])
def test_training_can_stop_and_go_on_elsewhere(name: str) -> None:
    """To the bit, in a process that opens the data anew."""
    data = opened(name)

    def trainer(data: DatasetData) -> Trainer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))
        settings = TrainingConfig(3, batch_size=8, learning_rate=1e-4)
        return Trainer(
            model, data, task=Classification(), epochs=3, config=settings, seed=5, device=CPU
        )

    whole, begun, continued = (
        trainer(data),
        trainer(data),
        trainer(pickle.loads(pickle.dumps(data))),
    )
    for _ in range(3):
        whole.run_epoch()
    begun.run_epoch()
    continued.load_state_dict(begun.state_dict())
    for _ in range(2):
        continued.run_epoch()
    assert whole.reports == continued.reports
    parameters = (t.state_dict()["model"]["1.weight"] for t in (whole, continued))
    assert torch.equal(*parameters)


def test_inputs_keep_their_form_and_numbers_become_tensors() -> None:
    data = opened("nested", has_classes=False)
    ((inputs, targets),) = data.few(2).loader("test", device=CPU).in_order()
    assert list(inputs) == ["pair", "count"]
    assert isinstance(inputs["pair"], tuple)
    assert [tuple(x.shape) for x in inputs["pair"]] == [(2, 2), (2, 3)]
    assert inputs["count"].tolist() == [7, 7]
    assert (targets.tolist(), targets.dtype) == ([1.5, 1.5], torch.float32)
    assert data.sample.inputs["pair"][1].tolist() == [[1, 1, 1]]
    assert data.sample.targets.dtype == torch.float32


def test_minibatches_are_made_by_people_s_own_function() -> None:
    data = opened("collated")
    (batch,) = data.loader("test", device=CPU, batch_size=12).in_order()
    assert isinstance(batch, tuple)
    assert batch[0][:, 0, 0].tolist() == [2.0 * number for number in range(100, 112)]


# ---- classes


def test_classes_are_named_by_the_data_or_numbered() -> None:
    assert opened("plain").classes == ("0", "1", "2")
    assert opened("with_targets").classes == ("ash", "birch", "cedar")
    assert opened("labelled_by_vectors").classes == ("0", "1", "2", "3")
    assert opened("plain", has_classes=False).classes == ()
    assert opened("nested").classes == ()


def test_samples_are_only_read_for_classes_that_nobody_says() -> None:
    assert opened("with_targets").notes == ()
    assert opened("plain", has_classes=False).notes == ()
    assert opened("plain").notes[0] == (
        "the train part of data_of_users:plain was read once, for its classes: an attribute "
        "`targets` would save that"
    )


def test_labels_are_known_of_what_is_made_of_other_datasets() -> None:
    whole = data_of_users.WithTargets(9)
    part, tensors = Subset(whole, [5, 0, 1]), TensorDataset(torch.zeros(2), torch.tensor([4, 7]))
    assert known_labels(ConcatDataset([part, tensors])).tolist() == [2, 0, 1, 4, 7]
    assert class_names(Subset(part, [0])) == ("ash", "birch", "cedar")
    assert known_labels(ConcatDataset([part, data_of_users.Numbered(2)])) is None
    whole.target_transform = str
    assert known_labels(whole) is None


def test_labels_that_are_not_those_of_the_samples_are_not_believed(monkeypatch) -> None:
    wrong = property(lambda self: [0] * self.count)
    monkeypatch.setattr(data_of_users.WithTargets, "targets", wrong)
    data = opened("with_targets")
    assert data.notes[0].startswith("the train part of data_of_users:with_targets was read once")


# ---- elsewhere


def test_settings_are_sent_and_not_samples() -> None:
    data = opened("counted")
    data_of_users.CALLS.clear()
    content = pickle.dumps(data.sent())
    assert b"Numbered" not in content
    there = pickle.loads(content)
    assert equal(list(epochs(there)), list(epochs(data)))
    assert data_of_users.CALLS == ["called"]  # there, and once for everything
    assert (there.classes, there.notes) == (data.classes, data.notes)


def test_data_that_have_changed_since_are_refused(monkeypatch) -> None:
    data = opened("plain", root="a")
    there = pickle.loads(pickle.dumps(data.sent()))
    monkeypatch.setattr(data_of_users, "plain", data_of_users.with_fewer)
    with pytest.raises(DataError, match="has 59 samples now, and had 60 when the search began"):
        there.loader("train", device=CPU)


def test_a_callable_is_told_the_folder_of_data(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert opened("at_root", root=str(tmp_path / "file")).count("test") == 12
    with pytest.raises(DataError, match=r"FileNotFoundError.*'nowhere'"):
        opened("at_root", root="nowhere")


def test_settings_that_datasets_know_nothing_of_are_refused() -> None:
    for settings in ({"image_size": 8}, {"flip": True}):
        with pytest.raises(ConfigError, match="no effect on data_of_users:plain, whose Datasets"):
            DataConfig("data_of_users:plain", **settings)


# ---- what bad data get

M = "data_of_users"
BAD = {
    "raises": rf"^{M}:raises failed: ValueError: no luck \({M}.py, line \d+\)$",
    "absent": f"^data of one's own: module '{M}' has no attribute 'absent'$",
    "NUM_CLASSES": f"^data of one's own: {M}:NUM_CLASSES must be callable, got int$",
    "nothing": r"must return \(train, test\), .* or search.DataSplits, got NoneType$",
    "one_dataset": "or search.DataSplits, got Numbered$",
    "no_test": f"^{M}:no_test returned no test part: it must return",
    "misspelt": "returned a mapping with valid: known are train, test, validation, classes, coll",
    "loaders": "returned a DataLoader as its train part: return its Dataset",
    "texts": "must return a torch.utils.data.Dataset as its train part, got str$",
    "generators": "as its train part, which can be read only once: return a Dataset whose",
    "empty": f"^the test part of {M}:empty has no samples$",
    "empty_stream": f"^the test part of {M}:empty_stream has no samples$",
    "without_length": "^the length of the train part of .* failed: TypeError: object of type",
    "twice_the_same": "returned the same Dataset as its train and its test part",
    "raising_items": rf"^sample 5 of the test part of .* failed: KeyError: 'gone' \({M}.py, line",
    "triples": r"^items of the train part of .* must be pairs \(inputs, targets\), got a tuple",
    "bare_tensors": r"must be pairs \(inputs, targets\), got a Tensor of shape \(2,\): put",
    "pictures": "^sample 0 of the test part of .* holds a PIL image, .* torchvision.transforms.ToT",
    "arrays": "^sample 0 of the train part of .* holds a numpy array of bytes, .*ToTensor",
    "label_outside": (
        f"^sample 2 of the train part of {M}:label_outside has the label 2, but there are 2 "
        "classes, numbered from 0 to 1$"
    ),
    "only_labels_below": "^sample 0 .* has the label -1, but classes are numbered from 0$",
    "label_below": "^sample 0 of the train part of .* has the label -1, but there are 8 classes",
    "class_without_samples": "^class '1' has no training sample left among 60 with 12 held out",
    "mixed_labels": "^sample 1 of the train part of .* must have the number of a class as its targ",
    "too_few": "^the train part of .* has 1 samples: too few to hold some out for validation$",
    "collate_that_raises": "^the collate_fn of the train part of .* failed: TypeError: cannot",
    "collate_of_one": r"which its collate_fn makes, must be pairs \(inputs, targets\), got a T",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(DataError, match=BAD[name]) as caught:
        opened(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_put_together_says_so(workers: int) -> None:
    data = opened("of_many_sizes", workers=workers)
    loader = data.loader("train", device=CPU, batch_size=6)
    with pytest.raises(DataError, match=r"putting 6 items of the train part of .* together failed"):
        list(loader.shuffled(generator()))


def test_a_stream_that_ends_early_is_refused(monkeypatch) -> None:
    data = opened("streams")
    monkeypatch.setattr(data_of_users.Stream, "__iter__", lambda self: iter([self.samples[0]]))
    with pytest.raises(DataError, match="ended after fewer samples than the 12 that it had"):
        numbers(data, "test")


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="cannot import 'no_such_data': ModuleNotFoundError"):
        load(DataConfig("no_such_data:make"), has_classes=True, seed=0)
