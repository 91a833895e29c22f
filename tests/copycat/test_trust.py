"""Which builders run, and that nothing is run, imported or downloaded besides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stored_architectures import TRUST, edit, pruned_network, state_hash

from copycat import Architecture, Builder, WidthProfile, load, save, verify
from pruning import trace
from pruning.errors import ArchitectureError


def test_an_untrusted_builder_is_refused(stored: Path) -> None:
    message = r"built by 'networks:small' .*not trusted: .* in Python trust=\['networks'\]"
    for trust in ((), ("network",), ("networks.small",), ("",)):
        with pytest.raises(ArchitectureError, match=message):
            load(stored, trust=trust)
        with pytest.raises(ArchitectureError, match=message):
            verify(stored, trust=trust)


def test_an_untrusted_module_is_not_even_imported(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise AssertionError('it ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(copied, lambda content: content["builder"].update(target="evil:make"))
    with pytest.raises(ArchitectureError, match="not trusted"):
        load(copied, trust=TRUST)


@pytest.mark.parametrize(
    ("target", "home"),
    [
        ("torchvision.models._api:load_state_dict_from_url", "torch.hub"),
        ("torchvision.models.resnet:partial", "functools"),
        ("torchvision.models:resnet.nn.Linear", "torch.nn.modules.linear"),
    ],
)
def test_what_a_trusted_module_merely_imports_is_refused(
    copied: Path, target: str, home: str
) -> None:
    """The first of these downloads a file and unpickles it."""
    edit(copied, lambda content: content["builder"].update(target=target))
    with pytest.raises(ArchitectureError, match=rf"of '{home}', which is not trusted"):
        load(copied)


def test_only_what_makes_networks_runs_without_being_named(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`search.models` also holds a helper that imports whatever module it is asked for."""
    (tmp_path / "beside_the_file.py").write_text("raise AssertionError('it ran')\n")
    monkeypatch.chdir(tmp_path)
    arguments = {"name": "beside_the_file:make", "num_classes": 2, "in_channels": 3}
    builder = {"target": "search.models:resolve", "arguments": arguments}
    edit(copied, lambda content: content.update(builder=builder))
    with pytest.raises(ArchitectureError, match="models:resolve', which makes no networks"):
        load(copied)


@pytest.mark.parametrize(
    ("target", "shape", "arguments"),
    [
        ("search.models:digits_resnet", (1, 8, 8), {}),
        ("search.models:wide_resnet", (3, 8, 8), {"depth": 10, "width": 1}),
        ("torchvision.models:squeezenet1_1", (3, 32, 32), {"num_classes": 10}),
    ],
)
def test_networks_of_the_zoo_and_of_torchvision_need_no_trust(
    tmp_path: Path, target: str, shape: tuple[int, int, int], arguments: dict[str, object]
) -> None:
    builder = Builder(target, arguments)
    model, profile = builder(), WidthProfile({})
    cost = trace(model, torch.zeros(1, *shape)).cost()
    architecture = Architecture(builder, profile, shape, tuple("0123456789"), cost)
    save(tmp_path / "net", architecture, model)
    assert state_hash(load(tmp_path / "net")) == state_hash(model)


# torchvision would download weights.


@pytest.mark.parametrize(
    ("target", "arguments", "named"),
    [
        ("resnet18", {"weights": "DEFAULT"}, "weights='DEFAULT'"),
        ("resnet18", {"weights": "IMAGENET1K_V1", "num_classes": 5}, "weights='IMAGENET1K_V1'"),
        ("resnet18", {"pretrained": True}, "pretrained=True"),
        ("get_model", {"name": "resnet18", "weights": "DEFAULT"}, "makes no networks"),
        ("get_model", {"name": "fcn_resnet50"}, "makes no networks"),
        # here it is a default that downloads
        ("segmentation.fcn_resnet50", {}, "weights_backbone=ResNet50_Weights.IMAGENET1K_V1"),
        ("segmentation.fcn_resnet50", {"weights_backbone": "DEFAULT"}, "weights_backbone='DEF"),
        ("detection.fasterrcnn_resnet50_fpn", {"weights": None}, "weights_backbone=ResNet50"),
    ],
)
@pytest.mark.parametrize("named_trust", [(), ("torchvision.models", "torchvision.models._api")])
def test_weights_to_be_downloaded_are_refused(
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    target: str,
    arguments: dict[str, object],
    named: str,
    named_trust: tuple[str, ...],
) -> None:
    """Even where the caller trusts torchvision."""

    def download(*_: object, **__: object) -> None:
        raise AssertionError("it would have downloaded")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", download)
    builder = {"target": f"torchvision.models:{target}", "arguments": arguments}
    edit(copied, lambda content: content.update(builder=builder))
    with pytest.raises(ArchitectureError) as caught:
        load(copied, trust=named_trust)
    assert named in str(caught.value)
    if target != "get_model":
        assert "would download weights: pass" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("timm.models:resnet10t", {"pretrained": True}, "would download weights"),
        ("timm.models:resnet10t", {"checkpoint_path": "x.pth"}, "would download weights"),
        ("timm.models:resnet10t", {"pretrained_cfg_overlay": {"file": "x"}}, "download weights"),
        ("timm.models:create_model", {"model_name": "resnet10t"}, "which makes no networks"),
        ("timm.models:load_checkpoint", {"checkpoint_path": "x.pth"}, "which makes no networks"),
        ("timm.models:resnet.build_model_with_cfg", {}, "which makes no networks"),
        ("timm.models:resnet10t.__call__", {}, "is not trusted"),
        ("timm:create_model", {"model_name": "resnet10t"}, "is not trusted"),
    ],
)
def test_of_timm_only_networks_run_and_without_any_file(
    copied: Path, target: str, arguments: dict[str, object], message: str
) -> None:
    pytest.importorskip("timm")
    builder = {"target": target, "arguments": arguments}
    edit(copied, lambda content: content.update(builder=builder))
    with pytest.raises(ArchitectureError, match=message):
        load(copied)


