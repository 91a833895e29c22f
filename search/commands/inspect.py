"""`espalier inspect`: what of a network can be pruned."""

from __future__ import annotations

import json
import re

import click

from pruning.errors import ConfigError


@click.command()
@click.argument("model")
@click.option("--input", "shape", required=True, help="image shape C×H×W, such as 3x224x224")
@click.option("--classes", default=10, show_default=True, help="number of classes")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def inspect(model: str, shape: str, classes: int, as_json: bool) -> None:
    """Show the channel groups of MODEL: what can be pruned, what it costs, and why not."""
    import torch  # noqa: PLC0415 - startup stays light

    from pruning.tracing import trace  # noqa: PLC0415
    from search.models import resolve  # noqa: PLC0415

    sizes = re.fullmatch(r"(\d+)[x×](\d+)[x×](\d+)", shape)
    if sizes is None or 0 in (numbers := [int(size) for size in sizes.groups()]):
        raise ConfigError(f"--input must be channels x height x width, got {shape!r}")
    network = resolve(model, num_classes=classes, in_channels=numbers[0])()
    graph = trace(network, torch.zeros(1, *numbers))
    click.echo(json.dumps(graph.summary(), indent=2) if as_json else graph.describe())
