"""The contract of a learning rule, and the one loop they all run in.

A trainer changes params and nothing else. It sees each param through its Constraint: absent connections stay absent,
levels are rounded going forward and passed straight through going back; what it gives back obeys the constraint.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import WEIGHTED, Array, Constraint, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass, single
from snnc.sim import torch as executor
from snnc.sim.judge import accuracy

WIDE = 64
"""Inputs of a neuron up to which the learning rate is the same."""

Loss = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""(params as the network sees them, x [N, ...], labels [N]) -> scalar"""


@dataclass(frozen=True)
class Trainer(Pass):
    """A pass that fits params to data."""

    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})

    @abstractmethod
    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        """New values for some of the graph's params, same names and shapes."""

    def run(self, graph: Graph, ctx: Context) -> Graph:
        fitted = self.fit(graph, ctx)
        if not fitted:
            return graph
        for name, array in fitted.items():
            if name not in graph.params or graph.params[name].shape != array.shape:
                raise PipelineError(
                    f"the trainer '{self.name}' made '{name}' {list(array.shape)}, which is no such param"
                )
        return graph.edit(params={name: project(graph.constraints.get(name), array) for name, array in fitted.items()})


def project(constraint: Constraint | None, array: Array) -> Array:
    """The nearest array that obeys; float32."""
    return array.astype(np.float32) if constraint is None else constraint.project(array)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: Adam, the rate falling to 0 along half a cosine."""

    epochs: int
    batch: int
    rate: float


def weights_of(graph: Graph) -> dict[str, float]:
    """The trainable params and the unit that each is measured in: weights and biases of all weighted layers.

    In units of theta a layer's weights turn rates into rates, whatever the scale of its activations; in units of
    T * theta the first layer's weights turn inputs into rates, in units of 1/T the read-out turns rates into scores.
    Adam moves all n weights of a neuron by the learning rate, and so their sum by n times it: beyond `WIDE` inputs
    the unit shrinks as 1/n (as in maximal update parametrization, arXiv 2203.03466). A learning rate in these units
    suits every layer.
    """
    found: dict[str, float] = {}
    for node in graph.nodes:
        if node.op in WEIGHTED and node.type.kind == "current":
            unit = _unit(graph, node.name)
            for role, name in roles(node, graph.params).items():
                first = graph.steps if _reads_input(graph, node.name) else 1
                found[name] = unit if role == "bias" else unit * first * rate_share(graph, node)
    return found


def rate_share(graph: Graph, node: Node) -> float:
    """The share of the learning rate that the weights of `node` get: 1 up to `WIDE` inputs a neuron, then as 1/n."""
    weight = roles(node, graph.params).get("weight")
    if weight is None:
        return 1.0
    constraint = graph.constraints.get(weight)
    kept = graph.params[weight] if constraint is None or constraint.mask is None else constraint.mask
    neurons = kept.shape[:3] if node.op == "local" else kept.shape[:1]
    inputs = int(np.count_nonzero(kept.reshape(math.prod(neurons), -1), axis=1).max())
    return min(1.0, WIDE / max(inputs, 1))


def _unit(graph: Graph, name: str) -> float:
    """The mean threshold of the neurons that the value `name` drives, or 1/T for the read-out."""
    for user in graph.users(name):
        if user.op == "lif":
            return float(graph.params[roles(user, graph.params)["theta"]].mean())
        if user.op != "decode":
            return _unit(graph, user.name)
    return 1.0 / graph.steps


def _reads_input(graph: Graph, name: str) -> bool:
    """Whether the value `name` comes from the encoded input without neurons between."""
    if name in graph.inputs or graph[name].op in ("lif", "encode"):
        return name in graph and graph[name].op == "encode"
    return any(_reads_input(graph, n) for n in graph.values(graph[name]))


def loop(rule: str, graph: Graph, ctx: Context, schedule: Schedule, loss: Loss) -> dict[str, Array]:
    """Train, judge every epoch on the validation samples, and give back the best epoch's params.

    The start counts as an epoch: training never gives back something that validated worse.
    """
    split = ctx.training(rule)
    units = weights_of(graph)
    fixed = executor.tensors(graph, ctx.device)
    real = {name: fixed[name].clone().requires_grad_() for name in units}
    seen_as = {name: _Seen(graph.constraints.get(name), ctx.device) for name in units}
    optimizer = torch.optim.Adam([{"params": [real[n]], "lr": schedule.rate * unit} for n, unit in units.items()])
    steps = schedule.epochs * -(-len(split) // schedule.batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    labels = torch.as_tensor(split.labels, device=ctx.device)
    best, best_epoch, kept = _judge(graph, ctx, real), 0, {n: graph.params[n] for n in units}
    done = 0
    for epoch in range(1, schedule.epochs + 1):
        order = np.random.default_rng([ctx.seed, epoch, *rule.encode()]).permutation(len(split))
        for at in range(0, len(split), schedule.batch):
            index = order[at : at + schedule.batch]
            optimizer.zero_grad()
            params = {**fixed, **{name: seen_as[name](real[name]) for name in units}}
            with executor.exact():
                loss(params, executor.to_tensor(split.x(index), ctx.device), labels[torch.as_tensor(index)]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cosine.step()
            done += 1
            ctx.progress(f"{rule} epoch {epoch}/{schedule.epochs}, validation {best:.1%}", done, steps)
        if not all(bool(param.isfinite().all()) for param in real.values()):
            ctx.note(f"diverged in epoch {epoch}: try a lower rate than {schedule.rate}")
            break
        share = _judge(graph, ctx, real)
        if share >= best:
            best, best_epoch = share, epoch
            kept = {n: project(graph.constraints.get(n), _array(real[n])) for n in units}
    ctx.note(f"kept epoch {best_epoch} of {schedule.epochs}, best on validation: {best:.2%}")
    return kept


class _Seen:
    """A param as the network sees it, straight through for gradients (masked where connections are absent)."""

    def __init__(self, constraint: Constraint | None, device: str) -> None:
        self.constraint = constraint
        mask = None if constraint is None else constraint.mask
        self.mask = None if mask is None else torch.tensor(mask, device=device)
        scale = None if constraint is None else constraint.scale
        self.scale = None if scale is None else torch.tensor(scale, device=device)
        levels = None if constraint is None else constraint.levels
        self.levels = None if levels is None else torch.tensor(levels, device=device)

    def __call__(self, param: Tensor) -> Tensor:
        if self.mask is not None:
            param = param * self.mask
        if self.scale is not None:
            with torch.no_grad():
                away = self._level(param / self.scale) * self.scale - param
            param = param + away
        return param

    def _level(self, steps: Tensor) -> Tensor:
        """The level nearest to weights in steps, as `Constraint.project` has it."""
        assert self.constraint is not None
        if self.levels is not None:
            return self.levels[torch.searchsorted((self.levels[1:] + self.levels[:-1]) / 2, steps)]
        top = self.constraint.top_level
        return steps.round().clamp(-top, top)


def _array(param: Tensor) -> Array:
    return np.asarray(param.detach().cpu().numpy())


def _judge(graph: Graph, ctx: Context, real: Mapping[str, Tensor]) -> float:
    """Validation accuracy of what the trainer would give back now."""
    if ctx.data is None:
        return 0.0
    arrays = {n: project(graph.constraints.get(n), _array(p)) for n, p in real.items()}
    split = ctx.data.validation
    outputs = executor.run(graph.edit(params=arrays), {next(iter(graph.inputs)): split.x()}, ctx.device)
    return accuracy(single(outputs), split.labels)
