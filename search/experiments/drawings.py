"""The figures of experiments, each in the form of the paper that it is from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn import functional as F

from copycat.architecture import load
from pruning.errors import ConfigError
from pruning.networks import torch_interior
from pruning.regularizers.penalties import receding_from_log
from search import models
from search.experiments.claims import Cells
from search.experiments.definition import Drawing, Part, Row
from search.experiments.plan import Plan
from search.experiments.removal import at_each_count
from search.experiments.studies import CorrelationOf, FamilyOf, RemovalOf, SearchOf, StudyOf
from search.results.contests import deviation
from search.results.figures import (
    CurvePoint,
    bars_figure,
    correlation_figure,
    family_figure,
    histogram_figure,
    lines_figure,
    removed_figure,
    retained_figure,
)
from search.storage.layout import ARCHITECTURES_FOLDER, BASE_ARCHITECTURE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Study = TypeVar("Study", bound=StudyOf)

_SHIFTS = (0, 1, 2, 3)
"""b of the penalty that is drawn; the RNI paper's experiments take 0 and 3."""


class Rows:
    """The rows of a drawing, their runs and their numbers; of one network the first seed's."""

    def __init__(self, drawing: Drawing, plan: Plan, cells: Cells) -> None:
        self.drawing, self.plan, self.cells = drawing, plan, cells
        part = plan.experiment.part(drawing.part)
        rows = [
            row
            for row in part.rows
            if (row.label in drawing.rows or not drawing.rows) and plan.runs_of(part, row)
        ]
        self.part: Part = part
        self.rows: list[Row] = rows

    def runs(self, row: Row, kind: type[Study]) -> list[Study]:
        """Those that the row is read off; ConfigError if they are of another kind."""
        runs = self.plan.runs_of(self.part, row)
        own = [run for run in runs if isinstance(run, kind)]
        if len(own) < len(runs):
            raise ConfigError(f"{self.drawing.form} is no figure of {row.label}")
        return own

    def means(self) -> dict[str, tuple[float, float]]:
        """Per row mean and deviation of the first column."""
        column = self.plan.experiment.columns[0].label
        values = {
            row.label: self.cells.get((self.part.label, row.label, column), ()) for row in self.rows
        }
        return {
            label: (statistics.fmean(own), deviation(own)) for label, own in values.items() if own
        }


def drawn(drawing: Drawing, plan: Plan, cells: Cells) -> Figure:
    """The figure; ConfigError for a form that there is none of."""
    if drawing.form not in FORMS:
        raise ConfigError(f"a figure is one of {', '.join(FORMS)}, got {drawing.form!r}")
    return FORMS[drawing.form](Rows(drawing, plan, cells))


def _importances(rows: Rows) -> Figure:
    """What each row's method thought of every channel (RNI, figures 2 and 4)."""
    scores = {}
    for row in rows.rows:
        run = rows.runs(row, SearchOf)[0]
        if (network := run.network(rows.drawing.at)) is not None:
            layers = run.scores(network).values()
            scores[row.label] = [value for values in layers for value in values]
    return histogram_figure(scores)


def _widths(rows: Rows) -> tuple[dict[str, dict[str, int]], Mapping[str, int]]:
    """Widths that are left per row, and those of the base network."""
    left: dict[str, dict[str, int]] = {}
    base: Mapping[str, int] = {}
    for row in rows.rows:
        run = rows.runs(row, SearchOf)[0]
        if (network := run.network(rows.drawing.at)) is not None:
            base = run.results.base_widths
            left[row.label] = run.widths(network)
    return left, base


def _removed(rows: Rows) -> Figure:
    """What each row's method removed of every layer (RNI, figure 5)."""
    return removed_figure(*_widths(rows))


def _retained(rows: Rows) -> Figure:
    """What is left of every layer (Crowley et al., figure 2c)."""
    left, base = _widths(rows)
    return retained_figure(next(iter(left.values())), base)


