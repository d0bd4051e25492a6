"""The contract of a chip: limits as data, a default recipe, an artifact, and devices that differ by their seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from . import spec
from .artifact import Bundle, canonical, graph_files, graph_from
from .data import Data
from .errors import ArtifactError, PipelineError, TargetError
from .ir import Array, Graph, Samples, Stage
from .pipeline import Pipeline, Progress, silent
from .report import Ledger
from .sim.placement import first


@dataclass(frozen=True)
class Limits:
    """What a chip can hold.

    Attributes:
        walls: refused beyond, by name.
        budgets: reported as headroom, by name.
        unchecked: limits of the real chip that are not looked at; printed, so that nobody believes otherwise.
        sources: where these limits come from, by name.
    """

    walls: Mapping[str, float]
    budgets: Mapping[str, float]
    unchecked: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One limit, whose it is (`source`), and how a network stands to it, at a layer or for the whole network."""

    limit: str
    value: float
    allowed: float
    layer: str = ""
    wall: bool = True
    note: str = ""
    source: str = ""

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
            "source": self.source,
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


class Bench(ABC):
    """Some devices of one kind with the same artifact, run at once: each does what it does alone, to the bit.

    Attributes:
        seeds: which devices.
    """

    seeds: tuple[int, ...]

    @abstractmethod
    def run(self, x: Samples, progress: Progress = silent) -> list[dict[str, Array]]:
        """For every device what `Chip.run` gives."""

    @abstractmethod
    def calibrate(self, data: Data, epochs: int = 1, progress: Progress = silent) -> list[Ledger]:
        """Repair every device as `Chip.calibrate` does; their ledgers."""


class OneByOne(Bench):
    """Devices that run one after the other."""

    def __init__(self, chips: Sequence[Chip]) -> None:
        self.chips, self.seeds = chips, tuple(chip.seed for chip in chips)

    def run(self, x: Samples, progress: Progress = silent) -> list[dict[str, Array]]:
        return [chip.run(x, progress) for chip in self.chips]

    def calibrate(self, data: Data, epochs: int = 1, progress: Progress = silent) -> list[Ledger]:
        return [chip.calibrate(data, epochs, progress) for chip in self.chips]


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
        text, more = self.attached() if isinstance(self, Attaching) else (str(self), {})
        files = {
            **graph_files("network", graph),
            **graph_files("teacher", graph.teacher),
            "target.json": canonical({"target": text}),
            **more,
        }
        return Artifact(Bundle("artifact", files, {"target": text}), self, graph)

    def __str__(self) -> str:
        return spec.to_spec(self)


class Attaching(ABC):
    """What a target is too whose options name files: its artifacts hold what these say, and open on any machine."""

    @abstractmethod
    def attached(self) -> tuple[str, Mapping[str, bytes]]:
        """The target's text without a path in it, and the files that give it its meaning."""

    @classmethod
    @abstractmethod
    def from_attached(cls, options: Mapping[str, str], bundle: Bundle) -> Target:
        """The target that `attached` came from, by the options of its text.

        Raises:
            PipelineError, ArtifactError: options or files do not make one.
        """


class Benching(ABC):
    """What a target is too that runs several devices at once."""

    @abstractmethod
    def at_once(self, artifact: Artifact, device: str = "cpu") -> int:
        """How many devices are worth running at once, and fit."""

    @abstractmethod
    def bench(self, artifact: Artifact, seeds: Sequence[int], device: str = "cpu") -> Bench:
        """The devices of these seeds, programmed with the artifact."""


@dataclass(frozen=True)
class Layout:
    """Where a network goes on a chip.

    Attributes:
        files: for the artifact.
        lines: for people.
        findings: how it stands to limits that only a layout can tell.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class Laying(ABC):
    """What a target is too that lays a network out on cores and chips."""

    @abstractmethod
    def lay_out(self, graph: Graph, x: Samples) -> Layout:
        """The layout of a constrained graph, by what it does on samples x [N, ...].

        Raises:
            TargetError: lists all walls that the layout breaks.
        """


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
        return self.target.load(self, seed, state, first(device))

    def at_once(self, device: str = "cpu") -> int:
        """How many devices are worth running at once."""
        return self.target.at_once(self, first(device)) if isinstance(self.target, Benching) else 1

    def bench(self, seeds: Sequence[int], device: str = "cpu") -> Bench:
        """The devices of these seeds, programmed with it."""
        if isinstance(self.target, Benching):
            return self.target.bench(self, seeds, first(device))
        return OneByOne([self.load(seed, device=device) for seed in seeds])

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
            target = _target(about["target"], targets, bundle)
        except (PipelineError, ArtifactError) as error:
            why = "; ".join([error.message, *(problem.message for problem in error.problems)])
            raise ArtifactError(
                f"cannot make its target '{about['target']}': {why}", at=folder, hint=error.hint
            ) from None
        return cls(bundle, target, graph_from(bundle, "network", graph_from(bundle, "teacher")))


def _target(text: str, targets: Mapping[str, type[Target]], bundle: Bundle) -> Target:
    """The target of an artifact."""
    named = spec.split_specs(text)
    if len(named) == 1 and issubclass(made := targets[named[0][0]], Attaching):
        return made.from_attached(named[0][1], bundle)
    return spec.from_spec(text, targets)
