"""What devices do to a network that LTL trained, and what an epoch on the device brings back: L6 to L8.

L6 and L7 run on simulated devices of dynap-sim (6-bit weights, no wall on the fan-in): the network is programmed,
judged on the test part, calibrated for one epoch by its learning block, and judged again; "clean" is the device without
noise.
Every physical synapse, bias and threshold has its own frozen mismatch. The paper multiplies each weight of a shared
kernel once, which moves all positions alike and does far more harm; so where the paper's level costs less than 5 points
it is raised until it does, and the level is told. L8 needs no device.
"""

from __future__ import annotations

from collections.abc import Sequence

from snnc.pipeline import single
from snnc.sim.judge import accuracy
from snnc.target import Chip
from snnc.targets import DynapSim

from .ltl import student
from .relation import Bound, Numbers, Relation
from .study import Outcome, Study

TASK = "fashion"
FREE = 10**6
"""A fan-in that no network has."""
FINE_BITS = 6
"""Of the devices' weights: what potentials of the widest layer allow."""
HARM = 5.0
"""Points that noise must cost before it is looked at what comes back."""
LEVELS: dict[str, Sequence[float]] = {
    "mismatch": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "thermal": (0.2, 0.4, 0.6, 0.8, 1.0), "silencing": (0.5,),
}  # fmt: skip
"""The paper's largest level of each kind, and more."""
BITS = (7, 6, 5, 4, 3)
RETRAINED = "ltl{epochs=5 batch=32 rate=0.01}"


def mismatch(study: Study, seed: int) -> Numbers:
    """L6: the drop, and what is left of it after an epoch."""
    found = harmed(study, seed, "mismatch")
    return {name: found[name] for name in ("drop", "left", "level", "drop at 0.4")}


def thermal_and_silencing(study: Study, seed: int) -> Numbers:
    """L7: the share of the drop that an epoch brings back, and what half the neurons being dead leaves."""
    hot, dead = harmed(study, seed, "thermal"), harmed(study, seed, "silencing")
    return {
        "thermal: share back": hot["share back"],
        "silencing: share back": dead["share back"],
        "silencing: left": dead["left"],
        "thermal: level": hot["level"],
        "thermal: drop": hot["drop"],
        "thermal: drop at 0.2": hot["drop at 0.2"],
        "silencing: drop": dead["drop"],
    }


def harmed(study: Study, seed: int, kind: str) -> Numbers:
    """Noise at the lowest level that costs HARM points (the highest, if none does), before and after an epoch."""
    clean, drops = _judged(study, _chip(study, seed, kind, 0.0)), list[float]()
    for level in LEVELS[kind]:
        chip = _chip(study, seed, kind, level)
        drops.append(clean - _judged(study, chip))
        if drops[-1] >= HARM:
            break
    chip.calibrate(study.data(TASK), 1)
    drop, left = drops[-1], clean - _judged(study, chip)
    share = (drop - left) / drop if drop else 0.0
    return {"level": level, "drop": drop, "left": left, "share back": share, f"drop at {LEVELS[kind][0]}": drops[0]}


def _chip(study: Study, seed: int, kind: str, level: float) -> Chip:
    """Device `seed` with the network of student `seed`, one kind of noise, and no other."""
    snn = study.run(TASK, f"quantize-weights{{bits={FINE_BITS}}}", seed, student(study, TASK, "ltl", seed))
    sigma, hot, dead = (level if name == kind else 0.0 for name in ("mismatch", "thermal", "silencing"))
    target = DynapSim(bits=FINE_BITS, fan_in=FREE, mismatch=sigma, thermal=hot, silencing=dead)
    return target.compile(snn.graph).load(seed)


def _judged(study: Study, chip: Chip) -> float:
    """Accuracy on the test part, in percent."""
    test = study.data(TASK).test
    return 100 * accuracy(single(chip.run(test)), test.labels)


def bits(study: Study, seed: int) -> Numbers:
    """L8: points that few bits cost after training, and the share of 3 bits' that training at 3 bits brings back."""
    whole = student(study, TASK, "ltl", seed)
    rounded = {b: _quantized(study, seed, b, whole) for b in BITS}
    lost = {b: whole.test - made.test for b, made in rounded.items()}
    back = study.run(TASK, RETRAINED, seed, rounded[3]).test - rounded[3].test
    return {
        "lost at 3 less 3 times lost at 4": lost[3] - 3 * lost[4],
        "share that QAT brings back": back / lost[3] if lost[3] else 0.0,
        **{f"lost at {b}": points for b, points in lost.items()},
    }


def _quantized(study: Study, seed: int, count: int, whole: Outcome) -> Outcome:
    """One step for each tensor: the read-out stays as it is, as in the paper's code."""
    return study.run(TASK, f"quantize-weights{{bits={count} per=tensor}}", seed, whole)


RELATIONS = (
    Relation("L6", "mismatch costs much and one epoch on the device restores it: Fashion-MNIST CNN, points",
             "sigma 0.4: > 20 lost; restored", (Bound("drop", HARM), Bound("left", most=1)), mismatch,
             "level: sigma of every physical part, raised until 5 points are lost"),
    Relation("L7", "one epoch recovers much of thermal noise's and silencing's harm: the same",
             "large part; > 80 % accuracy with 50 % silenced",
             (Bound("thermal: share back", 0.5), Bound("silencing: share back", 0.5),
              Bound("silencing: left", most=10)), thermal_and_silencing, "50 % of the neurons are dead for good"),
    Relation("L8", "three bits are a cliff, of which training with them brings back half: the same, points",
             "3 bits > 30 lost; QAT back about 17",
             (Bound("lost at 3 less 3 times lost at 4", 0), Bound("share that QAT brings back", 0.5)), bits),
)  # fmt: skip
