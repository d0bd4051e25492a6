"""Tandem learning (Wu et al. 2021), T1 to T3."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from snnc.ir import Graph
from snnc.pipeline import Context, single
from snnc.sim.judge import accuracy
from snnc.sim.reference import run as reference
from snnc.sim.torch import exact, tensors, to_tensor
from snnc.train.constrain_then_train import constrained
from snnc.train.coupled import Coupled, agreement

from .relation import Bound, Numbers, Relation
from .study import Outcome, Study, lowered

FEW, MANY = 4, 10
DEPTHS = ("shallow", "deep")
SEEN = 200
"""Test images that the executors are compared on."""
FINE = "epochs=3 batch=32 rate=0.003"
"""T1 goes on from the converted weights: from random ones the deep network does not learn without its batch norms."""
OPTIONS = "epochs=8 batch=32 rate=0.03 start=random"


def transfer(study: Study, seed: int) -> Numbers:
    """T1: points that the weights lose when they go from the network that trained to the one that spikes."""
    lost = {(task, steps): _lost(study, task, steps, seed) for task in DEPTHS for steps in (FEW, MANY)}
    found = {f"{task} T {steps}": points for (task, steps), points in lost.items()}
    deep = study.run("deep", f"{_coded(MANY)},tandem{{{FINE}}}", seed)
    return {
        "tandem": _tandem_lost(study, "deep", deep.graph),
        f"deep - shallow at T {FEW}": lost["deep", FEW] - lost["shallow", FEW],
        f"T {FEW} - T {MANY}, deep": lost["deep", FEW] - lost["deep", MANY],
        **found,
    }


def windows(study: Study, seed: int) -> Numbers:
    """T2: how few steps are usable, and where more bring nothing."""
    made = {steps: _tandem(study, "fashion", steps, seed).test for steps in (1, 8, 16)}
    return {"T 8 - T 1": made[8] - made[1], "T 16 - T 8": made[16] - made[8], "T 8": made[8]}


def likeness(study: Study, seed: int) -> Numbers:
    """T3: the largest angle and the smallest correlation of the layers, on validation samples, at T = 8."""
    found: dict[str, float] = {}
    for task in ("mnist", "fashion"):
        made = agreement(_tandem(study, task, 8, seed).graph, Context(study.data(task)))
        found[f"{task} degrees"] = max(made.angle.values())
        found[f"{task} correlation"] = min(made.pearson.values())
    return found


def _coded(steps: int) -> str:
    """As the paper has it: the input at the first step, neurons that floor."""
    return lowered(steps, "code=first-step start=0")


def _tandem(study: Study, task: str, steps: int, seed: int) -> Outcome:
    return study.run(task, f"{lowered(steps)},tandem{{{OPTIONS}}}", seed)


def _lost(study: Study, task: str, steps: int, seed: int) -> float:
    """Of constrain-then-train: test accuracy with constrained activations, less that with spikes."""
    made = study.run(task, f"{_coded(steps)},constrain-then-train{{{FINE}}}", seed)
    data = study.data(task)
    judged = Context(replace(data, validation=data.test))
    return 100 * constrained(Coupled(made.graph), made.graph, judged) - made.test


def _tandem_lost(study: Study, task: str, graph: Graph) -> float:
    """Of tandem learning: accuracy of what the training ran forward, less that of the numpy oracle."""
    test, coupled = study.data(task).test.take(SEEN), Coupled(graph)
    with torch.inference_mode(), exact():
        trained = coupled.fired(tensors(graph), to_tensor(test.x()))[coupled.scores]
    deployed = single(reference(graph, {coupled.input: test.x()}))
    return 100 * (accuracy(np.asarray(trained), test.labels) - accuracy(deployed, test.labels))


RELATIONS = (
    Relation("T1", "tandem learning transfers without loss; constrain-then-train loses, more so the deeper the network "
             "and the fewer the steps: Fashion-MNIST CNNs of 3 and 9 layers, fine-tuned after conversion, points lost",
             "0; 11 at T = 10",
             (Bound("tandem", 0, 0), Bound(f"deep - shallow at T {FEW}", 0), Bound(f"T {FEW} - T {MANY}, deep", 0)),
             transfer),
    Relation("T2", "one step is usable, and nothing is gained beyond about 10: Fashion-MNIST CNN from random weights",
             "error < 12 % at T = 1; plateau at 10",
             (Bound("T 8 - T 1", most=5), Bound("T 16 - T 8", -1, 1)), windows),
    Relation("T3", "analog and spiking layers agree: from random weights, T = 8", "< 24 degrees, > 0.9",
             (*(Bound(f"{task} degrees", most=24) for task in ("mnist", "fashion")),
              *(Bound(f"{task} correlation", 0.9) for task in ("mnist", "fashion"))), likeness),
)  # fmt: skip
