"""The figures of searches and studies, drawn by matplotlib from plain results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from pruning.cost import format_count
from pruning.lazy_imports import lazy_modules
from search.results.report import Results
from search.results.styles import STYLES, style_of
from search.trials.pareto import front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

matplotlib_figure, ticker = lazy_modules("matplotlib.figure", "matplotlib.ticker")

CurvePoint = tuple[float, float, float]
"""Parameters, test error (or score) and its deviation over runs."""

Widths = Mapping[str, int]
"""Channels per layer (channel group), in the order of the network."""

_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito's, told apart by all
_COEFFICIENTS = {
    "pearson": (_BLUE, "o", -0.22),
    "spearman": (_ORANGE, "s", 0.0),
    "kendall": (_GREEN, "^", 0.22),
}
"""Colour, marker and distance from the middle of a row."""
_GREY = "#dddddd"
_LINE_COLOURS = (_BLUE, _ORANGE, _GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's; further lines are dashed."""
_NUM_BINS = 40
_COMPARABLE = 10.0
"""Scores whose largest values differ by no more than this factor share an axis."""
_MOST_LABELS = 80
_LONGEST_LABEL = 48
_MOST_NUMBERS = 24
"""Layers up to which the cells of a table of colours have room for numbers."""


def histogram_figure(
    scores: Mapping[str, Sequence[float]], *, axis: str = "importance of a channel"
) -> Figure:
    """How many channels have which importance, a panel per label, in the order of `scores`.

    scores: per label (a method, say) one score per channel.  axis: what they are.
    Source: RNI, "Receding Neuron Importances for Structured Pruning", figures 2 (right) and 4.
    """
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
    panels[-1].set_xlabel(axis + ("" if shared else ", each method's own"))
    figure.supylabel("channels (logarithmic)", fontsize=10)
    return figure


def removed_figure(profiles: Mapping[str, Widths], base_widths: Widths) -> Figure:
    """The percentage of filters that is removed from each layer, a row per label, in colours.

    profiles: per label (a method, say) the widths that are left; layers left out are whole.
    Source: RNI, figure 5.
    """
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
    """What remains of each layer: the percentage of its channels above, their number below.

    profile: the widths that are left; layers left out are whole.
    Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 2c.
    """
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
    """Correlations with the oracle, per layer and over all layers, a row per label.

    metrics: per label the coefficients by names such as pearson_per_layer and pearson_all.
    """
    figure = _figure(8.5, 1.7 + 0.36 * len(metrics))
    both = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, suffix, title in zip(
        both, ("per_layer", "all"), ("mean over layers", "all layers together"), strict=True
    ):
        for name, (colour, marker, offset) in _COEFFICIENTS.items():
            values = [
                coefficients.get(f"{name}_{suffix}", math.nan) for coefficients in metrics.values()
            ]
            places = np.arange(len(values)) + offset
            axes.plot(values, places, marker, color=colour, label=name.capitalize())
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("correlation with the oracle")
        axes.grid(axis="x", alpha=0.25)
        for line in np.arange(len(metrics) - 1) + 0.5:
            axes.axhline(line, color=_GREY, linewidth=0.8, zorder=0)
        axes.tick_params(axis="y", length=0)
    lowest = min(
        (value for coefficients in metrics.values() for value in coefficients.values()), default=0.0
    )
    both[0].set_xlim(min(0.0, lowest) - 0.05, 1.05)
    both[0].set_yticks(range(len(metrics)), list(metrics))
    both[0].set_ylim(len(metrics) - 0.5, -0.5)
    handles = both[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=3, frameon=False)
    return figure


