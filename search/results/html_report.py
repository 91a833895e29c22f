"""A finished study as one HTML page that opens offline: nothing in it is loaded from elsewhere."""

from __future__ import annotations

import base64
import gzip
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from copycat.architecture import Architecture, read
from pruning.cost import format_count
from pruning.lazy_imports import lazy_modules
from search.config.explicit_settings import as_arguments, explicit_settings
from search.config.search_config import SearchConfig
from search.models import module_to_trust
from search.results.contests import Contestant, contestants, short_name
from search.results.pictures import widths_left
from search.results.recommendation import against_base, note, share_text
from search.results.report import (
    COMPUTE_NOTE,
    Results,
    flops_note,
    open_results,
    slack,
)
from search.results.study_report import stored_settings, study_page
from search.results.styles import STYLES, style_of
from search.results.target_table import target_names, target_texts
from search.results.verdict import headline
from search.storage.layout import study_kind
from search.tasks.score import Score
from search.terminal.durations import duration_text
from search.trials.artifacts import stored_curve
from search.trials.jobs import Outcome

jinja2, plotly, plotly_offline = lazy_modules("jinja2", "plotly.graph_objects", "plotly.offline")

REPORT_FILE = "report.html"
"""In the folder of a study, unless another place is asked for."""

_MOST_POINTS = 200
"""Epochs of a curve beyond which some are left out."""

_MOST_CURVES = 60
_RECORDED = ("device", "processor", "threads", "torch", "espalier")
"""What architectures record of the place where they were trained."""


def report_page(directory: Path) -> str:
    """The report of the finished study in `directory`, as HTML.

    Raises SearchStateError where there is none, or where it has not finished.
    """
    kind = study_kind(directory) or "search"
    if kind == "search":
        return _search_page(directory)
    return _rendered("study.html.jinja", page=study_page(directory, kind))


def _search_page(directory: Path) -> str:
    page = _Page(directory, open_results(directory))
    return _rendered(
        "page.html.jinja",
        page=page,
        results=page.results,
        score=page.results.score,
        short_name=short_name,
        gave_up=page.gave_up,
        share=share_text,
        targets=target_names(page.results),
        target_texts=target_texts(page.results),
        note=note(page.results.num_test, page.results.score),
        flops_note=flops_note(page.results.base),
        compute_note=COMPUTE_NOTE,
        script=_part("page.js"),
        plotly=_plotly(),
    )


def _rendered(name: str, **variables: object) -> str:
    text: str = _templates().get_template(name).render(style=_part("style.css"), **variables)
    return text


@cache
def _templates() -> Any:
    """The templates of reports, compiled when they are first asked for."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("search", "report_page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": format_count, "duration": duration_text}
    return environment


def _part(name: str) -> str:
    return resources.files("search").joinpath("report_page", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """The plotting library, compressed: 2 MB of text instead of 5."""
    # without a time, so that equal searches give equal pages
    return base64.b64encode(gzip.compress(plotly_offline.get_plotlyjs().encode(), mtime=0)).decode()


@dataclass(frozen=True)
class _Network:
    """One architecture, as the page shows it.

    base_share: its FLOPs against those of the base network.  gave_up: what its test score is
    against that of the base network.  bars: channels that remain and channels of the base network
    per layer; the latter 0 where they are not known.  inexact: as in Architecture.
    score: what it is measured by.
    """

    outcome: Outcome
    name: str
    is_on_front: bool
    base_share: str
    gave_up: str
    slack: Mapping[str, float]
    bars: Sequence[tuple[int, int]]
    inexact: Mapping[str, str]
    score: Score

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What is shown of it beside its name and shape."""
        o, score = self.outcome, self.score
        return [
            (f"test {score.name}", score.text(o.test_score)),
            ("against base", self.gave_up),
            (f"validation {score.name}", score.text(o.validation_score)),
            ("FLOPs", format_count(o.flops)),
            ("of base", self.base_share),
            ("params", format_count(o.params)),
            *((f"slack {name}", f"{100 * value:+.2f} %") for name, value in self.slack.items()),
            ("compute", format_count(o.compute) if o.compute else "–"),
            ("seed", str(o.seed)),
        ]

    @property
    def base_path(self) -> str:
        """SVG path of the bars of the base network."""
        return self._path([base for _, base in self.bars])

    @property
    def kept_path(self) -> str:
        """SVG path of the bars of what remains."""
        return self._path([kept for kept, _ in self.bars])

    def _path(self, heights: Sequence[int]) -> str:
        highest = max((max(pair) for pair in self.bars), default=1) or 1
        rise = [round(40 * height / highest, 1) for height in heights]
        return "".join(f"M{4 * i} 40v-{h:g}h3v{h:g}z" for i, h in enumerate(rise) if h)

    @property
    def shape(self) -> str:
        """The bars in words, for those who cannot see them."""
        return "channels per layer: " + ", ".join(
            f"{kept} of {base}" if base else str(kept) for kept, base in self.bars
        )


