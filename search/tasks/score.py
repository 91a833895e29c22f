"""What a task calls good: a named number with a direction, and how it is told."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pruning.errors import ConfigError

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Score:
    """A kind of score, such as accuracy.

    name: as people read it, such as "accuracy", "mean IoU" or "mean absolute error".
    direction: whether more or less of it is better.
    is_share: whether it lies in [0, 1] and is shown in percent.
    counts_samples: whether it is the share of samples that are right: what chance does to it is
        binomial then, and one minus it is an error rate.

    ConfigError for a score without a name or of no such direction.
    """

    name: str
    direction: Direction = "maximize"
    is_share: bool = True
    counts_samples: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "\n" in self.name:
            raise ConfigError(f"the name of a score must be one line of text, got {self.name!r}")
        if self.direction not in get_args(Direction):
            choices = " or ".join(get_args(Direction))
            raise ConfigError(
                f"the direction of the score {self.name!r} must be {choices}, "
                f"got {self.direction!r}"
            )

    @property
    def slug(self) -> str:
        """The name for machines: letters, digits and underscores, such as mean_iou."""
        plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode()
        return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_") or "score"

    def key(self, value: float) -> float:
        """By what scores are sorted: it rises from the worst to the best."""
        return value if self.direction == "maximize" else -value

    def worth(self, share: float) -> float:
        """From 0, the worst, to 1, the best; of a share, since others have no worst value."""
        assert self.is_share
        return share if self.direction == "maximize" else 1 - share

    def text(self, value: float, decimals: int = 2) -> str:
        """Such as "98.61%", or, of a number that is no share, "0.01234".

        decimals: of a percentage; other numbers have two significant digits more than that.
        """
        return f"{value:.{decimals}%}" if self.is_share else f"{value:.{decimals + 2}g}"

    def mean_text(self, mean: float, deviation: float | None = None, decimals: int = 1) -> str:
        """Such as "98.6 ± 0.2 %", or "0.123 ± 0.0045"; deviation: None where there is none."""
        spread = "" if deviation is None else f" ± {self._number(deviation, decimals)}"
        return f"{self._number(mean, decimals)}{spread}{' %' if self.is_share else ''}"

    def difference_text(self, difference: float, margin: float | None = None) -> str:
        """Such as "0.4 points", "0.4 ± 0.3 points" or, of a number that is no share, "0.012"."""
        spread = "" if margin is None else f" ± {self._number(margin)}"
        return f"{self._number(difference)}{spread}{' points' if self.is_share else ''}"

    def gain(self, score: float, base: float) -> float:
        """How much better a score is than that of the base network; negative where it is worse."""
        return self.key(score) - self.key(base)

    def gain_text(self, gain: float | None) -> str:
        """Such as "−0.4 points", "±0.0 points" or "+0.012"; a dash where there is none.

        Where less is better a sign would be read the wrong way: there it is "0.012 better", or
        "worse".
        """
        if gain is None:
            return "–"
        size = self.difference_text(abs(gain))
        if not any(digit in size for digit in "123456789"):
            return f"±{size}"
        if self.direction == "minimize":
            return f"{size} {'worse' if gain < 0 else 'better'}"
        return f"{'−' if gain < 0 else '+'}{size}"

    def _number(self, value: float, decimals: int = 1) -> str:
        return f"{100 * value:.{decimals}f}" if self.is_share else f"{value:.{decimals + 2}g}"

    def plotted(self, value: float) -> float:
        """The number on an axis, which `axis` names: a percentage of a share."""
        return 100 * value if self.is_share else value

    def axis(self, part: str) -> str:
        """The title of an axis; part: the split of the data, such as validation."""
        return f"{part} {self.name}{self.unit}"

    @property
    def unit(self) -> str:
        """What is written behind the name where numbers are percentages."""
        return " (%)" if self.is_share else ""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any] | None) -> Score:
        """The inverse of `to_mapping`; accuracy where nothing is said."""
        if not content:
            return ACCURACY
        known = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: content[name] for name in known if name in content})


ACCURACY = Score("accuracy", counts_samples=True)
"""The score of classification, and of all that was stored before there were others."""
