"""What networks cost, in closed form: the numbers of papers that need no training."""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from copycat import families
from copycat.families.base_network import BaseNetwork
from pruning.cost import Budget, Cost
from pruning.errors import BudgetError, ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.selection import select
from search import models
from search.config.model_arguments import model_arguments
from search.config.settings import option, require, settings

_KINDS = {
    "wrn": families.WideResNetWidth,
    "bottleneck": families.Bottleneck,
    "width": families.UniformWidth,
}
_SIZES = re.compile(r"\d+(x\d+)*")


@settings
class CountConfig:
    """A network whose cost is asked for.

    input: sizes of a sample, such as 3x32x32.
    """

    model: str = option("vgg16", "as of a search")
    model_arg: tuple[str, ...] = option((), "as of a search")
    input: str = option("3x32x32", "sizes of a sample")
    classes: int = option(10, "number of classes", ge=1)
    ignore: tuple[str, ...] = option((), "as of a search")

    def __post_init__(self) -> None:
        require(_SIZES.fullmatch(self.input) is not None, "input", "such as 3x32x32", self.input)


def counted(config: CountConfig, of: str, at: str) -> tuple[Cost, Cost, float] | None:
    """The cost of a network, that of the whole one, and a parameter of its family.

    at: channels=50%: so much of every prunable layer is left (Uniform Channel Scaling, see
        `pruning.select`); nothing: the whole network. With `of`, a kind of family (wrn, bottleneck,
        width): its largest member within the budget `at`; None if it has none.
    """
    base = _base(config.model, config.model_arg, config.input, config.classes)
    whole = base.graph.cost()
    if of:
        if of not in _KINDS:
            raise ConfigError(f"a family is one of {', '.join(_KINDS)}, got {of!r}")
        try:
            member = families.Family(base, _KINDS[of]()).member(Budget.parse(at))
        except BudgetError:
            return None
        return member.cost, whole, member.parameter
    if not at:
        return whole, whole, 1.0
    widths = _uniform_widths(base.graph, Budget.parse(at), config.ignore)
    return base.graph.cost(widths), whole, 1.0


def _uniform_widths(graph: ChannelGraph, budget: Budget, ignore: tuple[str, ...]) -> dict[str, int]:
    """Widths after the same share went of every layer off the residual streams."""
    scores = {group.name: torch.zeros(group.width) for group in graph.prunable}
    return select(scores, graph, budget, scope="uniform", residual=False, ignore=ignore).widths


@lru_cache(maxsize=8)
def _base(model: str, model_arg: tuple[str, ...], sizes: str, classes: int) -> BaseNetwork:
    shape = tuple(map(int, sizes.split("x")))
    builder = models.resolve(
        model, num_classes=classes, in_channels=shape[0], own=model_arguments(model_arg)
    )
    return BaseNetwork.of(builder, torch.zeros(1, *shape))
