"""`espalier inspect`: what of a network can be pruned, or what a stored one has kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pruning.cost import format_count
from pruning.errors import ConfigError
from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS, TRUST, sample_shape
from search.commands.completions import networks
from search.commands.flags import refuse_without_effect, some_options
from search.config.family_config import FamilyConfig
from search.config.search_config import SearchConfig

if TYPE_CHECKING:
    import torch

    from copycat import profile_chart
    from pruning import tracing
    from search import models
    from search.studies import family_ladder
else:
    torch, profile_chart, tracing, models, family_ladder = lazy_modules(
        *("torch", "copycat.profile_chart", "pruning.tracing"),
        *("search.models", "search.studies.family_ladder"),
    )


@click.command()
@click.argument("network", metavar="MODEL_OR_ARCH", shell_complete=networks)
@click.option("--input", "shape", help="sizes of a sample of a MODEL: 3x224x224, 2x500, 9")
@click.option("--classes", default=10, show_default=True, help="number of classes of a MODEL")
@click.option("--profile", help="JSON file with widths: show what they keep of MODEL")
@click.option("--png", help="also draw what is kept to this file; for an ARCH or with --profile")
@TRUST
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@some_options(
    SearchConfig,
    ("model_arg", "count_attention", "ignore", "only", "max_removed", "exact", "whole_heads"),
)
@RUNS
def inspect(
    network: str,
    *,
    shape: str | None,
    classes: int,
    profile: str | None,
    png: str | None,
    trust: tuple[str, ...],
    as_json: bool,
    count_attention: bool | None,
    runs: str,
    **flags: Any,
) -> None:
    """Show the channel groups of MODEL: what can be pruned, what it costs, and why not.

    Of ARCH, an architecture's folder or SEARCH/NAME, and of a profile show what is kept of each;
    SEARCH/NAME@POINT is an iteratively pruned network on its way (see `espalier family`).
    """
    settings = {name: value for name, value in flags.items() if value is not None}
    counts = {"as_json": as_json, "count_attention": bool(count_attention)}
    if profile is not None:
        config = FamilyConfig(profile, model=network, **settings)
        names = tuple(map(str, range(classes)))
        sample = family_ladder.sample_of_sizes(_sizes(shape), names)
        _show(family_ladder.profile_subject(config, sample), png, **counts)
    elif (folder := family_ladder.architecture_folder(network, runs)) is not None:
        without = ("shape", "classes", "model_arg", "ignore", "only", "max_removed")
        refuse_without_effect(without, "on a stored network, which has its own")
        config = FamilyConfig(network, runs=runs, trust=trust, **settings)
        _show(family_ladder.stored_subject(config, folder), png, **counts)
    elif png is not None:
        raise ConfigError("--png draws what is kept: name an architecture, or give --profile")
    else:
        _describe(SearchConfig(model=network, **settings), _sizes(shape), classes, **counts)


def _show(
    subject: family_ladder.Subject, png: str | None, *, as_json: bool, count_attention: bool
) -> None:
    """What the subject's shape keeps of its base network."""
    graph = subject.base.graph_of(subject.profile)
    cost, base = graph.cost(subject.profile.widths), subject.base.graph.cost()
    inexact = graph.narrowed_inexactly(subject.profile.widths)
    if as_json:
        names = ("flops", "uncounted", "params", "channels")
        counts = {name: getattr(cost, name) for name in names}
        content = counts | subject.profile.to_mapping() | ({"inexact": inexact} if inexact else {})
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(profile_chart.text_chart(subject.profile, graph))
        for name in ("multiply_adds" if count_attention else "flops", "params", "channels"):
            value, whole = cost.of(name), base.of(name)
            click.echo(f"{format_count(value)} {name}, {value / whole:.1%} of the base network's")
        for note in cost.notes:
            click.echo(f"note: {note}")
        for name, why in inexact.items():
            click.echo(f"narrowed inexactly: {name} ({why})")
    if png is not None:
        profile_chart.png_chart(subject.profile, graph, png)
        click.echo(f"drawn in {Path(png)}", err=True)


def _describe(
    config: SearchConfig,
    sizes: tuple[int, ...],
    classes: int,
    *,
    as_json: bool,
    count_attention: bool,
) -> None:
    """What of a whole network can be pruned."""
    own = config.model_arguments
    builder = models.resolve(config.model, num_classes=classes, in_channels=sizes[0], own=own)
    graph = tracing.trace(builder(), torch.zeros(1, *sizes), **dataclasses.asdict(config.offered))
    config.offered.check(graph)
    config.restrictions.check(graph)
    graph = config.restrictions.of(graph)
    if as_json:
        click.echo(json.dumps(graph.summary(count_attention=count_attention), indent=2))
    else:
        click.echo(graph.describe(count_attention=count_attention))


def _sizes(shape: str | None) -> tuple[int, ...]:
    if shape is None:
        raise ConfigError("a model needs --input, a sample's sizes, such as --input 3x224x224")
    return sample_shape(shape)
