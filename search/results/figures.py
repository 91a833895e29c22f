"""Pictures of what methods find unimportant, remove and keep; each as PNG and as SVG.

Every picture takes plain results and a path without suffix, and returns the two files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from copycat.architecture import read
from copycat.width_profile import WidthProfile
from pruning.cost import format_count
from search.results.report import Results
from search.storage.layout import SCORES_FILE
from search.trials.jobs import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CurvePoint = tuple[float, float, float]
"""Parameters, test error and its deviation over runs, the latter two in %."""

Widths = Mapping[str, int]
"""Channels per layer (channel group), in the order of the network."""

_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito's, told apart by all
_COEFFICIENTS = {
    "pearson": (_BLUE, "o", -0.22),
    "spearman": (_ORANGE, "s", 0.0),
    "kendall": (_GREEN, "^", 0.22),
}
"""Colour, marker and distance from the middle of a row."""
_OF_KIND = {
    "fine-tuned": (_ORANGE, "o"),
    "from-scratch": (_BLUE, "s"),
    "copycat": ("#cc79a7", "^"),
    "uniform": ("#e69f00", "x"),
    "bottleneck": (_GREEN, "D"),
}
_FURTHER = (("#56b4e9", "v"), ("#000000", "+"), ("#7f7f7f", "*"), ("#8c564b", "P"))
"""Colour and marker of each kind of network, and of kinds beyond those."""
_GREY = "#dddddd"
_NUM_BINS = 40
_COMPARABLE = 10.0
"""Scores whose largest values differ by no more than this factor share an axis."""
_MOST_LABELS = 80
_LONGEST_LABEL = 48
_MOST_NUMBERS = 24
"""Layers up to which the cells of a table of colours have room for numbers."""


def importance_histogram(scores: Mapping[str, Sequence[float]], stem: Path) -> tuple[Path, Path]:
    """How many channels have which importance, a panel per label.

    scores: per label (a method, say) one score per channel.
    Source: RNI, "Receding Neuron Importances for Structured Pruning", figures 2 (right) and 4.
    """
    return _saved(histogram_figure(scores), stem)


def removed_share(
    profiles: Mapping[str, Widths], base_widths: Widths, stem: Path
) -> tuple[Path, Path]:
    """The percentage of filters that is removed from each layer, a row per label, in colours.

    profiles: per label (a method, say) the widths that are left; layers left out are whole.
    Source: RNI, figure 5.
    """
    return _saved(removed_figure(profiles, base_widths), stem)


def retained_profile(profile: Widths, base_widths: Widths, stem: Path) -> tuple[Path, Path]:
    """What remains of each layer: the percentage of its channels above, their number below.

    profile: the widths that are left; layers left out are whole.
    Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 2c.
    """
    return _saved(retained_figure(profile, base_widths), stem)


def correlation_chart(metrics: Mapping[str, Mapping[str, float]], stem: Path) -> tuple[Path, Path]:
    """Correlations with the oracle, per layer and over all layers, a row per label.

    metrics: per label the coefficients by names such as pearson_per_layer and pearson_all.
    """
    return _saved(correlation_figure(metrics), stem)


def family_curves(
    curves: Mapping[str, Sequence[CurvePoint]], stem: Path, *, note: str = ""
) -> tuple[Path, Path]:
    """Test error against parameters, a line per label with bars for the deviation over runs.

    curves: per label (kind of network) its points.  note: below the title's place, in small.
    Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 1.
    """
    return _saved(family_figure(curves, note=note), stem)


def draw_all(directory: Path, results: Results, base_widths: Widths) -> list[Path]:
    """Every picture that a search has data for; the files, in the folder `pictures`.

    directory: of the search. Each method is shown by its trial of highest validation accuracy
    among those that stored their scores.
    """
    best = _best_trials(directory, results)
    folder = directory / "pictures"
    files: list[Path] = []
    if best:
        scores = {name: _flat(stored["scores"]) for name, (_, stored) in best.items()}
        widths = {
            name: widths_left(_profile(directory, outcome), base_widths)
            for name, (outcome, _) in best.items()
        }
        files += importance_histogram(scores, folder / "importances")
        files += removed_share(widths, base_widths, folder / "removed")
    tuned = [outcome for outcome in results.front if outcome.origin == "fine-tuned"]
    if tuned:
        chosen = _profile(directory, max(tuned, key=_quality))
        files += retained_profile(
            widths_left(chosen, base_widths), base_widths, folder / "retained"
        )
    return files


def widths_left(profile: WidthProfile, base_widths: Widths) -> dict[str, int]:
    """Channels that `profile` leaves in each layer: none in layers of what is removed."""
    gone = tuple(f"{structure.name}." for structure in profile.removed)
    return {
        name: profile.widths.get(name, 0 if f"{name}.".startswith(gone) else width)
        for name, width in base_widths.items()
    }


def _best_trials(directory: Path, results: Results) -> dict[str, tuple[Outcome, Mapping[str, Any]]]:
    """Per method its best trial and what that one stored of its scores."""
    found: dict[str, tuple[Outcome, Mapping[str, Any]]] = {}
    tuned = (outcome for outcome in results.everything if outcome.origin == "fine-tuned")
    for outcome in sorted(tuned, key=_quality, reverse=True):
        file = directory / outcome.path / SCORES_FILE
        if file.exists():
            stored = json.loads(file.read_text(encoding="utf-8"))
            found.setdefault(stored["criterion"], (outcome, stored))
    return dict(sorted(found.items()))


def _quality(outcome: Outcome) -> tuple[float, int]:
    return outcome.validation_accuracy, -outcome.flops


def _profile(directory: Path, outcome: Outcome) -> WidthProfile:
    return read(directory / outcome.path).profile


def _flat(scores: Mapping[str, Sequence[float]]) -> list[float]:
    return [value for values in scores.values() for value in values]


def histogram_figure(scores: Mapping[str, Sequence[float]]) -> Figure:
    """The figure of `importance_histogram`; panels in the order of `scores`."""
    shared = _is_comparable(scores)
    figure = _figure(7.5, 0.9 + 1.5 * len(scores))
    panels = figure.subplots(len(scores), 1, sharex=shared, squeeze=False)[:, 0]
    everything = np.concatenate([np.asarray(values, float) for values in scores.values()])
    for axes, (label, values) in zip(panels, scores.items(), strict=True):
        edges = np.histogram_bin_edges(everything if shared else values, _NUM_BINS)
        axes.hist(values, bins=edges, color=_BLUE)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set_title(f"{label}: {len(values):,} channels", loc="left", fontsize=10)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("importance of a channel" + ("" if shared else ", each method's own"))
    figure.supylabel("channels (logarithmic)", fontsize=10)
    return figure


def removed_figure(profiles: Mapping[str, Widths], base_widths: Widths) -> Figure:
    """The figure of `removed_share`: rows in the order of `profiles`, layers in the network's."""
    shares = np.array(
        [
            [100 * (1 - widths.get(name, base) / base) for name, base in base_widths.items()]
            for widths in profiles.values()
        ]
    )
    height = 1.6 + 0.36 * len(profiles) + _height_of(base_widths)
    figure = _figure(_width_for(len(base_widths)), height)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_yticks(range(len(profiles)), list(profiles))
    _name_layers(axes, list(base_widths))
    axes.set_xlabel("layer, from input to output")
    axes.tick_params(length=0)
    if len(base_widths) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label="filters removed (%)", location="top", aspect=40)
    return figure


