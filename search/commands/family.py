"""`espalier family`: networks of one shape at several budgets, priced and maybe trained."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from pruning.errors import ConfigError
from pruning.lazy_imports import lazy_modules
from search.commands import run_or_watch
from search.commands.common_options import CONFIG, TRUST, sample_shape
from search.commands.completions import RECIPES, stored_networks
from search.commands.flags import options, overridden, refuse_without_effect
from search.commands.interrupts import ending_on_interrupt, interrupt_on_signals
from search.commands.result_summary import print_family
from search.commands.server_or_folder import chosen_server
from search.config.family_config import (
    UNUSED_TRAINING,
    FamilyConfig,
    over_recipe,
)
from search.config.settings import from_mapping, read_toml
from search.config.training_config import TrainingConfig

if TYPE_CHECKING:
    from copycat import architecture
    from search.commands.remote_server import RemoteServer
    from search.data import trusted_code
    from search.results import report
    from search.studies import family_ladder, family_study
else:
    architecture, trusted_code, report, family_ladder, family_study = lazy_modules(
        *("copycat.architecture", "search.data.trusted_code", "search.results.report"),
        *("search.studies.family_ladder", "search.studies.family_study"),
    )


@click.command()
@click.argument("source", metavar="PROFILE_OR_ARCH", shell_complete=stored_networks)
@click.option("--train", is_flag=True, help="train every network; without it nothing is written")
@CONFIG
@click.option(
    "--recipe",
    shell_complete=RECIPES,
    help=f"settings of training that are usual or a paper's: {', '.join(TrainingConfig.RECIPES)}; "
    "other settings, also of the file, override them  [default: rni]",
)
@click.option("--input", "shape", help="sizes of a sample of a profile's network, such as 3x32x32")
@click.option("--classes", default=10, show_default=True, help="number of classes, with --input")
@click.option("--json", "as_json", is_flag=True, help="print the ladder as JSON")
@options(FamilyConfig, without=("source", "trust", *UNUSED_TRAINING))
@TRUST
def family(
    *,
    source: str,
    train: bool,
    config_file: str | None,
    recipe: str | None,
    shape: str | None,
    classes: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show the ladder of networks that PROFILE_OR_ARCH gives rise to.

    PROFILE_OR_ARCH is a profile (a JSON file, with --model), an architecture's folder or
    SEARCH/NAME. Where that was pruned iteratively, SEARCH/NAME@POINT is the shape that it had on
    the way: after so many removals (@12), or the first within a budget (@flops=30%). With --train
    every network is trained; run it again to continue a training that was stopped.
    """
    console = Console(highlight=False)
    given = _given(config_file, recipe)
    server = chosen_server(may_name_runs=True)
    if server is not None:
        refuse_without_effect(("shape", "classes", "as_json", "trust"), "on a server")
        there = {name: value for name, value in flags.items() if name != "trust"}
        _on_server(server, {"source": source, **overridden(given, there)}, console, train=train)
        return
    content = overridden(over_recipe(given), flags)
    config, subject, data = _opened(
        source, content, config_file, train=train, shape=shape, classes=classes
    )
    rungs, notes = family_ladder.ladder(config, subject)
    base = subject.base.graph.cost()
    if as_json and not train:
        click.echo(json.dumps(family_ladder.ladder_rows(rungs, base), indent=2))
    elif rungs or not train:
        console.print(family_ladder.ladder_table(rungs, base))
        console.print(report.flops_note(base), style="dim", markup=False)
    for note in notes:
        console.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)
    if train:
        _train(console, config, subject, rungs, data=data, notes=notes)


def _on_server(
    server: RemoteServer, content: dict[str, Any], console: Console, *, train: bool
) -> None:
    """Launch and watch it, or show what its preflight says."""
    if train:
        run_or_watch.launch(server, content, "family")
        return
    for line in server.client.preflight(content, kind="family")["lines"]:
        console.print(line, markup=False, soft_wrap=True)


def _given(config_file: str | None, recipe: str | None) -> dict[str, Any]:
    """The settings of the file, with the recipe that the flag names."""
    content = read_toml(config_file) if config_file else {}
    if "source" in content:
        raise ConfigError(
            f"{config_file}: source is what `espalier family` is called with: leave it out"
        )
    return overridden(content, {"training__recipe": recipe})


def _opened(
    source: str,
    content: dict[str, Any],
    config_file: str | None,
    *,
    train: bool,
    shape: str | None,
    classes: int,
) -> tuple[FamilyConfig, Any, Any]:
    """The settings, the network, and the images if they are to be learned from."""
    origin = config_file or "the command line"
    from_mapping(FamilyConfig, {"source": source, **content}, origin)  # says what does not fit
    folder = family_ladder.architecture_folder(source, content.get("runs", FamilyConfig.runs))
    names_data = "source" in content.get("data", {})
    if folder is not None and (name := architecture.read(folder).provenance.get("data")):
        content["data"] = {"source": name, **content.get("data", {})}
    config = from_mapping(FamilyConfig, {"source": source, **content}, origin)
    if not names_data:  # what a folder names may be anybody's code
        trusted_code.require_trusted_data(config.data, config.trust, folder)
    if folder is not None:
        refuse_without_effect(("shape", "classes"), "on a stored network, which has its own")
        if not train:
            return config, family_ladder.stored_subject(config, folder), None
    elif shape is not None and not train:
        names = tuple(map(str, range(classes)))
        sample = family_ladder.sample_of_sizes(sample_shape(shape), names)
        return config, family_ladder.profile_subject(config, sample), None
    else:
        refuse_without_effect(("shape", "classes"), "beside the images of --data")
    return config, *family_study.opened(config, Console(highlight=False))


def _train(
    console: Any, config: FamilyConfig, subject: Any, rungs: Any, *, data: Any, notes: list[str]
) -> None:
    interrupt_on_signals()
    with ending_on_interrupt(
        f"Stopped. What was finished is kept in {config.directory}; "
        "the same command goes on from there."
    ):
        study = family_study.run(config, subject, rungs, data, notes=notes, console=console)
    later = dataclasses.replace(study, notes=study.notes[len(notes) :])
    print_family(later, config.directory, console)
