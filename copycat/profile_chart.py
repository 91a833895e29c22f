"""The retained-channel profile as text, for terminals and logs; as pictures see search.pictures."""

from __future__ import annotations

from copycat.width_profile import WidthProfile
from pruning.channel_graph import ChannelGraph

_FULL, _EMPTY = "█", "·"


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
