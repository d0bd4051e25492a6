"""The judge of a search: converts candidates, looks at as many samples as it takes, and remembers."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from snnc.data import Data
from snnc.errors import SnncError
from snnc.ir import Array, Graph, Samples
from snnc.pipeline import Context, Pass, Pipeline, Progress, apply_pass, single
from snnc.sim import torch as executor
from snnc.sim.cost import measure
from snnc.sim.placement import first

from .options import Choice, Goal
from .sequential import FIRST, Tally, looks

NAME = "search"


@dataclass(frozen=True)
class Trial:
    """A point of the curve: one candidate and how it was judged.

    Attributes:
        accuracy: share of right answers on the samples judged.
        drop: ANN minus SNN in points, on the same samples.
        samples: how many were judged until the budget was settled.
        within: whether the drop is within the budget.
        synops, spikes: per inference, mean over the first `FIRST` validation samples judged.
        latency: time steps of one inference.
        seconds: of converting and judging; the only field that differs between two equal searches.
    """

    choice: Choice
    accuracy: float
    drop: float
    samples: int
    within: bool
    synops: float
    spikes: float
    latency: int
    seconds: float = 0.0

    def to_json(self, *, timed: bool = True) -> dict[str, Any]:
        """Plain data; without `timed` the same for every run of the same search."""
        made = {**asdict(self), **asdict(self.choice)}
        del made["choice"]
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in made.items() if timed or k != "seconds"}


@dataclass
class _Candidate:
    """One candidate while it is judged: its graph (None: not needed any more), its hits so far [n], what it costs."""

    graph: Graph | None
    hits: Array
    synops: float
    spikes: float
    within: bool | None = None
    seconds: float = 0.0


@dataclass
class Judge:
    """Converts candidates and judges each as far as it takes, once.

    Attributes:
        recipe: the passes before the first trainer.
        x, ann: the validation samples in random order, scaled, and whether the ANN is right on each.
        trail: the last conversion, pass by pass: the next one goes on from what both share.
    """

    recipe: Pipeline
    graph: Graph
    ctx: Context
    goal: Goal
    x: Samples
    labels: Array
    ann: Array
    progress: Progress
    tried: dict[Choice, _Candidate] = field(default_factory=dict)
    trail: list[tuple[Pass, Graph]] = field(default_factory=list)
    sample_steps: int = 0

    @classmethod
    def of(
        cls, recipe: Pipeline, graph: Graph, data: Data, goal: Goal, seed: int, device: str, progress: Progress
    ) -> Judge:
        """Run the ANN on the validation samples; from here on there is no test part."""
        teacher = graph.teacher or graph
        ctx = Context(replace(data, test=data.train.take(0)), teacher, seed, first(device))
        order = ctx.rng(NAME).permutation(len(data.validation))
        x = data.validation.pick(order)
        return cls(recipe, graph, ctx, goal, x, x.labels[:], _hits(teacher, x, x.labels[:], device), progress)

    def fits(self, choice: Choice) -> bool:
        """Whether the drop is within the budget, as far as the samples judged can tell."""
        if choice not in self.tried:
            self.tried[choice] = self._convert(choice)
        candidate = self.tried[choice]
        if candidate.within is None:
            self._judge(choice, candidate, until_sure=False)
        return bool(candidate.within)

    def holds(self, choice: Choice) -> bool:
        """Whether the drop is within the budget on all samples."""
        if self.fits(choice):
            self._judge(choice, self.tried[choice], until_sure=True)
        return self.fits(choice)

    def curve(self) -> tuple[Trial, ...]:
        """A trial for every candidate."""
        ordered = sorted(self.tried, key=lambda c: (c.steps, c.percentile, c.bits or 0))
        return tuple(self._trial(choice, self.tried[choice]) for choice in ordered)

    def _trial(self, choice: Choice, made: _Candidate) -> Trial:
        tally = Tally.of(self.ann, made.hits)
        return Trial(
            choice, float(made.hits.mean()), tally.drop, len(made.hits), bool(made.within), made.synops, made.spikes,
            choice.steps, made.seconds,
        )  # fmt: skip

    def _convert(self, choice: Choice) -> _Candidate:
        """Run the passes, from the first that the last conversion did not have."""
        self.progress(f"{NAME}, {choice}", len(self.tried), max(self.goal.most_candidates, len(self.tried) + 1))
        start = time.perf_counter()
        passes = choice.passes(self.recipe.passes)
        shared = 0
        while shared < min(len(passes), len(self.trail)) and passes[shared] == self.trail[shared][0]:
            shared += 1
        del self.trail[shared:]
        graph = self.trail[-1][1] if self.trail else self.graph
        for step in passes[shared:]:
            try:
                graph = apply_pass(step, graph, self.ctx)
            except SnncError as error:
                error.add_note(f"in {step}, while a search tried {choice}")
                raise
            self.trail.append((step, graph))
        cost = measure(graph, self.ctx.teacher, self.x[:FIRST], self.ctx.device)
        self.sample_steps += len(self.x[:FIRST]) * choice.steps
        return _Candidate(graph, np.zeros(0, bool), cost.synops, cost.spikes, None, time.perf_counter() - start)

    def _judge(self, choice: Choice, candidate: _Candidate, *, until_sure: bool) -> None:
        """Look at more samples until the budget is settled, or at all of them."""
        start = time.perf_counter()
        for end in looks(len(self.x)):
            seen = len(candidate.hits)
            if end <= seen or candidate.graph is None:
                continue
            more = _hits(candidate.graph, self.x[seen:end], self.labels[seen:end], self.ctx.device)
            self.sample_steps += len(more) * choice.steps
            candidate.hits = np.concatenate([candidate.hits, more])
            candidate.within = Tally.of(self.ann, candidate.hits).within(self.goal.max_drop)
            if candidate.within is not None and not until_sure:
                break
        if candidate.within is False or len(candidate.hits) == len(self.x):
            candidate.graph = None
        candidate.seconds += time.perf_counter() - start


def _hits(graph: Graph, x: Samples, labels: Array, device: str) -> Array:
    """Whether each of x [n, ...] is classified right, [n] bool."""
    scores = single(executor.run(graph, {next(iter(graph.inputs)): x}, device))
    return np.asarray(scores.argmax(axis=1) == labels)
