"""A random model before its two oracles, through the import, and through every step that may not change it.

The oracles are ONNX's reference evaluator and onnxruntime without optimizations (with them it computes Pad before a
pool wrong). They must agree before anything is asked of the import. The evaluator has blind spots of its own, listed
in `BLIND`; a model with one of them is judged by onnxruntime alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from snnc.errors import ModelError
from snnc.importer.build import build
from snnc.importer.canonical import canonical
from snnc.importer.options import Options
from snnc.ir import Array, Graph, parse, to_text, verify
from snnc.passes import PASSES
from snnc.pipeline import Context
from snnc.sim.torch import run

from .grammar import Sample

EXACT = ["fold-batchnorm", "rectify", "relu-before-max-pool", "separate-layers"]
"""Passes that leave the function of an imported network as it is."""

STEPS: Mapping[str, Callable[[Graph], Graph]] = {
    "canonical form": canonical,
    **{name: lambda graph, name=name: PASSES[name]().run(graph, Context()) for name in EXACT},
}
"""What may not change a function: the rewrites of the import, which are done once more, and the exact passes."""

AGREE = 1e-4
"""Of two oracles, and of import and oracle, relative to the largest value of an output."""

CANCELLED = 0.01
"""Outputs smaller than this are what is left of numbers of size 1 that cancelled; their rounding counts as if of this
size."""

ORT_NEWEST = 27
"""The newest opset of onnxruntime 1.31; beyond it the evaluator judges alone."""

UNCHANGED = 1e-5
"""Of a graph before and after an exact pass."""

BLIND: Mapping[str, Callable[[NodeProto, int], bool]] = {
    "BatchNormalization before opset 14: wrong": lambda n, opset: n.op_type == "BatchNormalization" and opset < 14,
    "Softmax before opset 13: as if new": lambda n, opset: n.op_type in ("Softmax", "LogSoftmax") and opset < 13,
    "DequantizeLinear before opset 19: missing": lambda n, opset: n.op_type == "DequantizeLinear" and opset < 19,
    "Upsample, linear or of opset 7: missing": lambda n, opset: n.op_type == "Upsample",
    "Resize with an empty roi: fails": lambda n, opset: n.op_type == "Resize" and opset < 13,
    "ConvTranspose in groups: one sample only": lambda n, opset: (
        n.op_type == "ConvTranspose" and _attribute(n, "group", 1) > 1
    ),
    "AveragePool with ceil_mode: windows begin too early": lambda n, opset: (
        n.op_type == "AveragePool" and _attribute(n, "ceil_mode", 0) > 0
    ),
    "1-D MaxPool: fails, or another size, with pads": lambda n, opset: (
        n.op_type == "MaxPool" and len(_attribute(n, "kernel_shape", [])) == 1
    ),
    "MaxPool with SAME_LOWER: another size, or padded behind": lambda n, opset: (
        n.op_type == "MaxPool" and _attribute(n, "auto_pad", b"") == b"SAME_LOWER"
    ),
    "MaxPool with pads above 1: fails": lambda n, opset: n.op_type == "MaxPool" and max(_attribute(n, "pads", [0])) > 1,
    "1-D GlobalMaxPool: the maximum of all channels": lambda n, opset: n.op_type == "GlobalMaxPool",
}
"""What onnx 1.23's reference evaluator does not compute as the standard says, and the nodes that it concerns."""


def _attribute(node: NodeProto, name: str, default: object) -> object:  # typed where it is compared
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


class MismatchError(AssertionError):
    """The import, or a pass, computes something else than it should; the text says what."""


@dataclass
class Tally:
    """Counts over many models.

    Attributes:
        refused, aside: by reason.
        whole: models with a static batch that were also imported as one whole sample.
    """

    models: int = 0
    equal: int = 0
    one_oracle: int = 0
    whole: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """A line a count."""
        lines = [
            f"{self.models:>6} models of {len(self.ops)} operators",
            f"{self.equal:>6} equal, {self.one_oracle} of them by one oracle alone, {self.whole} also read whole",
            f"{sum(self.refused.values()):>6} refused",
            *(f"       {count:>6}  {reason}" for reason, count in self.refused.most_common()),
            f"{sum(self.aside.values()):>6} set aside, the oracles disagree or fail",
            *(f"       {count:>6}  {reason}" for reason, count in self.aside.most_common()),
            *(f"{count:>6} unchanged by {name}" for name, count in self.steps.items()),
        ]
        return "\n".join(lines)