def family_figure(
    curves: Mapping[str, Sequence[CurvePoint]],
    *,
    axis: str,
    note: str = "",
    names: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """Test error against parameters, a line per kind with bars for the deviation over runs.

    curves: per kind of network its points.  axis: what they show, such as test error (%).
    note: in the title's place, in small.  names: what kinds are called, by default as they are.
    Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 1.
    """
    figure = _figure(7.5, 5.0)
    axes = figure.subplots()
    further = [kind for kind in curves if kind not in STYLES]
    for kind, points in curves.items():
        style = style_of(kind, further.index(kind) if kind in further else 0)
        params, errors, deviations = zip(*points, strict=True)
        axes.errorbar(
            params,
            errors,
            yerr=deviations,
            color=style.colour,
            marker=style.marker,
            label=names.get(kind, kind),
            capsize=3,
        )
    _count_along(axes)
    axes.set_xlabel("parameters")
    axes.set_ylabel(axis)
    every = [error for points in curves.values() for _, error, _ in points]
    if 0 < _COMPARABLE * min(every) < max(every):  # else one bad point would hide the rest
        axes.set_yscale("log", nonpositive="clip")
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
    axes.set_title(note, loc="left", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def lines_figure(
    curves: Mapping[str, Sequence[CurvePoint]], *, across: str, up: str, most: float | None = None
) -> Figure:
    """Numbers along a line per label, in a band of their deviation over runs.

    curves: per label its points (x, y, deviation).  across, up: what x and y are.
    most: where the vertical axis ends; by default with the largest.
    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", figures 2 to 4;
    RNI, figure 2 (left).
    """
    figure = _figure(7.5, 5.0)
    axes = figure.subplots()
    for number, (label, points) in enumerate(curves.items()):
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        x, y, spread = (np.array(values) for values in zip(*points, strict=True))
        style = "-" if number < len(_LINE_COLOURS) else "--"
        axes.plot(x, y, style, color=colour, label=label)
        if spread.any():
            axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if most is not None:
        axes.set_ylim(0, most)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def bars_figure(bars: Mapping[str, tuple[float, float]], *, axis: str) -> Figure:
    """A bar per label with its deviation over runs.

    bars: per label (mean, deviation).  axis: what they show.  Source: RNI, figure 4 (right).
    """
    figure = _figure(max(5.0, 1.0 + 0.9 * len(bars)), 4.2)
    axes = figure.subplots()
    means, spreads = zip(*bars.values(), strict=True)
    axes.bar(range(len(bars)), means, yerr=spreads, color=_BLUE, capsize=3)
    axes.set_xticks(range(len(bars)), list(bars), fontsize=9)
    axes.set_ylabel(axis)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    return figure


def front_figure(results: Results) -> Figure:
    """The score in validation against FLOPs, origins in colours, the front as a line.

    The base network, which is on no front, is there to compare with.
    """
    figure = _figure(7.5, 4.8)
    axes = figure.subplots()
    points, score = front(results.everything, results.score), results.score
    axes.step(
        [o.flops for o in points],
        [score.plotted(o.validation_score) for o in points],
        where="post",
        color="#bbbbbb",
        linewidth=1.5,
        label="front",
        zorder=1,
    )
    for origin, style in STYLES.items():
        same = [o for o in results.networks if o.origin == origin]
        if same:
            axes.scatter(
                [o.flops for o in same],
                [score.plotted(o.validation_score) for o in same],
                color=style.colour,
                marker=style.marker,
                label=origin,
                zorder=2,
            )
    _count_along(axes)
    axes.set_xlabel("FLOPs (fvcore, eval mode, batch 1; 1 multiply-add = 1 FLOP)")
    axes.set_ylabel(score.axis("validation"))
    axes.set_title(f"Budget {results.budget} of {format_count(results.base.flops)} FLOPs")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _count_along(axes: Axes) -> None:
    """A logarithmic horizontal axis of counts such as 30k."""
    axes.set_xscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(ticker.FuncFormatter(lambda value, _: format_count(value)))
    axes.xaxis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5)))  # more labels would overlap
    axes.tick_params(axis="x", which="both", length=3.5, pad=3.5)  # labels on one line


def _is_comparable(scores: Mapping[str, Sequence[float]]) -> bool:
    largest = [float(np.abs(values).max()) for values in scores.values()]
    return max(largest) <= _COMPARABLE * min(largest)


def _figure(width: float, height: float) -> Figure:
    figure: Figure = matplotlib_figure.Figure(figsize=(width, height), layout="constrained")
    return figure


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


def saved(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes the figure as PNG and as SVG; stem: their path without suffix."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg"))
    figure.savefig(png, dpi=150)
    figure.savefig(svg, metadata={"Date": None})
    return png, svg
