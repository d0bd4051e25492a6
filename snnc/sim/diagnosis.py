"""Why a spiking network differs from its teacher: each layer's error split into named causes, and what mends most.

The interpreter runs again with one cause switched off. In a layer alone the causes follow the ladder of
`snnc.sim.ladder` and sum to the layer's error. In the whole network a cause is switched off in all layers, or in one,
and what comes back is measured at the output: alone, which does not sum to the drop where causes overlap or need each
other, and in turn, one after the other until all are off, which does, within a stated remainder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from snnc.errors import GraphError
from snnc.ir import Array, Graph, Samples, roles
from snnc.score import ACCURACY, Score

from .advice import advise
from .findings import READOUT, Diagnosis, Gain, Row
from .ideal import in_weight_steps
from .ladder import IN_NEURONS
from .probe import Probe, Progress, Sums, Variant
from .torch import exact
from .twins import IN_WEIGHTS, Cause, Change

TOP = 8
"""Pairs of layer and cause that are switched off alone in the whole network: those with the largest local errors."""


def diagnose(
    graph: Graph,
    teacher: Graph,
    x: Samples,
    labels: Array | None = None,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
    score: Score = ACCURACY,
) -> Diagnosis:
    """Measure why `graph` differs from `teacher` on samples.

    Costs about as much as running the network twice for every cause that occurs, and a dozen times more.

    Args:
        graph: a time-stepped graph of one input and one output.
        x: samples [N, ...]; a few hundred do.
        labels: right answers [N], or targets [N, ...]; without them the teacher's answers count as right.
        progress: told what is going on, and how many samples of how many are done.
        score: what outputs are judged by.

    Raises:
        GraphError: there is nothing to compare: no time steps, no samples, several inputs or outputs, other units.
    """
    if (why := obstacle(graph, teacher, x)) is not None:
        raise why
    with torch.inference_mode(), exact():
        probe = Probe(graph, teacher, x, device, progress)
        return _whole(probe, _rows(probe), labels, score)


def layers(graph: Graph, teacher: Graph, x: Samples, device: str = "cpu") -> tuple[Row, ...]:
    """The layers' part of `diagnose`: every layer's error and its causes, no run of the network with a cause off.

    Raises:
        GraphError: as `diagnose`.
    """
    if (why := obstacle(graph, teacher, x)) is not None:
        raise why
    with torch.inference_mode(), exact():
        return _rows(Probe(graph, teacher, x, device))


def obstacle(graph: Graph, teacher: Graph, x: Samples) -> GraphError | None:
    """Why there is nothing to compare; None where `diagnose` works."""
    if not graph.steps:
        return GraphError("the graph has no time steps: there is nothing to explain", hint="compile it first")
    for word, ours, theirs in (("input", graph.inputs, teacher.inputs), ("output", graph.outputs, teacher.outputs)):
        for found in (ours, theirs):
            if len(found) != 1:
                return GraphError(f"a diagnosis needs one {word}, there are {', '.join(found)}")
    if any(node.op == "lif" and in_weight_steps(graph, node) for node in graph.nodes):
        return GraphError(
            "its thresholds are integers of weight steps, no longer in the model's units",
            hint="explain what was compiled without quantize-neurons",
        )
    return None if len(x) else GraphError("there are no samples to explain the graph on")


def _rows(probe: Probe) -> tuple[Row, ...]:
    return tuple(_row(probe, name, found) for name, found in probe.local().items())


def _row(probe: Probe, name: str, found: Sums) -> Row:
    graph, layer = probe.graph, probe.layers[name]
    norm = math.sqrt(found.norm) or 1.0
    error = math.sqrt(found.error) / norm
    scale = found.error if error > 1e-6 else math.inf
    limits = [graph.constraints.get(next(iter(roles(graph[n], graph.params).values()))) for n in probe.blocks[name]]
    bits = [limit.bits for limit in limits if limit is not None and limit.bits is not None]
    masks = [limit.mask for limit in limits if limit is not None and limit.mask is not None and not limit.mask.all()]
    return Row(
        name, layer.node.origin, layer.target is not None, error, math.sqrt(found.own) / norm,
        {cause: (found.shares or {}).get(cause, 0.0) / scale for cause in Cause},
        found.lost / (found.total or 1.0),
        tuple(int(i) for i in probe.dead[name].nonzero().flatten()),
        {key: math.sqrt(value) / norm for key, value in (found.after or {}).items()},
        min(bits, default=None),
        max((int(mask.reshape(len(mask), -1).sum(1).max()) for mask in masks), default=None),
    )  # fmt: skip


def _whole(probe: Probe, rows: tuple[Row, ...], labels: Array | None, score: Score) -> Diagnosis:
    """Run the network with causes off, and judge the outputs."""
    theirs = probe.teacher_outputs()
    judge = _Judge(theirs, _answers(theirs, score) if labels is None else labels, score)
    pairs = sorted(((r.shares[c] * r.error, r.name, c) for r in rows for c in r.causes), key=lambda p: (-p[0], p[1]))
    plan = _alone(probe, rows, [(name, cause) for _, name, cause in pairs[:TOP]])
    base, *others = [judge(*made) for made in probe.outputs([Variant(), *(v for _, _, v in plan)])]
    gains = [Gain(what, at, o[0] - base[0], base[1] - o[1]) for (what, at, _), o in zip(plan, others, strict=True)]
    single = tuple(sorted((g for g in gains if g.layer is not None), key=lambda g: (-g.error, g.layer, g.what)))
    alone = tuple(sorted((g for g in gains if g.layer is None), key=lambda g: (g.what == READOUT, -g.error)))
    turns = [base, *(judge(*made) for made in probe.outputs(_in_turn(probe, alone)))]
    in_turn = tuple(
        Gain(g.what, None, new[0] - old[0], old[1] - new[1])
        for g, (old, new) in zip(alone, pairwise(turns), strict=True)
    )
    first = next((g for g in single if g.error > 0), None)
    layer, cause = (first.layer, Cause(first.what)) if first is not None else (pairs[0][1:] if pairs else (None, None))
    advice = () if layer is None else advise(
        next(row for row in rows if row.name == layer), probe.graph.steps,
        {g.what: g.error for g in single if g.layer == layer},
    )  # fmt: skip
    best = judge(theirs, theirs)[0]
    return Diagnosis(
        probe.graph.steps, len(probe.x), labels is not None, best, *base, rows, alone, in_turn, single,
        best - turns[-1][0], turns[-1][1], layer, cause, advice, score,
    )  # fmt: skip


def _answers(outputs: Tensor, score: Score) -> Array:
    """What outputs [N, ...] say: the class with the largest score [N], or what they are."""
    return np.asarray((outputs.argmax(1) if score is ACCURACY else outputs).cpu().numpy())


def _alone(
    probe: Probe, rows: tuple[Row, ...], pairs: list[tuple[str, Cause]]
) -> list[tuple[str, str | None, Variant]]:
    """What is switched off alone: what, in which layer, and how."""
    present = [c for c in Cause if c is not Cause.INHERITED and any(abs(r.shares[c]) * r.error > 1e-6 for r in rows)]
    plan: list[tuple[str, str | None, Variant]] = [(c.value, None, variant(probe, [c])) for c in present]
    if probe.readout:
        plan.append((READOUT, None, Variant(weights=probe.readout)))
    return plan + [(cause.value, name, variant(probe, [cause], name)) for name, cause in pairs]


def _in_turn(probe: Probe, order: tuple[Gain, ...]) -> list[Variant]:
    """The causes of `order` off one after the other."""
    found, causes = [], list[Cause]()
    for gain in order:
        if gain.what == READOUT:
            before = variant(probe, causes)
            found.append(Variant(before.off, {**before.weights, **probe.readout}, before.even))
        else:
            causes.append(Cause(gain.what))
            found.append(variant(probe, causes))
    return found


@dataclass(frozen=True, eq=False)
class _Judge:
    """Right answers [N] or targets [N, ...], and the teacher's outputs [N, ...]."""

    theirs: Tensor
    wanted: Array
    score: Score

    def __call__(self, output: Tensor, restored: Tensor) -> tuple[float, float]:
        """The score; error of the output that the teacher's read-out makes."""
        value = self.score.measure(output.cpu().numpy(), self.wanted)
        return value, float((restored - self.theirs).norm()) / (float(self.theirs.norm()) or 1.0)


def variant(probe: Probe, causes: Sequence[Cause], only: str | None = None) -> Variant:
    """The network without some causes, in all layers or in one.

    Pruned connections come back with the teacher's weights, so without rounding too.
    """
    layers = [only] if only is not None else list(probe.layers)
    nodes = [node for name in layers for node in probe.blocks[name]]
    weights: dict[str, Change] = {}
    for cause in (c for c in IN_WEIGHTS if c in causes):
        for node in nodes:
            if node in probe.changes[cause]:
                weights[node] = {**weights.get(node, {}), **probe.changes[cause][node]}
    off = {name: frozenset(c for c in causes if _in_neurons(probe, name, c)) for name in layers}
    even = Cause.TIMING in causes and not probe.first.isdisjoint(layers)
    return Variant({name: found for name, found in off.items() if found}, weights, even)


def _in_neurons(probe: Probe, name: str, cause: Cause) -> bool:
    """Whether a cause is removed by what the neurons hand on, not by other params."""
    return cause in (*IN_NEURONS, Cause.DEAD) or probe.last_cause(name) is cause
