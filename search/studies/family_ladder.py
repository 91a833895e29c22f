"""The ladder of families: which networks there are, and what they cost."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from copycat import families
from copycat.architecture import read
from copycat.architecture.trust import check_trust
from copycat.architecture.whole_folder import opened_folder
from copycat.builder import Builder
from copycat.families import FamilyKind, Member
from copycat.families.base_network import BaseNetwork
from copycat.input_shape import InputForm, InputShape, input_shape_of
from copycat.latency import measured_latency
from copycat.width_profile import WidthProfile
from pruning.cost import Cost, ExampleInput, format_count
from pruning.errors import BudgetError, ConfigError, ModelError, TraceError
from pruning.graph.channel_graph import ChannelGraph
from pruning.restrictions import Restrictions
from pruning.rules import Offered
from search import models
from search.config.family_config import FamilyConfig, kind_and_number
from search.data.data import Sample
from search.storage.layout import ARCHITECTURES_FOLDER
from search.studies.setup import of_network
from search.terminal.text_table import text_table
from search.trials.jobs import FromScratchJob, Origin
from search.trials.trajectory import stored_profile

_IN_RUNS = re.compile(r"[^/:]+:[^/:]+")


@dataclass(frozen=True)
class Subject:
    """The network whose shape is rescaled.

    base: what its profile applies to.  data: that its architecture was trained on, or empty.
    """

    base: BaseNetwork
    profile: WidthProfile
    input_shape: InputShape
    classes: tuple[str, ...]
    data: str = ""

    @property
    def channels(self) -> int | None:
        """Of colour that its images have; None where its inputs are no images."""
        shape = self.input_shape
        return None if isinstance(shape, InputForm) else shape[0]


@dataclass(frozen=True)
class Rung:
    """One member of the ladder: `kind` as it was asked for, such as tempered:0.5."""

    kind: str
    symbol: str
    member: Member


def is_in_runs(source: str) -> bool:
    """Whether a source is SEARCH:NAME, which lies in the folder of runs and nowhere else."""
    return _IN_RUNS.fullmatch(source) is not None


def architecture_folder(source: str, runs: str) -> Path | None:
    """The folder that a source names, as SEARCH/NAME below `runs` or itself; None for a file.

    Either may end in @POINT: a point of its trajectory. SEARCH:NAME, as a service says it, is below
    `runs` too, and never a path.
    """
    return _folder_and_point(source, runs)[0]


def _folder_and_point(source: str, runs: str) -> tuple[Path | None, str]:
    """The folder that a source names, and the point of its trajectory, if it names one."""
    in_runs = is_in_runs(source)
    name, at, point = source.rpartition("@")
    for path, named_point in ((source, ""), *([(name, point)] if at else [])):
        search, _, key = path.rpartition(":" if in_runs else "/")
        below = Path(runs) / search / ARCHITECTURES_FOLDER / key
        for folder in (below,) if in_runs else (below, Path(path)):
            if (opened_folder(folder) / "architecture.json").is_file():
                return folder, named_point
    return None, ""


def stored_subject(config: FamilyConfig, folder: Path) -> Subject:
    """The network of an architecture folder, with the shape at the point that the source names.

    Where it was narrowed inexactly, so are the networks that are derived from it.
    """
    stored = read(folder)
    builder = check_trust(folder, stored.builder, config.trust)
    heads = config.whole_heads or stored.profile.has_whole_heads
    offered = Offered(config.exact and not stored.inexact, heads)
    base = _base(builder.target, builder, stored.example_input, offered)
    data = str(stored.provenance.get("data", ""))
    profile, (_, point) = stored.profile, _folder_and_point(config.source, config.runs)
    if point:
        profile = stored_profile(folder, point, base.graph)
        profile.check(base.graph_of(profile))
    subject = Subject(base, profile, stored.input_shape, stored.classes, data)
    return _restricted(config, subject)


def sample_of_sizes(sizes: tuple[int, ...], classes: tuple[str, ...]) -> Sample:
    """What a sample is like where it is a tensor of these sizes, such as (C, H, W)."""
    return Sample(torch.zeros(1, *sizes), classes)


def profile_subject(config: FamilyConfig, sample: Sample) -> Subject:
    """The network of a profile in a file; ConfigError if that or --model is missing."""
    if is_in_runs(config.source):
        raise ConfigError(
            f"there is no architecture {config.source}: its search was removed, or is in another "
            "folder than --runs",
            field="source",
        )
    if not config.model:
        raise ConfigError(f"{config.source} is no architecture; for a profile give --model")
    try:
        text = Path(config.source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config.source} is no architecture, and no profile: {error}") from error
    profile = WidthProfile.from_json(text)
    own = config.as_search().model_arguments
    builder = models.builder_for(config.model, sample, own)
    heads = config.whole_heads or profile.has_whole_heads
    offered = Offered(config.exact, heads)
    base = _base(config.model, builder, sample.inputs, offered)
    profile.check(base.graph_of(profile))
    shape = input_shape_of(sample.inputs)
    return _restricted(config, Subject(base, profile, shape, sample.classes))


def _base(
    name: str, builder: Builder, example_input: ExampleInput, offered: Offered
) -> BaseNetwork:
    """The network called `name`, traced; ModelError if it cannot run or ends its process."""
    graph = of_network(name, _graph, name, builder, example_input, offered)
    return BaseNetwork(builder, graph, example_input)


def _graph(
    name: str, builder: Builder, example_input: ExampleInput, offered: Offered
) -> ChannelGraph:
    try:
        return BaseNetwork.of(builder, example_input, **dataclasses.asdict(offered)).graph
    except TraceError as error:
        raise ModelError(f"{name}: {error}") from error


def _restricted(config: FamilyConfig, subject: Subject) -> Subject:
    """The subject, whose shape is as wide as the restrictions of the ladder want it.

    Its channels are those of the layers that the shape narrows.
    """
    search = config.as_search()
    search.offered.check(subject.base.graph)
    restrictions = search.restrictions
    if restrictions != Restrictions():
        base = subject.base.under(restrictions)
        profile = subject.profile.permitted(base.graph_of(subject.profile))
        subject = dataclasses.replace(subject, base=base, profile=profile)
    return dataclasses.replace(subject, base=subject.base.pruning(_narrowed_alike(subject)))


def family_kind(name: str, subject: Subject) -> FamilyKind:
    """The kind called `name` on the command line."""
    kind, rho = kind_and_number(name)
    profile = subject.profile
    made: dict[str, Callable[[], FamilyKind]] = {
        "copycat": lambda: families.Copycat(profile),
        "copycat-all": lambda: families.CopycatOfAll(profile),
        "tempered": lambda: families.TemperedCopycat(profile, rho or 0.0),
        "uniform": lambda: families.UniformWidth(_narrowed_alike(subject)),
        "width": families.UniformWidth,
        "wrn": families.WideResNetWidth,
        "bottleneck": families.Bottleneck,
        "depth": families.Depth,
        "mobilenetv2": lambda: families.MobileNetV2(len(subject.classes)),
        "from-scratch": lambda: families.PrunedShape(profile),
    }
    return made[kind]()


def _narrowed_alike(subject: Subject) -> tuple[str, ...]:
    """The groups of the profile, or those that a search may prune where it has none."""
    graph = subject.base.graph
    own = tuple(g.name for g in graph.prunable if g.name in subject.profile.widths)
    return own or tuple(g.name for g in graph.prunable if not g.residual)


def ladder(config: FamilyConfig, subject: Subject) -> tuple[list[Rung], list[str]]:
    """The members of every kind at every budget, and notes on what there is none of.

    A shape that is the largest within several budgets appears once, at the first of them.
    """
    rungs: list[Rung] = []
    notes: list[str] = []

    def milliseconds(model: torch.nn.Module) -> float:
        example_input = subject.base.example_input
        return measured_latency(model, example_input, device=config_device(config)).median_ms

    for name in config.kind_names:
        kind = family_kind(name, subject)
        family = families.Family(subject.base, kind, divisor=config.divisor, measure=milliseconds)
        seen: set[tuple[str, str]] = set()
        for budget in config.ladder():
            try:
                member = family.member(budget)
            except BudgetError as error:
                notes.append(f"no {name} at {budget}: {error}")
                continue
            shape = (member.profile.digest, repr(member.shape.builder))
            if shape not in seen:
                rungs.append(Rung(name, kind.symbol, member))
            seen.add(shape)
    return rungs, notes


def config_device(config: FamilyConfig) -> str:
    """Where latency is measured: cpu or cuda."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def ladder_table(rungs: Sequence[Rung], base: Cost) -> Table:
    """One row per member, budget by budget as they rise."""
    numbers = ("factor", "FLOPs", "of base", "params", "of base")
    table = text_table("budget", "kind", *numbers, numbers=numbers)
    for rung in sorted(rungs, key=_place):
        member = rung.member
        table.add_row(
            str(member.limits),
            rung.kind,
            f"{rung.symbol} {member.parameter:.3f}",
            format_count(member.cost.flops),
            f"{100 * member.cost.flops / base.flops:.2f} %",
            format_count(member.cost.params),
            f"{100 * member.cost.params / base.params:.2f} %",
        )
    return table


