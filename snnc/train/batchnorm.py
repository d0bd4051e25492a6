r"""Batch normalization per time step (SLTT section 5 and its code), for training alone; it is gone when training ends.

V[t] is what a conv, local or dense layer on the way to neurons makes at step t, W S[t] + b. In training

    I[t] = gain * (V[t] - mean[t]) / sqrt(var[t] + eps) + shift          eps = EPSILON * theta**2

takes its place, with mean and variance of every channel over the samples and positions of the batch at this step. The
running mean and variance (`snnc.train.beside`) take in a batch's mean over its steps; its variances count n / (n - 1)
times, as torch's do. What is judged, and what is given back, has them folded in, exactly:

    w' = gain / sd * w          b' = gain / sd * (b - mean) + shift       sd = sqrt(var + eps), both running

Gain and shift begin as the deviation and the mean that the network itself has, measured, so that w' and b' begin as
w and b, to the bit. They learn in the unit of a bias; b itself, whose gradient is 0, stays. With random weights the
network begins where every channel has mean 0 and deviation theta, as batch norms begin at theta = 1 (`spread`).

A channel without any variance, as silent input makes it, hands on its shift. A dense layer cannot normalize a single
sample, which the last batch of an epoch may be: the running mean and variance are taken then, and do not move.
Layers are normalized one by one, before pools, sums of residual branches and concatenations: these lie behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import LAYERS, Graph, Node, roles
from snnc.sim.ideal import block
from snnc.sim.stepper import Stepper
from snnc.sim.torch import Tensors, exact, tensors

from .beside import Beside, averaged
from .trainer import Batch
from .units import weights_of

EPSILON = 1e-5
"""torch's, where theta = 1."""

Statistics = tuple[Tensor, Tensor]
"""Mean and variance of every channel, [C] each."""


@dataclass(frozen=True)
class Norm:
    """The batch norm of one layer.

    Attributes:
        layer: the node.
        weight, bias: its params.
        theta: the mean threshold of the neurons that it drives.
        gain, shift, mean, variance: the names of what stands beside the graph's params, [C] each.
    """

    layer: str
    weight: str
    bias: str
    theta: float

    @property
    def gain(self) -> str:
        return f"{self.layer}:gain"

    @property
    def shift(self) -> str:
        return f"{self.layer}:shift"

    @property
    def mean(self) -> str:
        return f"{self.layer}:mean"

    @property
    def variance(self) -> str:
        return f"{self.layer}:variance"

    @property
    def epsilon(self) -> float:
        return EPSILON * self.theta**2

    def deviation(self, running: Tensors) -> Tensor:
        """sd of the module, [C]."""
        return torch.sqrt(running[self.variance] + self.epsilon)


def norms_of(graph: Graph, rule: str) -> tuple[Norm, ...]:
    """One for every layer with weights that drives neurons; the read-out has none.

    Raises:
        PipelineError: the batch norm could not be folded into a layer (names all such layers); there is no layer.
    """
    units, found, problems = weights_of(graph), [], list[PipelineError]()
    for node in graph.nodes:
        if node.op not in LAYERS or node.type.kind != "current" or not _drives(graph, node):
            continue
        own = roles(node, graph.params)
        if why := _unfit(graph, node, own):
            problems.append(PipelineError(why[0], at=node.at, hint=why[1]))
        else:
            found.append(Norm(node.name, own["weight"], own["bias"], units[own["bias"]]))
    if problems:
        raise PipelineError.gather(f"'{rule}' with batchnorm=true folds each batch norm into its layer", problems)
    if not found:
        raise PipelineError(f"'{rule}' with batchnorm=true finds no layer that drives neurons", hint="batchnorm=false")
    return tuple(found)


def _drives(graph: Graph, node: Node) -> bool:
    """Whether neurons read what `node` makes, or what linear ops make of it."""
    users = graph.users(node.name)
    return any(user.op == "lif" or (user.op != "decode" and _drives(graph, user)) for user in users)


