r"""The weights that a spiking layer would have without its limits, in its own units.

The teacher's weights for a layer that reads x where the teacher's twin reads f x are W_t f. The factors f are found by
least squares, one per input channel, and must leave nothing over; else the layer's weights cannot be compared.

Weights before they were rounded are those that W may stand for, |W' - W| <= s / 2 (beyond the last level anything),
and do best: the nearest to the teacher's; where connections were pruned, those with the least

    E |V_t - W' x_kept - b|^2     over rows of ideal input x, V_t being what drives the twin

found by projected gradient descent from W. What is then left is the pruned connections, or else that training moved
the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from snnc.ir import Constraint, Graph, Node, roles

from .ideal import delivered
from .levels import nearest_at, taken
from .local import unfold

OWN = ("conv", "local", "dense")
"""The ops whose weights are compared with the teacher's."""
LEFT_OVER = 1e-4
"""Share of the squared input that the factors may leave over, for rounding."""
ROWS = 2048
"""Rows of a regression."""
DESCENT = 40
"""Steps of the gradient descent."""


class Cause(StrEnum):
    """Why a layer of neurons does not hand on what the teacher's does, in the order in which causes are removed.

    The values are the names in every report, text and JSON.
    """

    TIMING = "timing"
    LEAK = "leak"
    CLIPPED = "clipped"
    STEPS = "too few steps"
    DEAD = "dead"
    INHERITED = "inherited"
    BIAS = "bias"
    BITS = "weight bits"
    PRUNED = "pruned fan-in"
    WEIGHTS = "weights"
    POOLING = "pooling"
    FUNCTION = "function"


IN_WEIGHTS = (Cause.BIAS, Cause.BITS, Cause.PRUNED, Cause.WEIGHTS)
"""The causes that other params remove."""
Change = dict[str, Tensor]
"""Params by name that replace a layer's own."""


