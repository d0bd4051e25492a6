"""Passes and pipelines: a pass turns a graph into a graph and says which stages it joins; a pipeline proves it."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from . import spec
from .data import Data, Split
from .errors import PipelineError
from .ir import Array, Graph, Stage, verify
from .report import Ledger, Row
from .score import ACCURACY, Score
from .sim import placement
from .sim import torch as executor
from .sim.diagnosis import diagnose, layers, obstacle
from .sim.findings import Diagnosis, Unexplained
from .sim.judge import LAYER_SAMPLES, layer_errors

EFFORT, FEWEST = 2**24, 16
"""What causes are measured on: at most so many steps of neurons in one run over the samples, but `FEWEST` samples."""
Progress = Callable[[str, int, int], None]
"""(what is going on, done, total)"""


def silent(task: str, done: int, total: int) -> None:
    """The progress that says nothing."""


@runtime_checkable
class Choosy(Protocol):
    """A pass that not all data suits: its options say what it makes of right answers."""

    def check_data(self, data: Data) -> None:
        """Refuse data that it can do nothing with.

        Raises:
            PipelineError: says why.
        """


class Keeper(Protocol):
    """Keeps how far trainers are, so that they go on after an interruption; see `snnc.train.checkpoint`."""

    def after(self, before: str) -> None:
        """What comes next runs after the passes `before`."""


Tell = Callable[[str, float, int], None]
"""(which number, its value, updates done)"""


class Log(Protocol):
    """Is told how trainings go; see `snnc.train.tensorboard`."""

    def training(self, name: str, done: int) -> AbstractContextManager[Tell]:
        """What the next training, of the rule `name`, tells its numbers; `done` updates were done before."""


@dataclass
class Context:
    """What a run may consult besides the graph: data, teacher, seed, device; and whom it tells.

    Attributes:
        teacher: the imported analog graph.
        seed: with the name of the pass it makes `rng`.
        checkpoints: where trainers keep how far they are; None: nowhere.
        log: whom trainers tell loss, rate and validation accuracy; None: nobody.
    """

    data: Data | None = None
    teacher: Graph | None = None
    seed: int = 0
    device: str = "cpu"
    progress: Progress = silent
    notes: list[str] = field(default_factory=list)
    checkpoints: Keeper | None = None
    log: Log | None = None

    def note(self, text: str) -> None:
        """Say what a pass declined and why, or what it found; it ends up in the ledger."""
        self.notes.append(text)

    def rng(self, name: str) -> np.random.Generator:
        """A stream of random numbers of its own for `name`."""
        return np.random.default_rng([self.seed, *name.encode()])

    @property
    def score(self) -> Score:
        """What outputs are judged by: the data's own; accuracy without data."""
        return ACCURACY if self.data is None else self.data.train.score

    def training(self, name: str) -> Split:
        """The training samples.

        Raises:
            PipelineError: `name` (a pass) was given no data.
        """
        if self.data is None:
            raise PipelineError(f"'{name}' needs data", hint="pipeline(graph, data=snnc.data.load('train.npz'))")
        return self.data.train


@dataclass(frozen=True)
class Pass(ABC):
    """A named, pure step. Its fields are its options, and only those; `str(p)` is what the shell takes.

    Class attributes:
        name: on the command line, and of the file that holds the class.
        takes: the stages of the graphs it accepts.
        gives: the stage of what it makes; None: the stage of what it got.
        splits: it can work with a graph that lies on several devices (`snnc.sim.placement`); else it gets the first.
    """

    name: ClassVar[str]
    takes: ClassVar[frozenset[Stage]]
    gives: ClassVar[Stage | None] = None
    splits: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The new graph, or `graph` itself when there is nothing to do."""

    def __str__(self) -> str:
        return spec.to_spec(self)


class Pipeline:
    """Passes in order. Refuses, when made, an order whose stages do not meet; `parse` and `str` are inverse."""

    def __init__(self, *passes: Pass) -> None:
        """Check that every pass can follow the one before; all clashes at once.

        Raises:
            PipelineError: names the two passes and their stages.
        """
        self.passes = passes
        problems: list[PipelineError] = []
        stages = frozenset(Stage)
        before = "the start"
        for step in passes:
            if not stages & step.takes:
                problems.append(_clash(step, stages, f"after '{before}'"))
            stages = (stages & step.takes or step.takes) if step.gives is None else frozenset({step.gives})
            before = step.name
        if problems:
            raise PipelineError.gather(f"the pipeline '{self}' cannot run", problems)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pipeline that `text` names, such as `fold-batchnorm,threshold-layernorm{steps=16}`.

        Raises:
            PipelineError: unknown pass or option, wrong value, or stages that do not meet.
        """
        return cls(*(spec.build(_find(name), options) for name, options in spec.split_specs(text)))

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.passes == other.passes

    def __hash__(self) -> int:
        return hash(self.passes)

    def check_data(self, data: Data) -> None:
        """Refuse data that passes can do nothing with, before any work.

        Raises:
            PipelineError: lists the passes, and why.
        """
        problems: list[PipelineError] = []
        for step in self.passes:
            try:
                if isinstance(step, Choosy):
                    step.check_data(data)
            except PipelineError as error:
                problems.append(error)
        if problems:
            raise PipelineError.gather(f"the pipeline '{self}' does not suit the data", problems)

    def __call__(
        self,
        graph: Graph,
        *,
        data: Data | None = None,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress = silent,
        checkpoints: Keeper | None = None,
        log: Log | None = None,
        ask: Callable[[Pass, Graph], None] | None = None,
    ) -> tuple[Graph, Ledger]:
        """Run every pass, verify after each, and judge each on the validation samples; no pass sees the test part.

        Args:
            checkpoints: where trainers keep how far they are: `snnc.train.Checkpoints(folder)`. Those that lie there
                are gone on from.
            log: whom trainers tell how they go: `snnc.train.TensorBoard(folder)`.
            ask: is shown every pass and its graph before it runs, and may refuse by raising.

        Raises:
            SnncError: of the pass that failed; any error has a note of which one and what ran before it.
        """
        if data is not None:
            data.check(graph)
            self.check_data(data)
            data = replace(data, test=data.test.take(0))
        teacher = graph.teacher or (graph if graph.stage is Stage.ANALOG else None)
        ledger = Ledger()
        for i, step in enumerate(self.passes):
            progress(step.name, i, len(self.passes))
            own = device if step.splits else placement.first(device)
            ctx = Context(data, teacher, seed, own, progress, checkpoints=checkpoints, log=log)
            if checkpoints is not None:
                checkpoints.after(",".join(map(str, self.passes[:i])))
            start = time.perf_counter()
            try:
                if ask is not None:
                    ask(step, graph)
                new = apply_pass(step, graph, ctx)
            except Exception as error:
                done = ", ".join(row.step for row in ledger.rows) or "no other pass"
                error.add_note(f"in {step}, after {done}")
                raise
            seconds = time.perf_counter() - start
            ledger.add(_row(ledger, step, graph, new, ctx, seconds))
            graph = new
        return graph, ledger


