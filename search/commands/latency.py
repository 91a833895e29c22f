"""`espalier latency`: how long an architecture takes on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS, TRUST
from search.commands.completions import stored_networks
from search.commands.runs_folder import architecture_folder

if TYPE_CHECKING:
    from copycat import architecture as architectures
    from copycat import latency as latencies
else:
    architectures, latencies = lazy_modules("copycat.architecture", "copycat.latency")


@click.command()
@click.argument("architecture", metavar="ARCH", shell_complete=stored_networks)
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
    folder = architecture_folder(architecture, runs)
    latencies.read_latencies(folder)  # a damaged file is found before the time is spent
    measured = latencies.measured_latency(
        architectures.load(folder, trust=trust),
        architectures.read(folder).example_input,
        device=device,
        batch=batch,
        threads=threads,
        seconds=seconds,
    )
    console = Console(highlight=False)
    console.print(_table(measured))
    console.print(
        f"{measured.processor}, torch {measured.torch_version}; IQR: interquartile range",
        style="dim",
        markup=False,
    )
    latencies.record_latency(folder, measured)


def _table(latency: latencies.Latency) -> Table:
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
