"""Progressive tandem learning (Wu et al. 2021), P1 to P6: it begins with the trained analog network, as the paper's."""

from __future__ import annotations

import itertools

from .relation import Bound, Numbers, Relation
from .study import Outcome, Study, lowered

STEPS = {"mnist": 16, "fashion": 16, "cifar": 8}
"""N_s: P6 wants 8 of the deep network, and what holds there holds at 16."""
EPOCHS = 4
"""Of a stage, at most."""
PATIENCE = 2
PATIENCES = (1, 2, 4)
BITS = 4
QUANTIZED = {"mnist": 0.3, "cifar": 1.5}
"""Points that 4 bits may cost."""


def progressive(study: Study, task: str, seed: int, more: str = "", patience: int = PATIENCE) -> Outcome:
    """A network that became spiking layer by layer."""
    options = f"steps={STEPS[task]} epochs={EPOCHS} patience={patience} batch=32{more}"
    return study.run(task, f"fold-batchnorm,ptl{{{options}}}", seed)


def against_ann(study: Study, seed: int) -> Numbers:
    """P1: points above the analog network."""
    found = {task: progressive(study, task, seed).test - study.ann(task) for task in STEPS}
    return found | {f"ANN {task}": study.ann(task) for task in STEPS}


def recovery(study: Study, seed: int) -> Numbers:
    """P2: how deep validation accuracy dips where a stage begins, and how far a stage's best is below the one before.

    Of all stages of the three networks the worst; the first stage is compared with the analog network.
    """
    dips, falls = [], []
    for task in STEPS:
        curves = progressive(study, task, seed).curves
        best = [max(curve) for curve in curves]
        falls += [before - after for before, after in itertools.pairwise(best)]
        dips += [before - curve[0] for before, curve in zip(best, curves[1:], strict=False)]
    return {"largest fall of a stage's best": max(falls), "largest dip": max(dips)}


def quantized(study: Study, seed: int) -> Numbers:
    """P3: points that 4-bit weights cost."""
    return {
        task: progressive(study, task, seed).test - progressive(study, task, seed, f" bits={BITS}").test
        for task in QUANTIZED
    }


def patience(study: Study, seed: int) -> Numbers:
    """P5: epochs of all stages together, and the accuracy, as the scheduler waits longer."""
    made = {wait: progressive(study, "fashion", seed, patience=wait) for wait in PATIENCES}
    epochs = {wait: sum(len(curve) - 1 for curve in made[wait].curves) for wait in PATIENCES}
    low, high = PATIENCES[0], PATIENCES[-1]
    steps = {f"epochs T_p {b} - {a}": float(epochs[b] - epochs[a]) for a, b in itertools.pairwise(PATIENCES)}
    return {**steps, f"accuracy T_p {high} - {low}": made[high].test - made[low].test, f"epochs T_p {low}": epochs[low],
            f"accuracy T_p {low} - ANN": made[low].test - study.ann("fashion")}  # fmt: skip


def depth(study: Study, seed: int) -> Numbers:
    """P6: eleven layers, against tandem learning of all of them at once, from random and from converted weights."""
    ours = progressive(study, "cifar", seed).test
    whole = {
        start: study.run(
            "cifar", f"{lowered(STEPS['cifar'])},tandem{{epochs=8 batch=32 rate={rate} start={start}}}", seed
        ).test
        for start, rate in (("random", 0.01), ("converted", 0.003))
    }
    return {"PTL - tandem": ours - whole["random"], "PTL - tandem of converted weights": ours - whole["converted"],
            "PTL": ours}  # fmt: skip


RELATIONS = (
    Relation("P1", "the spiking network is as good as the analog one, N_s = 16, of CIFAR-10 8: SNN - ANN, points",
             "+0.65 to +1.27",
             tuple(Bound(task, -1) for task in STEPS), against_ann),
    Relation("P2", "accuracy dips when a layer is converted and recovers in its stage: validation, points", "yes",
             (Bound("largest fall of a stage's best", most=1),), recovery, "the worst stage of three networks"),
    Relation("P3", "weights of 4 bits cost little, trained layer by layer: the same, points", "0.03; 0.85",
             tuple(Bound(task, most=most) for task, most in QUANTIZED.items()), quantized),
    Relation("P5", "more patience takes more epochs and is no worse: Fashion-MNIST CNN, N_s = 16",
             "about 18 epochs at T_p = 1",
             (*(Bound(f"epochs T_p {b} - {a}", 1) for a, b in itertools.pairwise(PATIENCES)),
              Bound(f"accuracy T_p {PATIENCES[-1]} - {PATIENCES[0]}", -0.5)), patience),
    Relation("P6", "in a network of 11 layers PTL is better than tandem learning of all layers at once, N_s = 8: "
             "CIFAR-10 VGG-11 at width 1/8, points", "tandem hardly converges", (Bound("PTL - tandem", 0),), depth,
             "the bound is on tandem learning from random weights, as in the paper's figure 4"),
)  # fmt: skip
