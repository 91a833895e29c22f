"""What must stay of a network: layers that keep all their channels, and shares that others keep."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pruning.errors import ConfigError

if TYPE_CHECKING:
    from pruning.graph.channel_graph import ChannelGraph, ChannelGroup

_ROUNDING = 1e-9
"""What a share such as 0.3 of ten channels may lack of a whole number."""

_CAP = re.compile(r"(?P<pattern>.+)=\s*(?P<percent>\d+(?:\.\d*)?|\.\d+)\s*%")


@dataclass(frozen=True)
class Restrictions:
    """What may not go, by patterns of the names of layers, such as "layer4.*" or "*.downsample.*".

    A pattern means the layers that it fits and all inside them.

    ignore: patterns of layers that stay as they are: no channels go that they produce, read or
        otherwise hold a parameter along.
    max_removed: per pattern the largest share, in [0, 1], of the channels of each group that may
        go which these layers produce. Where several fit a group, the least counts.
    only: patterns of layers outside of which nothing goes: of a group that has another producer no
        channels do. Nothing is outside where there are none.
    Raises ConfigError for other shares.
    """

    ignore: tuple[str, ...] = ()
    max_removed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern, share in self.max_removed.items():
            if not 0 <= share <= 1:
                raise ConfigError(
                    f"max_removed of {pattern!r} must be a share from 0 to 1, got {share!r}",
                    field="max_removed",
                )

    @classmethod
    def parse(
        cls, ignore: Iterable[str], max_removed: Iterable[str], only: Iterable[str] = ()
    ) -> Restrictions:
        """Restrictions from texts: patterns, and such as "layer4.*=50%"; ConfigError for others."""
        shares: dict[str, float] = {}
        for text in max_removed:
            match = _CAP.fullmatch(text.strip())
            if match is None:
                raise ConfigError(
                    f"max_removed must be PATTERN=SHARE, such as layer4.*=50%, got {text!r}",
                    field="max_removed",
                )
            shares[match["pattern"].strip()] = float(match["percent"]) / 100
        return cls(tuple(ignore), shares, tuple(only))

    def of(self, graph: ChannelGraph, base: ChannelGraph | None = None) -> ChannelGraph:
        """`graph` with groups that are pinned, or keep more channels than they would need.

        base: of the network that shares refer to, where that of `graph` came of it by pruning; the
            same layers are pruned then.
        """
        if base is not None:
            graph = graph.pruning_layers(base.pruned_layers)
        widths = (base or graph).widths
        changed = {}
        for group in graph.groups:
            restricted = self._restricted(group, widths.get(group.name, group.width))
            if restricted is not group:
                changed[group.name] = restricted
        return graph.with_groups(changed) if changed else graph

    def check(self, graph: ChannelGraph) -> None:
        """Raise ConfigError for a pattern that fits no layer with channels; close names are told.

        A pattern for layers without channels would be without effect: it is mistyped.
        """
        for option, patterns, parts in (
            ("ignore", self.ignore, _parts),
            ("max_removed", self.max_removed, _producing_parts),
            ("only", self.only, _producing_parts),
        ):
            known = list(dict.fromkeys(part for g in graph.groups for part in parts(g)))
            for pattern in patterns:
                if not fits(pattern, known):
                    close = difflib.get_close_matches(pattern, known, n=3)
                    hint = f": did you mean {', '.join(close)}?" if close else ""
                    raise ConfigError(
                        f"{option} names {pattern!r}, which is no layer with channels of the "
                        f"network{hint}",
                        field=option,
                    )

    def spares(self, module: str, names: Iterable[str]) -> bool:
        """Whether the module may not go as a whole: a pattern fits it or a part of it.

        Or none of `only` fits it. names: of all modules of the network.
        """
        if not self._is_offered(module):
            return True
        inside = (name for name in names if name.startswith(f"{module}."))
        candidates = {*prefixes(module), *inside}
        caps = (pattern for pattern, share in self.max_removed.items() if share < 1)
        return any(fits(pattern, candidates) for pattern in (*self.ignore, *caps))

    def inside(self, prefix: str) -> Restrictions:
        """The same for a network that holds this one as the module `prefix`."""
        return Restrictions(
            tuple(f"{prefix}.{pattern}" for pattern in self.ignore),
            {f"{prefix}.{pattern}": share for pattern, share in self.max_removed.items()},
            tuple(f"{prefix}.{pattern}" for pattern in self.only),
        )

    def _is_offered(self, module: str) -> bool:
        """Whether `only` does not forbid it."""
        return not self.only or any(fits(p, prefixes(module)) for p in self.only)

    def _restricted(self, group: ChannelGroup, width: int) -> ChannelGroup:
        if group.pinned is not None:
            return group
        held = list(_parts(group))
        for pattern in self.ignore:
            if fits(pattern, held):
                return dataclasses.replace(group, pinned=f"ignored ({pattern})")
        if not all(map(self._is_offered, group.producers or (group.name,))):
            return dataclasses.replace(group, pinned=f"not asked for (only {', '.join(self.only)})")
        produced = list(_producing_parts(group))
        caps = [(share, p) for p, share in self.max_removed.items() if fits(p, produced)]
        if not caps:
            return group
        share, pattern = min(caps)
        units = width // group.unit
        least = min(group.num_units, units - math.floor(share * units + _ROUNDING))
        if least <= group.min_units:
            return group
        why = f"at most {100 * share:g}% of its {width} may go (max_removed {pattern})"
        return dataclasses.replace(group, min_units=least, why_no_fewer=why)


def fits(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern such as "layer4.*" fits one of these names."""
    return any(fnmatchcase(name, pattern) for name in names)


def _parts(group: ChannelGroup) -> Iterator[str]:
    """All layers of a group, and the modules that they are in."""
    for layer in dict.fromkeys((*group.producers, *group.layers)):
        yield from prefixes(layer)


def _producing_parts(group: ChannelGroup) -> Iterator[str]:
    """The layers that produce a group, and the modules that they are in."""
    for layer in group.producers:
        yield from prefixes(layer)


def prefixes(name: str) -> Iterator[str]:
    """layer4, layer4.0 and layer4.0.conv1 for the last of these."""
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
