"""`espalier doctor`: what a search finds on this machine, what is wrong, and the mend."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from pruning.lazy_imports import lazy_modules
from search.commands.common_options import RUNS
from search.commands.server_or_folder import Connection

if TYPE_CHECKING:
    from search.diagnosis import folders, hardware, network, packages, starts
    from search.diagnosis.finding import Finding
else:
    folders, hardware, network, packages, starts = lazy_modules(
        *("search.diagnosis.folders", "search.diagnosis.hardware", "search.diagnosis.network"),
        *("search.diagnosis.packages", "search.diagnosis.starts"),
    )

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.option("--start", "is_started", is_flag=True, help="also start Ray and MLflow's server")
@click.option("--mlflow-url", default="", help="MLflow server that searches are to log to")
@click.option(
    "--ray-address",
    default="",
    help="Ray cluster HOST:PORT that searches are to use, or http://HOST:PORT of its job server",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@RUNS
@click.pass_context
def doctor(
    context: click.Context,
    *,
    is_started: bool,
    mlflow_url: str,
    ray_address: str,
    as_json: bool,
    runs: str,
) -> None:
    """Look at this machine: what a search finds here, what is wrong, and the mend.

    Packages, devices, processors, memory, folders, ports and proxies; servers, where they are
    given. Nothing is changed. Exit status 1 says that there is a problem; warnings are none.
    """
    connection = context.find_object(Connection)
    findings = _findings(runs, mlflow_url, ray_address, connection, is_started=is_started)
    all_of_them = [*findings] if as_json else _printed(findings)
    is_well = all(finding.state != "problem" for finding in all_of_them)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in all_of_them]
        click.echo(json.dumps({"is_well": is_well, "findings": rows}, indent=2))
    if not is_well:
        sys.exit(1)


def _findings(
    runs: str,
    mlflow_url: str,
    ray_address: str,
    connection: Connection | None,
    *,
    is_started: bool,
) -> Iterator[Finding]:
    """One by one, as they are made: importing torch and starting Ray take seconds."""
    yield from packages.check_packages()
    yield hardware.check_processors()
    yield hardware.check_memory()
    yield hardware.check_shared_memory()
    yield hardware.check_open_files()
    yield from folders.check_runs(Path(runs))
    yield folders.check_temporary_folder()
    yield folders.check_home()
    yield from network.check_ports()
    yield from network.check_proxies()
    if mlflow_url:
        yield network.check_mlflow(mlflow_url)
    if ray_address:
        yield network.check_cluster(ray_address)
    if connection is not None and connection.url:
        yield network.check_service(connection.url, connection.token)
    torch = packages.check_torch()
    yield torch
    if torch.state == "ok":
        yield from hardware.check_devices()
    if is_started:
        yield starts.start_mlflow()
        if torch.state == "ok":
            yield starts.start_ray()


def _printed(findings: Iterable[Finding]) -> list[Finding]:
    """Print them; return them."""
    console, printed = Console(highlight=False), []
    for finding in findings:
        line = Text.assemble(
            (f"{finding.state:8} ", _STYLES[finding.state]), f"{finding.subject:16} {finding.found}"
        )
        if finding.wrong:
            line.append(f"\n{'':8}  wrong: {finding.wrong}\n{'':8}  mend:  {finding.mend}")
        console.print(line, soft_wrap=True)
        printed.append(finding)
    return printed
