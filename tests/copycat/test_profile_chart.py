"""The text chart of a profile."""

from __future__ import annotations

import subprocess
import sys

import pytest
from architectures import BY_NAME

from copycat import WidthProfile
from copycat.profile_chart import text_chart
from pruning.errors import ProfileError
from pruning.structures import Structure


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


def test_no_picture_library_is_loaded() -> None:
    code = "import copycat.profile_chart, copycat.families, sys; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
