"""The contract of a chip: limits as data, a default recipe, an artifact, and devices that differ by their seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from . import spec
from .artifact import Bundle, canonical, graph_files, graph_from
from .data import Data
from .errors import ArtifactError, PipelineError, TargetError
from .ir import Array, Graph, Samples, Stage
from .pipeline import Pipeline, Progress, silent
from .report import Ledger


@dataclass(frozen=True)
class Limits:
    """What a chip can hold.

    Attributes:
        walls: refused beyond, by name.
        budgets: reported as headroom, by name.
        unchecked: limits of the real chip that are not looked at; printed, so that nobody believes otherwise.
    """

    walls: Mapping[str, float]
    budgets: Mapping[str, float]
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One limit and how a network stands to it, at a layer or for the whole network."""

    limit: str
    value: float
    allowed: float
    layer: str = ""
    wall: bool = True
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the network stays inside."""
        return self.value <= self.allowed

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "limit": self.limit,
            "value": self.value,
            "allowed": self.allowed,
            "layer": self.layer,
            "wall": self.wall,
            "ok": self.ok,
            "note": self.note,
        }


class Chip(ABC):
    """One physical (or simulated) device. Its seed is its individuality.

    Attributes:
        seed: which device it is.
    """

    seed: int

    @abstractmethod
    def run(self, x: Samples, progress: Progress = silent) -> dict[str, Array]:
        """Outputs [N, ...] by name for inputs x [N, ...]."""

    @abstractmethod
    def calibrate(self, data: Data, epochs: int = 1, progress: Progress = silent) -> Ledger:
        """Repair the device by learning on it; the ledger holds the accuracy before and after."""

    @abstractmethod
    def state(self) -> Bundle:
        """What calibration changed, to be loaded into the same device again."""


@dataclass(frozen=True)
class Target(ABC):
    """A kind of chip. Its fields are its options; `str(t)` is what the shell takes."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """What it can hold."""

    @abstractmethod
    def pipeline(self) -> Pipeline:
        """The default recipe from an imported graph to one that `emit` accepts."""

    @abstractmethod
    def findings(self, graph: Graph) -> list[Finding]:
        """How a graph of any stage stands to every limit."""

    @abstractmethod
    def place(self, graph: Graph) -> Graph:
        """The graph as the chip holds it (stage placed).

        Raises:
            TargetError: lists all walls that the graph breaks.
        """

    @abstractmethod
    def load(self, artifact: Artifact, seed: int = 0, state: Bundle | None = None, device: str = "cpu") -> Chip:
        """The device number `seed`, programmed with the artifact (and with its calibration, if it has one)."""

    def compile(self, graph: Graph) -> Artifact:
        """The artifact of a constrained graph.

        Raises:
            TargetError: the graph breaks a wall, or carries no teacher.
        """
        if graph.stage is not Stage.CONSTRAINED:
            raise TargetError(
                f"'{self.name}' takes a graph of stage constrained, not {graph.stage}", hint=f"run '{self.pipeline()}'"
            )
        if graph.teacher is None:
            raise TargetError("the graph has lost its teacher, which calibration needs", hint="make it with a Pipeline")
        self.place(graph)
        files = {
            **graph_files("network", graph),
            **graph_files("teacher", graph.teacher),
            "target.json": canonical({"target": str(self)}),
        }
        return Artifact(Bundle("artifact", files, {"target": str(self)}), self, graph)

    def __str__(self) -> str:
        return spec.to_spec(self)


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled network for one kind of chip; see snnc.artifact for its files."""

    bundle: Bundle
    target: Target
    graph: Graph = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over everything in it."""
        return self.bundle.digest

    def load(self, seed: int = 0, state: Bundle | None = None, device: str = "cpu") -> Chip:
        """The device number `seed`, programmed with it."""
        return self.target.load(self, seed, state, device)

    @classmethod
    def open(cls, folder: str, targets: Mapping[str, type[Target]]) -> Artifact:
        """Read, verify and parse an artifact.

        Raises:
            ArtifactError: it is damaged or was tampered with.
        """
        bundle = Bundle.read(folder, "artifact")
        about = bundle.json("target.json")
        if not isinstance(about, dict) or not isinstance(about.get("target"), str):
            raise ArtifactError("target.json names no target", at=folder)
        try:
            target = spec.from_spec(about["target"], targets)
        except PipelineError as error:
            raise ArtifactError(
                f"cannot make its target '{about['target']}': {error.message}", at=folder, hint=error.hint
            ) from None
        return cls(bundle, target, graph_from(bundle, "network", graph_from(bundle, "teacher")))
