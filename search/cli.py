"""The command line: `espalier search | correlate | inspect | pareto | export | ui`.

Bad input gets one line on standard error and exit status 2.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from pruning.errors import ArchitectureError, ConfigError, EspalierError, SearchStateError
from search.config import (
    DataConfig,
    SearchConfig,
    TrainingConfig,
    from_mapping,
    read_toml,
)
from search.correlation_config import UNUSED_TRAINING, CorrelationConfig

_TABLES: dict[str, type] = {"data": DataConfig, "training": TrainingConfig}
_FLAG_NAMES = {"source": "data", "root": "data_root"}
_RUNS = click.option(
    "--runs", default="espalier-runs", show_default=True, help="folder that holds all searches"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="espalier")
def cli() -> None:
    """Search for Pareto-optimal smaller convolutional networks within a budget."""


def _options(cls: type[Any], without: tuple[str, ...] = ()) -> Callable[..., Any]:
    """One flag per field of `cls` and its tables; help and defaults stand there."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        tables = (("", cls), *_TABLES.items())
        options = [option for name, table in tables for option in _options_of(table, name, without)]
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _options_of(cls: type[Any], table: str, without: tuple[str, ...]) -> list[Callable[..., Any]]:
    return [
        _option_of(field, table)
        for field in dataclasses.fields(cls)
        if field.name not in _TABLES and field.name not in without
    ]


_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "int | None": int,
    "float": float,
    "tuple[str, ...]": str,
    "tuple[float, ...]": float,
}


def _option_of(field: dataclasses.Field[Any], table: str) -> Callable[..., Any]:
    flag = "--" + _FLAG_NAMES.get(field.name, field.name).replace("_", "-")
    destination = f"{table}__{field.name}" if table else field.name
    text = field.metadata["help"]
    if str(field.type).startswith("bool"):
        return click.option(f"{flag}/--no-{flag[2:]}", destination, default=None, help=text)
    many = str(field.type).startswith("tuple")
    default: Any = field.default
    shown = " ".join(map(str, default)) if many else default
    suffix = f"  [default: {shown}]" if shown not in (None, "") else ""
    return click.option(
        flag,
        destination,
        type=_TYPES[str(field.type)],
        multiple=many,
        default=None,
        help=text + suffix,
    )


@cli.command()
@click.option("--config", "config_file", type=click.Path(), help="TOML file; flags override it")
@_options(SearchConfig)
def search(config_file: str | None, **flags: Any) -> None:
    """Search for smaller networks within a budget; run it again to continue it."""
    from rich.console import Console  # noqa: PLC0415 - the commands below need none of this

    content = read_toml(config_file) if config_file else {}
    config = from_mapping(_overridden(content, flags), config_file or "the command line")
    console = Console(highlight=False)
    from search.runner import run  # noqa: PLC0415 - importing Ray takes seconds

    try:
        result = run(config, console=console)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. What was finished is kept in {config.directory}; "
            "the same command goes on from there.",
            err=True,
        )
        sys.exit(130)
    _print_result(result, config, console)


