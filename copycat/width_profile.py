"""WidthProfile: the shape of a network, as numbers that a person can read and edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning.channel_graph import ChannelGraph
from pruning.errors import ProfileError
from pruning.structures import KINDS, Structure

_MOST_CHANNELS = 2**31 - 1


@dataclass(frozen=True)
class WidthProfile:
    """Width per channel group; groups that are left out are as wide as in the base network.

    removed: layers, branches and blocks that are gone (see pruning.remove_structures).
    Source: the retained-channel profile of Crowley et al., "Pruning neural networks: is it
    time to nip it in the bud?", fig. 2c.
    """

    widths: Mapping[str, int]
    removed: tuple[Structure, ...] = ()

    def __post_init__(self) -> None:
        by_kind = sorted(self.removed, key=lambda structure: KINDS.index(structure.kind))
        object.__setattr__(self, "removed", tuple(by_kind))  # as in JSON
        for name, width in self.widths.items():
            is_number = isinstance(width, int) and not isinstance(width, bool)
            if not is_number or not 1 <= width <= _MOST_CHANNELS:
                raise ProfileError(
                    f"the width of group {name!r} must be a whole number from 1 to "
                    f"{_MOST_CHANNELS}, got {width!r}"
                )

    @classmethod
    def of(cls, graph: ChannelGraph, names: tuple[str, ...] | None = None) -> WidthProfile:
        """The full widths of these groups, or of all prunable ones."""
        chosen = names if names is not None else tuple(g.name for g in graph.prunable)
        return cls({name: graph.group(name).width for name in chosen})

    @classmethod
    def from_json(cls, text: str) -> WidthProfile:
        """Reads what `to_json` writes; ProfileError for anything else."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProfileError(f"a profile is not readable as JSON: {error}") from error
        return cls.from_mapping(content)

    @classmethod
    def from_mapping(cls, content: object) -> WidthProfile:
        """Reads what `to_mapping` writes; ProfileError for anything else."""
        if not isinstance(content, Mapping) or not isinstance(content.get("widths"), Mapping):
            raise ProfileError('a profile is a JSON object such as {"widths": {"conv1": 12}}')
        return cls(dict(content["widths"]), _structures(content.get("removed", {})))

    def to_json(self) -> str:
        """One group a line, in the order of the network."""
        return json.dumps(self.to_mapping(), indent=2)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able; removed structures are mentioned, by kind, only if there are any."""
        removed: dict[str, list[str]] = {}
        for structure in self.removed:
            removed.setdefault(structure.kind, []).append(structure.name)
        return {"widths": dict(self.widths), **({"removed": removed} if removed else {})}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name this shape; equal for equal profiles."""
        text = json.dumps(self.to_mapping(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _structures(content: object) -> tuple[Structure, ...]:
    if not isinstance(content, Mapping) or not all(
        kind in KINDS and isinstance(names, list) and all(isinstance(n, str) for n in names)
        for kind, names in content.items()
    ):
        raise ProfileError(
            f'"removed" must hold lists of names under {", ".join(KINDS)}, got {content!r}'
        )
    return tuple(Structure(kind, name) for kind in KINDS for name in content.get(kind, []))
