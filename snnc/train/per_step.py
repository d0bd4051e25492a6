r"""What rules share that judge every time step alone, as they must to learn while the network runs.

    L = 1/T sum_t l(o[t], labels)                                                       (SLTT eq. 14)
    l = (1 - m) loss + m * mean over classes of (o - 1)^2                               (TET; `snnc.train.losses`)

o[t] is what the network would answer if all steps were like step t: T times what the read-out is sent at that step, and
what the host computes behind it. The mean of o over the steps is what the network decodes (where the host's part is
linear). Of a delayed read-out, T in L is the number of steps that count. The second term of l keeps scores small.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from snnc.ir import Graph, Node, TensorType, later_than
from snnc.sim.torch import Tensors, delay, forward

from .end_to_end import EndToEnd
from .losses import Compare, Labelled
from .trainer import check

Kind = TypeVar("Kind")
WANTED = 1.0
"""What the second term draws all scores to: one constant, as the released code of TET and SLTT has it."""


@dataclass(frozen=True)
class PerStep(EndToEnd):
    """A rule whose loss is a mean over the time steps.

    Attributes:
        mse: m, the share of the loss that keeps scores small.
    """

    for_classes = (*Labelled.for_classes, "mse")

    mse: float = 0.0

    def check(self, **fine: bool) -> None:
        """Refuse options that cannot be worked with, see `snnc.train.trainer.check`; `fine`: a rule's own."""
        check(self, **self.fine(), mse=0 <= self.mse <= 1, **fine)

    def at_a_step(self, judge: Compare, scores: Tensor, labels: Tensor) -> Tensor:
        """l of the module: scores o [N, classes] or signals, labels [N] or targets -> [], a mean over the batch."""
        made = judge(scores, labels)
        return (1 - self.mse) * made + self.mse * (scores - WANTED).square().mean() if self.mse else made


def counted(graph: Graph) -> range:
    """The steps t, from 1, that every read-out counts."""
    first = max((delay(node, graph.steps)[0] for node in graph.nodes if node.op == "decode"), default=0)
    return range(first + 1, graph.steps + 1)


def predictions(graph: Graph, params: Tensors, values: Tensors, scores: str) -> Tensor:
    """o [steps that count, N, classes] of a network that ran through all steps, differentiable.

    Args:
        values: as `snnc.sim.torch.forward` made them, those that the host and the read-outs read among them.
        scores: the value that is judged.
    """
    steps, decoded = counted(graph), {}
    for node in graph.nodes:
        if node.op == "decode" and (sent := values.get(graph.values(node)[0])) is not None:
            decoded[node.name] = sent.expand(graph.steps, *sent.shape[1:])[steps.start - 1 :] * graph.steps
    return answers(host(graph, scores), params, {**values, **decoded}, decoded)


def answers(part: Graph, params: Tensors, values: Tensors, decoded: Tensors) -> Tensor:
    """What the host makes of read-outs that differ from step to step, [steps, N, classes], differentiable.

    Args:
        part: of the host, see `host`.
        values: analog ones by name, [N, ...].
        decoded: by read-out, [steps, N, ...].
    """
    (scores,) = part.outputs
    count = len(next(iter(decoded.values())))
    given = {
        name: (decoded[name] if name in decoded else values[name].expand(count, *values[name].shape)).flatten(0, 1)
        for name in part.inputs
    }
    made = forward(part, params, given)[scores]
    return made.reshape(count, -1, *made.shape[1:])


def alike(kinds: Sequence[Kind], most: int) -> Iterator[tuple[Kind, int]]:
    """What follows on itself in a sequence, and how often, `most` times at once."""
    for kind, group in itertools.groupby(kinds):
        left = len(list(group))
        while left:
            yield kind, min(left, most)
            left -= min(left, most)


def host(graph: Graph, scores: str) -> Graph:
    """What is computed behind the last read-outs, up to the value `scores`: an analog graph that reads these."""
    late = later_than(graph, "decode")
    nodes: dict[str, Node] = {}
    inputs: dict[str, TensorType] = {}
    ahead = [scores]
    while ahead:
        name = ahead.pop()
        if name in late and graph[name].op != "decode":
            nodes[name] = graph[name]
            ahead += graph.values(graph[name])
        else:
            inputs[name] = graph.type(name)
    ordered = [node for node in graph.nodes if node.name in nodes]
    return Graph(inputs, (), {}, {}).edit(ordered, params=graph.params, outputs={scores: scores})
