"""What a search may set in a recipe, what it is asked for, and where the two cannot meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.passes import QuantizeWeights, ThresholdLayerNorm
from snnc.pipeline import Pass, Pipeline
from snnc.score import ACCURACY
from snnc.train import Trainer

MOST_STEPS = 64
"""The largest T that is tried where no range is given."""
OTHERS = 5
"""Candidates that a search tries besides those for T, as a rule."""


@dataclass(frozen=True)
class Goal:
    """What is looked for: a drop of at most `max_drop` points of accuracy with T one of `steps`."""

    max_drop: float
    steps: range = range(1, MOST_STEPS + 1)

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise PipelineError(f"a drop of at most {self.max_drop} is no goal", hint="points of accuracy, 0 to 100")
        if not self.steps or self.steps[0] < 1 or self.steps.step != 1:
            raise PipelineError(f"{self.steps} is no range of time steps", hint="range(4, 33): 4 to 32")

    def check_data(self, data: Data) -> None:
        """Refuse data whose outputs are no right or wrong answers.

        Raises:
            PipelineError: says so.
        """
        if data.validation.score is not ACCURACY:
            raise PipelineError(
                f"a search counts right answers (max_drop={self.max_drop:g}), the data is judged by "
                f"{data.validation.score.name}",
                hint="--steps 16 sets T; compare the ledgers of several",
            )

    @property
    def most_candidates(self) -> int:
        """About how many a search tries at most: T twice by halves, and some percentiles and bits."""
        return 2 * len(self.steps).bit_length() + OTHERS


@dataclass(frozen=True)
class Choice:
    """The options that a search sets; `bits` is None where no weights are quantized before the first trainer."""

    steps: int
    percentile: float
    bits: int | None = None

    def passes(self, passes: Sequence[Pass]) -> tuple[Pass, ...]:
        """`passes` with these options."""
        return tuple(self._of(p) for p in passes)

    def _of(self, step: Pass) -> Pass:
        if isinstance(step, ThresholdLayerNorm):
            return replace(step, steps=self.steps, percentile=self.percentile)
        if isinstance(step, QuantizeWeights) and self.bits is not None:
            return replace(step, bits=min(step.bits, self.bits))
        return step

    def __str__(self) -> str:
        return f"T = {self.steps}, percentile {self.percentile}" + (f", {self.bits} bits" if self.bits else "")


def planned(recipe: Pipeline, max_drop: float | None, steps: range | None) -> tuple[Pipeline, Goal | None]:
    """The recipe, with T set if `steps` is a single one, and what to search for, if anything.

    Raises:
        PipelineError: a range of T without a budget; T that the recipe cannot have, or no pass that T belongs to.
    """
    if max_drop is None and steps is None:
        return recipe, None
    own = _lowering(recipe)
    allowed = range(own.skip + 1, MOST_STEPS + 1) if steps is None else steps
    goal = Goal(0.0 if max_drop is None else max_drop, allowed)
    fixed = replace(options_of(recipe), steps=goal.steps[0])
    made = Pipeline(*fixed.passes(recipe.passes))
    if max_drop is not None:
        return recipe, goal
    if len(goal.steps) > 1:
        first, last = goal.steps[0], goal.steps[-1]
        raise PipelineError(
            f"which of the steps {first} to {last} to take, nothing says",
            hint=f"a budget to search by (--max-drop 1.0, max_drop=1.0), or one number (--steps {last})",
        )
    return made, None


def converting(recipe: Pipeline) -> tuple[Pass, ...]:
    """The passes before the first trainer."""
    trainer = next((i for i, p in enumerate(recipe.passes) if isinstance(p, Trainer)), len(recipe.passes))
    return recipe.passes[:trainer]


def _lowering(recipe: Pipeline) -> ThresholdLayerNorm:
    for step in converting(recipe):
        if isinstance(step, ThresholdLayerNorm):
            return step
    raise PipelineError(f"no pass of '{recipe}' has a T to set", hint=f"it is an option of '{ThresholdLayerNorm.name}'")


def options_of(recipe: Pipeline) -> Choice:
    """The recipe's own choice."""
    bits = [p.bits for p in converting(recipe) if isinstance(p, QuantizeWeights)]
    return Choice(_lowering(recipe).steps, _lowering(recipe).percentile, max(bits, default=None))
