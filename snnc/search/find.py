"""The search itself: T, then the percentile, then the bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.passes import RefineThresholds
from snnc.pipeline import Pipeline, Progress, silent

from .judge import Judge, Trial
from .options import Choice, Goal, converting, options_of

PERCENTILES = (99.0, 99.9, 99.99, 100.0)
"""Percentiles that are tried besides the recipe's own."""


@dataclass(frozen=True)
class Search:
    """What a search found, and what it found it by.

    Attributes:
        ann: accuracy of the ANN on all validation samples.
        samples: how many there are.
        curve: every candidate tried, by T, percentile and bits.
        pipeline: the recipe with the chosen options.
        judged: the passes of it that made the candidates: those before the first trainer.
        sample_steps: samples times T that candidates were simulated for.
    """

    goal: Goal
    chosen: Choice
    ann: float
    samples: int
    curve: tuple[Trial, ...]
    pipeline: Pipeline
    judged: Pipeline
    sample_steps: int

    @property
    def best(self) -> Trial:
        """The chosen point of the curve."""
        return next(t for t in self.curve if t.choice == self.chosen)

    def to_json(self, *, timed: bool = True) -> dict[str, Any]:
        """Plain data."""
        return {
            "max_drop": self.goal.max_drop,
            "steps": [self.goal.steps[0], self.goal.steps[-1]],
            "chosen": self.best.to_json(timed=timed),
            "ann": round(self.ann, 6),
            "samples": self.samples,
            "curve": [t.to_json(timed=timed) for t in self.curve],
            "pipeline": str(self.pipeline),
            "judged": str(self.judged),
            "sample_steps": self.sample_steps,
        }


def search(
    recipe: Pipeline, graph: Graph, data: Data, goal: Goal, *, seed: int = 0, device: str = "cpu",
    progress: Progress = silent,
) -> Search:  # fmt: skip
    """Find the smallest T, the percentile and the bits that keep the drop within the goal.

    Args:
        graph: the imported analog graph.
        data: its test part is not touched.

    Raises:
        PipelineError: no T of the range is enough; names the nearest and what to try. Or answers cannot be counted.
    """
    goal.check_data(data)
    start = options_of(recipe)
    judge = Judge.of(Pipeline(*converting(recipe)), graph, data, goal, seed, device, progress)
    chosen = _lowest(judge, start, goal.steps)
    if chosen is None:
        raise _refusal(recipe, judge)
    for percentile in PERCENTILES:
        if percentile != start.percentile:
            chosen = _with_percentile(judge, chosen, percentile)
    chosen = _fewest_bits(judge, chosen)
    return Search(
        goal, chosen, float(judge.ann.mean()), len(judge.ann), judge.curve(),
        Pipeline(*chosen.passes(recipe.passes)), Pipeline(*chosen.passes(judge.recipe.passes)), judge.sample_steps,
    )  # fmt: skip


def smallest(fits: Callable[[int], bool], steps: range) -> int | None:
    """The smallest of `steps` that fits, if what fits is monotone; None if the largest does not.

    Where it is not monotone: one that fits, of which the two below do not.
    """
    low, at = steps[0] - 1, steps[0]
    while not fits(at):
        if at == steps[-1]:
            return None
        low, at = at, min(2 * at, steps[-1])
    while at - low > 1:
        middle = (low + at) // 2
        low, at = (low, middle) if fits(middle) else (middle, at)
    while (below := next((t for t in (at - 1, at - 2) if t in steps and fits(t)), None)) is not None:
        at = below
    return at


def _lowest(judge: Judge, like: Choice, steps: range) -> Choice | None:
    """The smallest T of `steps` that keeps the budget on all samples, the other options as in `like`."""
    while (found := smallest(lambda t: judge.fits(replace(like, steps=t)), steps)) is not None:
        if judge.holds(chosen := replace(like, steps=found)):
            return chosen
    return None


def _with_percentile(judge: Judge, chosen: Choice, percentile: float) -> Choice:
    """The smallest T of another percentile, if it is smaller than that of `chosen`; else `chosen`."""
    other = replace(chosen, percentile=percentile, steps=chosen.steps - 1)
    if other.steps not in judge.goal.steps or not judge.fits(other):
        return chosen
    return _lowest(judge, other, range(judge.goal.steps[0], chosen.steps)) or chosen


def _fewest_bits(judge: Judge, chosen: Choice) -> Choice:
    """`chosen` with the fewest bits that keep the budget."""
    tried = [chosen]
    while (fewer := _with_fewer_bits(judge, tried[-1])) is not None and judge.fits(fewer):
        tried.append(fewer)
    return next(choice for choice in reversed(tried) if judge.holds(choice))


def _with_fewer_bits(judge: Judge, choice: Choice) -> Choice | None:
    """`choice` with a bit less; None where there are no bits, or the pass refuses so few."""
    if choice.bits is None:
        return None
    fewer = replace(choice, bits=choice.bits - 1)
    try:
        fewer.passes(judge.recipe.passes)
    except PipelineError:
        return None
    return fewer


def _refusal(recipe: Pipeline, judge: Judge) -> PipelineError:
    """No T is enough: the nearest, and what else there is to try."""
    nearest = min(judge.curve(), key=lambda t: (t.drop, t.latency))
    first, last = judge.goal.steps[0], judge.goal.steps[-1]
    ways = [f"--steps {first}..{2 * last}", f"--max-drop {math.ceil(max(nearest.drop, 0.0) * 10) / 10:g}"]
    if not any(isinstance(p, RefineThresholds) for p in recipe.passes):
        ways.append(f"'{RefineThresholds.name}' behind bias-per-step in --pipeline")
    if len(judge.recipe.passes) < len(recipe.passes):
        later = recipe.passes[len(judge.recipe.passes)].name
        ways.append(f"--steps {last} without --max-drop: '{later}' may bring back what the search cannot count on")
    return PipelineError(
        f"no T from {first} to {last} keeps the drop within {judge.goal.max_drop:g} points; the nearest was "
        f"{nearest.choice} with a drop of {nearest.drop:.2f} points on {nearest.samples} validation samples",
        hint="; or ".join(ways),
    )
