r"""What every layer of neurons should have handed on: the yardstick of a diagnosis.

Over a whole window linear ops act on total charges, so what drives a layer needs no time axis: with c the spike
counts of the layers before, the charge is V = W c + b, b being what the bias delivers in T steps. Charges stand in
the teacher's units, a count of c for the activation c * theta, and so the teacher's activation y for the count
y / theta. Neurons NAME.off stand for max(-y, 0); neurons that the teacher lacks for relu(V) of such ideal input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from snnc.ir import CURVES, LAYERS, Graph, Node, roles, stands_for

from .encoding import totals
from .placement import moved, places
from .torch import KERNELS, per_channel


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of neurons and what it stands for.

    Attributes:
        alpha, theta, u0: broadcastable to [N, ...].
        target: the teacher's value, times `sign` and cut at 0; None where the teacher has none.
        bounded: the teacher's value has an upper bound of its own.
    """

    node: Node
    alpha: Tensor
    theta: Tensor
    u0: Tensor
    target: str | None
    sign: float
    bounded: bool

    @classmethod
    def of(cls, node: Node, graph: Graph, teacher: Graph, params: Mapping[str, Tensor]) -> Layer:
        """The layer of a `lif` node."""
        own = roles(node, graph.params)
        parts = [per_channel(params[own[role]], len(node.type.shape)) for role in ("alpha", "theta", "u0")]
        if (found := stands_for(node, teacher)) is None:
            return cls(node, parts[0], parts[1], parts[2], None, 1.0, False)
        name, sign = found
        bounded = "max" in teacher[name].attrs or teacher[name].op in CURVES
        return cls(node, parts[0], parts[1], parts[2], name, sign, bounded)

    def ideal(self, teacher: Mapping[str, Tensor], charge: Tensor) -> Tensor:
        """The activation [N, ...] that the layer stands for, given the teacher's values and its ideal charge."""
        return (charge if self.target is None else self.sign * teacher[self.target]).clamp(min=0)


def charges(
    graph: Graph, params: Mapping[str, Tensor], x: Mapping[str, Tensor], counts: Callable[[Node, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Every value [N, ...] as the total over the T steps.

    Args:
        counts: spike counts of a layer of neurons from the charge that drives it.
    """
    values = totals(graph, x)
    count, place = len(next(iter(x.values()))), places(graph, params, x)
    for node in graph.nodes:
        here = place.get(node.name)
        read = [moved(values[name], here) for name in graph.values(node)]
        own = {role: moved(params[name], here) for role, name in roles(node, graph.params).items()}
        values[node.name] = _charge(node, read, own, count, graph.steps, counts)
    return values


def _charge(
    node: Node, read: list[Tensor], own: Mapping[str, Tensor], count: int, steps: int,
    counts: Callable[[Node, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    if node.op in ("encode", "decode"):
        return read[0]
    if node.op == "lif":
        return counts(node, read[0])
    if node.op == "constant":
        return own["value"].expand(count, *node.type.shape)
    made = KERNELS[node.op](node, read, own)
    return made + delivered(node, steps) * per_channel(own["bias"], len(node.type.shape)) if "bias" in own else made


def delivered(node: Node, steps: int) -> int:
    """How often a bias arrives within a window."""
    return steps if node.attrs.get("bias_at") == "per-step" else 1


def block(graph: Graph, node: Node, ops: Collection[str]) -> list[str]:
    """The nodes of `ops` between a layer of neurons and the neurons and encoders before it, those included."""
    found: list[str] = []
    todo, seen = list(graph.values(node)), set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name in graph.inputs:
            continue
        seen.add(name)
        found += [name] if graph[name].op in ops else []
        todo += graph.values(graph[name]) if graph[name].op not in ("lif", "encode") else ()
    return found


def in_weight_steps(graph: Graph, node: Node) -> bool:
    """Whether neurons and the weights that drive them were made integers: theta * count is no activation then."""
    theta = graph.params[roles(node, graph.params)["theta"]]
    limits = [graph.constraints.get(roles(graph[n], graph.params)["weight"]) for n in block(graph, node, LAYERS)]
    steps = [limit.scale for limit in limits if limit is not None and limit.scale is not None]
    return bool(steps) and all((array == np.rint(array)).all() for array in (theta, *steps))