@dataclass
class Twins:
    """The weighted nodes of a graph that the teacher has too, and what is collected about them batch by batch."""

    graph: Graph
    teacher: Graph
    params: Mapping[str, Tensor]
    theirs: Mapping[str, Tensor]
    studies: list[Study] = field(default_factory=list)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            if (twin := twin_of(node, self.graph, self.teacher)) is not None:
                weight = roles(node, self.graph.params)["weight"]
                limits = self.graph.constraints.get(weight, Constraint())
                self.studies.append(Study(node, twin, limits, self.graph.params[weight].shape))

    def see(self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], share: float) -> None:
        """Take note of all values of a batch on ideal input; `share` of all samples are in it."""
        for study in self.studies:
            inputs = ours[self.graph.values(study.node)[0]], theirs[self.teacher.values(study.twin)[0]]
            study.see(*inputs, theirs[study.twin.name], max(1, round(ROWS * share)))

    def changes(self) -> dict[Cause, dict[str, Change]]:
        """By cause and node, the params that remove the cause. Nodes that cannot be compared have none."""
        found: dict[Cause, dict[str, Change]] = {cause: {} for cause in IN_WEIGHTS}
        for study in self.studies:
            if (factors := study.factors()) is not None:
                for cause, change in self._of(study, factors).items():
                    found[cause][study.node.name] = change
        return found

    def _of(self, study: Study, factors: Tensor) -> dict[Cause, Change]:
        node, own = study.node, roles(study.node, self.graph.params)
        names = roles(study.twin, self.teacher.params)
        weight = {own["weight"]: on_inputs(node, self.theirs[names["weight"]], factors)}
        bias: Change = {}
        if "bias" in own:
            times = delivered(node, self.graph.steps)
            there = self.theirs.get(names.get("bias", ""))
            bias[own["bias"]] = torch.zeros_like(self.params[own["bias"]]) if there is None else there / times
        found = {Cause.PRUNED: {**weight, **bias}} if study.pruned else {Cause.BIAS: bias, Cause.WEIGHTS: weight}
        if study.limits.bits is not None:
            least, most = study.room(self.params[own["weight"]])
            if not study.pruned:
                found[Cause.BITS] = {name: torch.clamp(value, least, most) for name, value in weight.items()}
            elif study.rows:
                found[Cause.BITS] = {own["weight"]: self._best(study, own, least, most)}
        return found

    def _best(self, study: Study, own: Mapping[str, str], least: Tensor, most: Tensor) -> Tensor:
        """The best weights between `least` and `most` on the kept connections."""
        weight, group = self.params[own["weight"]], study.group
        kept = torch.tensor(study.limits.mask, device=weight.device).reshape(len(weight), -1)
        inputs = torch.cat([rows for rows, _ in study.rows], 1)
        wanted = torch.cat([rows for _, rows in study.rows])
        made, low, high = (part.reshape(len(weight), -1).clone() for part in (weight, least, most))
        bias = self.params[own["bias"]] if "bias" in own else torch.zeros((), device=weight.device)
        total = (delivered(study.node, self.graph.steps) * bias).expand(len(weight))
        for o in range(len(weight)):
            x, at = inputs[o * group // len(weight)][:, kept[o]], kept[o]
            made[o, at] = _descend(x, wanted[:, o] - total[o], made[o, at], low[o, at], high[o, at])
        return made.reshape(weight.shape)


def twin_of(node: Node, graph: Graph, teacher: Graph) -> Node | None:
    """The teacher's node of the same name (separate-layers adds `.linear`), op and shapes of weights and input."""
    name = node.name.removesuffix(".linear")
    if node.op not in OWN or name not in teacher or teacher[name].op != node.op:
        return None
    shapes = [
        (g.params[roles(n, g.params)["weight"]].shape, g.type(g.values(n)[0]).shape, n.type.shape)
        for g, n in ((graph, node), (teacher, teacher[name]))
    ]
    return teacher[name] if shapes[0] == shapes[1] else None


@dataclass
class Study:
    """What is collected about one weighted node and its twin: products of their inputs, and rows for a regression."""

    node: Node
    twin: Node
    limits: Constraint
    shape: tuple[int, ...]
    products: Tensor | None = None
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def pruned(self) -> bool:
        """Whether connections are absent."""
        return self.limits.mask is not None and not self.limits.mask.all()

    @property
    def group(self) -> int:
        """Groups of channels."""
        return int(str(self.node.attrs.get("group", 1)))

    def room(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weights that are rounded to `weight`: the least and the largest."""
        step = torch.tensor(self.limits.scale, device=weight.device).expand_as(weight)
        if self.limits.levels is not None:
            levels = torch.tensor(self.limits.levels, device=weight.device)
            edges = torch.nn.functional.pad((levels[..., 1:] + levels[..., :-1]) / 2, (1, 1), value=torch.inf)
            edges[..., 0] = -torch.inf
            at = nearest_at(weight / step, levels)
            return taken(edges, at) * step, taken(edges, at + 1) * step
        last = self.limits.top_level * step * (1 - 1e-4)
        far = torch.full_like(weight, torch.inf)
        least = torch.where(weight <= -last, -far, weight - step / 2)
        return least, torch.where(weight >= last, far, weight + step / 2)

    def see(self, ours: Tensor, theirs: Tensor, output: Tensor, count: int) -> None:
        """Take note of inputs [N, C, ...] of both and of the twin's output; of those pick about `count` rows."""
        over = [axis for axis in range(ours.ndim) if axis != 1]
        made = torch.stack(
            [(a * b).double().sum(over or ()) for a, b in ((theirs, ours), (ours, ours), (theirs, theirs))]
        )
        self.products = made if self.products is None else self.products + made
        if self.pruned and self.limits.bits is not None and self.node.op != "local":
            self.rows.append(self._rows(ours, output, count))

    def _rows(self, ours: Tensor, output: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Inputs [group, rows, inner] and outputs [rows, O], evenly picked."""
        if self.node.op == "dense":
            inputs, outputs = ours[None], output
        else:
            windows = unfold(self.node, ours, (self.shape[-2], self.shape[-1]))
            inputs = windows.transpose(1, 2).flatten(1, 2)
            outputs = output.flatten(2).transpose(1, 2).flatten(0, 1)
        stride = max(1, len(outputs) // count)
        return inputs[:, ::stride].clone(), outputs[::stride].clone()

    def factors(self) -> Tensor | None:
        """f [C] with twin's input = f * ours; None where that leaves something over."""
        if self.products is None:
            return None
        cross, own, other = self.products
        f = cross / own.clamp(min=1e-300)
        left = (other - f * cross).sum()
        if not (own.sum() > 0 and left <= LEFT_OVER * other.sum()):
            return None
        return torch.where(own > 0, f, cross.sum() / own.sum()).float()


def on_inputs(node: Node, weight: Tensor, factors: Tensor) -> Tensor:
    """The weights [O, ...] of a layer that reads x, made from those of one that reads `factors` [C] * x."""
    if node.op == "dense":
        return weight * factors
    group = int(str(node.attrs["group"]))
    by_row = factors.reshape(group, -1).repeat_interleave(len(weight) // group, 0)
    return weight * by_row.reshape(len(weight), *[1] * (weight.ndim - 4), -1, 1, 1)


def merged(params: Mapping[str, Tensor], changes: Iterable[Change]) -> dict[str, Tensor]:
    """The params with some of them replaced."""
    made = dict(params)
    for change in changes:
        made |= change
    return made


def _descend(x: Tensor, wanted: Tensor, start: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """w [k] between two bounds with x w near `wanted`: x [rows, k], wanted [rows]."""
    gram, aim, w = x.T @ x, x.T @ wanted, start
    bound = float(gram.abs().sum(1).max()) if len(gram) else 0.0
    for _ in range(DESCENT if bound > 0 else 0):
        w = torch.clamp(w - (gram @ w - aim) / bound, least, most)
    return w
