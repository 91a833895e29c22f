"""The trajectory of an iteratively pruned network, beside it in its folder: any point of it can
be taken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from copycat.width_profile import WidthProfile
from pruning.cost import Budget, format_count
from pruning.errors import ArchitectureError, ConfigError, ProfileError
from pruning.graph.channel_graph import ChannelGraph
from pruning.iterative import TrajectoryPoint
from pruning.structure_removal.structures import Structure
from search.storage.layout import TRAJECTORY_FILE


def trajectory_rows(
    points: Sequence[TrajectoryPoint], removed: tuple[Structure, ...] = ()
) -> list[dict[str, Any]]:
    """JSON-able: a row for each pruning step, in order, each of which holds a profile.

    removed: structures that went before all of them.
    """
    return [
        {
            "step": step,
            "minibatches": point.minibatches,
            "channels_removed": point.removed,
            "flops": point.flops,
            "params": point.params,
            "score": point.score,
            **WidthProfile(point.widths, removed).to_mapping(),
        }
        for step, point in enumerate(points, start=1)
    ]


def stored_profile(folder: Path, point: str, base: ChannelGraph) -> WidthProfile:
    """The shape at a point of the trajectory of a stored architecture.

    point: the number of a pruning step, from 1, or a budget such as flops=30%, whose first network
        is meant.  base: of the whole network, which shares refer to.
    Raises ConfigError if there is no such point, ArchitectureError for a folder without a
    trajectory or with one that cannot be read, BudgetError for a malformed budget.
    """
    rows = _rows(folder)
    if not point.isdigit():
        limits = Budget.parse(*point.split(",")).absolute(base.cost())
        return _first_within(limits, rows, point)
    if not 1 <= int(point) <= len(rows):
        raise ConfigError(f"{folder} has points 1 to {len(rows)}, got @{point}", field="source")
    return WidthProfile.from_mapping(rows[int(point) - 1])


def _first_within(limits: Budget, rows: Sequence[dict[str, Any]], point: str) -> WidthProfile:
    unknown = [b.quantity for b in limits.bounds if b.quantity not in ("flops", "params")]
    if unknown:
        raise ConfigError(
            f"points of a trajectory are found by flops or params, got @{point}", field="source"
        )
    for row in rows:
        if all(row[bound.quantity] <= bound.value for bound in limits.bounds):
            return WidthProfile.from_mapping(row)
    last = ", ".join(f"{b.quantity}={format_count(rows[-1][b.quantity])}" for b in limits.bounds)
    raise ConfigError(
        f"no point of the trajectory is within {limits}: the last has {last}", field="source"
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    """All rows, of which at least one is there and each holds a profile and counts."""
    file = folder / TRAJECTORY_FILE
    if not file.is_file():
        raise ArchitectureError(
            f"{folder} has no trajectory ({TRAJECTORY_FILE}): only networks of the schedule "
            "iterative have points"
        )
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        for row in rows:
            WidthProfile.from_mapping(row)
            _ = row["flops"] + row["params"] + 0
        _ = rows[0]
    except (OSError, ValueError, RecursionError, TypeError, LookupError, ProfileError) as error:
        raise ArchitectureError(f"{file} cannot be read: {error}") from error
    return rows