def _unfit(graph: Graph, node: Node, own: Mapping[str, str]) -> tuple[str, str] | None:
    """Why the batch norm of a layer could not be folded into it, and what to try."""
    if "bias" not in own:
        return "this layer has no bias to fold a batch norm into", "a bias in the model, or batchnorm=false"
    if node.attrs.get("bias_at") != "per-step":
        return "the bias of this layer comes at the first step alone", "bias-per-step before this rule"
    limits = [graph.constraints.get(name) for name in own.values()]
    if any(limit is not None and limit.scale is not None for limit in limits):
        return "the weights or the bias of this layer stand on levels", "train before quantize-weights"
    if limits[-1] is not None:
        return "the bias of this layer is constrained", "train before limit-biases"
    if any(len(graph.users(name)) > 1 for name in own.values()):
        return "this layer shares its weights or its bias with another", "batchnorm=false"
    if any(graph[name].attrs["code"] == "first-step" for name in block(graph, node, ("encode",))):
        return "this layer gets its input at the first step alone", "threshold-layernorm{code=direct}"
    return None


class BatchNorm:
    """The batch norms of a network in training; there may be none."""

    def __init__(self, norms: tuple[Norm, ...] = ()) -> None:
        self.norms = norms

    def __bool__(self) -> bool:
        return bool(self.norms)

    def on(self, batch: Batch) -> OnBatch:
        """At work on one batch."""
        return OnBatch(self.norms, batch.params, batch.running)

    def spread(self, graph: Graph, x: Tensor) -> Graph:
        """The network with every channel scaled and moved to mean 0 and deviation theta on inputs x [N, ...].

        Layers behind are measured on what the normalized ones before them make.
        """
        params, running = tensors(graph, str(x.device)), dict[str, Tensor]()
        for norm in self.norms:
            channels = params[norm.weight].new_zeros(len(params[norm.weight]))
            params |= {norm.gain: channels + norm.theta, norm.shift: channels}
        work = OnBatch(self.norms, params, running)
        _run(graph, params, x, work.by_node)
        running |= work.found()
        made = self.fold_into(graph, x.device)(params, running)
        changed = [name for norm in self.norms for name in (norm.weight, norm.bias)]
        return graph.edit(params={name: made[name].cpu().numpy() for name in changed})

    def begin(self, graph: Graph, x: Tensor) -> Beside:
        """What stands beside the params of `graph` at the start, measured on inputs x [N, ...] without any norm."""
        params, running = tensors(graph, str(x.device)), dict[str, Tensor]()
        watch = {norm.layer: Watch(_as_it_is) for norm in self.norms}
        _run(graph, params, x, watch)
        for norm in self.norms:
            running[norm.mean], running[norm.variance] = watch[norm.layer].over_steps()
        beside = {norm.gain: norm.deviation(running) for norm in self.norms}
        beside |= {norm.shift: running[norm.mean] for norm in self.norms}
        return Beside(beside, running, self.fold_into(graph, x.device))

    def units(self, graph: Graph) -> dict[str, float]:
        """The params that learn, and their units, see `snnc.train.units`."""
        units = weights_of(graph)
        for norm in self.norms:
            units[norm.gain] = units[norm.shift] = units.pop(norm.bias)
        return units

    def fold_into(self, graph: Graph, device: torch.device) -> Callable[[Tensors, Tensors], dict[str, Tensor]]:
        """The fold of the module, for the biases of `graph`; all else that learns stays as it is."""
        biases = {norm.bias: torch.tensor(graph.params[norm.bias], device=device) for norm in self.norms}

        def fold(learned: Tensors, running: Tensors) -> dict[str, Tensor]:
            made = {name: value for name, value in learned.items() if name in graph.params}
            for norm in self.norms:
                weight, bias = learned[norm.weight], biases[norm.bias]
                factor = learned[norm.gain] / norm.deviation(running)
                # first what the mean takes away: at the start it is 0, and b is b to the bit
                rest = learned[norm.shift] - factor * running[norm.mean]
                made[norm.weight] = weight * _channels(factor, weight)
                made[norm.bias] = bias * _channels(factor, bias) + _channels(rest, bias)
            return made

        return fold


