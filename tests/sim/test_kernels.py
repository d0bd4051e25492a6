"""Every kernel: torch against the numpy reference, and both against naive loops where they could share a mistake."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import OPS, Array
from snnc.sim import reference
from snnc.sim.torch import exact, run
from tests.graphs import Builder, statistics
from tests.sim import test_more_kernels
from tests.sim.executors import agree, build

window = st.fixed_dictionaries(
    {
        "strides": st.tuples(*[st.integers(1, 3)] * 2),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "dilations": st.tuples(*[st.integers(1, 2)] * 2),
    }
)
kernels = st.tuples(st.integers(1, 3), st.integers(1, 3))
seeds = st.integers(0, 2**16)


def positions(size: tuple[int, int], kernel: tuple[int, int], w: dict[str, Any]) -> tuple[int, int]:
    return tuple(
        (size[a] + w["pads"][a] + w["pads"][a + 2] - w["dilations"][a] * (kernel[a] - 1) - 1) // w["strides"][a] + 1
        for a in (0, 1)
    )


def naive(x: Array, kernel_at: Any, group: int, kernel: tuple[int, int], w: dict[str, Any], out: int) -> Array:
    """Cross-correlation as six nested loops; `kernel_at(o, i, j)` is the kernel [C/group,kh,kw] of an output."""
    high, wide = positions(x.shape[2:], kernel, w)
    made = np.zeros((len(x), out, high, wide))
    for o, i, j in itertools.product(range(out), range(high), range(wide)):
        weight = kernel_at(o, i, j)
        first = o // (out // group) * weight.shape[0]
        for c, a, b in np.ndindex(*weight.shape):
            row = i * w["strides"][0] + a * w["dilations"][0] - w["pads"][0]
            column = j * w["strides"][1] + b * w["dilations"][1] - w["pads"][1]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                made[:, o, i, j] += weight[c, a, b] * x[:, first + c, row, column]
    return made


@given(window, kernels, st.sampled_from([1, 2]), seeds)
def test_conv_and_local_against_naive_loops(w: dict[str, Any], kernel: tuple[int, int], group: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(4, 4 // group, *kernel)), rng.normal(size=4)
    values = agree(build("conv", (4, 5, 6), weight=weight, bias=bias, group=group, **w), seed)
    expected = naive(values["x0"], lambda o, i, j: weight[o], group, kernel, w, 4)
    np.testing.assert_allclose(values["out_y"], expected + bias[:, None, None], rtol=1e-5, atol=1e-5)

    spread = rng.normal(size=(4, *expected.shape[2:], 4 // group, *kernel))
    bias = rng.normal(size=expected.shape[1:])
    values = agree(build("local", (4, 5, 6), weight=spread, bias=bias, group=group, **w), seed)
    expected = naive(values["x0"], lambda o, i, j: spread[o, i, j], group, kernel, w, 4)
    np.testing.assert_allclose(values["out_y"], expected + bias, rtol=1e-5, atol=1e-5)


@given(window, kernels, st.sampled_from([0, 1]), seeds)
def test_pools_against_naive_loops(w: dict[str, Any], kernel: tuple[int, int], include: int, seed: int) -> None:
    w["pads"] = tuple(min(p, kernel[i % 2] - 1) for i, p in enumerate(w["pads"]))
    average = agree(build("avgpool", (2, 6, 5), kernel=kernel, count_include_pad=include, **w), seed)
    ones = np.ones((1, *kernel))
    channels = [naive(average["x0"][:, c : c + 1], lambda *_: ones, 1, kernel, w, 1) for c in (0, 1)]
    total = np.concatenate(channels, axis=1)
    count = naive(np.ones((1, 1, 6, 5)), lambda *_: ones, 1, kernel, w, 1)
    divisor = kernel[0] * kernel[1] if include else count
    np.testing.assert_allclose(average["out_y"], total / divisor, rtol=1e-5, atol=1e-5)

    largest = agree(build("maxpool", (2, 6, 5), kernel=kernel, **w), seed)
    x, (high, wide) = largest["x0"], positions((6, 5), kernel, w)
    for i, j in itertools.product(range(high), range(wide)):
        rows = [i * w["strides"][0] + a * w["dilations"][0] - w["pads"][0] for a in range(kernel[0])]
        columns = [j * w["strides"][1] + b * w["dilations"][1] - w["pads"][1] for b in range(kernel[1])]
        seen = x[:, :, [r for r in rows if 0 <= r < 6]][:, :, :, [c for c in columns if 0 <= c < 5]]
        if seen.size:
            np.testing.assert_array_equal(largest["out_y"][:, :, i, j], seen.max(axis=(2, 3)))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2, 4)])
@pytest.mark.parametrize("bias", [None, (), (3,), (3, 2, 4)])
def test_scale_in_every_param_shape(shape: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(0)
    parts = {"factor": rng.normal(size=shape)} | ({} if bias is None else {"bias": rng.normal(size=bias)})
    values = agree(build("scale", (3, 2, 4), **parts))

    def by_channel(param: Array) -> Array:
        return param[:, None, None] if param.shape == (3,) else param

    expected = values["x0"] * by_channel(parts["factor"]) + (by_channel(parts["bias"]) if bias is not None else 0)
    np.testing.assert_allclose(values["out_y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
def test_batchnorm(shape: tuple[int, ...]) -> None:
    stats = statistics(np.random.default_rng(0), 4)
    values = agree(build("batchnorm", shape, **stats, epsilon=1e-3))
    x = np.moveaxis(values["x0"], 1, -1)
    expected = stats["gamma"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) + stats["beta"]
    np.testing.assert_allclose(np.moveaxis(values["out_y"], 1, -1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["softmax", "logsoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_axes(op: str, axis: int) -> None:
    values = agree(build(op, (3, 4, 2), axis=axis))
    share = values["out_y"] if op == "softmax" else np.exp(values["out_y"])
    np.testing.assert_allclose(share.sum(axis=axis + 1), 1, rtol=1e-6)
    raised = np.exp(values["x0"])
    np.testing.assert_allclose(share, raised / raised.sum(axis=axis + 1, keepdims=True), rtol=1e-5)


def test_softmax_of_large_scores_stays_finite() -> None:
    graph = build("logsoftmax", (2,))
    x = {"x0": np.array([[1000.0, 0.0]], np.float32)}
    np.testing.assert_allclose(reference.run(graph, x)["out_y"], [[0, -1000]])
    np.testing.assert_allclose(run(graph, x)["out_y"], [[0, -1000]])


def test_wiring_by_hand() -> None:
    values = agree(build("add", (2, 3), (2, 3), (2, 3)))
    np.testing.assert_allclose(values["out_y"], values["x0"] + values["x1"] + values["x2"], rtol=1e-6)
    values = agree(build("concat", (2, 3), (2, 1), axis=1))
    np.testing.assert_array_equal(values["out_y"], np.concatenate([values["x0"], values["x1"]], axis=2))
    values = agree(build("reshape", (2, 3), shape=(3, 2)))
    np.testing.assert_array_equal(values["out_y"].reshape(2, -1), values["x0"].reshape(2, -1))
    values = agree(build("dense", (3,), weight=[[1, 2, 3], [0, -1, 0]], bias=[1, 0]))
    np.testing.assert_allclose(values["out_y"][:, 0], values["x0"] @ [1, 2, 3] + 1, rtol=1e-5)
    values = agree(build("relu", (3, 4)))
    np.testing.assert_array_equal(values["out_y"], np.maximum(values["x0"], 0))
    values = agree(build("relu", (3, 4), max=0.5))
    np.testing.assert_array_equal(values["out_y"], np.clip(values["x0"], 0, 0.5))


@pytest.mark.parametrize("op", ["add", "concat"])
def test_one_value_read_twice(op: str) -> None:
    b = Builder({"x": (3,)})
    b("relu", "relu", "x")
    values = agree(b.graph(b("y", op, "relu", "relu")))
    positive = np.maximum(values["x"], 0)
    expected = 2 * positive if op == "add" else np.concatenate([positive, positive], axis=1)
    np.testing.assert_allclose(values["out_y"], expected)


@given(seeds)
def test_integer_convolutions_are_exact_in_float32(seed: int) -> None:
    """No Winograd or FFT inside `exact`: they would round integers."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (16, 16, 3, 3))
    b = Builder({"x": (16, 12, 12)})
    graph = b.graph(b("y", "conv", "x", weight=weight, pads=(1, 1, 1, 1)))
    x = {"x": rng.integers(0, 60, (4, 16, 12, 12)).astype(np.float32)}
    np.testing.assert_array_equal(run(graph, x)["out_y"], reference.run(graph, x)["out_y"])


def test_every_op_has_a_test_in_these_two_files() -> None:
    timed = {"encode", "lif", "decode"}
    here = {"conv", "local", "avgpool", "maxpool", "scale", "batchnorm", "softmax", "logsoftmax"}
    here |= {"add", "concat", "reshape", "dense", "relu"}
    assert set(OPS) == timed | here | test_more_kernels.TESTED


def test_exact_switches_off_and_back_on() -> None:
    def switches() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        with exact():
            assert switches() == (False, False)
        assert switches() == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
