"""What a relation of a paper is: numbers that are measured seed by seed, and the bounds that their means must meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .study import Study

Numbers = Mapping[str, float]
"""What was measured with one seed, by quantity."""


class NotRunError(Exception):
    """A relation cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Bound:
    """What the mean of a quantity over the seeds must meet.

    Attributes:
        quantity: its name among the numbers.
        least, most: both are met at equality.
    """

    quantity: str
    least: float = -math.inf
    most: float = math.inf

    def met(self, mean: float) -> bool:
        """Whether a mean lies within."""
        return self.least <= mean <= self.most

    def near(self, mean: float, spread: float) -> bool:
        """Whether one standard deviation more or less would change the verdict."""
        return self.met(mean - spread) != self.met(mean) or self.met(mean + spread) != self.met(mean)

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.quantity} = {self.least:g}"
        low = f"{self.quantity} >= {self.least:g}" if math.isfinite(self.least) else ""
        high = f"{self.quantity} <= {self.most:g}" if math.isfinite(self.most) else ""
        return " and ".join(filter(None, (low, high)))


@dataclass(frozen=True)
class Relation:
    """One row of the table.

    Attributes:
        name: L1 to S4.
        claim: in words, with the setting it is measured in.
        paper: what the paper found.
        bounds: what our numbers must meet; none: they are reported.
        measure: the numbers of one seed; raises NotRunError.
        remark: what must be known to read the numbers.
    """

    name: str
    claim: str
    paper: str
    bounds: tuple[Bound, ...]
    measure: Callable[[Study, int], Numbers]
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """A relation and what was measured of it.

    Attributes:
        numbers: of every seed; empty if it was not run.
        why: it was not run.
    """

    relation: Relation
    numbers: Sequence[Numbers]
    why: str = ""

    def mean(self, quantity: str) -> float:
        """Over the seeds."""
        return float(np.mean([found[quantity] for found in self.numbers]))

    def spread(self, quantity: str) -> float:
        """The sample standard deviation over the seeds; 0 of a single one."""
        values = [found[quantity] for found in self.numbers]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    @property
    def ours(self) -> str:
        """Every quantity, mean and spread; those with bounds first, as the table has them."""
        if not self.numbers:
            return "-"
        bound = [b.quantity for b in self.relation.bounds]
        names = [*dict.fromkeys(bound), *(name for name in self.numbers[0] if name not in bound)]
        return "; ".join(f"{name} {_figure(self.mean(name), self.spread(name))}" for name in names)

    @property
    def verdict(self) -> str:
        """Whether all bounds hold on the means, and by how little."""
        if self.why:
            return f"not run: {self.why}"
        if not self.relation.bounds:
            return "reported"
        means = {b: (self.mean(b.quantity), self.spread(b.quantity)) for b in self.relation.bounds}
        missed = [b for b, (mean, _) in means.items() if not b.met(mean)]
        if missed:
            close = all(b.near(*means[b]) for b in missed)
            return f"does not hold{', within the spread' if close else ''}: {'; '.join(map(str, missed))}"
        narrow = [b for b, (mean, spread) in means.items() if b.near(mean, spread)]
        return f"holds{', within the spread' if narrow else ''}"


def _figure(mean: float, spread: float) -> str:
    """Two decimals; four where all is small."""
    digits = 4 if 0 < max(abs(mean), spread) < 0.1 else 2
    return f"{mean:.{digits}f}" + (f" +- {spread:.{digits}f}" if spread else "")