def _place(rung: Rung) -> tuple[str, float]:
    bound = rung.member.limits.bounds[0]
    return bound.quantity, bound.value


def ladder_lines(rungs: Sequence[Rung]) -> list[str]:
    """The table's content as plain text, a line for each member."""
    return [
        f"{rung.kind:<13} {rung.member.limits}: {format_count(rung.member.cost.flops)} FLOPs, "
        f"{format_count(rung.member.cost.params)} params"
        for rung in sorted(rungs, key=_place)
    ]


def ladder_rows(rungs: Sequence[Rung], base: Cost) -> list[dict[str, object]]:
    """The table's content for machines: counts in full, and every width."""
    return [
        {
            "budget": str(rung.member.limits),
            "kind": rung.kind,
            "parameter": rung.member.parameter,
            "flops": rung.member.cost.flops,
            "flops_share": rung.member.cost.flops / base.flops,
            "uncounted": rung.member.cost.uncounted,
            "params": rung.member.cost.params,
            "params_share": rung.member.cost.params / base.params,
            "channels": rung.member.cost.channels,
            "latency_ms": rung.member.cost.latency_ms,
            **rung.member.profile.to_mapping(),
        }
        for rung in rungs
    ]


def from_scratch_jobs(rungs: Sequence[Rung], seeds: int) -> list[FromScratchJob]:
    """What to train: every member with every seed from 0."""
    return [
        from_scratch_job(
            "-".join(
                [rung.kind, *(f"{b.quantity}-{b.value:.15g}" for b in rung.member.limits.bounds)]
            ),
            rung.kind,
            rung.member.profile,
            seed,
            alpha=rung.member.parameter,
            budget=str(rung.member.limits),
            builder=rung.member.shape.builder,
        )
        for rung in rungs
        for seed in range(seeds)
    ]


def from_scratch_job(
    name: str,
    kind: str,
    profile: WidthProfile,
    seed: int,
    *,
    alpha: float = 1.0,
    budget: str = "its own size",
    builder: Builder | None = None,
) -> FromScratchJob:
    """One training run of one shape; its key says which."""
    origin: Origin = kind_and_number(kind)[0]  # type: ignore[assignment]
    return FromScratchJob.of(
        profile,
        re.sub(r"[^A-Za-z0-9_.]+", "-", f"{name}-s{seed}"),
        origin,
        alpha=alpha,
        seed=seed,
        budget=budget,
        builder=None if builder is None else (builder.target, dict(builder.arguments)),
    )
