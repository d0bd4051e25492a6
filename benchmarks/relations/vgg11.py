"""The half-width VGG-11 on CIFAR-10, which others trained, at T = 16: the rows of LTL Table 1 and of PTL, scaled down.

Slow, so only with `--vgg11`. `ltl` and `ltl-online` begin after a conversion with refine-thresholds, whose accuracy
stands beside the rule's: nobody shall credit the rule with what the conversion gave. `ptl` converts by itself. Few
training images, one epoch (of each stage).
"""

from __future__ import annotations

import os

import snnc

from .networks import TASKS, samples
from .relation import Bound, NotRunError, Numbers, Relation
from .study import Study

MODEL = "cifar10_vgg11_half"
TRAIN, TEST = 1100, 1000
"""Images: a tenth of the training images validate."""
EXACT = "fold-batchnorm,rectify,relu-before-max-pool,separate-layers"
CONVERTED = f"{EXACT},threshold-layernorm{{steps=16}},bias-per-step,refine-thresholds{{samples=200}}"
LOCAL = "epochs=1 batch=32 rate=0.001"
PROGRESSIVE = f"{EXACT},ptl{{steps=16 samples=200 epochs=1 patience=1 batch=32 rate=0.001}}"


def _adopted(study: Study) -> None:
    """Make the network the teacher of its own task."""
    folder = os.environ.get("SNNC_MODELS")
    if not folder:
        raise NotRunError("SNNC_MODELS is not set")
    if not study.knows(MODEL):
        data = samples(TASKS["cifar"], study.folder, TRAIN, TEST)
        study.adopt(MODEL, data, snnc.load(f"{folder}/{MODEL}.onnx"))


def _local(study: Study, seed: int, rule: str) -> Numbers:
    """A rule after the conversion, which is the same for all seeds."""
    _adopted(study)
    converted = study.run(MODEL, CONVERTED, 0)
    return _numbers(study, study.run(MODEL, f"{rule}{{{LOCAL}}}", seed, converted).test, converted.test)


def _progressive(study: Study, seed: int) -> Numbers:
    """Progressive tandem learning from the analog network."""
    _adopted(study)
    return _numbers(study, study.run(MODEL, PROGRESSIVE, seed).test, study.run(MODEL, CONVERTED, 0).test)


def _numbers(study: Study, found: float, converted: float) -> Numbers:
    ann = study.ann(MODEL)
    return {"SNN - ANN": found - ann, "converted alone - ANN": converted - ann, "ANN": ann}


REMARK = f"one epoch on {TRAIN * 9 // 10} images, judged on {TEST} test images"
RELATIONS = (
    Relation("VGG-LTL", "offline LTL, half-width VGG-11, T = 16", "+0.31", (Bound("SNN - ANN", -1),),
             lambda study, seed: _local(study, seed, "ltl"), REMARK),
    Relation("VGG-online", "online LTL, the same", "-0.78", (Bound("SNN - ANN", -2),),
             lambda study, seed: _local(study, seed, "ltl-online"), REMARK),
    Relation("VGG-PTL", "PTL, the same", "+0.65", (Bound("SNN - ANN", -1),), _progressive, REMARK),
)  # fmt: skip