def examine(sample: Sample, tally: Tally) -> None:
    """Import a model, run it, take the exact steps; count what becomes of it.

    Raises:
        MismatchError: something is computed wrong. Any other exception but a refusal is a crash, and goes through.
    """
    tally.models += 1
    tally.ops.update(sample.ops)
    blind = any(holds(node, sample.opset) for node in sample.model.graph.node for holds in BLIND.values())
    try:
        expected = _answer(sample, blind)
    except DisagreementError as reason:
        tally.aside[str(reason)] += 1
        return
    try:
        graph = _imported(sample.model, batched=True)
    except ModelError as refusal:
        tally.refused[refusal.message.split("\n")[0]] += 1
        return
    x = dict(zip(graph.inputs, sample.x.values(), strict=True))
    _same("the import", list(run(graph, x).values()), expected, AGREE)
    if sample.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        tally.whole += _examine_whole(sample, expected)
    for name in STEPS:
        examine_step(name, graph, x)
        tally.steps[name] += 1
    tally.equal += 1
    tally.one_oracle += blind or sample.opset > ORT_NEWEST


def _examine_whole(sample: Sample, expected: Sequence[Array]) -> bool:
    """The other reading may refuse more, but not be wrong."""
    try:
        graph = _imported(sample.model, batched=False)
    except ModelError:
        return False
    x = {name: array[None] for name, array in zip(graph.inputs, sample.x.values(), strict=True)}
    _same("the import as one sample", [made[0] for made in run(graph, x).values()], expected, AGREE)
    return True


def examine_step(name: str, graph: Graph, x: Mapping[str, Array]) -> None:
    """An exact step changes no output, makes a valid graph that survives its text, and has nothing left to do.

    Raises:
        MismatchError: one of these does not hold.
    """
    after = STEPS[name](graph)
    verify(after)
    before = run(graph, x)
    made = run(after, x)
    if list(made) != list(before):
        raise MismatchError(f"{name}: outputs {list(made)}, not {list(before)}")
    _same(name, list(made.values()), list(before.values()), UNCHANGED)
    text = to_text(after)
    if to_text(parse(text, after.arrays())) != text:
        raise MismatchError(f"{name}: the text does not come back:\n{text}")
    again = STEPS[name](after)
    if to_text(again) != text or any((again.params[p] != after.params[p]).any() for p in after.params):
        raise MismatchError(f"{name}: a second time it makes something else of\n{text}")


def _imported(model: ModelProto, batched: bool) -> Graph:
    """The graph of a model; every refusal is an exception."""
    made = build(model, Options(batched=batched))
    if made.graph is None:
        raise next(found.problem for found in made.findings if found.problem is not None)
    text = to_text(made.graph)
    if to_text(parse(text, made.graph.arrays())) != text:
        raise MismatchError(f"the text of the imported graph does not come back:\n{text}")
    return made.graph


class DisagreementError(Exception):
    """The oracles do not agree on a model, or one of them cannot run it."""


def _answer(sample: Sample, blind: bool) -> list[Array]:
    """What onnxruntime makes of a model; what the evaluator makes must be the same unless it is blind."""
    if sample.opset > ORT_NEWEST and not blind:
        return [np.asarray(array) for array in ReferenceEvaluator(sample.model).run(None, dict(sample.x))]
    try:
        made = session(sample.model).run(None, dict(sample.x))
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise DisagreementError(f"onnxruntime: {str(error)[:100]}") from None
    if not all(np.isfinite(array).all() for array in made):
        raise DisagreementError("not finite")
    if blind:
        return list(made)
    try:
        second = ReferenceEvaluator(sample.model).run(None, dict(sample.x))
    except Exception as error:  # the evaluator raises whatever numpy and its own kernels do
        raise DisagreementError(f"evaluator: {str(error)[:100]}") from None
    try:
        _same("the evaluator", second, made, AGREE)
    except MismatchError as difference:
        raise DisagreementError(str(difference).split("\n")[0]) from None
    return list(made)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime as an oracle: on one thread, without its optimizations and without its warnings."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _same(what: str, made: Sequence[Array], expected: Sequence[Array], tolerance: float) -> None:
    """Shapes equal, values within `tolerance` of the largest value of an output."""
    if [array.shape for array in made] != [array.shape for array in expected]:
        shapes = f"{[array.shape for array in made]}, not {[array.shape for array in expected]}"
        raise MismatchError(f"{what} makes {shapes}")
    for i, (ours, theirs) in enumerate(zip(made, expected, strict=True)):
        off, size = np.abs(ours - theirs).max(initial=0), np.abs(theirs).max(initial=0)
        if not off <= tolerance * max(size, CANCELLED):
            raise MismatchError(f"{what} is off by {off:.3g} of {size:.3g} in output {i}")