def retained_figure(profile: Widths, base_widths: Widths) -> Figure:
    """The figure of `retained_profile`: percentages in the first axes, numbers in the second."""
    names, base = list(base_widths), np.array(list(base_widths.values()))
    left = np.array([profile.get(name, width) for name, width in base_widths.items()])
    figure = _figure(_width_for(len(names)), 4.6 + _height_of(names))
    share, number = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(names))
    share.bar(places, np.full(len(names), 100), color=_GREY)
    share.bar(places, 100 * left / base, color=_BLUE)
    share.set_ylabel("channels that remain (%)")
    share.set_ylim(0, 100)
    number.bar(places, base, color=_GREY, label="before pruning")
    number.bar(places, left, color=_BLUE, label="after pruning")
    number.set_ylabel("channels")
    number.set_xlabel("layer, from input to output")
    _name_layers(number, names)
    number.set_xlim(-0.6, len(names) - 0.4)
    for axes in (share, number):
        axes.grid(axis="y", alpha=0.25)
    share.set_title(f"{left.sum():,} of {base.sum():,} channels remain", loc="left", fontsize=10)
    handles = number.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, frameon=False)
    return figure


def correlation_figure(metrics: Mapping[str, Mapping[str, float]]) -> Figure:
    """The figure of `correlation_chart`: per layer in the first axes, all layers in the second."""
    figure = _figure(8.5, 1.7 + 0.36 * len(metrics))
    both = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, suffix, title in zip(
        both, ("per_layer", "all"), ("mean over layers", "all layers together"), strict=True
    ):
        for name, (colour, marker, offset) in _COEFFICIENTS.items():
            values = [found.get(f"{name}_{suffix}", math.nan) for found in metrics.values()]
            places = np.arange(len(values)) + offset
            axes.plot(values, places, marker, color=colour, label=name.capitalize())
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("correlation with the oracle")
        axes.grid(axis="x", alpha=0.25)
        for line in np.arange(len(metrics) - 1) + 0.5:
            axes.axhline(line, color=_GREY, linewidth=0.8, zorder=0)
        axes.tick_params(axis="y", length=0)
    lowest = min((value for found in metrics.values() for value in found.values()), default=0.0)
    both[0].set_xlim(min(0.0, lowest) - 0.05, 1.05)
    both[0].set_yticks(range(len(metrics)), list(metrics))
    both[0].set_ylim(len(metrics) - 0.5, -0.5)
    handles = both[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=3, frameon=False)
    return figure