@pytest.mark.parametrize("argument", [{"weights": None}, {"pretrained": False}])
def test_weights_that_are_not_asked_for_are_no_obstacle(
    copied: Path, argument: dict[str, object]
) -> None:
    """It gets as far as the trace, or to torchvision's warning that this is an old argument."""
    builder = {"target": "torchvision.models:squeezenet1_1", "arguments": argument}
    edit(copied, lambda content: content.update(builder=builder))
    with pytest.raises(ArchitectureError) as caught:
        load(copied)
    assert "download" not in str(caught.value)


def test_a_network_of_ones_own_may_be_called_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "from networks import small", "def make(weights): return small(width=7, classes=5)"
    (tmp_path / "own_weights.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    model, architecture = pruned_network()
    builder = Builder("own_weights:make", {"weights": "DEFAULT"})
    stored = Architecture(
        builder,
        architecture.profile,
        architecture.input_shape,
        architecture.classes,
        architecture.cost,
    )
    save(tmp_path / "net", stored, model)
    assert state_hash(load(tmp_path / "net", trust=["own_weights"])) == state_hash(model)


def test_what_would_download_is_not_stored(tmp_path: Path) -> None:
    model, architecture = pruned_network()
    builder = Builder("torchvision.models:resnet18", {"weights": "DEFAULT"})
    stored = Architecture(
        builder, WidthProfile({}), (3, 8, 8), architecture.classes, architecture.cost
    )
    with pytest.raises(ArchitectureError, match=r"net is built by .* would download weights"):
        save(tmp_path / "net", stored, model)
    assert list(tmp_path.iterdir()) == []


# Builders that are gone.


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("networks:gone", "module 'networks' has no attribute 'gone'"),
        ("networks.gone:small", "cannot import 'networks.gone': ModuleNotFoundError: No module"),
        ("networks:BUILD", "has no attribute"),
        ("networks:torch", "networks:torch must be callable, got module"),
    ],
)
def test_a_builder_that_no_longer_exists(copied: Path, target: str, reason: str) -> None:
    edit(copied, lambda content: content["builder"].update(target=target))
    with pytest.raises(ArchitectureError) as caught:
        load(copied, trust=TRUST)
    assert f"{copied} cannot be rebuilt: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "../../evil:make",
        "/tmp/evil:make",
        "..networks:small",
        "networks:../small",
        "networks:small()",
        "networks;os:system",
        "networks",
        ":small",
        "networks:",
        "networks:small:more",
        "",
    ],
)
def test_targets_that_are_no_dotted_names(copied: Path, target: str) -> None:
    edit(copied, lambda content: content["builder"].update(target=target))
    with pytest.raises(ArchitectureError, match=r"builder\.target must be module:callable"):
        load(copied, trust=(*TRUST, "", "..", "../../evil", "/tmp/evil"))


PICKLES = """
import pickle, sys, torch, copycat, search.models
def refuse(*_, **__):
    raise AssertionError("a pickle was read")
class Refusing(pickle.Unpickler):
    __init__ = refuse
pickle.load = pickle.loads = torch.load = refuse
pickle.Unpickler = Refusing
copycat.verify(sys.argv[1])
print("verified")
"""


def test_no_pickle_is_read(tmp_path: Path) -> None:
    builder = Builder("search.models:digits_resnet")
    model = builder()
    cost = trace(model, torch.zeros(1, 1, 8, 8)).cost()
    architecture = Architecture(builder, WidthProfile({}), (1, 8, 8), tuple("0123456789"), cost)
    save(tmp_path / "net", architecture, model)
    command = [sys.executable, "-W", "error", "-c", PICKLES, str(tmp_path / "net")]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (result.stdout, result.stderr) == ("verified\n", "")
