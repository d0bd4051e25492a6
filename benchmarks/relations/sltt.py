"""Spatial learning through time (Meng et al. 2023), S1 to S5: LIF networks from random weights.

    lambda = 1 - 1/tau, tau = 1.1 unless said, and the reset decays with the potential (SLTT eq. 3)

Thresholds are the 80 percentile's: a neuron that leaks so much fires at the 99.9 percentile never.
"""

from __future__ import annotations

import time
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Graph
from snnc.pipeline import Context, Pipeline
from snnc.sim.torch import exact, tensors
from snnc.train import BPTT, SLTT, TET, Batch
from snnc.train.end_to_end import EndToEnd
from snnc.train.local import random_weights
from snnc.train.losses import MEASURED
from snnc.train.units import weights_of

from .relation import Bound, Numbers, Relation
from .study import Study, lowered

TASK = "fashion"
TAUS = (1.1, 2.0, 5.0)
STEPS, MANY, K = 6, 10, 2
"""T of S1 and S4, and of S2, where K = T/5."""
OPTIONS = "epochs=8 batch=32 rate=0.03 start=random"
COMPARED = 100
"""Samples whose gradients are compared."""
TIMED = 20
"""Updates that are timed."""


def leaky(steps: int, tau: float = TAUS[0]) -> str:
    """The pipeline that makes a leaky network."""
    return lowered(steps, f"alpha={1 - 1 / tau:.6f} reset=subtract-decayed percentile=80")


def accuracy(study: Study, seed: int) -> Numbers:
    """S1: every step alone against backpropagation through time."""
    ours, theirs = (study.run(TASK, f"{leaky(STEPS)},{rule}{{{OPTIONS}}}", seed).test for rule in ("sltt", "bptt"))
    return {"SLTT - BPTT": ours - theirs, "SLTT": ours, "BPTT": theirs}


def few_steps(study: Study, seed: int) -> Numbers:
    """S2: K of T steps; how often a gradient is taken back in an update, counted."""
    whole = study.run(TASK, f"{leaky(MANY)},sltt{{{OPTIONS}}}", seed)
    part = study.run(TASK, f"{leaky(MANY)},sltt{{{OPTIONS} k={K}}}", seed)
    graph, context = _started(study, seed, leaky(MANY)), Context(study.data(TASK))
    backs = [_backs(SLTT(k=k, chunk=1), graph, context) for k in (K, 0)]
    return {
        "SLTT-K - SLTT": part.test - whole.test,
        "% of backward steps": 100 * backs[0] / backs[1],
        "SLTT": whole.test,
    }


def cosines(study: Study, seed: int) -> Numbers:
    """S3: the cosine of the gradients of a loss per step, through time and of each step alone; a mean over params.

    Of networks that BPTT trained; before training hardly a neuron fires.
    """
    found = {}
    for tau in TAUS:
        graph = study.run(TASK, f"{leaky(STEPS, tau)},bptt{{{OPTIONS}}}", seed).graph
        context = Context(study.data(TASK))
        one, other = (_gradients(rule, graph, context) for rule in (TET(), SLTT()))
        likeness = [float(torch.cosine_similarity(one[n].flatten(), other[n].flatten(), 0)) for n in one]
        found[f"tau {tau}"] = float(np.mean(likeness))
    near, middle, far = found.values()
    return found | {"1.1 less 2": near - middle, "2 less 5": middle - far}


def seconds(study: Study, seed: int) -> Numbers:
    """S4: processor time of updates, relative to backpropagation through time."""
    graph, context = _started(study, seed, leaky(STEPS)), Context(study.data(TASK))
    taken = {}
    for name, rule in {"BPTT": BPTT(), "SLTT": SLTT(), "SLTT-1": SLTT(k=1)}.items():
        learn, begun = rule.learner(graph, context), time.process_time()
        for _ in range(TIMED):
            learn(_batch(graph, context, 64))
        taken[name] = time.process_time() - begun
    return {f"{name} / BPTT": taken[name] / taken["BPTT"] for name in ("SLTT", "SLTT-1")}