def _find(name: str) -> type[Pass]:
    """The pass or trainer of that name; imported late, because the tables import this module."""
    from .passes import PASSES
    from .train import TRAINERS

    tables: tuple[spec.Registry[Pass], spec.Registry[Pass]] = (PASSES, TRAINERS)
    for table in tables:
        if name in table:
            return table[name]
    raise PipelineError(f"no pass or trainer is named '{name}'", hint=f"one of {', '.join([*PASSES, *TRAINERS])}")


def _clash(step: Pass, stages: frozenset[Stage], place: str) -> PipelineError:
    words = [" or ".join(s for s in Stage if s in group) for group in (step.takes, stages)]
    return PipelineError(
        f"'{step.name}' takes a graph of stage {words[0]}, but {place} it is {words[1]}",
        hint="reorder the passes, or add the one that lowers (threshold-layernorm makes spiking graphs)",
    )


def apply_pass(step: Pass, graph: Graph, ctx: Context) -> Graph:
    """What `step` makes of `graph`, verified; it carries its teacher.

    Raises:
        PipelineError: the stages do not meet.
        GraphError: the pass made a graph that is not valid.
    """
    if graph.stage not in step.takes:
        raise _clash(step, frozenset({graph.stage}), "here")
    new = step.run(graph, ctx)
    if new.stage is not (step.gives or graph.stage):
        raise PipelineError(f"'{step.name}' promised stage {step.gives or graph.stage} and gave {new.stage}")
    if new is graph:
        return graph
    if new.teacher is None and new.stage is not Stage.ANALOG:
        new = replace(new, teacher=ctx.teacher)
    verify(new)
    return new


def _row(ledger: Ledger, step: Pass, old: Graph, new: Graph, ctx: Context, seconds: float) -> Row:
    """The row of a step; a graph that it left alone is judged as it was."""
    notes, changed = tuple(ctx.notes), new is not old
    if ledger.rows and not changed:
        return replace(ledger.rows[-1], step=str(step), notes=notes, changed=False, seconds=seconds)
    return judged(str(step), new, ctx.data, ctx.teacher, ctx.device, notes, changed, seconds)


def judged(
    step: str,
    graph: Graph,
    data: Data | None,
    teacher: Graph | None,
    device: str = "cpu",
    notes: tuple[str, ...] = (),
    changed: bool = True,
    seconds: float = 0.0,
) -> Row:
    """A ledger row for `graph`: its score on the validation samples, layers' errors against the teacher and why."""
    row = Row(step, None, "validation", graph.stage, len(graph.nodes), {}, notes, changed, seconds)
    if data is None:
        return row
    x = data.validation
    row = replace(row, value=measured(graph, x, device), score=x.score)
    if teacher is None:
        return row
    error, few = layer_errors(graph, teacher, x, device), x[: affordable(graph)]
    if obstacle(graph, teacher, few) is not None:
        return replace(row, error=error)
    found = [layer for layer in layers(graph, teacher, few, device) if layer.taught]
    error = {layer.name: layer.error for layer in found} | error
    return replace(row, error=error, causes={layer.name: layer.split for layer in found if layer.split})


def measured(graph: Graph, split: Split, device: str = "cpu") -> float:
    """The score of a graph of one input and one output on samples."""
    return split.score.measure(single(executor.run(graph, {next(iter(graph.inputs)): split}, device)), split.labels)


def affordable(graph: Graph) -> int:
    """How many samples a graph's causes are measured on; a diagnosis runs it about 30 times."""
    each = graph.steps * sum(math.prod(node.type.shape) for node in graph.nodes if node.op == "lif")
    return min(LAYER_SAMPLES, max(FEWEST, EFFORT // max(each, 1)))


def explained(graph: Graph, data: Data, device: str = "cpu", progress: Progress = silent) -> Diagnosis | Unexplained:
    """Why a graph differs from its teacher, on the validation samples that the ledger's causes are measured on.

    Where nothing can be compared, the reason.
    """
    few = data.validation.take(affordable(graph))
    if graph.teacher is None:
        return Unexplained("the network has lost the model it was made from")
    if (why := obstacle(graph, graph.teacher, few.x())) is not None:
        return Unexplained(why.message, why.hint)
    return diagnose(graph, graph.teacher, few.x(), few.labels[:], device, progress, few.score)


def single(outputs: dict[str, Array]) -> Array:
    """The one output of a model that has one."""
    (array,) = outputs.values()
    return array
