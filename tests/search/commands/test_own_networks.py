"""What commands say of a network of one's own, which only its owner can make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from samples import espalier, small_network

import copycat
from pruning import KeepPlan


@pytest.mark.parametrize(
    "command",
    [
        ("export", "own", "--out=copy"),
        ("export", "own", "--format=pt2", "--out=copy"),
        ("export", "own", "--as-python=net.py"),
        ("latency", "own"),
        ("inspect", "own"),
        ("family", "own", "--budgets=flops=50%"),
    ],
    ids=" ".join,
)
def test_one_line_says_that_the_network_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    copycat.save("own", KeepPlan({}), small_network(10), example_input=torch.zeros(1, 1, 8, 8))
    shown = espalier(*command)
    assert (shown.status, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert "own is of a network of one's own and does not say what makes it: in Python" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
