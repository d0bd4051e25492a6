"""Pipelines on the teachers of the relations, each run once, and judged once on the test part."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from snnc.data import Data
from snnc.ir import Graph
from snnc.pipeline import Pipeline, Tell, single
from snnc.sim import torch as executor
from snnc.sim.judge import accuracy

from .networks import TASKS, samples, teacher


@dataclass
class Curves:
    """The validation accuracies of every training, in percent: at the start and after every epoch."""

    trainings: list[list[float]] = field(default_factory=list)

    @contextmanager
    def training(self, name: str, done: int) -> Iterator[Tell]:
        """A training begins; see `snnc.pipeline.Log`."""
        curve: list[float] = []
        self.trainings.append(curve)

        def tell(what: str, value: float, updates: int) -> None:
            if what == "validation":
                curve.append(100 * value)

        yield tell


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a pipeline made.

    Attributes:
        text: the pipeline, with all that ran before it.
        graph: its last graph.
        test: accuracy on the test part, in percent.
        curves: of its trainings, in order: validation accuracies at the start and after every epoch, in percent.
        notes: of its last pass.
    """

    text: str
    graph: Graph
    test: float
    curves: Sequence[Sequence[float]]
    notes: tuple[str, ...]


class Study:
    """Teachers, data, and what pipelines made of them; nothing is computed twice.

    Attributes:
        folder: of the images.
        train, test: images at most.
    """

    def __init__(self, folder: Path, train: int, test: int) -> None:
        self.folder, self.train, self.test = folder, train, test
        self._data: dict[str, Data] = {}
        self._teachers: dict[str, Graph] = {}
        self._outcomes: dict[tuple[str, str, int], Outcome] = {}

    def knows(self, task: str) -> bool:
        """Whether the task's network is there."""
        return task in self._teachers

    def adopt(self, task: str, data: Data, teacher: Graph) -> None:
        """Take another's network and data as a task."""
        self._data[task], self._teachers[task] = data, teacher

    def data(self, task: str) -> Data:
        """The images of a task."""
        if task not in self._data:
            self._data[task] = samples(TASKS[task], self.folder, self.train, self.test)
        return self._data[task]

    def teacher(self, task: str) -> Graph:
        """The task's analog network."""
        if task not in self._teachers:
            start = time.perf_counter()
            self._teachers[task] = teacher(TASKS[task], self.data(task))
            tell(f"{task}: teacher {self.ann(task):.2f} % on the test part", start)
        return self._teachers[task]

    def ann(self, task: str) -> float:
        """Its accuracy on the test part, in percent."""
        return self.share(task, self.teacher(task))

    def share(self, task: str, graph: Graph) -> float:
        """Accuracy of a graph on the test part, in percent."""
        test = self.data(task).test
        return 100 * accuracy(single(executor.run(graph, {next(iter(graph.inputs)): test})), test.labels)

    def run(self, task: str, text: str, seed: int, start: Outcome | None = None) -> Outcome:
        """What the pipeline `text` makes of the teacher, or of what another one made."""
        whole = text if start is None else f"{start.text},{text}"
        key = (task, whole, seed)
        if key not in self._outcomes:
            begun, curves = time.perf_counter(), Curves()
            graph = self.teacher(task) if start is None else start.graph
            made, ledger = Pipeline.parse(text)(graph, data=self.data(task), seed=seed, log=curves)
            found = self._outcomes[key] = Outcome(
                whole, made, self.share(task, made), curves.trainings, ledger.rows[-1].notes
            )
            tell(f"{task}, seed {seed}: {whole}: {found.test:.2f} %", begun)
        return self._outcomes[key]


def tell(text: str, start: float) -> None:
    """Say how it goes, and how long it took."""
    print(f"  {time.perf_counter() - start:5.0f} s  {text}", file=sys.stderr, flush=True)


def lowered(steps: int, options: str = "") -> str:
    """The pipeline that makes a spiking network of T steps of a teacher, all at one go."""
    more = f" {options}" if options else ""
    return f"fold-batchnorm,threshold-layernorm{{steps={steps}{more}}},bias-per-step"
