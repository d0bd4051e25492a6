r"""Local tandem learning, offline (LTL section 2.2): every layer of neurons learns its ANN twin's activations.

    L_l = mean (y_l / y_norm - C_l[T] / T)^2                       (eq. 4; the mean instead of the sum)
    L   = sum_l L_l + cross-entropy(read-out, labels)

A layer learns from the detached spikes of the layer before, through its own T steps (eq. 5 to 7), with the boxcar as
surrogate (eq. 8). y is the teacher's activation of the same name; y_norm and the targets are those of
`snnc.train.targets`, the losses those of `snnc.train.local`. What reads out the network learns from the labels.

    parallel     all layers at once; what is kept for the way back grows as T times the number of layers
    sequential   one layer after the other, from the first, for `epochs` passes each, and the read-out last: the layers
                 before are fixed, and only the layer's own T steps are kept. Of a layer that epoch is kept whose rates
                 fit best on validation, 1 - |r - C/T|^2 / |r|^2; the end is kept if it validates as well as the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from snnc.ir import WEIGHTED, Array, Graph, roles
from snnc.pipeline import Context
from snnc.score import ACCURACY
from snnc.sim.ideal import block
from snnc.sim.torch import Tensors, exact, forward, tensors, to_tensor

from .local import Lesson, LocalRule
from .loop import loop, validated
from .trainer import Batch, Learner, check, from_loss
from .units import weights_of

CHUNK = 64
"""Validation samples at once, where rates are judged."""


@dataclass(frozen=True)
class LTL(LocalRule):
    """Offline local tandem learning.

    Attributes:
        order: all layers in parallel, or one after the other, `epochs` passes each.
    """

    name = "ltl"

    order: Literal["parallel", "sequential"] = "parallel"

    def __post_init__(self) -> None:
        check(self, **self.fine())

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        lesson, start = Lesson(self, graph, ctx), self.begin(graph, ctx)
        if self.order == "parallel":
            fitted = loop(self, start, ctx, self.taught(lesson), beside=lesson.beside)
        else:
            fitted = self._in_turn(lesson, start, ctx)
        lesson.note_gates(fitted, ctx)
        return fitted

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch, all layers in parallel.

        Raises:
            PipelineError: there is no teacher, or nothing that the losses fit.
        """
        return self.taught(Lesson(self, graph, ctx))

    def taught(self, lesson: Lesson, layers: tuple[str, ...] | None = None) -> Learner:
        """The learner of some layers; of all, and of the read-out, by default."""
        graph, everything = lesson.graph, layers is None
        chosen = lesson.layers if layers is None else layers
        ends = {layer: layer for layer in chosen}
        part = graph if everything or not chosen else graph.edit(outputs=ends)

        def loss(batch: Batch) -> Tensor:
            rates, answers = lesson.wanted(batch)
            values = self._run(part, batch.params, batch.x, {*chosen, lesson.scores})
            losses = lesson.local({layer: values[layer].mean(0) for layer in chosen}, rates)
            if everything or not chosen:
                losses.append(lesson.answer(values[lesson.scores], answers))
            return torch.stack([each.to(batch.x.device) for each in losses]).sum()

        return from_loss(loss)

    def _run(self, graph: Graph, params: Tensors, x: Tensor, keep: set[str]) -> dict[str, Tensor]:
        (name,) = graph.inputs
        return forward(graph, params, {name: x}, width=self.width, detach=True, keep=lambda n: n.name in keep)

    def _in_turn(self, lesson: Lesson, graph: Graph, ctx: Context) -> dict[str, Array]:
        """Train stage after stage; the start, if the end validates worse."""
        units, start = weights_of(graph), graph
        for layers, names in stages(graph, lesson.layers):
            own, learner = replace(ctx, notes=[]), self.taught(lesson, layers)

            def fit(made: Graph, layers: tuple[str, ...] = layers) -> float:
                return self.fit_of(lesson, made, layers, ctx)

            mine = {name: units[name] for name in names}
            judge, score = (fit, ACCURACY) if layers else (None, None)  # a fit is a share, as an accuracy is
            fitted = loop(self, graph, own, learner, mine, judge, score, lesson.beside)
            for note in own.notes:
                ctx.note(f"{', '.join(layers) or lesson.scores}: {note}")
            graph = graph.edit(params=fitted)
        before, after = validated(start, ctx), validated(graph, ctx)
        if ctx.score.better(before, after):
            ctx.note(f"kept the start, {ctx.score.brief(before)} on validation: {ctx.score.brief(after)} in the end")
            graph = start
        return {name: graph.params[name] for name in units}

    def fit_of(self, lesson: Lesson, graph: Graph, layers: tuple[str, ...], ctx: Context) -> float:
        """How well the layers' rates fit on validation: 1 - |r - C/T|^2 / |r|^2, at most 1."""
        assert ctx.data is not None
        part = graph.edit(outputs={layer: layer for layer in layers})
        params, missed, whole = tensors(part, ctx.device), 0.0, 0.0
        with torch.inference_mode(), exact():
            for x in ctx.data.validation.batches(CHUNK):
                batch = to_tensor(x, ctx.device)
                rates, values = lesson.targets(batch), self._run(part, params, batch, set(layers))
                for layer in layers:
                    rate = values[layer].mean(0)
                    missed += float((rates[layer].to(rate.device) - rate).double().square().sum())
                    whole += float(rates[layer].double().square().sum())
        return 1 - missed / whole if whole else -missed


def stages(graph: Graph, layers: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The layers of neurons in order with the params that drive them, and all other params that learn, without layers.

    Layers that share params stand together.
    """
    left = dict.fromkeys(weights_of(graph))
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for layer in layers:
        driving = [graph[name] for name in block(graph, graph[layer], WEIGHTED)]
        own = {name for node in driving for name in roles(node, graph.params).values() if name in left}
        joined = [stage for stage in found if own & set(stage[1])]
        found = [stage for stage in found if stage not in joined]
        together = (*(name for stage in joined for name in stage[0]), layer)
        own |= {name for stage in joined for name in stage[1]}
        found.append((together, tuple(name for name in left if name in own)))
    taken = {name for _, names in found for name in names}
    rest = tuple(name for name in left if name not in taken)
    return [*found, ((), rest)] if rest else found
