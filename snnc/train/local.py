r"""What the local tandem learning rules share: the losses of a batch, the start, and how much the surrogate gates out.

    L_l = mean (r_l - rate_l)^2      of every layer of neurons: r_l its target, see `snnc.train.targets` (LTL eq. 4, 9)
    L   = sum_l L_l + loss(scores, labels)      (cross-entropy, or another of `snnc.train.losses`)

The mean over elements stands in place of the paper's sum. With `output=teacher` the read-out learns the teacher's
softened answers: tau^2 * cross-entropy(scores / tau, softmax(teacher's scores / tau)), tau the temperature. Where the
data has targets in place of labels, it learns these, or with `output=teacher` the teacher's outputs, by the same loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import LAYERS, Array, Graph, roles
from snnc.pipeline import Context
from snnc.score import ACCURACY, Score
from snnc.sim.ideal import in_weight_steps
from snnc.sim.judge import LAYER_SAMPLES
from snnc.sim.neurons import gate
from snnc.sim.stepper import Stepper
from snnc.sim.torch import exact, per_channel, tensors, to_tensor

from .beside import Beside
from .losses import MEASURED, Labelled, criterion, loss_for
from .parallel import processes
from .readout import check_classes, readout
from .targets import Norm, Rounding, Targets
from .trainer import Batch
from .units import fan_in, rate_share, weights_of


@dataclass(frozen=True)
class LocalRule(Labelled):
    """A rule by which every layer of neurons learns its teacher's activations from the spikes before it.

    Attributes:
        width: the boxcar's p relative to theta.
        norm: y_norm: T * theta (`collected`), the percentile of every batch, or the running mean of these.
        percentile: of `norm=batch` and `norm=running`.
        targets: the target rates as they are, or rounded down to what T steps can count.
        output: the read-out learns from the labels, or from the teacher's softened answers.
        temperature: tau, how soft these are.
        start: from the weights as they are, or from random ones.
    """

    width: float = 1.0
    norm: Norm = "collected"
    percentile: float = 99.9
    targets: Rounding = "exact"
    output: Literal["labels", "teacher"] = "labels"
    temperature: float = 1.0
    start: Literal["converted", "random"] = "converted"

    def fine(self) -> dict[str, bool]:
        """Whether the options that all such rules have can be worked with, by name; for `check`."""
        return {
            "width": 0 < self.width < math.inf,
            "percentile": 0 < self.percentile <= 100,
            "temperature": 0 < self.temperature < math.inf,
        }

    def begin(self, graph: Graph, ctx: Context) -> Graph:
        """The graph that training starts from."""
        return graph.edit(params=random_weights(graph, ctx.rng(self.name))) if self.start == "random" else graph


class Lesson:
    """What a network is to learn: target rates and answers of a batch, and the losses that compare with them.

    Attributes:
        layers: the layers of neurons that have targets.
        scores: the value that is compared with the answers.
        beside: the running means that a training of this lesson begins with.
    """

    def __init__(self, rule: LocalRule, graph: Graph, ctx: Context) -> None:
        """Prepare for batches; notes which layers the teacher lacks.

        Raises:
            PipelineError: there is no teacher; the neurons are integers, whose T * theta is no activation; the output
                is no set of scores; or several processes share a batch that has one norm.
        """
        if ctx.teacher is None:
            raise PipelineError(
                f"'{rule.name}' needs the teacher", hint="run it in a pipeline that begins with the imported graph"
            )
        self.rule, self.graph, self.input = rule, graph, next(iter(graph.inputs))
        self._score = ctx.score
        self.scores, self._answers = readout(graph, ctx.score), readout(ctx.teacher, ctx.score)
        _check(rule, graph, self.scores, ctx.score)
        self._judge = criterion(rule, graph, self.scores, ctx)
        self.targets = Targets(
            graph, ctx.teacher, ctx.device, rule.norm, rule.percentile, rule.targets, keep={self._answers}
        )
        self.layers = self.targets.layers
        if rule.norm == "running":
            self.targets.begin(to_tensor(ctx.training(rule.name).take(MEASURED).x(), ctx.device))
        self.beside = Beside(running=self.targets.begun)
        if lacking := self.targets.without:
            ctx.note(f"no teacher for {', '.join(lacking)}: learning what the weights made of ideal input")

    def wanted(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Target rates [N, ...] by layer; right answers: labels [N], shares [N, classes], or targets [N, ...].

        Running means take the batch in.
        """
        theirs = self.targets.activations(batch.x)
        rates = self.targets.rates(batch.x, theirs, batch.running)
        if self.rule.output == "labels":
            return rates, batch.labels
        if self._score is not ACCURACY:
            return rates, theirs[self._answers]
        return rates, torch.softmax(theirs[self._answers].flatten(1) / self.rule.temperature, 1)

    def local(self, rates: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[Tensor]:
        """L_l of the layers in `rates` [N, ...]."""
        return [F.mse_loss(rate, wanted[layer].to(rate.device)) for layer, rate in rates.items()]

    def answer(self, scores: Tensor, answers: Tensor) -> Tensor:
        """The loss of the scores [N, classes], axes of size 1 among them or not; or of signals."""
        if self.rule.output == "labels" or self._score is not ACCURACY:
            return self._judge(scores, answers)
        tau = self.rule.temperature
        return tau**2 * F.cross_entropy(scores.flatten(1) / tau, answers.to(scores.device))

    def note_gates(self, fitted: Mapping[str, Array], ctx: Context, first: int = 0) -> None:
        """Say which share of updates the boxcar gates out; steps up to `first` make none (LTL, section 2.2)."""
        if ctx.data is None or not self.layers:
            return
        x = to_tensor(ctx.data.validation.take(LAYER_SAMPLES).x(), ctx.device)
        shut = gated_out(self.graph.edit(params=fitted), x, self.rule.width, self.layers, first)
        least, most = min(shut, key=shut.__getitem__), max(shut, key=shut.__getitem__)
        sizes = [math.prod(self.graph.type(layer).shape) for layer in self.layers]
        mean = float(np.average([shut[layer] for layer in self.layers], weights=sizes))
        ends = f": {least} {shut[least]:.0%} to {most} {shut[most]:.0%}" if len(shut) > 1 else ""
        ctx.note(f"the boxcar gates out {mean:.0%} of all updates{ends}")


def _check(rule: LocalRule, graph: Graph, scores: str, score: Score) -> None:
    """Refuse what the losses do not fit."""
    if rule.norm in ("batch", "running") and processes() > 1:
        raise PipelineError(
            f"'{rule.name}' with norm={rule.norm} takes percentiles of whole batches: each process has a share",
            hint="norm=collected, or one process",
        )
    if rule.output == "teacher" and score is not ACCURACY and rule.temperature != 1:
        raise PipelineError(
            f"'{rule.name}' softens answers that are classes; the targets of this data are none", hint="no temperature"
        )
    entropy = loss_for(rule.loss, ACCURACY) == "cross-entropy"
    if rule.output == "teacher" and score is ACCURACY and (not entropy or rule.balance):
        raise PipelineError(
            f"'{rule.name}' with output=teacher learns answers, not labels: loss and balance say nothing about these",
            hint="output=labels, or neither of them",
        )
    check_classes(rule.name, graph, scores, score)
    units = [n for n in graph.nodes if n.op == "lif" and in_weight_steps(graph, n)]
    if rule.norm == "collected" and units:
        raise PipelineError(
            f"'{rule.name}' takes T * theta for what a neuron's activity is worth; these neurons are integers",
            at=units[0].at, hint="train before quantize-neurons",
        )  # fmt: skip


def gated_out(graph: Graph, x: Tensor, width: float, layers: tuple[str, ...], first: int = 0) -> dict[str, float]:
    """By layer, the share of neurons, samples and steps behind `first` where no gradient may pass.

    Args:
        x: inputs [N, ...], or streams of events [N, T, ...].
        width: the boxcar's, relative to theta.
    """
    params, (name,) = tensors(graph, str(x.device)), graph.inputs
    shut = dict.fromkeys(layers, 0.0)
    with torch.inference_mode(), exact():
        stepper = Stepper(graph, params, {name: x})
        for t in range(1, graph.steps + 1):
            stepper.step()
            for layer in layers if t > first else ():
                theta = params[roles(graph[layer], graph.params)["theta"]]
                open_ = gate(stepper.potential[layer], per_channel(theta, len(graph[layer].type.shape)), width)
                shut[layer] += 1 - float(open_.double().mean())
    return {layer: total / (graph.steps - first) for layer, total in shut.items()}


def random_weights(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Weights and biases of all layers that learn, uniform in +-1/sqrt(fan-in) of their unit; constraints obeyed.

    torch's own start of dense and convolutional layers, which LTL's student has, for inputs of about 1.
    """
    units, found = weights_of(graph), dict[str, Array]()
    for node in graph.nodes:
        own = roles(node, graph.params)
        if node.op not in LAYERS or own["weight"] not in units:
            continue
        for role, name in own.items():
            unit = units[name] / (rate_share(graph, node) if role == "weight" else 1.0)
            most = unit / math.sqrt(max(fan_in(graph, node), 1))
            made = rng.uniform(-most, most, graph.params[name].shape).astype(np.float32)
            constraint = graph.constraints.get(name)
            found[name] = made if constraint is None else constraint.project(made)
    return found
