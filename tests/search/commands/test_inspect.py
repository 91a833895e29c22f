"""`espalier inspect`: networks, architectures and profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import espalier, stored_outcome

from copycat import WidthProfile
from search.config.search_config import SearchConfig
from search.trials.preflight import Preflight

WIDTHS = (8, 8, 16, 16, 8, 8)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preflight: Preflight) -> Path:
    """An architecture in the folder of a search, as espalier search leaves it."""
    monkeypatch.chdir(tmp_path)
    config = SearchConfig(name="found", runs="espalier-runs")
    widths = dict(zip(preflight.groups, WIDTHS, strict=True))
    found = stored_outcome(config, preflight, 0, widths, 0.5)
    return config.directory / found.path


def test_a_network_is_described():
    shown = espalier("inspect", "digits-vgg", "--input", "1x8x8")
    assert shown.status == 0, shown.err
    assert shown.out.startswith("base network  2.39M FLOPs")


def test_networks_of_signals_and_rows_are_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    lines = (
        "from torch import nn",
        "def signals(in_channels, num_classes):",
        "    ends = nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, num_classes)",
        "    return nn.Sequential(nn.Conv1d(in_channels, 8, 3), *ends)",
        "def rows(in_channels, width, num_classes):",
        "    return nn.Sequential(nn.Linear(in_channels, width), nn.ReLU(), nn.Linear(width, 3))",
    )
    Path("nets_of_signals.py").write_text("\n".join(lines))
    shown = espalier("inspect", "nets_of_signals:signals", "--input=2x50", "--json")
    assert json.loads(shown.out)["base"]["params"] == 8 * (2 * 3 + 1) + 10 * 9
    arguments = ("--input=9", "--classes=3", "--model-arg=width=5", "--json")
    shown = espalier("inspect", "nets_of_signals:rows", *arguments)
    assert json.loads(shown.out)["base"]["params"] == 5 * 10 + 3 * 6


@pytest.mark.parametrize("by_name", [True, False])
def test_an_architecture_is_shown_by_what_it_keeps(stored: Path, by_name: bool):
    source = f"found/{stored.name}" if by_name else stored
    shown = espalier("inspect", source, "--png", "chart.png")
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith("features.conv1  ██████████·")
    assert lines[0].endswith("25.0%   8 of 32")
    assert lines[6] == "64 of 448 channels remain"
    assert "of the base network's" in lines[7]
    assert Path("chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_is_shown_on_its_network(stored: Path):
    profile = WidthProfile({"features.conv1": 5})
    Path("profile.json").write_text(profile.to_json())
    given = ("inspect", "digits-vgg", "--input=1x8x8", "--profile=profile.json")
    lines = espalier(*given).out.splitlines()
    assert lines[0].endswith("15.6%    5 of 32")
    assert lines[1].endswith("100.0%   32 of 32")
    content = json.loads(espalier(*given, "--json").out)
    assert content["widths"] == {"features.conv1": 5}
    assert content["params"] == 288_170 - 27 * (9 + 2 + 9 * 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits-vgg",), "a model needs --input, a sample's sizes, such as --input 3x224x224"),
        (("digits-vgg", "--input=1x8x8", "--png=x.png"), "--png draws what is kept: name an arch"),
        (
            ("digits-vgg", "--input=8y8"),
            "--input must be sizes of a sample, such as 3x224x224, got",
        ),
        (("digits-vgg", "--input=1x8"), "VGG cannot run on an example input of 1×1×8"),
        (("digits-vgg", "--input=1x8x8", "--profile=gone.json"), "gone.json is no architecture"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch, arguments, message: str):
    monkeypatch.chdir(tmp_path)
    shown = espalier("inspect", *arguments)
    assert (shown.status, shown.out) == (2, "")
    assert shown.err.startswith(f"espalier: {message}")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
