"""Pictures: what their axes hold, and that they are written as PNG and SVG."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from samples import ABSOLUTE_ERROR, MEAN_IOU, base_outcome, outcome, small_config, stored_outcome

from copycat import WidthProfile
from pruning import Cost
from pruning.structure_removal.structures import Structure
from search.results import figures, pictures
from search.results.report import Results
from search.storage.layout import SCORES_FILE
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome
from search.trials.preflight import Preflight

BASE = {"conv1": 10, "conv2": 20, "conv3": 40}


def heights(axes) -> list[list[float]]:
    """Of each series of bars."""
    return [[bar.get_height() for bar in bars] for bars in axes.containers]


def tick_labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def overlapping(figure: Figure, labels) -> list[tuple[str, str]]:
    """Pairs of neighbouring labels whose drawings meet."""
    figure.draw_without_rendering()
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
    pairs = itertools.pairwise(boxes)
    return [(a, b) for (a, first), (b, second) in pairs if first.overlaps(second)]


def test_a_histogram_counts_every_channel_on_one_axis_where_scores_compare():
    scores = {"L1": [0.0, 0.1, 0.1, 0.4], "RNI": [0.0, 0.0, 0.0, 1.0, 1.0]}
    figure = figures.histogram_figure(scores)
    first, second = figure.axes
    for axes, values in zip((first, second), scores.values(), strict=True):
        (bars,) = axes.containers
        assert sum(bar.get_height() for bar in bars) == len(values)
        edges = [bar.get_x() for bar in bars]
        assert (edges[0], bars[-1].get_x() + bars[-1].get_width()) == pytest.approx((0, 1))
    assert [bars[0].get_height() for bars in second.containers] == [3]
    assert [bars[-1].get_height() for bars in second.containers] == [2]
    assert first.get_xlim() == second.get_xlim()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "L1: 4 channels",
        "RNI: 5 channels",
    ]


def test_scores_of_other_sizes_have_axes_of_their_own():
    figure = figures.histogram_figure({"RNI": [0.0, 1.0], "taylor": [1e-7, 2e-7, -1e-7]})
    first, second = figure.axes
    assert second.get_xlim()[1] < 1e-6 < first.get_xlim()[1]
    assert "each method's own" in second.get_xlabel()


def test_constant_scores_can_be_drawn():
    figure = figures.histogram_figure({"RNI": [0.0, 0.0]})
    assert sum(heights(figure.axes[0])[0]) == 2


def test_shares_of_removed_filters_are_a_row_per_method_and_a_column_per_layer():
    profiles = {"rni": {"conv1": 5, "conv2": 20, "conv3": 10}, "ucs": {"conv2": 0}}
    figure = figures.removed_figure(profiles, BASE)
    axes = figure.axes[0]
    (image,) = axes.get_images()
    assert image.get_array().tolist() == [[50, 0, 75], [0, 100, 0]]
    assert image.get_clim() == (0, 100)
    assert tick_labels(axes.yaxis) == ["rni", "ucs"]
    assert tick_labels(axes.xaxis) == list(BASE)
    assert [text.get_text() for text in axes.texts] == ["50", "0", "75", "0", "100", "0"]


def test_a_retained_profile_shows_shares_above_numbers():
    figure = figures.retained_figure({"conv1": 5, "conv3": 10}, BASE)
    share, number = figure.axes
    assert heights(share) == [[100, 100, 100], [50, 100, 25]]
    assert heights(number) == [[10, 20, 40], [5, 20, 10]]
    assert tick_labels(number.xaxis) == list(BASE)
    assert share.get_title(loc="left") == "35 of 70 channels remain"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before pruning", "after pruning"]


@pytest.mark.parametrize("num_layers", [1, 50, 300])
def test_names_of_many_layers_do_not_meet(num_layers: int):
    base = {f"features.denseblock{n % 4}.denselayer{n}.conv1": 64 for n in range(num_layers)}
    for figure in (
        figures.retained_figure(base, base),
        figures.removed_figure({"rni": base, "slimming": base}, base),
    ):
        axes = figure.axes[-1] if len(figure.axes[0].containers) else figure.axes[0]
        labels = axes.xaxis.get_ticklabels()
        assert len(labels) == min(num_layers, 75 if num_layers == 300 else num_layers)
        assert overlapping(figure, labels) == []


def test_correlations_are_drawn_per_layer_and_over_all():
    metrics = {"taylor": {"pearson_all": 0.9, "kendall_per_layer": -0.5}, "obd": {}}
    per_layer, over_all = figures.correlation_figure(metrics).axes
    drawn = {line.get_label(): line.get_xdata() for line in over_all.lines}
    assert np.array_equal(drawn["Pearson"], [0.9, np.nan], equal_nan=True)
    assert np.isnan(drawn["Kendall"]).all()
    drawn = {line.get_label(): line.get_xdata() for line in per_layer.lines}
    assert drawn["Kendall"][0] == -0.5
    assert tick_labels(per_layer.yaxis) == ["taylor", "obd"]
    assert per_layer.get_xlim()[0] < -0.5


@pytest.mark.parametrize("name", ["histogram", "removed", "retained", "correlation"])
def test_pictures_are_written_in_both_formats(tmp_path: Path, name: str):
    stem = tmp_path / "new" / "a.b"  # a dot does not end the name
    figure = {
        "histogram": lambda: figures.histogram_figure({"L1": [0.1], "RNI": [0.3]}),
        "removed": lambda: figures.removed_figure({"rni": {"conv1": 3}}, BASE),
        "retained": lambda: figures.retained_figure({"conv1": 3}, BASE),
        "correlation": lambda: figures.correlation_figure({"taylor": {"pearson_all": 1.0}}),
    }[name]()
    files = figures.saved(figure, stem)
    assert [file.name for file in files] == ["a.b.png", "a.b.svg"]
    with Image.open(files[0]) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    assert ElementTree.parse(files[1]).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert sorted(stem.parent.iterdir()) == sorted(files)


# ---- all of a search


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """What each picture is drawn of; nothing is written."""
    found: dict[str, tuple] = {}
    for name in ("histogram_figure", "removed_figure", "retained_figure"):

        def draw(*arguments: object, name: str = name) -> str:
            found[name] = arguments
            return name

        monkeypatch.setattr(pictures, name, draw)

    def save(name: str, stem: Path) -> tuple[Path, ...]:
        found[name] += (stem,)
        return (stem.with_suffix(".png"), stem.with_suffix(".svg"))

    monkeypatch.setattr(pictures, "saved", save)
    return found


def results(everything: list[Outcome], front: list[Outcome], score: Score = ACCURACY) -> Results:
    base = Cost(1, 1)
    return Results(base, "flops=10%", 1, tuple(everything), tuple(front), (), {}, score=score)


def test_the_front_is_drawn_by_the_scores_own_name_and_direction():
    points = [(100, 0.4), (200, 0.5), (300, 0.1)]
    found = [outcome(f"fine-tuned-{f}", flops=f, validation_score=v) for f, v in points]
    for score, title, front in (
        (ABSOLUTE_ERROR, "validation mean absolute error", [(100, 0.4), (300, 0.1)]),
        (MEAN_IOU, "validation mean IoU (%)", [(100, 40), (200, 50)]),
        (ACCURACY, "validation accuracy (%)", [(100, 40), (200, 50)]),
    ):
        (axes,) = figures.front_figure(results(found, found, score)).axes
        assert axes.get_ylabel() == title
        (line,) = axes.lines
        assert [*zip(*line.get_data(), strict=True)] == front
        (dots,) = axes.collections
        assert dots.get_offsets()[0].tolist() == [100, score.plotted(0.4)]


def test_the_base_network_is_drawn_beside_them():
    base = base_outcome(flops=900, validation_score=0.7)
    found = dataclasses.replace(results([outcome()], [outcome()]), base_network=base)
    (axes,) = figures.front_figure(found).axes
    (dots,) = (dots for dots in axes.collections if dots.get_label() == "base")
    assert dots.get_offsets().tolist() == [[900, 70]]


def test_of_errors_the_least_is_the_best_trial(
    tmp_path: Path, preflight: Preflight, drawn: dict[str, tuple]
):
    config = small_config(tmp_path)
    base = {name: preflight.graph.group(name).width for name in preflight.groups}
    first = preflight.groups[0]
    trials = [
        stored_outcome(config, preflight, number, base | {first: 3 + number}, error)
        for number, error in enumerate((0.4, 0.2, 0.3))
    ]
    for number, trial in enumerate(trials):
        stored = {"criterion": "rni", "scores": {first: [number]}}
        (config.directory / trial.path / SCORES_FILE).write_text(json.dumps(stored))
    pictures.draw_all(config.directory, results(trials, trials, ABSOLUTE_ERROR), base)
    scores, _ = drawn["histogram_figure"]
    assert scores == {"rni": [1]}
    profile, _, _ = drawn["retained_figure"]
    assert profile[first] == 4


def test_a_search_shows_the_best_trial_of_each_method(
    tmp_path: Path, preflight: Preflight, drawn: dict[str, tuple]
):
    config = small_config(tmp_path)
    names = preflight.groups
    base = {name: preflight.graph.group(name).width for name in names}
    trials = []
    for number, (criterion, accuracy) in enumerate(
        [("rni", 0.7), ("rni", 0.9), ("taylor", 0.8), (None, 0.95)]
    ):
        widths = base | {names[0]: 3 + number}
        trials.append(stored_outcome(config, preflight, number, widths, accuracy))
        if criterion is not None:
            scores = {names[0]: [number, 0.5], names[1]: [0.25]}
            file = config.directory / trials[-1].path / SCORES_FILE
            file.write_text(json.dumps({"criterion": criterion, "scores": scores}))
    scratch = outcome("from-scratch-3", origin="from-scratch", validation_score=0.99)

    found = pictures.draw_all(
        config.directory, results([*trials, scratch], [trials[0], trials[2], scratch]), base
    )
    folder = config.directory / "pictures"
    scores, stem = drawn["histogram_figure"]
    assert scores == {"rni": [1, 0.5, 0.25], "taylor": [2, 0.5, 0.25]}
    assert stem.parent == folder
    profiles, given, stem = drawn["removed_figure"]
    assert {name: widths[names[0]] for name, widths in profiles.items()} == {"rni": 4, "taylor": 5}
    assert (given, stem.parent) == (base, folder)
    profile, given, stem = drawn["retained_figure"]
    assert (profile, given, stem.parent) == (base | {names[0]: 5}, base, folder)
    assert len(found) == len({*found}) == 6


def test_what_has_no_data_is_left_out(
    tmp_path: Path, preflight: Preflight, drawn: dict[str, tuple]
):
    config = small_config(tmp_path)
    base = {name: preflight.graph.group(name).width for name in preflight.groups}
    scratch = outcome("from-scratch-0", origin="from-scratch")
    assert pictures.draw_all(config.directory, results([scratch], [scratch]), base) == []
    tuned = stored_outcome(config, preflight, 0, base, 0.5)
    assert len(pictures.draw_all(config.directory, results([tuned], [tuned]), base)) == 2
    assert {*drawn} == {"retained_figure"}


def test_nothing_is_left_of_layers_in_what_is_removed():
    base = {"stem": 4, "layer1.conv1": 8, "layer1.short": 8, "layer10.conv1": 8, "last": 4}
    profile = WidthProfile(
        {"layer1.short": 6}, (Structure("block", "layer1"), Structure("layer", "last"))
    )
    left = pictures.widths_left(profile, base)
    assert left == base | {"layer1.conv1": 0, "layer1.short": 6, "last": 0}
