"""ONNX's own backend tests over the imported graph, counted honestly: equal, wrong, refused or crashed.

ONNX's runner counts a refusal as a pass, so the loop is our own. Every test is imported twice, with its first axis
as the batch and as one whole sample. Either reading may refuse; none may compute anything but what ONNX says. The
backend tests give weights, shapes and axes as inputs of the model: all inputs but the first become constants.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from snnc.errors import ModelError
from snnc.importer.build import build
from snnc.importer.options import Options
from snnc.ir import Array
from snnc.sim.torch import run

VERDICTS = ("equal", "wrong", "refused", "crashed")

LISTED = """
    Conv ConvTranspose BatchNormalization MaxPool AveragePool GlobalAveragePool Gemm MatMul Relu LeakyRelu Clip Sigmoid
    Add Mul Concat Flatten Reshape Pad Squeeze Unsqueeze Transpose Dropout Softmax Identity Constant ReduceMean Resize
"""
"""The 27 operators of the first promise: 240 node tests use only them."""

WIDER = f"""{LISTED}
    Sub Div Slice Split PRelu Max Min Cast QuantizeLinear DequantizeLinear Tanh Elu Selu Softplus LogSoftmax HardSigmoid
    GlobalMaxPool ReduceSum Expand Shape LayerNormalization InstanceNormalization Upsample
"""
"""The 50 operators of the second: 551 node tests use only them."""

ROUNDED = {"float64": 0.0, "float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Output types that are compared with a tolerance, and their own precision: 16 bits are widened to 32 on import, which
rounds less often than the test does. All other types (integers, bool, 8-bit floats) must be met to the bit: a
rounding that was left out may not hide in a tolerance. What a float64 test expects is rounded to float32 first: some
hold uninitialised memory, 1e198 and the like."""

REFUSED = Path(__file__).with_name("refused.txt")


@dataclass(frozen=True)
class Case:
    """One backend test.

    Attributes:
        model: with all inputs but the first as initializers.
        x: by name of the input that is left.
        expected: by position of the output.
    """

    name: str
    kind: str
    ops: frozenset[str]
    float32: bool
    model: ModelProto
    x: Mapping[str, Any]
    expected: Sequence[Any]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    """What became of a test, and why where it is not equal."""

    case: Case
    verdict: str
    why: str = ""


