"""The retained-channel profile as text, for terminals and logs, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from copycat.width_profile import WidthProfile
from pruning.errors import ArchitectureError
from pruning.graph.channel_graph import ChannelGraph
from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

(matplotlib_figure,) = lazy_modules("matplotlib.figure")

_FULL, _EMPTY = "█", "·"
_KEPT, _LOST, _ADDED = "#0072b2", "#dddddd", "#56b4e9"
_ROW_INCHES, _MOST_INCHES = 0.22, 60.0
_SMALLEST_PRINT = 3.0


def text_chart(profile: WidthProfile, graph: ChannelGraph, *, bar_width: int = 40) -> str:
    """A line per group that can lose channels: a bar, the share and the number that are kept.

    graph: of the network without the structures that the profile removes. The bar of a group
    that is wider than in the base network is full; its share says by how much.
    Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 2c.
    Raises ProfileError for a profile that does not fit the graph.
    """
    profile.check(graph)
    names = [group.name for group in graph.prunable]
    widest = max(map(len, names), default=0)
    widths = [profile.widths.get(g.name, g.width) for g in graph.prunable]
    digits = len(str(max(widths, default=0)))
    lines, kept, total = [], 0, 0
    for group, width in zip(graph.prunable, widths, strict=True):
        share = width / group.width
        filled = min(bar_width, round(share * bar_width))
        bar = _FULL * filled + _EMPTY * (bar_width - filled)
        lines.append(
            f"{group.name:<{widest}}  {bar} {share:>6.1%}  {width:>{digits}} of {group.width}"
        )
        kept, total = kept + width, total + group.width
    lines += [f"removed {structure.kind} {structure.name}" for structure in profile.removed]
    return "\n".join([*lines, f"{kept:,} of {total:,} channels remain"])


def png_chart(profile: WidthProfile, graph: ChannelGraph, file: str | Path) -> None:
    """Writes `figure` as a PNG; ArchitectureError if the disk refuses."""
    drawn = figure(profile, graph)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(file, format="png", dpi=150)
    except OSError as error:
        raise ArchitectureError(f"cannot write {file}: {error}") from error


def figure(profile: WidthProfile, graph: ChannelGraph) -> Figure:
    """A row per group that can lose channels, from input to output: a bar, share and number kept.

    Bars are channels: what is kept in front of what the base network has, or, in a lighter blue,
    what a group has beyond that. Arguments, source and errors as for `text_chart`.
    """
    profile.check(graph)
    groups = graph.prunable
    base = [group.width for group in groups]
    kept = [profile.widths.get(group.name, group.width) for group in groups]
    inches = min(_MOST_INCHES, 1.3 + _ROW_INCHES * len(groups))
    drawn: Figure = matplotlib_figure.Figure(figsize=(8, inches), layout="constrained")
    axes = drawn.subplots()
    rows = range(len(groups))
    if any(width > full for width, full in zip(kept, base, strict=True)):
        axes.barh(rows, kept, color=_ADDED, label="beyond it")
    axes.barh(rows, base, color=_LOST, label="in the base network")
    least = [min(pair) for pair in zip(kept, base, strict=True)]
    axes.barh(rows, least, color=_KEPT, label="kept")
    print_size = max(_SMALLEST_PRINT, min(8.0, 8 * inches / (1.3 + _ROW_INCHES * len(groups))))
    for row, (width, full) in enumerate(zip(kept, base, strict=True)):
        text = f" {width} of {full}, {width / full:.0%}"
        axes.text(max(width, full), row, text, va="center", fontsize=print_size)
    axes.set_yticks(list(rows), [group.name for group in groups], fontsize=print_size)
    axes.set_ylim(len(groups) - 0.4, -0.6)  # the input's end at the top
    axes.margins(x=0.22)
    axes.set_xlim(left=0)
    axes.set_xlabel("channels")
    axes.spines[["top", "right"]].set_visible(False)
    removed = "".join(f"\nwithout {s.kind} {s.name}" for s in profile.removed)
    title = f"{sum(kept):,} of {sum(base):,} channels remain{removed}"
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8)
    return drawn
