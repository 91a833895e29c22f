"""A callable by name: what it makes, and what goes wrong in words."""

from __future__ import annotations

import sys
from pathlib import Path

import networks
import pytest
import torch
from torch import nn

from copycat import Builder
from pruning.errors import ModelError


def test_it_calls_its_target_with_its_arguments() -> None:
    builder = Builder("networks:small", {"width": 9, "classes": 2})
    model = builder()
    assert model.conv1.weight.shape[0] == 9
    assert model.head.fc.weight.shape[0] == 2
    assert builder.module == "networks"
    assert builder.function() is networks.small


def test_wrappers_around_the_network_are_left_off() -> None:
    assert type(Builder("networks:spread")()) is nn.Sequential


def test_weights_come_from_the_global_generator() -> None:
    builder = Builder("networks:small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = builder()
        torch.manual_seed(3)
        again = builder()
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, builder().conv1.weight)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("networks", {}, "given as module:callable, got 'networks'"),
        (":small", {}, "given as module:callable, got ':small'"),
        ("networks:", {}, "given as module:callable, got 'networks:'"),
        ("no.such.module:f", {}, "cannot import 'no.such.module': ModuleNotFoundError"),
        (".networks:small", {}, "cannot import '.networks'"),
        ("networks.py:small", {}, "is named 'networks', without '.py'"),
        ("no/such.py:small", {}, "is named 'such', without '.py'"),
        ("networks:large", {}, "module 'networks' has no attribute 'large'"),
        ("networks:F", {}, "networks:F must be callable, got module"),
        ("networks:small", {"wide": 3}, "networks:small failed: TypeError: .*'wide'"),
        ("networks:small", {"width": -1}, "networks:small failed: "),
        ("builtins:dict", {}, "builtins:dict must return a torch.nn.Module, got dict"),
        ("sys:exit", {}, "sys:exit failed: SystemExit"),
    ],
)
def test_targets_that_fail(target: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Builder(target, arguments)()


def test_modules_in_the_working_directory_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_small_networks.py").write_text("from torch.nn import Identity as make\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        assert isinstance(Builder("my_small_networks:make")(), nn.Identity)
    finally:
        sys.modules.pop("my_small_networks", None)
    assert sys.path == before


def test_they_cannot_pose_as_modules_that_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a file beside an exported architecture would run as if it were trusted."""
    (tmp_path / "this.py").write_text("def make(): raise AssertionError('it ran')\n")
    (tmp_path / "wave.py").write_text("def make(): raise AssertionError('it ran')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with pytest.raises(ModelError, match="module 'wave' has no attribute 'make'"):
        Builder("wave:make")()
    sys.modules.pop("wave", None)


def test_a_working_directory_that_was_on_the_path_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    Builder("networks:small")()
    assert sys.path == before