@functools.cache
def cases(kind: str) -> tuple[Case, ...]:
    """All tests of a kind: node, pytorch-converted, pytorch-operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX makes its inputs with overflows and divisions by zero on purpose
        return tuple(sorted((_case(test, kind) for test in load_model_tests(kind=kind)), key=lambda case: case.name))


def scope(name: str) -> tuple[Case, ...]:
    """The tests that a promise is about."""
    return tuple(case for case in cases(SCOPES[name].kind) if SCOPES[name].holds(case))


@dataclass(frozen=True)
class Scope:
    """A set of tests and how many of them at least must be equal."""

    kind: str
    holds: Callable[[Case], bool]
    floor: int


SCOPES: Mapping[str, Scope] = {
    "27 operators, float32": Scope("node", lambda case: case.ops <= set(LISTED.split()) and case.float32, 205),
    "27 operators, other types": Scope("node", lambda case: case.ops <= set(LISTED.split()) and not case.float32, 0),
    "50 operators": Scope("node", lambda case: case.ops <= set(WIDER.split()), 500),
    "all node tests": Scope("node", lambda case: True, 0),
    "pytorch-converted": Scope("pytorch-converted", lambda case: True, 62),
    "pytorch-operator": Scope("pytorch-operator", lambda case: True, 19),
}


def _case(test: Any, kind: str) -> Case:
    model = onnx.load(Path(test.model_dir) / "model.onnx") if test.model is None else test.model
    given, expected = _stored(test, model) if test.data_sets is None else test.data_sets[0]
    model, x = _frozen(model, [_plain(data) for data in given])
    ops = frozenset(node.op_type for node in model.graph.node)
    return Case(
        test.name, kind, ops, _float32(model), model, x, [_plain(data) for data in expected], test.rtol, test.atol
    )


def _plain(data: Any) -> Any:
    """Tests of narrow types bring protobuf tensors."""
    return numpy_helper.to_array(data) if isinstance(data, TensorProto) else data


def _stored(test: Any, model: ModelProto) -> tuple[list[Array], list[Array]]:
    """Inputs and outputs of a test that lies on disk; all those kinds hold plain tensors."""
    folder = Path(test.model_dir) / "test_data_set_0"
    made = []
    for part, count in (("input", len(list(folder.glob("input_*.pb")))), ("output", len(model.graph.output))):
        tensors = [onnx.load_tensor(folder / f"{part}_{i}.pb") for i in range(count)]
        made.append([numpy_helper.to_array(tensor) for tensor in tensors])
    return made[0], made[1]


def _frozen(model: ModelProto, given: Sequence[Any]) -> tuple[ModelProto, dict[str, Any]]:
    """The model with every tensor input but the first as an initializer, and what is left to feed."""
    held = {tensor.name for tensor in model.graph.initializer}
    open_inputs = [value for value in model.graph.input if value.name not in held]
    assert len(open_inputs) == len(given)
    frozen, x = ModelProto(), {}
    frozen.CopyFrom(model)
    for i, (value, data) in enumerate(zip(open_inputs, given, strict=True)):
        if i == 0 or not value.type.HasField("tensor_type") or not isinstance(data, np.ndarray | np.generic):
            x[value.name] = data
        else:
            frozen.graph.initializer.append(numpy_helper.from_array(np.asarray(data), value.name))
            frozen.graph.input.remove(value)
    return frozen, x


def _float32(model: ModelProto) -> bool:
    """Whether the input that stays live and all outputs are float32."""
    live = [*model.graph.input[:1], *model.graph.output]
    return bool(model.graph.input) and all(v.type.tensor_type.elem_type == TensorProto.FLOAT for v in live)


@functools.cache
def _judged(kind: str, name: str) -> Outcome:
    return judge(next(case for case in cases(kind) if case.name == name))


def outcomes(chosen: Iterable[Case]) -> tuple[Outcome, ...]:
    """Every test once: scopes that overlap share what was found."""
    return tuple(_judged(case.kind, case.name) for case in chosen)


def judge(case: Case) -> Outcome:
    """Both readings of a test: the worse verdict counts, and a refusal only if both refuse."""
    whole, batched = (_reading(case, batched) for batched in (False, True))
    for verdict in ("crashed", "wrong", "equal"):
        for found in (whole, batched):
            if found.verdict == verdict:
                return found
    return whole if "batch" in batched.why else batched  # the reason that is not about how it was read


def _reading(case: Case, batched: bool) -> Outcome:
    """Import and run a test with its first axis as the batch, or as one whole sample."""
    how = "batched" if batched else "whole"
    try:
        made = build(case.model, Options(batched=batched))
    except ModelError as refusal:
        return Outcome(case, "refused", refusal.message)
    except Exception as error:  # whatever else it is, a broken invariant of the graph for instance, is no refusal
        return Outcome(case, "crashed", f"{how}: import: {type(error).__name__}: {error}")
    if made.graph is None:
        problems = [found.problem.message for found in made.findings if found.problem is not None]
        return Outcome(case, "refused" if problems else "crashed", problems[0] if problems else f"{how}: no reason")
    try:
        feeds = {name: _widened(x, batched) for name, x in zip(made.graph.inputs, case.x.values(), strict=True)}
        outputs = [array if batched else array[0] for array in run(made.graph, feeds).values()]
    except Exception as error:  # an imported graph has no excuse not to run
        return Outcome(case, "crashed", f"{how}: run: {type(error).__name__}: {error}")
    why = difference(outputs, case.expected, case.rtol, case.atol)
    return Outcome(case, "wrong" if why else "equal", why and f"{how}: {why}")


def _widened(x: Any, batched: bool) -> Array:
    with np.errstate(over="ignore"):
        array = np.asarray(x).astype(np.float32)
    return array if batched else array[None]


def difference(made: Sequence[Array], expected: Sequence[Any], rtol: float, atol: float) -> str:
    """What is not as expected of float32 outputs, "" if nothing."""
    if len(made) != len(expected):
        return f"{len(made)} outputs, not {len(expected)}"
    for ours, theirs in zip(made, map(np.asarray, expected), strict=True):
        if ours.shape != theirs.shape:
            return f"shape {list(ours.shape)}, not {list(theirs.shape)}"
        if theirs.dtype == object or theirs.dtype.kind in "USMm":
            return f"numbers in place of {theirs.dtype}"
        name = theirs.dtype.name
        with np.errstate(invalid="ignore", over="ignore"):
            wide = theirs.astype(np.float64) if theirs.dtype.kind in "iub" else theirs.astype(np.float32)
            near, off = max(rtol, ROUNDED.get(name, 0.0)), np.abs(ours.astype(np.float64) - wide)
            same = np.allclose(ours, wide, near, atol, True) if name in ROUNDED else np.array_equal(ours, wide, True)
        if not same:
            return f"{name} off by up to {np.nanmax(off, initial=0):.3g}, at {int(off.argmax())}"
    return ""


def counts(found: Iterable[Outcome]) -> dict[str, int]:
    """How often each verdict was given."""
    seen = Counter(outcome.verdict for outcome in found)
    return {verdict: seen[verdict] for verdict in VERDICTS}


def table() -> str:
    """The four counts of every scope, aligned."""
    width = max(map(len, SCOPES))
    rows = [" ".join([f"{'tests':<{width}}", *(f"{head:>8}" for head in ("total", *VERDICTS))])]
    for name in SCOPES:
        found = counts(outcomes(scope(name)))
        numbers = (sum(found.values()), *found.values())
        rows.append(" ".join([f"{name:<{width}}", *(f"{number:>8}" for number in numbers)]))
    return "\n".join(rows)


def refusals() -> tuple[Outcome, ...]:
    """What is refused of the wider scope and of the models that PyTorch exported, by name."""
    chosen = [*scope("50 operators"), *scope("pytorch-converted"), *scope("pytorch-operator")]
    return tuple(outcome for outcome in outcomes(chosen) if outcome.verdict == "refused")


def listed() -> dict[str, str]:
    """The committed list: name -> why it is refused."""
    return dict(line.split(": ", 1) for line in REFUSED.read_text().splitlines())


def list_refusals() -> None:
    """Write the list anew, each name with the reason of its group."""
    lines = {outcome.case.name: reason(outcome) for outcome in refusals()}
    REFUSED.write_text("".join(f"{name}: {lines[name]}\n" for name in sorted(lines)))


def reason(outcome: Outcome) -> str:
    """Why a test is refused, in the words of its group; the importer's own where it belongs to none."""
    case = outcome.case
    return next((text for text, holds in REASONS.items() if holds(case, outcome.why)), outcome.why.split("\n")[0])