def normalized(study: Study, seed: int) -> Numbers:
    """S5: a batch norm per time step, as all networks of the paper have, against none, and against its start alone."""
    found: dict[str, float] = {}
    for task in (TASK, "deep"):
        without, with_it = (
            study.run(task, f"{leaky(STEPS)},sltt{{{OPTIONS}{more}}}", seed).test for more in ("", " batchnorm=true")
        )
        alone = study.share(task, _start_alone(study, task, seed))
        found |= {f"{task}: with - without": with_it - without, f"{task}: with - its start": with_it - alone}
        found |= {f"{task} with": with_it, f"{task} without": without}
    return found


def _start_alone(study: Study, task: str, seed: int) -> Graph:
    """The network trained without batch norms from the weights that it would begin with."""
    graph, _ = Pipeline.parse(leaky(STEPS))(study.teacher(task), data=study.data(task), seed=seed)
    context, (rule,) = Context(study.data(task), graph.teacher, seed), Pipeline.parse(f"sltt{{{OPTIONS}}}").passes
    assert isinstance(rule, SLTT)
    norms = replace(rule, batchnorm=True).norms(graph)
    random = graph.edit(params=random_weights(graph, context.rng(rule.name)))
    x = torch.tensor(context.training(rule.name).take(MEASURED).x())
    return replace(rule, start="converted").run(norms.spread(random, x), context)


def _started(study: Study, seed: int, text: str) -> Graph:
    """The network with random weights."""
    made, _ = Pipeline.parse(text)(study.teacher(TASK), data=study.data(TASK), seed=seed)
    return made.edit(params=random_weights(made, np.random.default_rng(seed)))


def _batch(graph: Graph, context: Context, size: int) -> Batch:
    """The first training samples; the params that learn require gradients."""
    units = weights_of(graph)
    params = {name: value.requires_grad_(name in units) for name, value in tensors(graph).items()}
    split = context.training("sltt").take(size)
    return Batch(params, torch.tensor(split.x()), torch.tensor(split.labels), np.random.default_rng(0))


def _gradients(rule: EndToEnd, graph: Graph, context: Context) -> dict[str, Tensor]:
    """By param, of one batch."""
    given = _batch(graph, context, COMPARED)
    with exact():
        rule.learner(graph, context)(given)
    return {name: grad for name in weights_of(graph) if (grad := given.params[name].grad) is not None}


def _backs(rule: EndToEnd, graph: Graph, context: Context) -> int:
    """How often an update takes a loss back."""
    learn, given = rule.learner(graph, context), _batch(graph, context, 8)
    with mock.patch.object(Tensor, "backward", autospec=True, side_effect=Tensor.backward) as back:
        learn(given)
    return back.call_count


RELATIONS = (
    Relation("S1", "SLTT is as good as BPTT: Fashion-MNIST CNN, tau = 1.1, T = 6, points", "-0.28 to +3.7",
             (Bound("SLTT - BPTT", -1),), accuracy),
    Relation("S2", "SLTT-K with K = T/5 is little worse: the same, T = 10, K = 2", "-0.5",
             (Bound("SLTT-K - SLTT", -1.5), Bound("% of backward steps", 100 * K / MANY, 100 * K / MANY)), few_steps),
    Relation("S3", "gradients of SLTT and BPTT point the same way where the leak is strong: cosine, T = 6",
             "high at tau = 1.1", (Bound("tau 1.1", 0.9), Bound("1.1 less 2", 0), Bound("2 less 5", 0)), cosines),
    Relation("S4", "SLTT takes less time than BPTT, SLTT-1 much less: T = 6, processor time of an update",
             "0.72 to 0.99; SLTT-1 0.43", (Bound("SLTT / BPTT", most=1), Bound("SLTT-1 / BPTT", most=0.8)), seconds,
             "reported, no gate: times vary with the machine"),
    Relation("S5", "a batch norm per time step helps from random weights, in deep networks most: Fashion-MNIST CNNs of "
             "4 and 9 layers, T = 6, points", "all its networks have it; no comparison",
             (Bound("fashion: with - without", 0), Bound("deep: with - without", 10)), normalized),
)  # fmt: skip
