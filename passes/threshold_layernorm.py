r"""Make neurons of activations, with the thresholds of Threshold LayerNorm (PTL section 3.3).

    a_u   = the percentile of a layer's activations over the calibration data (at most the relu's own maximum)
    theta = a_u / T        one spike stands for theta, T spikes for a_u
    u0    = start * theta  1/2 rounds where 0 floors: count = clip(floor((V + u0) / theta), 0, T)

What a spike is worth goes into the weights that read it: W' = theta W. What is no weight (a sum, an output) reads a
`scale`, a weighted synapse. Inputs become currents of total charge x; a bias delivers its
whole charge at the first step until bias-per-step spreads it. The last linear layer is read as aggregate membrane
potential, and what follows it (softmax) stays analog behind a `decode`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from snnc.data import Split
from snnc.errors import GraphError, PipelineError
from snnc.ir import LINEAR, WEIGHTED, Array, Attr, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass
from snnc.sim.cost import first_role
from snnc.sim.torch import exact, forward, tensors, to_tensor

CHUNK = 64


@dataclass(frozen=True)
class ThresholdLayerNorm(Pass):
    """Turn every relu into integrate-and-fire neurons.

    Attributes:
        steps: T.
        percentile: nearest rank over all activations of a layer, zeros included; PTL uses 99 or 99.9.
        samples: calibration samples, from the beginning of the training part; the percentile over them is exact.
        start: u0 as a share of theta.
        alpha: the leak a step; 1 is IF, exp(-dt/tau) < 1 is LIF.
        reset: see snnc.sim.neurons.
        code: how inputs become currents: `direct` or `first-step`.
    """

    name = "threshold-layernorm"
    takes = frozenset({Stage.ANALOG})
    gives = Stage.SPIKING

    steps: int = 16
    percentile: float = 99.9
    samples: int = 1000
    start: float = 0.5
    alpha: float = 1.0
    reset: Literal["subtract", "subtract-decayed", "zero"] = "subtract"
    code: Literal["direct", "first-step"] = "direct"

    def __post_init__(self) -> None:
        wrong = {
            "steps": self.steps >= 1,
            "percentile": 0 < self.percentile <= 100,
            "samples": self.samples >= 1,
            "start": 0 <= self.start < 1,
            "alpha": 0 < self.alpha <= 1,
        }
        if bad := [f"{key}={getattr(self, key)}" for key, fine in wrong.items() if not fine]:
            raise PipelineError(f"'{self.name}' cannot work with {', '.join(bad)}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        _refuse(graph)
        bounds = upper_bounds(graph, ctx.training(self.name).take(self.samples), self.percentile, ctx)
        nodes, params, turn = self._lower(graph, bounds)
        outputs = _read_out(graph, nodes, turn)
        if any("bias_at" in n.attrs for n in nodes):
            ctx.note("biases arrive whole at the first step until bias-per-step spreads them")
        spiking = graph.edit(nodes, params=params, outputs=outputs, stage=Stage.SPIKING, steps=self.steps)
        return _absorb_worths(spiking)

    def _lower(self, graph: Graph, bounds: dict[str, float]) -> tuple[list[Node], dict[str, Array], dict[str, str]]:
        """Encoders, neurons, and behind every layer of neurons a scale that says what its spikes are worth.

        The last of the three says what to read instead of a value of the analog graph.
        """
        nodes: list[Node] = []
        params: dict[str, Array] = {}
        turn: dict[str, str] = {}
        for name in graph.inputs:
            turn[name] = graph.fresh(f"{name}.current")
            nodes.append(Node(turn[name], "encode", (name,), {"code": self.code}))
        for node in graph.nodes:
            inputs = tuple(turn.get(i, i) for i in node.inputs)
            if node.op == "relu":
                theta = bounds[node.name] / self.steps
                own = {"alpha": self.alpha, "theta": theta, "u0": self.start * theta}
                params |= {f"{node.name}.{key}": np.asarray(value, np.float32) for key, value in own.items()}
                names = tuple(f"{node.name}.{key}" for key in own)
                nodes.append(Node(node.name, "lif", (*inputs, *names), {"reset": self.reset}, node.origin))
                turn[node.name] = f"{node.name}.worth"
                params[f"{node.name}.worth.factor"] = np.asarray(theta, np.float32)
                worth = (node.name, f"{node.name}.worth.factor")
                nodes.append(Node(turn[node.name], "scale", worth, origin=node.origin))
            else:
                timed: dict[str, Attr] = {"bias_at": "first-step"} if "bias" in roles(node, graph.params) else {}
                nodes.append(replace(node, inputs=inputs, attrs={**node.attrs, **timed}))
        return nodes, params, turn


def _refuse(graph: Graph) -> None:
    """Everything that has no spiking form and stands before the last neurons, at once."""
    hints = {
        "batchnorm": "run fold-batchnorm before",
        "maxpool": "run replace-max-pool before",
        "softmax": "only the end of a network may stay analog",
        "logsoftmax": "only the end of a network may stay analog",
    }
    problems = []
    for node in graph.nodes:
        later = graph.feeds(node.name, "relu")
        if node.op in ("batchnorm", "maxpool") or (node.op not in (*LINEAR, "relu") and later):
            problems.append(GraphError(f"'{node.op}' has no spiking form", at=node.at, hint=hints.get(node.op, "")))
    if not any(node.op == "relu" for node in graph.nodes):
        problems.append(GraphError("the network has no relu that could become neurons"))
    if problems:
        raise GraphError.gather("the network cannot become spiking as it is", problems)


def upper_bounds(graph: Graph, split: Split, percentile: float, ctx: Context) -> dict[str, float]:
    """a_u of every relu: the nearest-rank percentile over all its activations on `split`, exact.

    Only the largest values are kept from batch to batch, so memory does not grow with the number of samples.
    """
    relus = [n for n in graph.nodes if n.op == "relu"]
    keep = {n.name: _rank_from_top(len(split) * math.prod(n.type.shape), percentile) for n in relus}
    top: dict[str, torch.Tensor] = {}
    params = tensors(graph, ctx.device)
    name = next(iter(graph.inputs))
    with torch.inference_mode(), exact():
        for at in range(0, len(split), CHUNK):
            ctx.progress("calibrate thresholds", at, len(split))
            batch = {name: to_tensor(split.x(slice(at, at + CHUNK)), ctx.device)}
            values = forward(graph, params, batch, keep=lambda n: n.op == "relu")
            for node in relus:
                pool = (
                    torch.cat([top[node.name], values[node.name].flatten()])
                    if node.name in top
                    else values[node.name].flatten()
                )
                top[node.name] = pool.topk(min(keep[node.name], len(pool)), sorted=False).values
    found = {}
    for node in relus:
        found[node.name] = float(top[node.name].min())
        if not found[node.name] > 0:
            most = float(top[node.name].max())
            found[node.name] = most if most > 0 else 1.0
            ctx.note(
                f"{node.at}: the {percentile} percentile is 0, threshold set from {'the maximum' if most > 0 else '1'}"
            )
    return found


def _rank_from_top(count: int, percentile: float) -> int:
    """How many of the largest of `count` values reach down to the nearest-rank percentile."""
    return count - max(math.ceil(round(percentile / 100 * count, 6)), 1) + 1


def _read_out(graph: Graph, nodes: list[Node], turn: dict[str, str]) -> dict[str, str]:
    """Add a decode before the analog end of the network, or behind its outputs; gives back the new outputs.

    Analog are the softmaxes and whatever reads them.
    """
    made: dict[str, str] = {}

    def decoded(name: str) -> str:
        if name not in made:
            made[name] = f"{name}.decoded"
            nodes.append(Node(made[name], "decode", (name,)))
        return made[name]

    analog: set[str] = set()
    for i, node in enumerate(list(nodes)):
        if node.op in ("softmax", "logsoftmax") or analog & set(node.inputs):
            inputs = tuple(n if n in analog or n in graph.params else decoded(n) for n in node.inputs)
            attrs = {key: value for key, value in node.attrs.items() if key != "bias_at"}
            nodes[i] = replace(node, inputs=inputs, attrs=attrs)
            analog.add(node.name)
    ends = {user: turn.get(name, name) for user, name in graph.outputs.items()}
    return {user: name if name in analog else decoded(name) for user, name in ends.items()}


def _absorb_worths(graph: Graph) -> Graph:
    """Multiply what spikes are worth into the weights that read them; sums and outputs go on reading a worth."""
    nodes = {n.name: n for n in graph.nodes}
    params: dict[str, Array] = {}
    for worth in graph.nodes:
        if worth.op != "scale" or graph[worth.inputs[0]].op != "lif" or "bias" in roles(worth, graph.params):
            continue
        for user in graph.users(worth.name):
            layers = [user] if user.op in WEIGHTED else _layers_behind(graph, user)
            if layers is None:
                continue
            direct = tuple(worth.inputs[0] if i == worth.name else i for i in nodes[user.name].inputs)
            nodes[user.name] = replace(nodes[user.name], inputs=direct)
            for layer in layers:
                old = roles(layer, graph.params)[first_role(layer)]
                new = f"{layer.name}.{first_role(layer)}"
                params[new] = (graph.params[old] * graph.params[worth.inputs[1]]).astype(np.float32)
                own = tuple(new if i == old else i for i in nodes[layer.name].inputs)
                nodes[layer.name] = replace(nodes[layer.name], inputs=own)
    return graph.edit(nodes.values(), params=params)


def _layers_behind(graph: Graph, wire: Node) -> list[Node] | None:
    """The weighted layers that read a pool or reshape, through others; None if anything else does."""
    if wire.op not in ("avgpool", "reshape") or graph.is_output(wire.name):
        return None
    found: list[Node] = []
    for user in graph.users(wire.name):
        behind = [user] if user.op in WEIGHTED else _layers_behind(graph, user)
        if behind is None:
            return None
        found += behind
    return found