def family_figure(curves: Mapping[str, Sequence[CurvePoint]], *, note: str = "") -> Figure:
    """The figure of `family_curves`; lines in the order of `curves`, points as they are given."""
    from matplotlib.ticker import FuncFormatter, LogLocator  # noqa: PLC0415 - used once

    figure = _figure(7.5, 5.0)
    axes = figure.subplots()
    for number, (label, points) in enumerate(curves.items()):
        rest = _FURTHER[number % len(_FURTHER)]
        colour, marker = _OF_KIND.get(label, rest)
        params, errors, deviations = zip(*points, strict=True)
        axes.errorbar(
            params, errors, yerr=deviations, color=colour, marker=marker, label=label, capsize=3
        )
    axes.set_xscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))  # more labels would overlap
    axes.tick_params(axis="x", which="both", length=3.5, pad=3.5)  # labels on one line
    axes.set_xlabel("parameters")
    axes.set_ylabel("test error (%)")
    every = [error for points in curves.values() for _, error, _ in points]
    if 0 < _COMPARABLE * min(every) < max(every):  # else one bad point would hide the rest
        axes.set_yscale("log", nonpositive="clip")
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(note, loc="left", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _is_comparable(scores: Mapping[str, Sequence[float]]) -> bool:
    largest = [float(np.abs(values).max()) for values in scores.values()]
    return max(largest) <= _COMPARABLE * min(largest)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second to import, used once

    return Figure(figsize=(width, height), layout="constrained")


def _width_for(num_layers: int) -> float:
    """Inches that let the names of so many layers stand side by side."""
    return min(24.0, max(7.5, 2.0 + 0.2 * num_layers))


def _height_of(names: Iterable[str]) -> float:
    """Inches that the longest of these names needs when it stands upright."""
    return 0.07 * max(len(_shortened(name)) for name in names)


def _name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Ticks under the layers, every so many if there are more than can be read."""
    step = -(-len(names) // _MOST_LABELS)
    shown = range(0, len(names), step)
    labels = [_shortened(names[place]) for place in shown]
    axes.set_xticks(list(shown), labels, rotation=90, fontsize=8)


def _shortened(name: str) -> str:
    """A long name without its middle: both ends tell layers apart."""
    if len(name) <= _LONGEST_LABEL:
        return name
    half = (_LONGEST_LABEL - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _saved(figure: Figure, stem: Path) -> tuple[Path, Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg"))
    figure.savefig(png, dpi=150)
    figure.savefig(svg, metadata={"Date": None})
    return png, svg
