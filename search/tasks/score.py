"""What a task calls good: a named number with a direction, and how it is told."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pruning.errors import ConfigError

Direction = Literal["maximize", "minimize"]

Sums = Literal["", "mean", "mean of ratios", "determination"]
"""How a score follows from sums over samples, see `Score.of_sums`."""


@dataclass(frozen=True)
class Score:
    """A kind of score, such as accuracy.

    name: as people read it, such as "accuracy", "mean IoU" or "mean absolute error".
    direction: whether more or less of it is better.
    is_share: whether it lies in [0, 1] and is shown in percent.
    counts_samples: whether it is the share of samples that are right: what chance does to it is
        binomial then, and one minus it is an error rate.
    sums: how it follows from sums over samples of what `Task.sample_terms` gives; empty if it does
        not. Networks are then compared on the same samples.

    ConfigError for a score without a name or of no such direction or sums.
    """

    name: str
    direction: Direction = "maximize"
    is_share: bool = True
    counts_samples: bool = False
    sums: Sums = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "\n" in self.name:
            raise ConfigError(f"the name of a score must be one line of text, got {self.name!r}")
        if self.direction not in get_args(Direction):
            choices = " or ".join(get_args(Direction))
            raise ConfigError(
                f"the direction of the score {self.name!r} must be {choices}, "
                f"got {self.direction!r}"
            )
        if self.sums not in get_args(Sums):
            raise ConfigError(
                f"the sums of the score {self.name!r} must be one of "
                f"{', '.join(map(repr, get_args(Sums)))}, got {self.sums!r}"
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

    @property
    def worst(self) -> float:
        """The worst value of a share; 0 of other numbers, which have none."""
        return 1.0 if self.is_share and self.direction == "minimize" else 0.0

    def of_guessing(self, num_classes: int) -> float:
        """Of a network that guesses one of so many classes, where samples are counted."""
        right = 1 / num_classes
        return right if self.direction == "maximize" else 1 - right

    def of_sums(self, sums: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """The score (…) of terms (…, k) that were summed over `count` samples.

        mean: the mean of the only term (k = 1). mean of ratios: that of the first k / 2 terms to
        the others, those of nothing to nothing left out (intersections and unions per class).
        determination: R² of k / 3 numbers, their mean; terms are the squared residuals, the
        targets and the squared targets.
        """
        assert self.sums, self
        if self.sums == "mean":
            return np.asarray(sums[..., 0] / count)
        if self.sums == "mean of ratios":
            parts, wholes = np.split(sums, 2, axis=-1)
            ratios = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
            return np.asarray(ratios.sum(-1) / np.maximum((wholes > 0).sum(-1), 1))
        residuals, targets, squares = np.split(sums, 3, axis=-1)
        totals = squares - targets**2 / count
        shares = np.divide(residuals, totals, out=np.ones_like(totals), where=totals > 0)
        return np.asarray((1 - shares).mean(-1))

    def text(self, value: float, decimals: int = 2) -> str:
        """Such as "98.61%", or, of a number that is no share, "0.01234".

        decimals: of a percentage; other numbers have two significant digits more than that.
        """
        return f"{value:.{decimals}%}" if self.is_share else f"{value:.{decimals + 2}g}"

    def mean_text(self, mean: float, deviation: float | None = None, decimals: int = 1) -> str:
        """Such as "98.6 ± 0.2 %", or "0.123 ± 0.0045"; deviation: None where there is none."""
        spread = "" if deviation is None else f" ± {self._number(deviation, decimals)}"
        return f"{self._number(mean, decimals)}{spread}{' %' if self.is_share else ''}"

    def difference_text(self, difference: float) -> str:
        """Such as "0.4 points" or, of a number that is no share, "0.012"."""
        return f"{self._number(difference)}{' points' if self.is_share else ''}"

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

    def interval_text(self, gain: float, low: float | None, high: float | None) -> str:
        """A gain and its interval, such as "+0.8 points [−0.3, +1.9]"; below zero it is a loss."""
        return self.gain_text(gain) + self._ends_text(low, high)

    def interval_cell(self, gain: float, low: float | None, high: float | None) -> str:
        """The same without its unit, for the column of a table."""
        return self._signed(gain) + self._ends_text(low, high)

    def _ends_text(self, low: float | None, high: float | None) -> str:
        known = [self._signed(end) for end in (low, high) if end is not None]
        return f" [{', '.join(known)}]" if known else ""

    def _signed(self, gain: float) -> str:
        return f"{'−' if gain < 0 else '+'}{self._number(abs(gain))}"

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


ACCURACY = Score("accuracy", counts_samples=True, sums="mean")
"""The score of classification, and of all that was stored before there were others."""