def _types(values: Iterable[onnx.ValueInfoProto]) -> set[str]:
    return {TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}


def _input(*names: str) -> Callable[[Case, str], bool]:
    return lambda case, why: bool(_types(case.model.graph.input[:1]) & set(names))


def _made(*names: str) -> Callable[[Case, str], bool]:
    return lambda case, why: bool(_types(case.model.graph.output) & set(names))


def _empty(case: Case) -> bool:
    values = [*case.x.values(), *case.expected]
    return any(isinstance(value, np.ndarray) and not value.size for value in values)


def _says(pattern: str) -> Callable[[Case, str], bool]:
    return lambda case, why: re.search(pattern, why) is not None


REASONS: Mapping[str, Callable[[Case, str], bool]] = {
    "no input at all": lambda case, why: not case.model.graph.input,
    "the input is a sequence or an optional": _input("UNDEFINED"),
    "text": lambda case, why: _input("STRING")(case, why) or _made("STRING")(case, why),
    "training mode": _says("training mode"),
    "8-bit numbers that are powers of two": lambda case, why: (
        _input("FLOAT8E8M0")(case, why) or _made("FLOAT8E8M0")(case, why)
    ),
    "one scale for every block of an axis": _says("in blocks"),
    "the places of the maxima are asked for, not only the maxima": _says("output 1 of MaxPool"),
    "an input or a value without any number in it": lambda case, why: (
        _empty(case) or re.search(r"makes nothing|sizes=.*\b0\)", why) is not None
    ),
    "an embedding: its input is a list of row numbers": _says("of Gather"),
    "a constant state for each sample of the batch": _says("of Concat differs from sample to sample"),
    "a 3-D conv in groups": _says("Conv over 3-D images"),
    "the slopes of PRelu before opset 7, by channel": _says("of PRelu does not fit"),
}
"""Reason -> who belongs to it, the first that fits."""
