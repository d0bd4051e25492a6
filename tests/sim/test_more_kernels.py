"""Wiring, elementwise functions, reductions: torch against the reference, and both against numpy or closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import CURVES, WIRING, Array, parse, to_text
from snnc.sim import reference
from snnc.sim.torch import run
from tests.graphs import Builder, integers
from tests.sim.executors import EXECUTORS, agree, build

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**16)
VALUES = np.concatenate([np.linspace(-6, 6, 241), [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 30.0, -30.0]]).astype(np.float32)


# --- wiring


@given(st.data(), shapes, seeds)
def test_transposes_are_numpys(data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    values = agree(build("transpose", shape, perm=perm), seed)
    np.testing.assert_array_equal(values["out_y"], values["x0"].transpose(0, *(axis + 1 for axis in perm)))


@given(st.data(), shapes, seeds)
def test_slices_are_numpys(data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    chosen = [
        list(range(full))[data.draw(st.slices(full).filter(lambda s, full=full: len(range(full)[s]) > 0))]  # type: ignore[misc]
        for full in shape
    ]
    attrs = {
        "starts": tuple(c[0] for c in chosen),
        "sizes": tuple(map(len, chosen)),
        "steps": tuple(c[1] - c[0] if len(c) > 1 else 1 for c in chosen),
    }
    values = agree(build("slice", shape, **attrs), seed)
    np.testing.assert_array_equal(values["out_y"], values["x0"][np.ix_(range(2), *chosen)])


@given(st.data(), shapes, seeds)
def test_pads_put_zeros_around_and_between(data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    rank = len(shape)
    pads = tuple(data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank)))
    interior = tuple(data.draw(st.lists(st.integers(0, 2), min_size=rank, max_size=rank)))
    values = agree(build("pad", shape, pads=pads, interior=interior), seed)
    expected = values["x0"]
    for axis, gap in enumerate(interior, 1):
        places = [i * (gap + 1) for i in range(expected.shape[axis])]
        wide = np.zeros((*expected.shape[:axis], places[-1] + 1, *expected.shape[axis + 1 :]))
        wide[(*[slice(None)] * axis, places)] = expected
        expected = wide
    around = [(0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    np.testing.assert_array_equal(values["out_y"], np.pad(expected, around))


@given(st.data(), shapes, seeds)
def test_gathers_and_expands_are_numpys(data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    index = tuple(data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6)))
    values = agree(build("gather", shape, axis=axis, index=index), seed)
    np.testing.assert_array_equal(values["out_y"], np.take(values["x0"], index, axis=axis + 1))

    wide = tuple(data.draw(st.integers(1, 3)) if size == 1 else size for size in shape)
    values = agree(build("expand", shape, shape=wide), seed)
    np.testing.assert_array_equal(values["out_y"], np.broadcast_to(values["x0"], (2, *wide)))


@given(st.data(), shapes, st.integers(1, 4), seeds)
def test_a_mix_is_a_product_with_a_matrix(data: st.DataObject, shape: tuple[int, ...], out: int, seed: int) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    weight = np.random.default_rng(seed).normal(size=(out, shape[axis]))
    values = agree(build("mix", shape, axis=axis, weight=weight), seed)
    expected = np.stack([(np.moveaxis(values["x0"], axis + 1, -1) * row).sum(-1) for row in weight], axis + 1)
    np.testing.assert_allclose(values["out_y"], expected, rtol=1e-5, atol=1e-5)


WIRES: dict[str, dict[str, Any]] = {
    "reshape": {"shape": (6, 4)},
    "transpose": {"perm": (2, 0, 1)},
    "slice": {"starts": (1, 2, 0), "sizes": (1, 2, 2), "steps": (1, -1, 3)},
    "pad": {"pads": (0, 1, 0, 1, 0, 2), "interior": (0, 2, 1)},
    "expand": {"shape": (2, 3, 4)},
    "gather": {"axis": 1, "index": (2, 0, 0, 1)},
    "mix": {"axis": 2, "weight": [[1, -2, 0, 3], [0, 1, 1, 0]]},
    "concat": {"axis": 1},
}


@pytest.mark.parametrize("op", WIRES)
@pytest.mark.parametrize("code", ["direct", "first-step"])
def test_all_executors_agree_on_wires_between_neurons(op: str, code: str) -> None:
    """Currents into neurons, spikes into a layer: constant, fresh and spiking values, spike for spike."""
    rng = np.random.default_rng(4)
    b = Builder({"x": (2, 3, 4)}, 8)
    b("current", "encode", "x", code=code)
    parts = dict(WIRES[op])
    b("still", op, *["current"] * (2 if op == "concat" else 1), **parts)
    b("lif1", "lif", "still", theta=3, u0=1)
    b("lif2", "lif", "current", theta=2)
    b("led", op, *["lif2"] * (2 if op == "concat" else 1), **parts)
    size = int(np.prod(b.graph(b("probe", "decode", "led"))["led"].type.shape))
    b.nodes.pop()
    b("flat", "reshape", "led", shape=(size,))
    b("layer", "dense", "flat", weight=rng.integers(-2, 4, (5, size)), bias=rng.integers(0, 3, 5), bias_at="per-step")
    graph = b.graph(b("count", "decode", b("lif3", "lif", "layer", theta=6)), b("first", "decode", "lif1"))
    again = parse(to_text(graph), graph.arrays())
    assert to_text(again) == to_text(graph)
    x = integers(graph, 3)
    expected = EXECUTORS["reference"](graph, x)
    assert expected["lif3"].any()
    for name in ("torch", "stepper"):
        made = EXECUTORS[name](again, x)
        for key, array in expected.items():
            np.testing.assert_array_equal(made[key], array, err_msg=f"{name}: {key}")


def test_constants_are_the_same_for_every_sample_and_can_be_encoded() -> None:
    b = Builder({"x": (3,)}, 4)
    b("offset", "constant", value=[4.0, -8.0, 2.0])
    b("current", "encode", b("sum", "add", "x", "offset"))
    b("again", "encode", "offset", code="first-step")
    graph = b.graph(b("count", "decode", b("lif", "lif", b("both", "add", "current", "again"))), "sum")
    x = integers(graph, 5)
    expected = EXECUTORS["reference"](graph, x)
    np.testing.assert_array_equal(expected["out_sum"], x["x"] + [4, -8, 2])
    for name in ("torch", "stepper"):
        for key, array in EXECUTORS[name](graph, x).items():
            np.testing.assert_array_equal(array, expected[key])


# --- elementwise functions


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def half_to_even(x: float) -> float:
    return float(round(x))


CLOSED: dict[str, tuple[dict[str, Any], Callable[[float], float]]] = {
    "abs": ({}, abs),
    "ceil": ({}, math.ceil),
    "celu": ({"alpha": 0.7}, lambda x: x if x >= 0 else 0.7 * (math.exp(x / 0.7) - 1)),
    "clip": ({"min": -1.5, "max": 2.0}, lambda x: min(max(x, -1.5), 2.0)),
    "cos": ({}, math.cos),
    "elu": ({"alpha": 0.7}, lambda x: x if x >= 0 else 0.7 * (math.exp(x) - 1)),
    "erf": ({}, math.erf),
    "exp": ({}, math.exp),
    "floor": ({}, math.floor),
    "gelu": ({"approximate": "none"}, lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "hardsigmoid": ({"alpha": 0.2, "beta": 0.5}, lambda x: max(0.0, min(1.0, 0.2 * x + 0.5))),
    "hardswish": ({}, lambda x: x * max(0.0, min(1.0, x / 6 + 0.5))),
    "log": ({}, math.log),
    "mish": ({}, lambda x: x * math.tanh(softplus(x))),
    "reciprocal": ({}, lambda x: 1 / x),
    "round": ({}, half_to_even),
    "roundfloat": ({"digits": 10, "lowest": -24, "max": 65504.0, "over": "clip"}, lambda x: float(np.float16(x))),
    "selu": ({"alpha": 1.67, "gamma": 1.05}, lambda x: 1.05 * (x if x >= 0 else 1.67 * (math.exp(x) - 1))),
    "sigmoid": ({}, sigmoid),
    "sign": ({}, lambda x: float((x > 0) - (x < 0))),
    "sin": ({}, math.sin),
    "softplus": ({}, softplus),
    "softsign": ({}, lambda x: x / (1 + abs(x))),
    "sqrt": ({}, math.sqrt),
    "swish": ({"alpha": 1.5}, lambda x: x * sigmoid(1.5 * x)),
    "tanh": ({}, math.tanh),
    "thresholdedrelu": ({"alpha": 1.0}, lambda x: x if x > 1 else 0.0),
    "trunc": ({}, math.trunc),
    "wrap": ({"bits": 3, "signed": 1}, lambda x: float((math.trunc(x) + 4) % 8 - 4)),
}
DOMAIN: dict[str, Callable[[Array], Array]] = {
    "log": lambda x: x[x > 0],
    "sqrt": lambda x: x[x >= 0],
    "reciprocal": lambda x: x[x != 0],
}


BFLOAT16 = {"digits": 7, "lowest": -133, "max": 3.3895e38}
FLOAT8 = {"digits": 3, "lowest": -9, "max": 448.0}


def test_every_curve_has_a_closed_form_here() -> None:
    assert set(CLOSED) == set(CURVES)


@pytest.mark.parametrize("op", sorted(CURVES))
def test_curves_against_their_closed_forms(op: str) -> None:
    attrs, form = CLOSED[op]
    x = DOMAIN.get(op, lambda x: x)(VALUES)[:, None]
    graph = build(op, (1,), **attrs)
    expected = np.array([[form(float(v))] for v in x[:, 0]])
    for made in (reference.run(graph, {"x0": x})["out_y"], run(graph, {"x0": x})["out_y"]):
        np.testing.assert_allclose(made, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("op", "attrs", "pairs"),
    [
        ("clip", {"min": -1.0}, [(-2, -1), (5, 5)]),
        ("clip", {"max": 1.0}, [(-2, -2), (5, 1)]),
        ("clip", {"min": 2.0, "max": 1.0}, [(0, 1), (5, 1), (1.5, 1)]),
        ("gelu", {"approximate": "tanh"}, [(1, 0.841192), (-1, -0.158808), (0, 0)]),
        ("wrap", {"bits": 8, "signed": 0}, [(-1, 255), (256, 0), (3.9, 3), (-3.9, 253)]),
        ("wrap", {"bits": 8, "signed": 1}, [(127, 127), (128, -128), (-129, 127), (-0.5, 0)]),
        ("roundfloat", {**BFLOAT16, "over": "clip"}, [(1.00390625, 1), (1.01171875, 1.015625)]),
        ("roundfloat", {**FLOAT8, "over": "clip"}, [(1000, 448), (-1000, -448), (0.001, 0.001953125), (1e-4, 0)]),
        ("roundfloat", {**FLOAT8, "over": "inf"}, [(460, 448), (1000, math.inf), (-1000, -math.inf)]),
        ("roundfloat", {**FLOAT8, "over": "nan"}, [(460, 448), (1000, math.nan), (-1000, math.nan)]),
        ("sigmoid", {}, [(-100, 0), (100, 1)]),
        ("softplus", {}, [(-200, 0), (200, 200)]),
        ("mish", {}, [(-200, 0), (200, 200)]),
        ("elu", {"alpha": 1.0}, [(-200, -1), (200, 200)]),
    ],
)
def test_corners_of_curves(op: str, attrs: dict[str, Any], pairs: list[tuple[float, float]]) -> None:
    graph = build(op, (1,), **attrs)
    x = {"x0": np.array([[pair[0]] for pair in pairs], np.float32)}
    for made in (reference.run(graph, x)["out_y"], run(graph, x)["out_y"]):
        np.testing.assert_allclose(made[:, 0], [pair[1] for pair in pairs], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("slope", [(), (3,), (3, 2, 4)])
def test_leakyrelu_in_every_param_shape(slope: tuple[int, ...]) -> None:
    a = np.random.default_rng(0).normal(size=slope)
    values = agree(build("leakyrelu", (3, 2, 4), slope=a))
    factor = a[:, None, None] if slope == (3,) else a
    expected = np.where(values["x0"] < 0, factor * values["x0"], values["x0"])
    np.testing.assert_allclose(values["out_y"], expected, rtol=1e-6)


# --- reductions and functions of several values


@given(st.data(), shapes, st.sampled_from(["sum", "mean", "max", "min", "prod"]), seeds)
def test_reductions_are_numpys(data: st.DataObject, shape: tuple[int, ...], by: str, seed: int) -> None:
    axes = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True)))
    values = agree(build("reduce", shape, axes=axes, by=by), seed)
    expected = getattr(np, by)(values["x0"], axis=tuple(axis + 1 for axis in axes))
    np.testing.assert_allclose(values["out_y"], expected, rtol=1e-5, atol=1e-6)


@given(st.data(), shapes, seeds)
def test_standardized_values_have_mean_0_and_variance_1(data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    axes = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True)))
    values = agree(build("standardize", shape, axes=axes, epsilon=1e-2), seed)
    over = tuple(axis + 1 for axis in axes)
    x = values["x0"]
    variance = x.var(axis=over, keepdims=True)
    expected = (x - x.mean(axis=over, keepdims=True)) / np.sqrt(variance + 1e-2)
    np.testing.assert_allclose(values["out_y"], expected, rtol=1e-3, atol=1e-4)


@given(st.data(), shapes, st.booleans(), seeds)
def test_argmax_takes_the_first_or_the_last_of_equals(
    data: st.DataObject, shape: tuple[int, ...], last: bool, seed: int
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    graph = build("argmax", shape, axis=axis, last=int(last))
    x = np.random.default_rng(seed).integers(0, 3, (2, *shape)).astype(np.float32)
    rows = np.moveaxis(x, axis + 1, -1)
    expected = [
        [i for i, v in enumerate(row) if v == row.max()][-1 if last else 0] for row in rows.reshape(-1, shape[axis])
    ]
    for made in (reference.run(graph, {"x0": x})["out_y"], run(graph, {"x0": x})["out_y"]):
        np.testing.assert_array_equal(made.reshape(-1), expected)


@pytest.mark.parametrize("per", [(), (3,)])
def test_quantize_rounds_halves_to_even_and_saturates(per: tuple[int, ...]) -> None:
    step, zero = np.full(per, 0.5), np.full(per, 10.0)
    graph = build("quantize", (3, 8), step=step, zero=zero, min=0, max=20)
    x = np.tile(np.array([0.25, 0.75, -0.25, 0.5, 100, -100, 4.9, -5.1], np.float32), (1, 3, 1))
    for made in (reference.run(graph, {"x0": x})["out_y"], run(graph, {"x0": x})["out_y"]):
        np.testing.assert_array_equal(made[0, 0], [10, 12, 10, 11, 20, 0, 20, 0])


def test_functions_of_several_values() -> None:
    values = agree(build("mul", (2, 3), (2, 3), (2, 3)))
    np.testing.assert_allclose(values["out_y"], values["x0"] * values["x1"] * values["x2"], rtol=1e-5)
    values = agree(build("maximum", (2, 3), (2, 3), (2, 3)))
    np.testing.assert_array_equal(values["out_y"], np.maximum(np.maximum(values["x0"], values["x1"]), values["x2"]))
    values = agree(build("minimum", (2, 3), (2, 3)))
    np.testing.assert_array_equal(values["out_y"], np.minimum(values["x0"], values["x1"]))
    values = agree(build("matmul", (2, 3, 4), (2, 4, 5)))
    np.testing.assert_allclose(values["out_y"], np.einsum("nbij,nbjk->nbik", values["x0"], values["x1"]), atol=1e-5)
    x = {"x0": np.array([[2.0, 9.0, 4.0]], np.float32), "x1": np.array([[3.0, 0.5, -1.0]], np.float32)}
    for executor in (reference.run, run):
        np.testing.assert_allclose(executor(build("power", (3,), (3,)), x)["out_y"], [[8, 3, 0.25]])
        np.testing.assert_allclose(executor(build("div", (3,), (3,)), x)["out_y"], [[2 / 3, 18, -4]], rtol=1e-6)


TESTED = {*WIRING, *CURVES, "mix", "leakyrelu", "standardize", "reduce", "argmax", "quantize", "constant"} | {
    "mul",
    "div",
    "power",
    "maximum",
    "minimum",
    "matmul",
}
"""The ops whose kernels stand in this file."""
