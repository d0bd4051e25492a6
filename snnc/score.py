r"""What the outputs of a network are judged by, against what is wanted of each sample.

    accuracy   share of samples whose largest score is their label        labels [N], integers
    mse        mean over samples and elements of (output - target)^2      targets [N, ...], floats
    si-sdr     mean over samples of SI-SDR in dB, of several sources      targets [N, samples] or [N, sources, samples]
               in their best order (`snnc.signals.separation`)

Every score is a mean over samples. Sums are in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .errors import DataError
from .ir import Array, Samples, Shape
from .signals import MOST_SOURCES, as_sources, separation

CHUNK = 1024
"""Targets that are read at a time."""


@dataclass(frozen=True)
class Score:
    """How outputs are judged, and how the figure reads.

    Attributes:
        unit: behind the figure.
        higher_is_better: whether a larger figure is a better one.
        each: of outputs [n, ...] and what is wanted of them [n, ...], the figure of every sample, [n].
        factor, digits: a figure is printed as factor times what it is, in this format.
    """

    name: str
    unit: str
    higher_is_better: bool
    each: Callable[[Array, Array], Array] = field(repr=False)
    factor: float = 1.0
    digits: str = ".2f"

    def measure(self, outputs: Array, targets: Samples) -> float:
        """The score of outputs [N, ...], of one sample or more.

        Raises:
            DataError: the outputs are too large, or no numbers.
        """
        total = 0.0
        for at in range(0, len(outputs), CHUNK):
            part = slice(at, at + CHUNK)
            total += float(self.each(outputs[part], targets[part]).sum(dtype=np.float64))
        if not math.isfinite(total):
            raise DataError(f"the network's outputs cannot be judged: {self.name} is {total}")
        return total / len(outputs)

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better."""
        return value > than if self.higher_is_better else value < than

    def ends(self, values: Sequence[float]) -> tuple[float, float]:
        """The worst and the best of figures."""
        low, high = min(values), max(values)
        return (low, high) if self.higher_is_better else (high, low)

    def text(self, value: float) -> str:
        """In a table: `97.31 %`, `0.00662`, `12.31 dB`."""
        return f"{self.factor * value:{self.digits}} {self.unit}".rstrip()

    def brief(self, value: float) -> str:
        """In a sentence, where percent signs stand tight: `97.31%`, `0.00662`, `12.31 dB`."""
        return self.text(value).replace(" %", "%")

    def change(self, value: float, before: float) -> str:
        """`value` less `before`: `+3.40`."""
        return f"{self.factor * (value - before):+{self.digits}}"

    def rounded(self, value: float) -> float:
        """As files have it: shares to six decimals, others to six digits."""
        return round(value, 6) if self.unit == "%" else float(f"{value:.6g}")


def accuracy(scores: Array, labels: Samples) -> float:
    """Share of samples [N, classes] whose largest score is their label [N]."""
    return ACCURACY.measure(scores, labels)


def _right(scores: Array, labels: Array) -> Array:
    return np.asarray(scores.argmax(axis=1) == labels)


def _squared(outputs: Array, targets: Array) -> Array:
    away = outputs.astype(np.float64) - targets
    return np.asarray(np.square(away).reshape(len(away), -1).mean(axis=1))


def _separated(outputs: Array, targets: Array) -> Array:
    estimates, sources = (as_sources(torch.as_tensor(signals.astype(np.float64))) for signals in (outputs, targets))
    return np.asarray(separation(estimates, sources)[0].numpy())


ACCURACY = Score("accuracy", "%", True, _right, 100.0)
MSE = Score("mse", "", False, _squared, digits=".4g")
SI_SDR = Score("si-sdr", "dB", True, _separated)
SCORES = {score.name: score for score in (ACCURACY, MSE, SI_SDR)}


def no_signals(shape: Shape) -> str:
    """Why targets of this shape cannot be judged by si-sdr; empty where they can."""
    if len(shape) not in (1, 2) or shape[-1] < 2:
        return f"si-sdr compares signals [samples] or [sources, samples], not {list(shape)}"
    if len(shape) == 2 and shape[0] > MOST_SOURCES:
        return f"si-sdr tries the orders of at most {MOST_SOURCES} sources, not of {shape[0]}"
    return ""
