"""Local tandem learning (Yang et al. 2022), L1 to L5 and L9: students of the paper's kind, from random weights."""

from __future__ import annotations

import itertools
import re

import numpy as np

from .relation import Bound, Numbers, Relation
from .study import Outcome, Study, lowered

STEPS = 16
EPOCHS = 8
EARLY = 5
"""Epochs after which L3 looks."""
WINDOWS = (4, 8, 16, 32)
RATE = {"ltl": 0.01, "ltl-online": 0.02, "bptt": 0.01}
"""For `ltl` and `bptt` the better of 0.01 and 0.03 on the validation images of CIFAR-10."""
BATCH = {"mnist": 32, "fashion": 32, "cifar": 16}
"""The deep network needs more updates."""
LOWEST = {"mnist": 0.5, "fashion": 1.5, "cifar": 3.0}
"""Points that a student may be below its teacher."""
ONLINE = {"mnist": 2.0, "fashion": 3.0}
"""Points that a student that learned online may be below one that learned offline."""


def student(study: Study, task: str, rule: str, seed: int, steps: int = STEPS, more: str = "") -> Outcome:
    """A network of random weights that learned by a rule."""
    options = f"epochs={EPOCHS} batch={BATCH[task]} rate={RATE[rule]} start=random{more}"
    return study.run(task, f"{lowered(steps)},{rule}{{{options}}}", seed)


def teacher(study: Study, seed: int) -> Numbers:
    """L1: points above the teacher."""
    made = {task: student(study, task, "ltl", seed).test for task in LOWEST}
    above = {task: test - study.ann(task) for task, test in made.items()}
    return above | {f"ANN {task}": study.ann(task) for task in LOWEST}


def online(study: Study, seed: int) -> Numbers:
    """L2: points that offline is above online, and whether more steps bring both together."""

    def gap(task: str, steps: int) -> float:
        return student(study, task, "ltl", seed, steps).test - student(study, task, "ltl-online", seed, steps).test

    found = {task: gap(task, STEPS) for task in ONLINE}
    later = [gap(task, 2 * STEPS) for task in ONLINE]
    return found | {"mean gap T 32 - T 16": float(np.mean(later) - np.mean([*found.values()]))}


def convergence(study: Study, seed: int) -> Numbers:
    """L3: validation accuracy after a few epochs, as a share of the best, and against backpropagation through time."""
    (ours,), (theirs,) = (student(study, "cifar", rule, seed).curves for rule in ("ltl", "bptt"))
    share = 100 * ours[EARLY] / max(ours)
    return {"% of final": share, "LTL - STBP": ours[EARLY] - theirs[EARLY], "LTL final": max(ours),
            "STBP final": max(theirs)}  # fmt: skip


def windows(study: Study, seed: int) -> Numbers:
    """L4: what every doubling of T brings, and backpropagation through time at the fewest steps."""
    made = {steps: student(study, "fashion", "ltl", seed, steps).test for steps in WINDOWS}
    rises = {f"T {b} - T {a}": made[b] - made[a] for a, b in itertools.pairwise(WINDOWS)}
    few = WINDOWS[0]
    return rises | {
        f"LTL - STBP at T {few}": made[few] - student(study, "fashion", "bptt", seed, few).test,
        f"LTL at T {few}": made[few],
    }


def order(study: Study, seed: int) -> Numbers:
    """L5: one layer after the other instead of all in parallel, as many epochs for each."""
    in_turn = student(study, "mnist", "ltl", seed, more=" order=sequential").test
    return {"sequential - parallel": in_turn - student(study, "mnist", "ltl", seed).test}


def gates(study: Study, seed: int) -> Numbers:
    """L9: the share of updates that the boxcar gates out of trained networks, as the rule notes it."""
    return {f"{task} %": gated(student(study, task, "ltl", seed).notes) for task in LOWEST}


def gated(notes: tuple[str, ...]) -> float:
    """The share in the notes of `ltl`, in percent."""
    (found,) = (match[1] for note in notes if (match := re.match(r"the boxcar gates out (\d+)% of all updates", note)))
    return float(found)


RELATIONS = (
    Relation("L1", "offline LTL is as good as its teacher, T = 16: SNN - ANN, points", "+1.2 to -1.1",
             tuple(Bound(task, -most) for task, most in LOWEST.items()), teacher),
    Relation("L2", "online LTL is little worse than offline, T = 16, and the gap shrinks with T: offline - online",
             "0 to 4.4, smaller at T = 32",
             (*(Bound(task, most=most) for task, most in ONLINE.items()),
              Bound("mean gap T 32 - T 16", most=0)), online),
    Relation("L3", "LTL converges fast: CIFAR-10 VGG-11 at width 1/8, validation after 5 epochs",
             "5 epochs; STBP still rises at 50", (Bound("% of final", 98), Bound("LTL - STBP", 0)), convergence),
    Relation("L4", "accuracy rises with T; LTL is at least as good as STBP at T = 4: Fashion-MNIST CNN, points",
             "both", (*(Bound(f"T {b} - T {a}", -0.5) for a, b in itertools.pairwise(WINDOWS)),
                      Bound(f"LTL - STBP at T {WINDOWS[0]}", -0.5)), windows),
    Relation("L5", "one layer after the other is as good as all in parallel: MNIST, points", "-0.22",
             (Bound("sequential - parallel", -1, 1),), order),
    Relation("L9", "the boxcar gates out part of all updates", "-", (), gates),
)  # fmt: skip