def _families(rows: Rows) -> Figure:
    """Error against parameters of every kind (Crowley et al., figure 1)."""
    names = {row.of: row.label for row in rows.rows}
    study = rows.runs(rows.rows[0], FamilyOf)[0].results
    curves = {kind: points for kind, points in study.curves.items() if kind in names}
    return family_figure(curves, axis=f"{study.measure}{study.score.unit}", names=names)


def _correlations(rows: Rows) -> Figure:
    """Agreement with the oracle, means over the seeds (Molchanov et al., tables 1 and 2)."""
    metrics = {}
    for row in rows.rows:
        runs = rows.runs(row, CorrelationOf)
        own = [a.metrics for r in runs for a in r.results.agreements if a.criterion == row.of]
        names = set.intersection(*map(set, own)) if own else set()
        metrics[row.label] = {n: statistics.fmean(one[n] for one in own) for n in sorted(names)}
    return correlation_figure(metrics)


def _trajectories(rows: Rows) -> Figure:
    """The loss by the number of units that are gone (Molchanov et al., figures 2 to 4)."""
    curves: dict[str, list[CurvePoint]] = {}
    for row in rows.rows:
        points = [run.results.points.get(row.of, []) for run in rows.runs(row, RemovalOf)]
        curves[row.label] = [
            (count, statistics.fmean(losses), deviation(losses))
            for count, losses in at_each_count(points).items()
        ]
    shown = {label: points for label, points in curves.items() if points}
    first = min(loss for points in shown.values() for _, loss, _ in points)
    return lines_figure(
        shown, across="units removed", up="loss on training images", most=max(2.5, 2 * first)
    )


def _batchnorm(rows: Rows) -> Figure:
    """The scales and offsets of all batch normalisations (RNI, figure 1)."""
    parameters: dict[str, list[float]] = {}
    for row in rows.rows:
        run = rows.runs(row, SearchOf)[0]
        own = models.own_module(run.config.model)  # which the search has run
        folder = run.folder / ARCHITECTURES_FOLDER / BASE_ARCHITECTURE
        network = load(folder, trust=[own] if own else [])
        norms = [m for m in network.modules() if isinstance(m, torch_interior.BatchNorm)]
        for name, parts in (
            ("γ", [norm.weight for norm in norms]),
            ("β", [norm.bias for norm in norms]),
        ):
            flat = torch.cat([part.detach().flatten() for part in parts if part is not None])
            parameters[f"{row.label}, {name}"] = flat.tolist()
    return histogram_figure(parameters, axis="parameter of batch normalisation")


def _penalty(rows: Rows) -> Figure:  # noqa: ARG001 - a closed form
    """The gradient of the RNI penalty by importance (RNI, figure 2, left)."""
    curves = {f"b = {shift}": penalty_gradient(shift) for shift in _SHIFTS}
    return lines_figure(
        curves, across="importance σ(γ)", up="gradient of the penalty with respect to γ"
    )


def penalty_gradient(shift: float) -> list[CurvePoint]:
    """∂R/∂γ of σ(γ + b)·(1 − log σ(γ + b)) at importances σ(γ) from 0 to 1 (RNI, eq. 4)."""
    importances = torch.linspace(0.002, 0.998, 250, dtype=torch.float64)
    scales = importances.logit().requires_grad_()
    (gradient,) = torch.autograd.grad(receding_from_log(F.logsigmoid(scales + shift)), scales)
    pairs = zip(importances.tolist(), gradient.tolist(), strict=True)
    return [(importance, value, 0.0) for importance, value in pairs]


def _bars(rows: Rows) -> Figure:
    """The first column of every row (RNI, figure 4, right)."""
    column: Any = rows.plan.experiment.columns[0]
    return bars_figure(rows.means(), axis=column.label)


FORMS: Mapping[str, Callable[[Rows], Figure]] = {
    "importances": _importances,
    "removed": _removed,
    "retained": _retained,
    "families": _families,
    "correlations": _correlations,
    "trajectories": _trajectories,
    "batchnorm": _batchnorm,
    "penalty": _penalty,
    "bars": _bars,
}
"""By the name that a TOML file has for them."""