def _overridden(content: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The file's content with the flags that were given laid over it."""
    merged: dict[str, Any] = dict(content)
    for destination, value in flags.items():
        if value is None or value == ():
            continue
        table, _, name = destination.rpartition("__")
        given = list(value) if isinstance(value, tuple) else value
        if table:
            inner = merged.get(table, {})
            merged[table] = {**inner, name: given} if isinstance(inner, Mapping) else inner
        else:
            merged[name] = given
    return merged


def _print_result(result: Any, config: SearchConfig, console: Any) -> None:
    from search.report import FLOPS_NOTE, contest_table, front_table  # noqa: PLC0415 - as above

    results = result.results
    console.print(f"\nPareto front within {results.budget}", style="bold")
    console.print(front_table(result.front, results.base))
    console.print(FLOPS_NOTE, style="dim")
    console.print("\nTest accuracy of the best of each origin", style="bold")
    console.print(contest_table(results))
    console.print("\nVerdict", style="bold")
    console.print(result.verdict, markup=False)
    for note in results.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    for task, reason in results.failures.items():
        console.print(f"{task} failed: {reason}", style="yellow", markup=False)
    runs = "" if config.runs == SearchConfig.runs else f" --runs {config.runs}"
    console.print(
        f"\nStored in {result.path}\n"
        f"  see it in MLflow     espalier ui{runs}\n"
        f"  list the front       espalier pareto {config.name}{runs}\n"
        f"  take one with you    espalier export {config.name}/{result.front[0].key} "
        f"--out my-network{runs}",
        markup=False,
        soft_wrap=True,
    )


@cli.command()
@_options(CorrelationConfig, without=UNUSED_TRAINING)
def correlate(**flags: Any) -> None:
    """Show how well criteria predict what removing a channel does to the loss.

    The network is trained; then every channel of it is removed in turn, which is the oracle.
    """
    from rich.console import Console  # noqa: PLC0415 - as above

    from search.correlation_report import study_notes, study_table  # noqa: PLC0415
    from search.correlation_study import run  # noqa: PLC0415

    given = _overridden({}, flags)
    tables = {name: cls(**given.pop(name, {})) for name, cls in _TABLES.items()}
    config = CorrelationConfig(**given, **tables)
    console = Console(highlight=False)
    try:
        study = run(config, console=console)
    except KeyboardInterrupt:
        click.echo("\nStopped before there was a result; the same command begins again.", err=True)
        sys.exit(130)
    console.print("\nCorrelation with the oracle", style="bold")
    console.print(study_table(study))
    for note in study_notes(study):
        console.print(note, style="dim", markup=False)
    console.print(f"\nStored in {config.directory}", markup=False, soft_wrap=True)


@cli.command()
@click.argument("model")
@click.option("--input", "shape", required=True, help="image shape C×H×W, such as 3x224x224")
@click.option("--classes", default=10, show_default=True, help="number of classes")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def inspect(model: str, shape: str, classes: int, as_json: bool) -> None:
    """Show the channel groups of MODEL: what can be pruned, what it costs, and why not."""
    import torch  # noqa: PLC0415 - as above

    from pruning.tracing import trace  # noqa: PLC0415
    from search.models import resolve  # noqa: PLC0415

    sizes = re.fullmatch(r"(\d+)[x×](\d+)[x×](\d+)", shape)
    if sizes is None or 0 in (numbers := [int(size) for size in sizes.groups()]):
        raise ConfigError(f"--input must be channels x height x width, got {shape!r}")
    network = resolve(model, num_classes=classes, in_channels=numbers[0])()
    graph = trace(network, torch.zeros(1, *numbers))
    click.echo(json.dumps(graph.summary(), indent=2) if as_json else graph.describe())


@cli.command()
@click.argument("search_name", metavar="SEARCH")
@click.option("--max", "bounds", multiple=True, help="only below, such as flops=5M or params=40k")
@click.option("--json", "form", flag_value="json", help="print JSON")
@click.option("--csv", "form", flag_value="csv", help="print comma-separated values")
@_RUNS
def pareto(search_name: str, bounds: tuple[str, ...], form: str | None, runs: str) -> None:
    """List the architectures on the front of SEARCH, a name or a folder."""
    from rich.console import Console  # noqa: PLC0415 - as above

    from pruning.cost import Budget, Cost  # noqa: PLC0415
    from search.report import (  # noqa: PLC0415
        FLOPS_NOTE,
        front_rows,
        front_table,
        open_results,
        to_csv,
        to_json,
    )

    results = open_results(_search_folder(search_name, runs))
    limit = Budget.parse(*bounds).absolute(results.base) if bounds else None
    found = [o for o in results.front if limit is None or limit.allows(Cost(o.flops, o.params))]
    rows = front_rows(found, results.base)
    if form == "json":
        click.echo(to_json(rows))
    elif form == "csv":
        click.echo(to_csv(rows), nl=False)
    else:
        console = Console(highlight=False)
        console.print(front_table(found, results.base))
        console.print(FLOPS_NOTE, style="dim")


@cli.command()
@click.argument("architecture", metavar="ARCH")
@click.option("--out", required=True, type=click.Path(), help="folder to write; must not exist")
@click.option("--trust", multiple=True, help="module whose builder may run, for a folder's network")
@_RUNS
def export(architecture: str, out: str, trust: tuple[str, ...], runs: str) -> None:
    """Write ARCH, SEARCH/NAME or a folder, as architecture.json and weights.safetensors."""
    from copycat.architecture import TRUSTED_BUILDERS, read, verify  # noqa: PLC0415 - as above

    source, trusted = Path(architecture), trust
    if not (source / "architecture.json").exists():
        source = _stored_architecture(architecture, runs)
        trusted = (*trust, *read(source).builder.modules)  # its search has run it before
    target = Path(out)
    if target.exists():
        raise ArchitectureError(f"{out} already exists: choose another --out")
    verify(source, trust=trusted)
    try:
        shutil.copytree(source, target)
    except OSError as error:
        raise ArchitectureError(f"cannot write {out}: {error}") from error
    module = read(source).builder.module
    by_default = any(
        module == known or module.startswith(f"{known}.") for known in TRUSTED_BUILDERS
    )
    trust_text = "" if by_default else f", trust=[{module!r}]"
    click.echo(
        f"{target} holds {architecture}; in Python: copycat.load({str(target)!r}{trust_text})"
    )


def _stored_architecture(architecture: str, runs: str) -> Path:
    """The folder of SEARCH/NAME; SearchStateError names what there is."""
    name, _, key = architecture.rpartition("/")
    if not name:
        raise SearchStateError(f"an architecture is SEARCH/NAME or a folder, got {architecture!r}")
    folder = _search_folder(name, runs) / "architectures"
    present = sorted(path.name for path in folder.glob("[!.]*"))
    if key not in present:
        listed = f": it has {', '.join(present)}" if present else ""
        raise SearchStateError(f"{name} has no architecture {key!r}{listed}")
    return folder / key


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=5000, show_default=True, help="port to listen on; 0 picks one")
@_RUNS
def ui(host: str, port: int, runs: str) -> None:
    """Show all searches in the MLflow UI."""
    from mlflow_server.serve import serve  # noqa: PLC0415 - as above

    serve(Path(runs), host, port)


def _search_folder(name: str, runs: str) -> Path:
    """The folder of a search, given by name or path."""
    from search.report import CONFIG_FILE  # noqa: PLC0415 - as above

    is_path = os.sep in name or (Path(name) / CONFIG_FILE).exists()
    return Path(name) if is_path else Path(runs) / name


def main() -> None:
    """Entry point: errors for people become one line and exit status 2."""
    from mlflow_server.errors import MlflowServerError  # noqa: PLC0415 - as above

    try:
        cli.main(sys.argv[1:] or ["--help"], standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        message = error.format_message()
        click.echo(f"espalier: {' '.join(message.split())}", err=True)
        sys.exit(2)
    except (EspalierError, MlflowServerError) as error:
        click.echo(f"espalier: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