class OnBatch:
    """Batch norms at work on one batch.

    Attributes:
        by_node: what becomes of the values of each layer, for executors (`snnc.sim.torch.Normalize`).
    """

    def __init__(self, norms: tuple[Norm, ...], params: Tensors, running: dict[str, Tensor]) -> None:
        self.norms, self.running = norms, running
        self.by_node = {norm.layer: Watch(_at_a_step(norm, params, running)) for norm in norms}

    def found(self) -> dict[str, Tensor]:
        """Mean and variance of the batch, means over its steps, by the names of the running ones."""
        made: dict[str, Tensor] = {}
        for norm in self.norms:
            if self.by_node[norm.layer].steps:
                made[norm.mean], made[norm.variance] = self.by_node[norm.layer].over_steps()
        return made

    def remember(self) -> None:
        """Let the running means take this batch in; call it once, at the end."""
        self.running.update({name: averaged(self.running[name], value) for name, value in self.found().items()})


class Watch:
    """What becomes of the values of a layer, and their statistics.

    Attributes:
        steps: those of every step; of a value that is the same at every step, and of a single sample, fewer.
    """

    def __init__(self, change: Callable[[Tensor], tuple[Tensor, Statistics | None]]) -> None:
        self.change = change
        self.steps: list[Statistics] = []

    def __call__(self, value: Tensor) -> Tensor:
        """What becomes of the value [N, C, ...] at one step."""
        made, found = self.change(value)
        if found is not None:
            self.steps.append(found)
        return made

    def over_steps(self) -> Statistics:
        """The means over the steps."""
        means, variances = zip(*self.steps, strict=True)
        return torch.stack(means).mean(0), torch.stack(variances).mean(0)


def normalized(
    value: Tensor, gain: Tensor | None = None, shift: Tensor | None = None, epsilon: float = EPSILON
) -> tuple[Tensor, Statistics]:
    """I of the module from values [N, C, ...], two at least per channel; their mean and variance (n - 1), [C]."""
    mean, variance = value.new_zeros(value.shape[1]), value.new_zeros(value.shape[1])
    made = F.batch_norm(value, mean, variance, gain, shift, training=True, momentum=1.0, eps=epsilon)
    return made, (mean, variance)


def _at_a_step(norm: Norm, params: Tensors, running: Tensors) -> Callable[[Tensor], tuple[Tensor, Statistics | None]]:
    """The work of one batch norm."""

    def change(value: Tensor) -> tuple[Tensor, Statistics | None]:
        gain, shift = params[norm.gain], params[norm.shift]
        if value.numel() > value.shape[1]:
            return normalized(value, gain, shift, norm.epsilon)
        mean, variance = running[norm.mean], running[norm.variance]
        return F.batch_norm(value, mean, variance, gain, shift, eps=norm.epsilon), None

    return change


def _as_it_is(value: Tensor) -> tuple[Tensor, Statistics]:
    """Nothing becomes of the value; its statistics."""
    return value, normalized(value)[1]


def _run(graph: Graph, params: Tensors, x: Tensor, watch: Mapping[str, Watch]) -> None:
    """All time steps on inputs x [N, ...]."""
    with torch.no_grad(), exact():
        stepper = Stepper(graph, params, {next(iter(graph.inputs)): x}, normalize=watch)
        for _ in range(graph.steps):
            stepper.step()


def _channels(factor: Tensor, param: Tensor) -> Tensor:
    """[C], broadcastable to a param whose first axis is the channels."""
    return factor.reshape(-1, *[1] * (param.ndim - 1))
