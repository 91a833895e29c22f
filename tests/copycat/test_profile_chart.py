"""The text chart of a profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import BY_NAME

from copycat import WidthProfile
from copycat.profile_chart import figure, png_chart, text_chart
from pruning.errors import ArchitectureError, ProfileError
from pruning.structure_removal.structures import Structure


def test_a_line_per_group_with_share_and_number() -> None:
    graph = BY_NAME["chain"].graph
    chart = text_chart(WidthProfile({"conv1": 3}), graph, bar_width=4)
    assert chart.splitlines() == [
        "conv1  ██··  50.0%  3 of 6",
        "conv2  ████ 100.0%  5 of 5",
        "8 of 11 channels remain",
    ]


def test_wider_groups_and_removed_structures() -> None:
    graph = BY_NAME["chain"].graph
    profile = WidthProfile({"conv1": 12, "conv2": 1}, (Structure("block", "b"),))
    chart = text_chart(profile, graph, bar_width=5)
    assert chart.splitlines() == [
        "conv1  █████ 200.0%  12 of 6",
        "conv2  █····  20.0%   1 of 5",
        "removed block b",
        "13 of 11 channels remain",
    ]


def test_a_profile_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ProfileError, match="did you mean conv1"):
        text_chart(WidthProfile({"conv1x": 1}), BY_NAME["chain"].graph)


def test_the_picture_has_a_bar_of_every_group_from_input_to_output() -> None:
    graph = BY_NAME["chain"].graph
    profile = WidthProfile({"conv1": 12, "conv2": 1}, (Structure("block", "b"),))
    (axes,) = figure(profile, graph).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "conv2"]
    assert axes.yaxis_inverted()
    bars = {
        container.get_label(): [bar.get_width() for bar in container]
        for container in axes.containers
    }
    assert bars == {"beyond it": [12, 1], "in the base network": [6, 5], "kept": [6, 1]}
    assert [text.get_text() for text in axes.texts] == [" 12 of 6, 200%", " 1 of 5, 20%"]
    assert axes.get_title(loc="left") == "13 of 11 channels remain\nwithout block b"


def test_a_picture_is_a_png_and_a_disk_that_refuses_an_error(tmp_path: Path) -> None:
    graph, profile = BY_NAME["chain"].graph, WidthProfile({"conv1": 3})
    png_chart(profile, graph, tmp_path / "new" / "chart.png")
    assert (tmp_path / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ArchitectureError, match=r"cannot write .*chart\.png/x\.png"):
        png_chart(profile, graph, tmp_path / "new" / "chart.png" / "x.png")
    with pytest.raises(ProfileError, match="did you mean conv1"):
        png_chart(WidthProfile({"conv1x": 1}), graph, tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
