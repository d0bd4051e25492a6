"""Passes and pipelines: a pass turns a graph into a graph and says which stages it joins; a pipeline proves it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from . import spec
from .data import Data, Split
from .errors import PipelineError
from .ir import Array, Graph, Stage, verify
from .report import Ledger, Row
from .sim import torch as executor
from .sim.judge import accuracy, layer_errors

Progress = Callable[[str, int, int], None]
"""(what is going on, done, total)"""


def silent(task: str, done: int, total: int) -> None:
    """The progress that says nothing."""


@dataclass
class Context:
    """What a run may consult besides the graph: data, teacher, seed, device; and whom it tells.

    Attributes:
        teacher: the imported analog graph.
        seed: with the name of the pass it makes `rng`.
    """

    data: Data | None = None
    teacher: Graph | None = None
    seed: int = 0
    device: str = "cpu"
    progress: Progress = silent
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say what a pass declined and why, or what it found; it ends up in the ledger."""
        self.notes.append(text)

    def rng(self, name: str) -> np.random.Generator:
        """A stream of random numbers of its own for `name`."""
        return np.random.default_rng([self.seed, *name.encode()])

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
    """

    name: ClassVar[str]
    takes: ClassVar[frozenset[Stage]]
    gives: ClassVar[Stage | None] = None

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

    def __call__(
        self,
        graph: Graph,
        *,
        data: Data | None = None,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> tuple[Graph, Ledger]:
        """Run every pass, verify after each, and judge each on the validation samples; no pass sees the test part.

        Raises:
            SnncError: of the pass that failed; any error has a note of which one and what ran before it.
        """
        if data is not None:
            data.check(graph)
            data = replace(data, test=data.test.take(0))
        teacher = graph.teacher or (graph if graph.stage is Stage.ANALOG else None)
        ledger = Ledger()
        for i, step in enumerate(self.passes):
            progress(step.name, i, len(self.passes))
            ctx = Context(data, teacher, seed, device, progress)
            start = time.perf_counter()
            try:
                new = _step(step, graph, ctx)
            except Exception as error:
                done = ", ".join(row.step for row in ledger.rows) or "no other pass"
                error.add_note(f"in {step}, after {done}")
                raise
            seconds = time.perf_counter() - start
            ledger.add(judged(str(step), new, data, teacher, device, tuple(ctx.notes), new is not graph, seconds))
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


def _step(step: Pass, graph: Graph, ctx: Context) -> Graph:
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
    """A ledger row for `graph`: its accuracy on the validation samples and its layers' errors against the teacher."""
    row = Row(step, None, "validation", graph.stage, len(graph.nodes), {}, notes, changed, seconds)
    if data is None:
        return row
    x = data.validation.x()
    share = accuracy(single(executor.run(graph, {next(iter(graph.inputs)): x}, device)), data.validation.labels)
    return replace(row, accuracy=share, error=layer_errors(graph, teacher, x, device) if teacher else {})


def single(outputs: dict[str, Array]) -> Array:
    """The one output of a model that has one."""
    (array,) = outputs.values()
    return array
