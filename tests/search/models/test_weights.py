"""Trained weights: read from whatever file, without running code, and fitted or refused."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from copycat import Builder
from pruning.errors import WeightsError
from search.models import resolve
from search.models.weights import TrainedWeights, read

DIGITS = resolve("digits-vgg", num_classes=10, in_channels=1)
HEAD = ("classifier.weight", "classifier.bias")


def trained(builder: Builder = DIGITS, seed: int = 7) -> nn.Module:
    """A network whose weights and counters are no fresh ones."""
    torch.manual_seed(seed)
    model = builder()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) if tensor.is_floating_point() else 3)
    return model


def of_file(folder: Path, content: Any, name: str = "weights.pt") -> TrainedWeights:
    torch.save(content, folder / name)
    return read(str(folder / name), DIGITS, 10)


def assert_same(weights: TrainedWeights, model: nn.Module) -> None:
    filled = weights.fill(DIGITS()).state_dict()
    assert filled.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(filled[name], tensor), name


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a state dict": lambda state: state,
    "under state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "under model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "of DataParallel": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled inside DataParallel": lambda state: prefixed(state, "module._orig_mod."),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_state_dict_is_read_from_whatever_holds_it(tmp_path: Path, name: str):
    model = trained()
    weights = of_file(tmp_path, FORMS[name](model.state_dict()))
    assert weights.new_head == ()
    assert_same(weights, model)


def test_half_precision_is_read_in_the_networks_own(tmp_path: Path):
    model = trained().half()
    assert_same(of_file(tmp_path, model.state_dict()), model.float())


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path):
    model = trained()
    file = tmp_path / "trained.bin"
    save_file(prefixed(model.state_dict(), "module."), file)
    weights = read(str(file), DIGITS, 10)
    assert_same(weights, model)
    assert weights.digest == of_file(tmp_path, prefixed(model.state_dict(), "module.")).digest
    assert weights.num_bytes == sum(t.nbytes for t in model.state_dict().values())


def test_counters_that_old_files_lack_are_no_mismatch(tmp_path: Path):
    state = trained().state_dict()
    kept = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert torch.equal(of_file(tmp_path, kept).state[HEAD[0]], state[HEAD[0]])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


def test_of_tied_tensors_one_is_enough(tmp_path: Path):
    value = torch.rand(4, 4)
    save_file({"first.weight": value}, tmp_path / "tied.safetensors")
    builder = Builder(f"{__name__}:Tied")
    weights = read(str(tmp_path / "tied.safetensors"), builder, 10)
    filled = weights.fill(Tied())
    assert torch.equal(filled.second.weight, value)
    assert filled.second.weight is filled.first.weight


def test_a_head_of_other_classes_is_drawn_afresh(tmp_path: Path):
    other = trained(resolve("digits-vgg", num_classes=37, in_channels=1))
    file = str(tmp_path / "weights.pt")
    torch.save(other.state_dict(), file)
    one, again, third = (read(file, DIGITS, 10, seed=seed) for seed in (1, 1, 2))
    assert one.new_head == HEAD
    for name, tensor in other.state_dict().items():
        if name not in HEAD:
            assert torch.equal(one.state[name], tensor)
    assert torch.equal(one.state[HEAD[0]], again.state[HEAD[0]])
    assert not torch.equal(one.state[HEAD[0]], third.state[HEAD[0]])


def test_reading_leaves_the_generator_alone(tmp_path: Path):
    before = torch.get_rng_state()
    read("builder", DIGITS, 10)
    assert torch.equal(torch.get_rng_state(), before)


def given(num_classes: int, in_channels: int) -> nn.Module:
    return trained(resolve("digits-vgg", num_classes=num_classes, in_channels=in_channels))


def test_a_builder_may_give_the_trained_network_itself():
    builder = resolve(f"{__name__}:given", num_classes=10, in_channels=1)
    assert_same(read("builder", builder, 10), trained())


def test_the_digest_is_of_the_values(tmp_path: Path):
    state = trained().state_dict()
    digests = {of_file(tmp_path, content).digest for content in (state, {"model": state})}
    changed = {**state, HEAD[1]: state[HEAD[1]] + 1e-6}
    assert len(digests) == 1
    assert of_file(tmp_path, changed).digest not in digests


class Code:
    """Ends the process when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def refusal(folder: Path, content: Any = None, raw: bytes | None = None) -> str:
    """The words, in one line, by which a file is refused."""
    file = folder / "odd.pt"
    if raw is None:
        torch.save(content, file)
    else:
        file.write_bytes(raw)
    with pytest.raises(WeightsError) as error:
        read(str(file), DIGITS, 10)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(file), "FILE")


