"""An experiment from its file to its page: its runs one after the other, then what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from pruning.errors import DataError
from search.experiments.claims import Cells, Verdict, verdicts
from search.experiments.definition import Experiment
from search.experiments.drawings import drawn
from search.experiments.measurement import Measurement, Picture
from search.experiments.page import measured_page
from search.experiments.plan import Plan, Where
from search.results.figures import saved
from search.storage.atomic_files import write_durably


def reproduce(
    experiment: Experiment, where: Where, folder: Path, console: Console
) -> tuple[Path, list[Verdict]]:
    """Run what is left of an experiment and write its page, numbers and figures into `folder`.

    The page, and whether what the paper claims shows. EspalierError says what is wrong; what was
    finished stays, and the same call goes on from there.
    """
    plan = Plan(experiment, where)
    runs = list(plan)
    for number, run in enumerate(runs, 1):
        if run.trains:
            console.print(f"{experiment.name}: run {number} of {len(runs)}, {run.name}")
        run.perform(console)
    cells = cells_of(plan)
    stem = page_stem(experiment, where, folder)
    stem.parent.mkdir(parents=True, exist_ok=True)
    measured = Measurement.of(plan, cells, _drawn(plan, cells, stem))
    measured.write(stem.with_name(f"{stem.name}.json"))
    page = stem.with_name(f"{stem.name}.md")
    write_durably(page, measured_page(experiment, where, measured).encode())
    return page, verdicts(experiment, cells)


def cells_of(plan: Plan) -> Cells:
    """Every number that the runs of an experiment have come to."""
    experiment, scale = plan.experiment, plan.where.scale
    return {
        (part.label, row.label, column.label): [
            number
            for run in plan.runs_of(part, row)
            for number in run.values(
                column.value,
                of=row.of or column.of,
                at=row.at or column.scales.get(scale, column.at),
            )
        ]
        for part, row in experiment.rows()
        for column in experiment.columns
    }


def page_stem(experiment: Experiment, where: Where, folder: Path) -> Path:
    """The path of the page, without its suffix: the small scale's has the experiment's own name."""
    own = "" if where.suffix == "small" else f"-{where.suffix}"
    return folder / f"{experiment.name}{own}"


def require_data(plans: Iterable[Plan]) -> None:
    """DataError if a folder of images that any of the runs learns from is not there."""
    for source in (run.config.data.source for plan in plans for run in plan if run.trains):
        kind, _, path = source.partition(":")
        if kind == "imagefolder" and not Path(path).expanduser().is_dir():
            raise DataError(
                f"there is no folder {path!r}: unpack the images there, or name others by --data"
            )


def _drawn(plan: Plan, cells: Cells, stem: Path) -> list[Picture]:
    """The figures beside the page, which are drawn."""
    figures = plan.experiment.figures
    written = []
    for number, drawing in enumerate(figures, 1):
        own = stem if len(figures) == 1 else stem.with_name(f"{stem.name}-{number}")
        png, _ = saved(drawn(drawing, plan, cells), own)
        written.append(Picture(png.name, drawing.caption or plan.experiment.title))
    return written
