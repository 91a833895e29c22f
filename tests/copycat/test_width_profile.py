"""Profiles as JSON that people may edit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from architectures import BY_NAME
from hypothesis import given
from hypothesis import strategies as st

from copycat import WidthProfile
from pruning import KeepPlan, remove_channels, trace
from pruning.errors import PlanError, ProfileError
from pruning.structure_removal.structures import KINDS, Structure, remove_structures, structures

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
        ('{"widths": {}, "removed": "b"}', '"removed" must hold lists of names under layer, fu'),
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


@pytest.mark.parametrize("name", ["chain", "identity shortcut", "dense block", "channel shuffle"])
def test_of_a_plan_and_of_the_network_that_it_leaves(name: str) -> None:
    architecture = BY_NAME[name]
    graph = architecture.graph
    plan = KeepPlan(
        {
            group.name: tuple(np.flatnonzero(group.unit_of_channel > 0).tolist())
            for group in graph.prunable
        }
    )
    profile = WidthProfile(plan.widths)
    assert profile.widths == {g.name: g.width - g.unit for g in graph.prunable}
    pruned = remove_channels(architecture.make(), graph, plan)
    assert WidthProfile.of_network(pruned, architecture.example(), graph) == profile


def test_of_a_network_without_some_structures() -> None:
    architecture = BY_NAME["identity shortcut"]
    example = architecture.example()
    removed = structures(architecture.make(), example, ["layer"])[:1]
    assert removed
    smaller = remove_structures(architecture.make(), example, removed)
    left = trace(smaller, example)
    profile = WidthProfile.of_network(smaller, example, left, removed)
    assert profile == WidthProfile(WidthProfile.of(left).widths, removed)
    gone = set(architecture.graph.widths) - set(left.widths)
    if gone:
        with pytest.raises(ProfileError, match="name the structures that were removed"):
            WidthProfile.of_network(smaller, example, architecture.graph)


@given(data=st.data())
def test_differences(data: st.DataObject) -> None:
    graph = BY_NAME["dense block"].graph
    names = [group.name for group in graph.prunable]
    drawn = st.dictionaries(st.sampled_from(names), st.integers(1, 9))
    one, other = (WidthProfile(data.draw(drawn)) for _ in range(2))
    difference = one.difference(other, graph)
    assert {n: -d for n, d in difference.items()} == other.difference(one, graph)
    for name in names:
        widths = [p.widths.get(name, graph.widths[name]) for p in (one, other)]
        assert difference.get(name, 0) == widths[0] - widths[1]
        assert difference.get(name) != 0
    assert one.difference(one, graph) == {}


def test_the_mean_is_rounded_half_up_to_units() -> None:
    graph = BY_NAME["dense block"].graph  # stem 5, grow1 4, grow2 3
    profiles = [WidthProfile({"stem": 2, "grow1": 1}), WidthProfile({"stem": 3})]
    assert WidthProfile.mean(profiles, graph).widths == {"stem": 3, "grow1": 3}
    assert WidthProfile.mean(profiles[:1], graph) == profiles[0]
    normalised = BY_NAME["group normalisation"].graph  # units of 3
    wide = [WidthProfile({"first": 3 * units}) for units in (1, 1, 2)]
    assert WidthProfile.mean(wide, normalised).widths == {"first": 3}
    assert WidthProfile.mean(wide[1:], normalised).widths == {"first": 6}


def test_means_that_make_no_sense_are_refused() -> None:
    graph = BY_NAME["chain"].graph
    with pytest.raises(ProfileError, match="the mean of no profiles"):
        WidthProfile.mean([], graph)
    with pytest.raises(ProfileError, match="remove different structures"):
        WidthProfile.mean([WidthProfile({}), WidthProfile({}, (Structure("block", "b"),))], graph)
    with pytest.raises(ProfileError, match="does not fit the network"):
        WidthProfile.mean([WidthProfile({"conv9": 2})], graph)


@pytest.mark.parametrize(
    ("name", "widths", "message"),
    [
        ("chain", {"conv": 3}, "no channel group 'conv': did you mean conv2, conv1"),
        ("chain", {"zzz": 3}, "no channel group 'zzz': see graph.groups for the names"),
        ("identity shortcut", {"b": 3}, "'b' has no width of its own: .* tied to .*'stem'"),
        ("identity shortcut", {"bn": 3}, "'bn' has no width of its own: .* tied to .*'stem'"),
        ("uneven split", {"first": 3}, "group 'first' is pinned at 7 channels, got 3"),
        ("group normalisation", {"first": 4}, "in units of 3, got width 4"),
    ],
)
def test_an_edited_profile_is_held_against_the_network(name, widths, message) -> None:
    with pytest.raises(ProfileError, match=message):
        WidthProfile(widths).check(BY_NAME[name].graph)


def test_a_profile_that_fits_passes() -> None:
    for name in ("chain", "group normalisation", "uneven split"):
        graph = BY_NAME[name].graph
        profile = WidthProfile(graph.widths)
        profile.check(graph)  # raises for one that does not
        assert graph.cost(profile.widths) == graph.cost()
