"""`espalier latency`: how long an architecture takes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.commands.stored import RUNS, TRUST, stored_architecture

if TYPE_CHECKING:
    from rich.table import Table

    from copycat.latency import Latency


@click.command()
@click.argument("architecture", metavar="ARCH")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--batch", default=1, show_default=True, help="images in one run")
@click.option("--threads", default=1, show_default=True, help="CPU threads inside operators")
@click.option("--seconds", default=2.0, show_default=True, help="how long to measure")
@TRUST
@RUNS
def latency(
    architecture: str,
    *,
    device: str,
    batch: int,
    threads: int,
    seconds: float,
    trust: tuple[str, ...],
    runs: str,
) -> None:
    """Measure how long ARCH, SEARCH/NAME or a folder, takes here; stored beside it."""
    from rich.console import Console  # noqa: PLC0415 - startup stays light

    from copycat.architecture import load, read  # noqa: PLC0415
    from copycat.latency import measured_latency, read_latencies, record_latency  # noqa: PLC0415

    folder = Path(architecture)
    if not (folder / "architecture.json").exists():
        folder = stored_architecture(architecture, runs)
    read_latencies(folder)  # a damaged file is found before the time is spent
    model, example_input = load(folder, trust=trust), read(folder).example_input
    measured = measured_latency(
        model, example_input, device=device, batch=batch, threads=threads, seconds=seconds
    )
    console = Console(highlight=False)
    console.print(_table(measured))
    console.print(
        f"{measured.processor}, torch {measured.torch_version}; IQR: interquartile range",
        style="dim",
        markup=False,
    )
    record_latency(folder, measured)


def _table(latency: Latency) -> Table:
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table()
    cells = {
        "median ms": f"{latency.median_ms:.4g}",
        "IQR ms": f"{latency.iqr_ms:.2g}",
        "runs": f"{latency.num_runs:,}",
        "batch": str(latency.batch),
        "threads": str(latency.threads),
        "device": latency.device,
        "machine": latency.machine,
    }
    for name in cells:
        is_name = name in ("device", "machine")
        table.add_column(name, justify="left" if is_name else "right", overflow="fold")
    table.add_row(*cells.values())
    return table