class _Page:
    """Everything that the template asks for."""

    def __init__(self, directory: Path, results: Results) -> None:
        self._directory, self.results = directory, results
        self.config: SearchConfig = stored_settings(directory, "search")
        self.name = self.config.name

    @cached_property
    def _stored(self) -> dict[str, Architecture]:
        """What is in the folder of every network, by its path."""
        return {o.path: read(self._directory / o.path) for o in self.results.networks}

    @cached_property
    def _front_keys(self) -> frozenset[str]:
        return frozenset(outcome.key for outcome in self.results.front)

    @cached_property
    def networks(self) -> list[_Network]:
        """All architectures, by rising FLOPs, after the base network."""
        by_flops = sorted(self.results.everything, key=lambda o: (o.flops, o.key))
        return list(map(self._network, self.results.below_base(by_flops)))

    @cached_property
    def base(self) -> Contestant | None:
        """The base network, where it was trained."""
        base = self.results.base_network
        return None if base is None else Contestant((base,))

    @cached_property
    def front(self) -> list[_Network]:
        """Those on the front, by rising FLOPs."""
        return [network for network in self.networks if network.is_on_front]

    @property
    def front_and_base(self) -> list[_Network]:
        """The base network, where it was trained, and those on the front."""
        return [n for n in self.networks if n.is_on_front or n.outcome.origin == "base"]

    def gave_up(self, network: Outcome | Contestant) -> str:
        """What its test score is against that of the base network."""
        score = self.results.score
        base = None if network.origin == "base" else self.results.base_network
        return score.gain_text(against_base(network.test_score, base, score))

    def _network(self, outcome: Outcome) -> _Network:
        (entry,) = contestants([outcome])
        base = self.results.base_widths
        stored = self._stored[outcome.path]
        profile = stored.profile
        widths = widths_left(profile, base) if base else profile.widths
        return _Network(
            outcome,
            short_name(entry),
            outcome.key in self._front_keys,
            share_text(outcome.flops / self.results.base.flops),
            self.gave_up(outcome),
            slack(outcome.cost, self.results.bounds),
            [(width, base.get(name, 0)) for name, width in widths.items()],
            stored.inexact,
            self.results.score,
        )

    @property
    def inexact(self) -> dict[str, str]:
        """Why, per group that a network lost channels of, the others then take other values."""
        return {name: why for network in self.networks for name, why in network.inexact.items()}

    @cached_property
    def headline(self) -> list[str]:
        """What of the comparisons is said before all budgets."""
        return headline(self.results.contests)

    @cached_property
    def origins(self) -> dict[str, str]:
        """Colours of the origins that there are, in their order."""
        present = {network.outcome.origin: None for network in self.networks}
        ordered = [*(name for name in STYLES if name in present), *present]
        return {name: style_of(name).colour for name in ordered}

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Per network its steps and scores in validation.

        The base network comes first, then those of the verdict.
        """
        compared = [
            run.key
            for contest in self.results.contests
            for entry in contest.entries.values()
            for run in entry.runs
        ]
        base = [run.key for run in self.base.runs] if self.base else []
        keys = [*base, *compared, *(network.outcome.key for network in reversed(self.front))]
        paths = {network.outcome.key: network.outcome.path for network in self.networks}
        curves = {key: _curve(self._directory / paths[key]) for key in dict.fromkeys(keys)}
        return {key: curves[key] for key in list(curves)[:_MOST_CURVES] if curves[key]}

    @property
    def data(self) -> dict[str, Any]:
        """What the script draws from."""
        figures = {"front": self._front_figure()}
        if self.curves:
            figures["curves"] = self._curves_figure()
        return {"figures": figures, "first": self.results.first_choice}

    def _front_figure(self) -> dict[str, Any]:
        figure, score = plotly.Figure(), self.results.score
        figure.add_trace(
            plotly.Scatter(
                x=[n.outcome.flops for n in self.front],
                y=[score.plotted(n.outcome.validation_score) for n in self.front],
                **{"mode": "lines", "line": {"shape": "hv", "width": 1.5}, "name": "front"},
                hoverinfo="skip",
                meta="front",
            )
        )
        for origin, colour in self.origins.items():
            same = [n for n in self.networks if n.outcome.origin == origin]
            symbol = style_of(origin).symbol
            figure.add_trace(
                plotly.Scatter(
                    x=[n.outcome.flops for n in same],
                    y=[score.plotted(n.outcome.validation_score) for n in same],
                    customdata=[n.outcome.key for n in same],
                    mode="markers",
                    marker={
                        "color": colour,
                        "symbol": [
                            f"{symbol}-open" if n.outcome.equal_compute else symbol for n in same
                        ],
                        "size": 10,
                    },
                    name=origin,
                    meta=origin,
                    hoverinfo="none",
                )
            )
        for contest in self.results.contests:
            limit = contest.limits.limit("flops")
            if limit is not None:
                figure.add_vline(limit, line={"dash": "dot", "width": 1})
        figure.update_xaxes(type="log", title="FLOPs", tickformat="~s", **self._ticks)
        figure.update_layout(yaxis_title=score.axis("validation"))
        return _laid_out(figure)

    @property
    def _ticks(self) -> dict[str, Any]:
        """At 1, 2 and 5 of each power of ten, where that gives at least two."""
        flops = [network.outcome.flops for network in self.networks]
        return {"dtick": "D2"} if max(flops) > 4 * min(flops) else {"nticks": 6}

    def _curves_figure(self) -> dict[str, Any]:
        outcomes = {network.outcome.key: network.outcome for network in self.networks}
        figure, score = plotly.Figure(), self.results.score
        shown = "%{y:.2f} %" if score.is_share else "%{y:.4~g}"
        for key, points in self.curves.items():
            origin = outcomes[key].origin
            figure.add_trace(
                plotly.Scatter(
                    x=[step for step, _ in points],
                    y=[score.plotted(value) for _, value in points],
                    customdata=[key] * len(points),
                    **{"mode": "lines", "name": key, "meta": origin},
                    line={"color": self.origins[origin], "width": 1.5},
                    hovertemplate=f"%{{customdata}}<br>epoch %{{x}}: {shown}<extra></extra>",
                )
            )
        figure.update_layout(xaxis_title="epoch", yaxis_title=score.axis("validation"))
        return _laid_out(figure)

    @property
    def environment(self) -> dict[str, str]:
        """Where the networks were trained, as far as they say so."""
        values_of: dict[str, dict[str, None]] = {}
        for network in self.networks:
            record = self._stored[network.outcome.path].provenance
            for name in _RECORDED:
                if name in record:
                    values_of.setdefault(name, {})[str(record[name])] = None
        return {name: ", ".join(values) for name, values in values_of.items()}

    @property
    def commands(self) -> dict[str, str]:
        """What to type, by what it does."""
        config = self.config
        runs = "" if config.runs == SearchConfig.runs else f" --runs {shlex.quote(config.runs)}"
        flags = as_arguments(explicit_settings(config))
        commands = {"run this search": shlex.join(["espalier", "search", *flags])}
        module = module_to_trust(config.model)
        trust = f" --trust {shlex.quote(module)}" if module else ""
        chosen = shlex.quote(f"{config.study_name}/{self.results.first_choice}")
        commands["take the recommended network along"] = (
            f"espalier export {chosen} --out my-network{trust}{runs}"
        )
        commands["list the front"] = f"espalier pareto {shlex.quote(config.study_name)}{runs}"
        commands["compare the runs in MLflow"] = f"espalier ui{runs}"
        return commands


def _laid_out(figure: Any) -> dict[str, Any]:
    """The figure as JSON; colours of text and grid are those of the page."""
    figure.update_layout(
        template="none",
        showlegend=False,
        hovermode="closest",
        margin={"l": 56, "r": 12, "t": 36, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(zeroline=False, automargin=True)
    figure.update_yaxes(zeroline=False, automargin=True)
    content: dict[str, Any] = json.loads(figure.to_json())
    return content


def _curve(folder: Path) -> list[tuple[int, float]]:
    """Steps and scores in validation of a stored network."""
    points = [(record.step, record.validation_score) for record in stored_curve(folder)]
    return list(_thinned(points))


def _thinned(points: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """At most so many of the points, evenly spread, the last among them."""
    every = -(-len(points) // _MOST_POINTS) or 1
    kept = points[::-1][::every]
    yield from reversed(kept)
