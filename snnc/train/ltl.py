r"""Local tandem learning, offline (LTL section 2.2): every layer of neurons learns its ANN twin's activations.

    L_l = mean (y_l / y_norm - C_l[T] / T)^2                       (eq. 4; the mean instead of the sum)
    L   = sum_l L_l + cross-entropy(read-out, labels)

All layers learn in parallel, each from the detached spikes of the layer before, through its own T steps (eq. 5 to 7),
with the boxcar as surrogate (eq. 8). y is the teacher's activation of the same name. y_norm = T * theta: the
percentile that threshold-layernorm collected, so that a spike keeps its worth for the layers behind. Targets are cut
to [0, 1] and not rounded. Neurons named NAME.off stand for the negative part of a signed value: -y is their target.
What reads out the network learns from the labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import WEIGHTED, Array, Graph, roles, stands_for
from snnc.pipeline import Context
from snnc.sim.torch import exact, forward, per_channel, tensors

from .trainer import Schedule, Trainer, loop


@dataclass(frozen=True)
class LTL(Trainer):
    """Offline local tandem learning.

    Attributes:
        epochs: passes over the training part.
        batch: samples per update.
        rate: Adam's learning rate, in units of theta (read-out: 1/T).
        width: the boxcar's p relative to theta.
    """

    name = "ltl"

    epochs: int = 5
    batch: int = 64
    rate: float = 3e-3
    width: float = 1.0

    def __post_init__(self) -> None:
        wrong = [
            f"{k}={getattr(self, k)}"
            for k in ("epochs", "batch", "rate", "width")
            if not 0 < getattr(self, k) < math.inf
        ]
        if wrong:
            raise PipelineError(f"'{self.name}' cannot work with {', '.join(wrong)}")

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        if ctx.teacher is None:
            raise PipelineError(
                "'ltl' needs the teacher", hint="run it in a pipeline that begins with the imported graph"
            )
        teacher = Targets(graph, ctx.teacher, ctx.device)
        if silent := teacher.without:
            ctx.note(f"no teacher for {', '.join(silent)}: not trained by a local loss")
        name = next(iter(graph.inputs))
        scores = readout(graph)
        learning = {*teacher.layers, scores}

        def loss(params: Mapping[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
            wanted = teacher(x)
            values = forward(graph, params, {name: x}, width=self.width, detach=True, keep=lambda n: n.name in learning)
            local = [F.mse_loss(values[layer].mean(0), target) for layer, target in wanted.items()]
            return torch.stack([*local, F.cross_entropy(values[scores], labels)]).sum()

        return loop(self.name, graph, ctx, Schedule(self.epochs, self.batch, self.rate), loss)


class Targets:
    """The rates that the layers should fire at: the teacher's activations / (T * theta), cut to [0, 1].

    Attributes:
        layers: the student's layers of neurons that have weights of their own and a teacher of their name and shape.
        without: the layers with weights and no teacher.
    """

    def __init__(self, student: Graph, teacher: Graph, device: str = "cpu") -> None:
        self.teacher, self.params = teacher, tensors(teacher, device)
        self.input = next(iter(teacher.inputs))
        own = [n for n in student.nodes if n.op == "lif" and has_weights(student, student.values(n)[0])]
        self.of = {n.name: twin for n in own if (twin := stands_for(n, teacher)) is not None}
        taught = [n for n in own if n.name in self.of]
        self.layers = tuple(n.name for n in taught)
        self.without = tuple(n.name for n in own if n.name not in self.layers)
        theta = {n.name: student.params[roles(n, student.params)["theta"]] for n in taught}
        self.norm = {
            n.name: per_channel(torch.tensor(theta[n.name], device=device), len(n.type.shape)) * student.steps
            for n in taught
        }

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Target rates [N, ...] by layer for inputs x [N, ...]."""
        read = {name for name, _ in self.of.values()}
        with torch.no_grad(), exact():
            values = forward(self.teacher, self.params, {self.input: x}, keep=lambda n: n.name in read)
            found = {}
            for layer in self.layers:
                name, sign = self.of[layer]
                found[layer] = (sign * values[name] / self.norm[layer]).clamp(0, 1)
            return found


def has_weights(graph: Graph, name: str) -> bool:
    """Whether weights lie between the value `name` and the neurons before it."""
    if name in graph.inputs or graph[name].op in ("lif", "encode"):
        return False
    return graph[name].op in WEIGHTED or any(has_weights(graph, n) for n in graph.values(graph[name]))


def readout(graph: Graph) -> str:
    """The scores before any softmax."""
    (name,) = graph.outputs.values()
    while graph[name].op in ("softmax", "logsoftmax"):
        name = graph.values(graph[name])[0]
    return name
