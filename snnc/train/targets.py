r"""The rates that layers of neurons learn: a / y_norm (LTL eq. 4), cut to [0, 1].

    a = max(y, 0), y the teacher's activation of the same name; neurons named NAME.off stand for -y
    y_norm = T * theta                       `collected`: the percentile that threshold-layernorm collected, so that
                                             a spike keeps its worth for the layers behind
    y_norm = nearest-rank percentile of a    `batch`: over all elements of the layer in this batch, zeros included
    y_norm = running mean of these           `running`, this batch's among them (`snnc.train.beside`); it begins with
                                             the percentile of samples that `begin` is given
    rate = a / y_norm                        `exact`
    rate = floor(T a / y_norm) / T           `floor`: what T steps can count

Neurons that the teacher lacks (partial sums of layers with many inputs, NAME.partial) stand for what the given weights
make of ideal input: a = max(V, 0), V their total charge were all neurons before them ideal (`snnc.sim.ideal`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

from snnc.ir import WEIGHTED, Graph
from snnc.sim.calibration import rank_from_top
from snnc.sim.ideal import Layer, charges
from snnc.sim.torch import Tensors, exact, forward, tensors

from .beside import averaged

TINY = torch.finfo(torch.float32).tiny
"""The least y_norm: of a layer without activity, whose rate is 0 then."""
Norm = Literal["collected", "batch", "running"]
Rounding = Literal["exact", "floor"]


class Targets:
    """The target rates of a network's layers.

    Attributes:
        layers: the student's layers of neurons that have weights of their own.
        without: those that the teacher has no value for.
        begun: y_norm before the first batch, [] by `norm_of` the layer; `norm=running` alone has it.
    """

    def __init__(
        self, student: Graph, teacher: Graph, device: str = "cpu", norm: Norm = "collected", percentile: float = 99.9,
        rounding: Rounding = "exact", keep: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Prepare for batches.

        Args:
            percentile: of `norm=batch` and `norm=running`.
            keep: further values of the teacher that `activations` shall give.
        """
        self.student, self.teacher = student, teacher
        self.norm, self.percentile, self.rounding = norm, percentile, rounding
        self._own, self._theirs = tensors(student, device), tensors(teacher, device)
        self._stands = {n.name: Layer.of(n, student, teacher, self._own) for n in student.nodes if n.op == "lif"}
        self.layers = tuple(name for name in self._stands if has_weights(student, student.values(student[name])[0]))
        self.without = tuple(name for name in self.layers if self._stands[name].target is None)
        self._read = {layer.target for layer in self._stands.values()} | set(keep)
        self.begun: dict[str, Tensor] = {}

    def begin(self, x: Tensor) -> None:
        """Take y_norm from inputs x [N, ...] before the first batch."""
        found = self._activities(x, self.activations(x)) if self.norm == "running" else {}
        self.begun = {norm_of(name): self._percentile(activity) for name, activity in found.items()}

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Target rates [N, ...] by layer for inputs x [N, ...], or streams of events [N, T, ...].

        These are no batch to learn from: a running y_norm is the one before the first batch, the same in all epochs.
        """
        return self._rates(self._activities(x, self.activations(x)), self.begun)

    def activations(self, x: Tensor) -> Tensors:
        """The teacher's values by name, [N, ...]."""
        with torch.no_grad(), exact():
            (name,) = self.teacher.inputs
            return forward(self.teacher, self._theirs, {name: x}, keep=lambda n: n.name in self._read)

    def rates(self, x: Tensor, teacher: Tensors, running: dict[str, Tensor]) -> dict[str, Tensor]:
        """Target rates by layer of a batch, given the teacher's values.

        Args:
            running: y_norm after the batch before, by `norm_of` the layer; takes this batch in.
        """
        activities = self._activities(x, teacher)
        if self.norm == "running":
            for name, activity in activities.items():
                running[norm_of(name)] = averaged(running[norm_of(name)], self._percentile(activity))
        return self._rates(activities, running)

    def _activities(self, x: Tensor, teacher: Tensors) -> dict[str, Tensor]:
        """a of the module by layer, [N, ...]."""
        with torch.no_grad(), exact():
            charge = self._charges(x, teacher) if self.without else {}
            found = {}
            for name in self.layers:
                layer = self._stands[name]
                drive = x if layer.target is not None else charge[self.student.values(layer.node)[0]]
                found[name] = layer.ideal(teacher, drive)
            return found

    def _charges(self, x: Tensor, teacher: Tensors) -> dict[str, Tensor]:
        """Every value of the student as a total, were all its neurons ideal."""
        (name,) = self.student.inputs
        return charges(
            self.student, self._own, {name: x},
            lambda node, charge: self._stands[node.name].ideal(teacher, charge) / self._stands[node.name].theta,
        )  # fmt: skip

    def _rates(self, activities: Tensors, running: Tensors) -> dict[str, Tensor]:
        """Target rates by layer."""
        steps, found = self.student.steps, {}
        for name, activity in activities.items():
            rate = (activity / self._norm(name, activity, running)).clamp(0, 1)
            found[name] = (rate * steps).floor() / steps if self.rounding == "floor" else rate
        return found

    def _norm(self, name: str, activity: Tensor, running: Tensors) -> Tensor:
        """y_norm of a layer."""
        if self.norm == "collected":
            return self._stands[name].theta.to(activity.device) * self.student.steps
        return (self._percentile(activity) if self.norm == "batch" else running[norm_of(name)]).clamp(min=TINY)

    def _percentile(self, activity: Tensor) -> Tensor:
        """The nearest rank over all elements, []."""
        rank = rank_from_top(activity.numel(), self.percentile)
        return activity.flatten().topk(rank, sorted=False).values.min()


def norm_of(layer: str) -> str:
    """The name of a layer's running y_norm."""
    return f"{layer}:norm"


def has_weights(graph: Graph, name: str) -> bool:
    """Whether weights lie between the value `name` and the neurons before it."""
    if name in graph.inputs or graph[name].op in ("lif", "encode"):
        return False
    return graph[name].op in WEIGHTED or any(has_weights(graph, n) for n in graph.values(graph[name]))