def test_code_in_a_file_is_not_run(tmp_path: Path):
    expected = "the weights FILE hold more than tensors ({}), and code from a file is not run: "
    assert refusal(tmp_path, {"a": Code()}).startswith(expected.format("posix._exit"))
    assert refusal(tmp_path, trained()).startswith(expected.format("search.models.vgg.VGG"))


@pytest.mark.parametrize(
    "raw", [b"", b"PK\x03\x04 cut", b"\x80\x02damaged", b"GIF89a", b"12345678{}"], ids=repr
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, raw: bytes):
    assert refusal(tmp_path, raw=raw).startswith("FILE is no file of weights (safetensors, or ")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}], ids=repr)
def test_what_holds_no_state_dict_is_refused(tmp_path: Path, content: Any):
    words = refusal(tmp_path, content)
    assert words.startswith("the weights FILE must be a state dict, or one under state_dict, ")


def test_files_that_are_not_there_are_refused(tmp_path: Path):
    for path, reason in ((tmp_path / "none.pt", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(WeightsError, match=f"{path} cannot be read: {reason}"):
            read(str(path), DIGITS, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: float):
    state = trained().state_dict()
    state[HEAD[0]][3, 4] = value
    assert refusal(tmp_path, state) == (
        "the weights FILE are no numbers: classifier.weight has NaN or infinity in it"
    )


def test_weights_of_another_network_are_refused_with_the_first_tensors(tmp_path: Path):
    other = resolve("digits-resnet", num_classes=10, in_channels=1)()
    words = refusal(tmp_path, other.state_dict())
    assert words.startswith("the weights FILE are of another network: 30 missing: ")
    assert "unexpected: conv1.weight, norm1.weight, norm1.bias and " in words
    assert "1 of another shape: classifier.weight (10×64 for 10×128)" in words


def test_other_shapes_than_a_heads_are_refused(tmp_path: Path):
    state = trained().state_dict()
    first = next(iter(state))
    state[first] = torch.zeros(32, 3, 3, 3)
    assert refusal(tmp_path, state) == (
        f"the weights FILE are of another network: 1 of another shape: {first} "
        "(32×3×3×3 for 32×1×3×3)"
    )


# ---- torchvision

MOBILENET = "torchvision:mobilenet_v3_small"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache, empty; whoever wants to download fails."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_torchvisions_weights_come_from_the_cache(cache: Path):
    from torchvision.models import MobileNet_V3_Small_Weights as Weights  # noqa: PLC0415

    model = trained(resolve(MOBILENET, num_classes=1000, in_channels=3))
    name = Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(model.state_dict(), cache / name)
    own = resolve(MOBILENET, num_classes=10, in_channels=3)
    for source in ("torchvision:IMAGENET1K_V1", "torchvision:DEFAULT"):
        weights = read(source, own, 10)
        assert weights.new_head == ("classifier.3.weight", "classifier.3.bias")
        assert torch.equal(
            weights.state["features.0.0.weight"], model.state_dict()["features.0.0.weight"]
        )


def test_nothing_is_downloaded_unasked(cache: Path):
    own = resolve(MOBILENET, num_classes=10, in_channels=3)
    with pytest.raises(WeightsError, match=r"not in torch's cache .*: --download fetches https://"):
        read("torchvision:IMAGENET1K_V1", own, 10)
    with pytest.raises(WeightsError, match=r"https://.* cannot be read: no network here"):
        read("torchvision:IMAGENET1K_V1", own, 10, download=True)


def test_torchvisions_names_are_told(cache: Path):
    own = resolve(MOBILENET, num_classes=10, in_channels=3)
    with pytest.raises(WeightsError, match=r"no weights V9 of mobilenet_v3_small: there are IMAGE"):
        read("torchvision:V9", own, 10)
    with pytest.raises(WeightsError, match=r"are for networks torchvision:NAME, got search.models"):
        read("torchvision:IMAGENET1K_V1", DIGITS, 10)


# ---- timm

TINY = "timm:test_resnet"


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    """timm, which has one set of weights for its tiny network: in no cache, and in no hub."""
    timm = pytest.importorskip("timm")
    real = timm.models.get_pretrained_cfg("test_resnet")
    config = dataclasses.replace(real, url="https://hub/tiny-0123.pth", hf_hub_id=None)
    known = {"test_resnet.ours": config, "test_resnet.bare": timm.models.PretrainedCfg()}
    monkeypatch.setattr(timm.models, "get_arch_pretrained_cfgs", lambda _: known)
    return timm


def stored_tiny(folder: Path) -> nn.Module:
    """The tiny network as timm has it, for 1000 classes of colour images, in a file."""
    model = trained(resolve(TINY, num_classes=1000, in_channels=3))
    torch.save(model.state_dict(), folder / "tiny-0123.pth")
    return model


def test_timms_weights_come_from_the_cache(timm: Any, cache: Path, monkeypatch: Any):
    monkeypatch.setattr("torch.hub.HASH_REGEX", re.compile("none"))  # of a file of ours
    first, stored = next(iter(stored_tiny(cache).state_dict().items()))
    own = resolve(TINY, num_classes=10, in_channels=3)
    before = torch.get_rng_state()
    for source in ("timm:ours", "timm:test_resnet.ours"):
        weights = read(source, own, 10)
        assert weights.new_head == ("fc.weight", "fc.bias")
        assert torch.equal(weights.state[first], stored)
    grey = read("timm:ours", resolve(TINY, num_classes=10, in_channels=1), 10)
    assert (grey.state[first].shape[1], stored.shape[1]) == (1, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_of_timms_is_downloaded_unasked(timm: Any):
    own = resolve(TINY, num_classes=10, in_channels=3)
    with pytest.raises(WeightsError, match=r"in no cache of this machine: --download fetches http"):
        read("timm:ours", own, 10)
    with pytest.raises(WeightsError, match=r"https://hub/tiny.* cannot be read: no network here"):
        read("timm:ours", own, 10, download=True)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", None])
def test_the_hubs_cache_is_asked_first(timm: Any, monkeypatch: Any, name: str | None):
    """Where timm names a repository of Hugging Face; its package is a stub here."""
    asked = []

    def cached(repository: str, filename: str, revision: str | None = None) -> str | None:
        asked.append((repository, filename, revision))
        return "/there" if filename == name else None

    hub = types.ModuleType("huggingface_hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", cached, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    config = timm.models.PretrainedCfg(hf_hub_id="timm/tiny@main")
    known = {"test_resnet.ours": config}
    monkeypatch.setattr(timm.models, "get_arch_pretrained_cfgs", lambda _: known)
    model = trained(resolve(TINY, num_classes=1000, in_channels=3))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    own = resolve(TINY, num_classes=10, in_channels=3)
    if name is None:
        with pytest.raises(WeightsError, match="--download fetches timm/tiny@main"):
            read("timm:ours", own, 10)
        assert read("timm:ours", own, 10, download=True).new_head
    else:
        assert read("timm:ours", own, 10).new_head == ("fc.weight", "fc.bias")
    assert {(repository, revision) for repository, _, revision in asked} == {("timm/tiny", "main")}


def test_timms_tags_are_told(timm: Any):
    own = resolve(TINY, num_classes=10, in_channels=3)
    with pytest.raises(WeightsError, match=r"no weights bare of test_resnet: there are ours"):
        read("timm:bare", own, 10)
    with pytest.raises(WeightsError, match=r"are for networks timm:NAME, got search.models"):
        read("timm:ours", DIGITS, 10)
