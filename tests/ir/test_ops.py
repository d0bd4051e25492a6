"""Type inference: shapes by hand, and the text of every error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnc.errors import GraphError
from snnc.ir import OPS, WIRING, Kind, Node, Shape, TensorType
from snnc.ir.ops import infer, roles
from tests.graphs import DEFAULTS, NEURON

Params = dict[str, Shape]


def made(op: str, *values: Shape, kind: Kind = "analog", params: Params | None = None, **attrs: Any) -> TensorType:
    """The type that `op` makes of values v0, v1, ... and params of the given shapes."""
    types = {f"v{i}": TensorType(kind, shape) for i, shape in enumerate(values)}
    arrays = {role: np.zeros(shape, np.float32) for role, shape in (params or {}).items()}
    return infer(Node("n", op, (*types, *arrays), {**DEFAULTS.get(op, {}), **attrs}), types, arrays)


def wrong(op: str, *values: Shape, kind: Kind = "analog", params: Params | None = None, **attrs: Any) -> str:
    with pytest.raises(GraphError) as caught:
        made(op, *values, kind=kind, params=params, **attrs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("op", "values", "params", "attrs", "shape"),
    [
        ("conv", [(3, 8, 8)], {"weight": (5, 3, 3, 3)}, {}, (5, 6, 6)),
        ("conv", [(3, 8, 7)], {"weight": (5, 3, 3, 3)}, {"pads": (1, 1, 1, 1), "strides": (2, 2)}, (5, 4, 4)),
        ("conv", [(4, 9, 9)], {"weight": (6, 2, 3, 1)}, {"group": 2, "dilations": (3, 1)}, (6, 3, 9)),
        ("conv", [(1, 4, 4)], {"weight": (1, 1, 2, 2), "bias": (1,)}, {"pads": (0, 0, 1, 2)}, (1, 4, 5)),
        ("local", [(2, 4, 4)], {"weight": (3, 3, 3, 2, 2, 2), "bias": (3, 3, 3)}, {}, (3, 3, 3)),
        ("dense", [(7,)], {"weight": (2, 7), "bias": (2,)}, {}, (2,)),
        ("scale", [(3, 2, 2)], {"factor": (3,), "bias": (3, 2, 2)}, {}, (3, 2, 2)),
        ("scale", [()], {"factor": ()}, {}, ()),
        ("avgpool", [(3, 5, 5)], {}, {}, (3, 2, 2)),
        ("maxpool", [(3, 5, 5)], {}, {"pads": (0, 0, 1, 1)}, (3, 3, 3)),
        ("add", [(3, 2), (3, 2), (3, 2)], {}, {}, (3, 2)),
        ("concat", [(3, 2), (3, 5)], {}, {"axis": 1}, (3, 7)),
        ("reshape", [(3, 4)], {}, {"shape": (2, 6)}, (2, 6)),
        ("batchnorm", [(3, 2, 2)], dict.fromkeys(("gamma", "beta", "mean", "var"), (3,)), {}, (3, 2, 2)),
        ("softmax", [(3, 4)], {}, {"axis": 1}, (3, 4)),
        ("transpose", [(2, 3, 4)], {}, {"perm": (2, 0, 1)}, (4, 2, 3)),
        ("transpose", [()], {}, {"perm": ()}, ()),
        ("slice", [(6, 5)], {}, {"starts": (1, 4), "sizes": (3, 2), "steps": (2, -3)}, (3, 2)),
        ("pad", [(3, 4)], {}, {"pads": (1, 0, 2, 1), "interior": (2, 0)}, (10, 5)),
        ("expand", [(1, 3, 1)], {}, {"shape": (4, 3, 5)}, (4, 3, 5)),
        ("gather", [(3, 4)], {}, {"axis": 1, "index": (3, 0, 0, 1, 2)}, (3, 5)),
        ("mix", [(3, 4, 5)], {"weight": (7, 4)}, {"axis": 1}, (3, 7, 5)),
        ("leakyrelu", [(3, 4)], {"slope": (3,)}, {}, (3, 4)),
        ("tanh", [(3, 4)], {}, {}, (3, 4)),
        ("clip", [(3,)], {}, {"min": -1.0}, (3,)),
        ("standardize", [(3, 4)], {}, {"axes": (0, 1), "epsilon": 1e-5}, (3, 4)),
        ("reduce", [(3, 4, 5)], {}, {"axes": (0, 2), "by": "mean"}, (4,)),
        ("reduce", [(3, 4)], {}, {"axes": (), "by": "max"}, (3, 4)),
        ("argmax", [(3, 4)], {}, {"axis": 0, "last": 0}, (4,)),
        ("quantize", [(3, 4)], {"step": (3,), "zero": (3,)}, {"min": 0, "max": 255}, (3, 4)),
        ("constant", [], {"value": (3, 4)}, {}, (3, 4)),
        ("mul", [(3, 4), (3, 4)], {}, {}, (3, 4)),
        ("maximum", [(3,), (3,), (3,)], {}, {}, (3,)),
        ("div", [(3,), (3,)], {}, {}, (3,)),
        ("power", [(3,), (3,)], {}, {}, (3,)),
        ("matmul", [(2, 3, 4), (2, 4, 5)], {}, {}, (2, 3, 5)),
    ],
)
def test_shapes_by_hand(op: str, values: list[Shape], params: Params, attrs: dict[str, Any], shape: Shape) -> None:
    assert made(op, *values, params=params, **attrs) == TensorType("analog", shape)


@pytest.mark.parametrize(
    ("op", "kind", "becomes"),
    [
        ("add", "spikes", "current"),
        ("avgpool", "spikes", "current"),
        ("concat", "spikes", "spikes"),
        ("reshape", "spikes", "spikes"),
        ("reshape", "current", "current"),
        ("encode", "analog", "current"),
        ("lif", "current", "spikes"),
        ("lif", "spikes", "spikes"),
        ("maxpool", "analog", "analog"),
        ("maxpool", "spikes", "spikes"),
        ("decode", "spikes", "analog"),
        ("decode", "current", "analog"),
    ],
)
def test_kinds(op: str, kind: Kind, becomes: Kind) -> None:
    values = [(1, 2, 2)] * (2 if op in ("add", "concat") else 1)
    params: Params = dict.fromkeys(NEURON, ()) if op == "lif" else {}
    attrs = {"shape": (4,)} if op == "reshape" else {}
    assert made(op, *values, kind=kind, params=params, **attrs).kind == becomes


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("relu", "current"),
        ("maxpool", "current"),
        ("softmax", "spikes"),
        ("encode", "current"),
        ("lif", "analog"),
        ("decode", "analog"),
    ],
)
def test_kinds_that_an_op_cannot_take(op: str, kind: Kind) -> None:
    params: Params = dict.fromkeys(NEURON, ()) if op == "lif" else {}
    assert f"'{op}' cannot take {kind}" in wrong(op, (2,), kind=kind, params=params)


@pytest.mark.parametrize("op", WIRING)
def test_wiring_leads_spikes_as_spikes_and_currents_as_currents(op: str) -> None:
    attrs: dict[str, Any] = {
        "reshape": {"shape": (4, 1)},
        "transpose": {"perm": (1, 0)},
        "slice": {"starts": (0, 0), "sizes": (2, 1), "steps": (1, 1)},
        "pad": {"pads": (0, 0, 1, 0), "interior": (0, 0)},
        "expand": {"shape": (2, 2)},
        "gather": {"axis": 0, "index": (1,)},
    }[op]
    for kind in ("analog", "current", "spikes"):
        assert made(op, (2, 2), kind=kind, **attrs).kind == kind


@pytest.mark.parametrize("op", ["leakyrelu", "tanh", "standardize", "reduce", "mul", "matmul", "argmax"])
def test_what_is_not_linear_takes_no_spikes(op: str) -> None:
    attrs: dict[str, Any] = {
        "standardize": {"axes": (0,), "epsilon": 1.0},
        "reduce": {"axes": (0,), "by": "sum"},
        "argmax": {"axis": 0, "last": 0},
    }.get(op, {})
    values = [(2, 2)] * (OPS[op].values or 2)
    assert f"'{op}' cannot take spikes" in wrong(
        op, *values, kind="spikes", params=dict.fromkeys(OPS[op].params, ()), **attrs
    )


def test_analog_values_and_currents_do_not_add() -> None:
    types = {"a": TensorType("analog", (2,)), "c": TensorType("current", (2,))}
    with pytest.raises(GraphError, match="'add' cannot take analog, current"):
        infer(Node("n", "add", ("a", "c")), types, {})


@pytest.mark.parametrize(
    ("op", "values", "params", "attrs", "text"),
    [
        ("conv", [(3, 8)], {"weight": (5, 3, 3, 3)}, {}, "needs [C,H,W], not [3, 8]"),
        ("conv", [(3, 8, 8)], {"weight": (5, 2, 3, 3)}, {}, "weight [5, 2, 3, 3] in 1 groups against 3 channels"),
        ("conv", [(4, 8, 8)], {"weight": (3, 2, 3, 3)}, {"group": 2}, "in 2 groups against 4 channels"),
        ("conv", [(3, 2, 8)], {"weight": (5, 3, 3, 3)}, {}, "a window of 3 does not fit into 2"),
        ("conv", [(3, 8, 8)], {"weight": (5, 3, 3, 3), "bias": (4,)}, {}, "bias [4] should be [5]"),
        ("conv", [(3, 8, 8)], {"weight": (5, 3, 3, 3)}, {"strides": (0, 1)}, "not 2 integers of at least 1"),
        ("conv", [(3, 8, 8)], {"weight": (5, 3, 3, 3)}, {"pads": (1, 1)}, "not 4 integers of at least 0"),
        ("local", [(2, 4, 4)], {"weight": (3, 4, 3, 2, 2, 2)}, {}, "is for [4, 3] positions, the window has [3, 3]"),
        ("dense", [(7,)], {"weight": (2, 6)}, {}, "weight [2, 6] against input [7]"),
        ("scale", [(3, 2)], {"factor": (2,)}, {}, "factor [2] is neither a scalar, [3] nor [3, 2]"),
        ("add", [(3, 2)], {}, {}, "needs two or more values of one shape"),
        ("add", [(3, 2), (3, 1)], {}, {}, "needs two or more values of one shape"),
        ("concat", [(3, 2), (4, 5)], {}, {"axis": 1}, "sizes differ outside the axis"),
        ("concat", [(3,), (3,)], {}, {"axis": 1}, "axis 1 of [3]"),
        ("reshape", [(3, 4)], {}, {"shape": (5, 2)}, "[3, 4] has not the size of (5, 2)"),
        ("reshape", [(3, 4)], {}, {"shape": (-3, -4)}, "has not the size of"),
        ("softmax", [(3,)], {}, {"axis": -1}, "axis -1 of [3]"),
        ("batchnorm", [(3, 2, 2)], dict.fromkeys(("gamma", "beta", "mean", "var"), (2,)), {}, "for 3 channels"),
        ("gilu", [(3,)], {}, {}, "unknown op 'gilu'"),
        ("relu", [(3,), (3,)], {}, {}, "'relu' reads 1 values, not 2"),
        ("add", [], {}, {}, "'add' reads one or more values, not 0"),
        ("dense", [(3,)], {}, {}, "'dense' takes the params (weight[, bias]), not 0 of them"),
        ("relu", [(3,)], {"bias": (3,)}, {}, "'relu' takes the params (), not 1 of them"),
        ("relu", [(3,)], {}, {"slope": 0.1}, "'relu' has no attribute slope"),
        ("relu", [(3,)], {}, {"max": 6}, "attribute max=6 is not float"),
        ("relu", [(3,)], {}, {"max": float("nan")}, "attribute max=nan is not finite"),
        ("reshape", [(3,)], {}, {}, "'reshape' needs the attribute 'shape'"),
        ("reshape", [(3,)], {}, {"shape": (3.0,)}, "is not tuple"),
        ("transpose", [(3, 4)], {}, {"perm": (0, 0)}, "perm=(0, 0) of [3, 4]"),
        ("transpose", [(3, 4)], {}, {"perm": (0,)}, "not 2 integers of at least 0"),
        ("slice", [(4,)], {}, {"starts": (1,), "sizes": (2,), "steps": (3,)}, "2 elements from 1 in steps of 3 leave"),
        ("slice", [(4,)], {}, {"starts": (1,), "sizes": (3,), "steps": (-1,)}, "leave an axis of 4"),
        ("slice", [(4,)], {}, {"starts": (0,), "sizes": (1,), "steps": (0,)}, "in steps of 0 leave"),
        ("pad", [(3, 4)], {}, {"pads": (1, 1), "interior": (0, 0)}, "pads=(1, 1) is not 4 integers"),
        ("pad", [(3,)], {}, {"pads": (0, 0), "interior": (-1,)}, "interior=(-1,) is not 1 integers of at least 0"),
        ("pad", [(3,)], {}, {"pads": (-2, 1), "interior": (0,)}, "pads=(-2, 1) is not 2 integers of at least 0"),
        ("expand", [(3, 1)], {}, {"shape": (4, 2)}, "[3, 1] cannot be repeated to [4, 2]"),
        ("gather", [(3,)], {}, {"axis": 0, "index": (3,)}, "an index outside of 0 to 2"),
        ("gather", [(3,)], {}, {"axis": 0, "index": ()}, "an index outside of 0 to 2"),
        ("mix", [(3, 4)], {"weight": (2, 5)}, {"axis": 1}, "weight [2, 5] along axis 1 of [3, 4]"),
        ("leakyrelu", [(3, 4)], {"slope": (4,)}, {}, "slope [4] is neither a scalar, [3] nor [3, 4]"),
        ("leakyrelu", [(3,)], {}, {}, "'leakyrelu' takes the params (slope), not 0 of them"),
        ("elu", [(3,)], {}, {}, "'elu' needs the attribute 'alpha'"),
        ("gelu", [(3,)], {}, {"approximate": "fast"}, "approximate='fast' is none of none, tanh"),
        ("clip", [(3,)], {}, {"max": 3}, "attribute max=3 is not float"),
        ("standardize", [(3, 4)], {}, {"axes": (2,), "epsilon": 0.1}, "axes (2,) of [3, 4]"),
        ("reduce", [(3, 4)], {}, {"axes": (0, 0), "by": "sum"}, "axes (0, 0) of [3, 4]"),
        ("reduce", [(3, 4)], {}, {"axes": (0,), "by": "median"}, "by='median' is none of sum, mean, max, min, prod"),
        ("argmax", [(3,)], {}, {"axis": 1, "last": 0}, "axis 1 of [3]"),
        ("quantize", [(3,)], {"step": (3,), "zero": ()}, {"min": 0, "max": 1}, "step and zero differ in shape"),
        ("mul", [(3,)], {}, {}, "needs two or more values of one shape"),
        ("div", [(3,), (4,)], {}, {}, "needs two or more values of one shape"),
        ("matmul", [(2, 3), (2, 3)], {}, {}, "needs [...,n,k] and [...,k,m]"),
        ("matmul", [(3,), (3,)], {}, {}, "needs [...,n,k] and [...,k,m]"),
        ("encode", [(3,)], {}, {"code": "morse"}, "attribute code='morse' is none of direct, first-step, rate"),
        ("dense", [(3,)], {"weight": (2, 3)}, {"bias_at": "never"}, "none of first-step, per-step"),
    ],
)
def test_errors(op: str, values: list[Shape], params: Params, attrs: dict[str, Any], text: str) -> None:
    message = wrong(op, *values, params=params, **attrs)
    assert text in message
    assert f"at: n ({op})" in message


def test_error_points_at_the_users_own_node() -> None:
    with pytest.raises(GraphError, match=r"at: conv1 \(relu\), from /net/Relu, /net/Clip"):
        infer(Node("conv1", "relu", (), origin=("/net/Relu", "/net/Clip")), {}, {})


def test_params_before_values_are_refused() -> None:
    node = Node("n", "dense", ("w", "x"))
    with pytest.raises(GraphError, match="values come before params"):
        infer(node, {"x": TensorType("analog", (2,))}, {"w": np.zeros((2, 2), np.float32)})


def test_missing_input_is_named() -> None:
    with pytest.raises(GraphError, match="'ghost' is read but nothing makes it"):
        infer(Node("n", "relu", ("ghost",)), {}, {})


def test_roles_follow_the_op_table() -> None:
    node = Node("n", "lif", ("x", "a", "b", "c"))
    assert roles(node, dict.fromkeys("abc", np.zeros(()))) == {"alpha": "a", "theta": "b", "u0": "c"}


def test_every_op_has_a_kernel_or_a_place_in_both_executors() -> None:
    from snnc.sim import reference
    from snnc.sim import torch as executor

    timed = {"encode", "lif", "decode", "constant"}
    assert set(reference.KERNELS) | timed == set(OPS)
    assert set(executor.KERNELS) | timed == set(OPS)
