r"""Is a drop of accuracy within a budget? Settled on as few samples as are enough.

N samples in random order; the ANN is right on R of them, which is known. The converted network loses L of these and
wins W of the other N - R:

    drop = (L - W) / N

Of r right samples seen so far l are lost: hypergeometric, whatever the networks are. The exact one-sided bounds of
Clopper and Pearson (1934), for a finite population and a risk delta:

    L_high = max {K : P(X <= l | R, K, r) > delta}        L_low = min {K : P(X >= l | R, K, r) > delta}

and likewise for W. The drop is within the budget as soon as L_high - W_low <= allowed, above it as soon as
L_low - W_high > allowed. Each look and each bound takes its part of the risk (union bound). When all samples are seen
the bounds meet, and the answer is exact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from snnc.ir import Array

FIRST = 64
"""Samples of the first look; every look doubles them."""
RISK = 0.01
"""Largest chance that a budget is judged wrongly before all samples are seen."""


@dataclass(frozen=True)
class Tally:
    """What was seen of a converted network.

    Attributes:
        right, wrong: samples that the ANN gets right and wrong, of all there are: R and N - R.
        right_seen, wrong_seen: of those the ones seen so far.
        losses: seen right samples that the network gets wrong.
        wins: seen wrong samples that the network gets right.
    """

    right: int
    wrong: int
    right_seen: int
    wrong_seen: int
    losses: int
    wins: int

    @classmethod
    def of(cls, ann: Array, snn: Array) -> Tally:
        """From hits of the ANN [N] and of the network on the first n samples [n], both bool."""
        seen = ann[: len(snn)]
        counts = (ann, ~ann, seen, ~seen, seen & ~snn, ~seen & snn)
        return cls(*(int(np.count_nonzero(c)) for c in counts))

    @property
    def total(self) -> int:
        """N."""
        return self.right + self.wrong

    @property
    def drop(self) -> float:
        """On the samples seen, in points."""
        return 100 * (self.losses - self.wins) / (self.right_seen + self.wrong_seen)

    def within(self, points: float) -> bool | None:
        """Whether the drop on all N samples is at most `points`; None: nobody can say yet."""
        allowed = int(np.floor(points / 100 * self.total + 1e-9))
        risk = RISK / (4 * len(looks(self.total)))
        most = _at_most(self.right, self.right_seen, self.losses, risk)
        if most - _at_least(self.wrong, self.wrong_seen, self.wins, risk) <= allowed:
            return True
        least = _at_least(self.right, self.right_seen, self.losses, risk)
        if least - _at_most(self.wrong, self.wrong_seen, self.wins, risk) > allowed:
            return False
        return None


def looks(total: int) -> tuple[int, ...]:
    """The numbers of samples after which to look: 64, 128, ... and `total`."""
    found = []
    at = FIRST
    while at < total:
        found.append(at)
        at *= 2
    return (*found, total)


def _at_most(total: int, seen: int, hits: int, risk: float) -> int:
    """The largest number of hits among `total` that makes at most `hits` among `seen` likelier than `risk`."""
    low, high = hits, total - (seen - hits)
    while low < high:
        middle = (low + high + 1) // 2
        if _chance(total, middle, seen, hits) > risk:
            low = middle
        else:
            high = middle - 1
    return low


def _at_least(total: int, seen: int, hits: int, risk: float) -> int:
    """The smallest number of hits: what is left by the largest number of misses."""
    return total - _at_most(total, seen, seen - hits, risk)


def _chance(total: int, hits: int, seen: int, most: int) -> float:
    """P(X <= most): hits among `seen` drawn without replacement from `total` that hold `hits`."""
    drawn = np.arange(max(0, seen - (total - hits)), most + 1)
    logs = _log_choose(hits, drawn, total) + _log_choose(total - hits, seen - drawn, total)
    return float(np.exp(logs - _log_choose(total, np.asarray(seen), total)).sum())


def _log_choose(n: int, k: Array, largest: int) -> Array:
    logs = _log_factorials(largest)
    return np.asarray(logs[n] - logs[k] - logs[n - k])


@functools.lru_cache(maxsize=4)
def _log_factorials(largest: int) -> Array:
    """log 0!, log 1!, ... log largest!"""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])
