"""Profiles as JSON that people may edit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from architectures import BY_NAME
from hypothesis import given
from hypothesis import strategies as st

from copycat import WidthProfile
from pruning.errors import PlanError, ProfileError
from pruning.structures import KINDS, Structure

WIDTHS = st.dictionaries(st.text(), st.integers(1, 2**31 - 1), max_size=8)


@given(WIDTHS, st.lists(st.builds(Structure, st.sampled_from(KINDS), st.text()), max_size=4))
def test_json_round_trip(widths: dict[str, int], removed: list[Structure]) -> None:
    profile = WidthProfile(widths, tuple(removed))
    again = WidthProfile.from_json(profile.to_json())
    assert again == profile
    assert list(again.widths) == list(widths)
    assert again.digest == profile.digest


def test_json_is_one_group_a_line() -> None:
    text = WidthProfile({"conv1": 12, "layer1.0.conv1": 7}).to_json()
    assert '    "conv1": 12,\n    "layer1.0.conv1": 7\n' in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a profile is not readable as JSON"),
        ('{"widths": {"a": 1}', "a profile is not readable as JSON"),
        ("[" * 100_000, "a profile is not readable as JSON"),
        ("[]", r'a profile is a JSON object such as {"widths": {"conv1": 12}}'),
        ("{}", "a profile is a JSON object such as"),
        ('{"widths": {}, "removed": "b"}', '"removed" must hold lists of names under layer, br'),
        ('{"widths": {}, "removed": {"branch": [1]}}', '"removed" must hold lists of names'),
        ('{"widths": {}, "removed": {"twig": ["a"]}}', '"removed" must hold lists of names'),
        ('{"widths": [1, 2]}', "a profile is a JSON object such as"),
        ('{"widths": {"a": ' + "9" * 5000 + "}}", "a profile is not readable as JSON"),
        ('{"widths": {"a": 0}}', "the width of group 'a' must be a whole number from 1 to .*got 0"),
        ('{"widths": {"a": -3}}', "got -3"),
        ('{"widths": {"a": 2147483648}}', "got 2147483648"),
        ('{"widths": {"a": 1.0}}', "got 1.0"),
        ('{"widths": {"a": true}}', "got True"),
        ('{"widths": {"a": null}}', "got None"),
        ('{"widths": {"a": "7"}}', "got '7'"),
        ('{"widths": {"a": NaN}}', "got nan"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        WidthProfile.from_json(text)


def test_widths_are_whole_numbers_of_python() -> None:
    with pytest.raises(ProfileError, match="the width of group 'a'"):
        WidthProfile({"a": np.float64(3.0)})  # type: ignore[dict-item]


@given(WIDTHS.filter(bool))
def test_the_digest_names_the_shape(widths: dict[str, int]) -> None:
    profile = WidthProfile(widths)
    assert len(profile.digest) == 8
    assert WidthProfile(dict(reversed(widths.items()))).digest == profile.digest
    name = next(iter(widths))
    changed = WidthProfile({**widths, name: widths[name] % 2**30 + 1})
    assert (changed.digest == profile.digest) == (changed == profile)


def test_the_digest_is_the_same_in_every_process() -> None:
    expected = hashlib.sha256(b'{"widths": {"a": 1, "b": 2}}').hexdigest()
    assert WidthProfile({"b": 2, "a": 1}).digest == expected[:8]
    assert WidthProfile({"b": 2, "a": 1}, (Structure("branch", "c"),)).digest != expected[:8]


def test_of_a_graph() -> None:
    graph = BY_NAME["chain"].graph
    assert WidthProfile.of(graph) == WidthProfile({"conv1": 6, "conv2": 5})
    assert WidthProfile.of(graph, ("conv2",)) == WidthProfile({"conv2": 5})
    with pytest.raises(PlanError, match="no channel group 'conv3'"):
        WidthProfile.of(graph, ("conv3",))
