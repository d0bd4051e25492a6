"""The canonical form: every rule on a tiny graph, the laws on random ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from snnc.errors import GraphError
from snnc.importer import canonical as module
from snnc.importer.canonical import RULES, WRITTEN_OUT, canonical
from snnc.importer.canonical.view import View
from snnc.ir import OPS, Graph, attr_ints, to_text, verify
from snnc.sim.reference import run
from tests.graphs import Builder, samples, statistics

from .random_graphs import tangled_graphs

RNG = np.random.default_rng(0)
FIRST, LAST = (2, 0, 1), (1, 2, 0)
"""Perms from channels last to channels first and back."""


def form(graph: Graph) -> str:
    """What the outputs are, written as nested calls; shapes where an op is a matter of shape."""

    def call(name: str) -> str:
        if name not in graph:
            return name
        node = graph[name]
        shape = str(list(node.type.shape)).replace(" ", "") if node.op in ("reshape", "expand", "slice") else ""
        shape = str(list(attr_ints(node, "perm"))).replace(" ", "") if node.op == "transpose" else shape
        return f"{node.op}{shape}({', '.join(call(value) for value in graph.values(node))})"

    return "; ".join(call(name) for name in graph.outputs.values())


def settled(graph: Graph) -> Graph:
    """The canonical form, held to what it must keep: function, inputs, outputs, and itself."""
    new = canonical(graph)
    verify(new)
    assert new.inputs == graph.inputs
    assert [(user, new.type(name)) for user, name in new.outputs.items()] == [
        (user, graph.type(name)) for user, name in graph.outputs.items()
    ]
    x = samples(graph, 3)
    before, after = run(graph, x), run(new, x)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-5 * max(1e-3, float(np.abs(array).max())))
    assert canonical(new) is new
    return new


def w(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


CASES: dict[str, tuple[Callable[[], Graph], str]] = {}


def case(after: str) -> Callable[[Callable[[], Graph]], Callable[[], Graph]]:
    """A graph and the form that it comes to."""

    def note(build: Callable[[], Graph]) -> Callable[[], Graph]:
        CASES[build.__name__] = (build, after)
        return build

    return note


# --- layout


@case("conv(relu(conv(transpose[2,0,1](x))))")
def transposes_around_every_layer_go() -> Graph:
    b = Builder({"x": (4, 5, 2)})
    b("t1", "transpose", "x", perm=FIRST)
    b("c1", "conv", "t1", weight=w(3, 2, 3, 3))
    b("t2", "transpose", "c1", perm=LAST)
    b("r", "relu", "t2")
    b("t3", "transpose", "r", perm=FIRST)
    return b.graph(b("c2", "conv", "t3", weight=w(3, 3, 1, 1)))


@case("transpose[1,2,0](relu(conv(x)))")
def a_channel_last_head_keeps_one_transpose() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("c", "conv", "x", weight=w(3, 2, 3, 3))
    b("t", "transpose", "c", perm=LAST)
    return b.graph(b("r", "relu", "t"))


@case("conv(relu(conv(reshape[1,4,5](x))))")
def a_transpose_of_axes_of_size_one_is_a_reshape() -> Graph:
    b = Builder({"x": (4, 5, 1)})
    b("t1", "transpose", "x", perm=FIRST)
    b("c1", "conv", "t1", weight=w(3, 1, 3, 3))
    b("t2", "transpose", "c1", perm=LAST)
    b("r", "relu", "t2")
    b("t3", "transpose", "r", perm=FIRST)
    return b.graph(b("c2", "conv", "t3", weight=w(3, 3, 1, 1)))


@case("dense(reshape[24](relu(conv(x))))")
def a_dense_takes_the_columns_of_a_channel_last_map() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("c", "conv", "x", weight=w(4, 2, 3, 3))
    b("t", "transpose", "c", perm=LAST)
    b("f", "reshape", "t", shape=(24,))
    b("r", "relu", "f")
    return b.graph(b("d", "dense", "r", weight=w(3, 24)))


@case("conv(reshape[2,3,4](relu(dense(x))))")
def a_dense_gives_its_rows_in_the_order_of_the_map() -> Graph:
    b = Builder({"x": (5,)})
    b("d", "dense", "x", weight=w(24, 5), bias=w(24))
    b("m", "reshape", "d", shape=(3, 4, 2))
    b("r", "relu", "m")
    b("t", "transpose", "r", perm=FIRST)
    return b.graph(b("c", "conv", "t", weight=w(3, 2, 1, 1)))


@case("conv(scale(transpose[2,0,1](x)))")
def pre_processing_stands_behind_the_layout() -> Graph:
    b = Builder({"x": (4, 5, 2)})
    b("s", "scale", "x", factor=0.5, bias=np.broadcast_to(w(2), (4, 5, 2)))
    b("t", "transpose", "s", perm=FIRST)
    return b.graph(b("c", "conv", "t", weight=w(3, 2, 3, 3)))


@case("conv(transpose[2,0,1](relu(scale(x)))); softmax(scale(x))")
def pre_processing_that_others_read_keeps_its_layout() -> Graph:
    b = Builder({"x": (4, 5, 2)})
    b("s", "scale", "x", factor=0.5)
    b("r", "relu", "s")
    b("t", "transpose", "r", perm=FIRST)
    return b.graph(b("c", "conv", "t", weight=w(3, 2, 3, 3)), b("m", "softmax", "s", axis=0))


@case("conv(reshape[2,1,5](x))")
def the_pads_of_a_signal_become_those_of_its_conv() -> Graph:
    b = Builder({"x": (2, 5)})
    b("p", "pad", "x", pads=(0, 2, 0, 1), interior=(0, 0))
    b("m", "reshape", "p", shape=(2, 1, 8))
    return b.graph(b("c", "conv", "m", weight=w(3, 2, 1, 3)))


@case("reshape[3,3](conv(maxpool(relu(conv(reshape[2,1,8](x))))))")
def a_signal_stays_an_image_between_its_layers() -> Graph:
    b = Builder({"x": (2, 8)})
    b("i1", "reshape", "x", shape=(2, 1, 8))
    b("c1", "conv", "i1", weight=w(4, 2, 1, 3))
    b("o1", "reshape", "c1", shape=(4, 6))
    b("r", "relu", "o1")
    b("i2", "reshape", "r", shape=(4, 1, 6))
    b("m", "maxpool", "i2", kernel=(1, 2), strides=(1, 2))
    b("o2", "reshape", "m", shape=(4, 3))
    b("i3", "reshape", "o2", shape=(4, 1, 3))
    b("c2", "conv", "i3", weight=w(3, 4, 1, 1))
    return b.graph(b("o3", "reshape", "c2", shape=(3, 3)))


@case("conv(add(conv(relu(conv(x))), relu(conv(x))))")
def a_residual_block_of_channel_last_values() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("c1", "conv", "x", weight=w(3, 2, 1, 1))
    b("t1", "transpose", "c1", perm=LAST)
    b("r", "relu", "t1")
    b("t2", "transpose", "r", perm=FIRST)
    b("c2", "conv", "t2", weight=w(3, 3, 3, 3), pads=(1, 1, 1, 1))
    b("t3", "transpose", "c2", perm=LAST)
    b("a", "add", "r", "t3")
    b("t4", "transpose", "a", perm=FIRST)
    return b.graph(b("c3", "conv", "t4", weight=w(3, 3, 1, 1)))


@case("conv(add(conv(transpose[2,0,1](x)), transpose[2,0,1](x)))")
def a_shortcut_from_the_input_takes_its_layout() -> Graph:
    b = Builder({"x": (4, 5, 2)})
    b("t1", "transpose", "x", perm=FIRST)
    b("c1", "conv", "t1", weight=w(2, 2, 1, 1))
    b("t2", "transpose", "c1", perm=LAST)
    b("a", "add", "x", "t2")
    b("t3", "transpose", "a", perm=FIRST)
    return b.graph(b("c2", "conv", "t3", weight=w(3, 2, 1, 1)))


@case("conv(mul(expand[3,4,5](reshape[3,1,1](sigmoid(dense(reshape[3](avgpool(conv(x))))))), conv(x)))")
def squeeze_and_excite_with_channels_last() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("c1", "conv", "x", weight=w(3, 2, 1, 1))
    b("t1", "transpose", "c1", perm=LAST)
    b("g", "reduce", "t1", axes=(0, 1), by="mean")
    b("d", "dense", "g", weight=w(3, 3))
    b("s", "sigmoid", "d")
    b("u", "reshape", "s", shape=(1, 1, 3))
    b("e", "expand", "u", shape=(4, 5, 3))
    b("m", "mul", "t1", "e")
    b("t2", "transpose", "m", perm=FIRST)
    return b.graph(b("c2", "conv", "t2", weight=w(3, 3, 1, 1)))


@case("softmax(reshape[5,12](conv(x)))")
def ops_along_axes_follow_the_layout() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("c", "conv", "x", weight=w(4, 2, 2, 1))
    b("t", "transpose", "c", perm=(2, 0, 1))
    b("s", "slice", "t", starts=(0, 0, 0), sizes=(5, 4, 3), steps=(1, 1, 1))
    b("u", "transpose", "s", perm=(1, 2, 0))
    b("f", "reshape", "u", shape=(5, 12))
    return b.graph(b("m", "softmax", "f", axis=1))


@case("conv(concat(conv(x), conv(x)))")
def a_concat_of_channel_last_values_is_one_of_channels() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    for i, size in enumerate((3, 2)):
        b(f"c{i}", "conv", "x", weight=w(size, 2, 1, 1))
        b(f"t{i}", "transpose", f"c{i}", perm=LAST)
    b("a", "concat", "t0", "t1", axis=2)
    b("t", "transpose", "a", perm=FIRST)
    return b.graph(b("c", "conv", "t", weight=w(3, 5, 1, 1)))


@case("reshape[3,2,2](transpose[1,0,2](reshape[2,2,3](x)))")
def what_cannot_be_shorter_stays() -> Graph:
    b = Builder({"x": (4, 3)})
    b("a", "reshape", "x", shape=(2, 2, 3))
    b("t", "transpose", "a", perm=(1, 0, 2))
    return b.graph(b("b", "reshape", "t", shape=(3, 2, 2)))


# --- weights


@case("relu(conv(x))")
def unfolded_norms_fold_into_the_layer_before() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("c", "conv", "x", weight=w(4, 1, 3, 3), group=2, bias=w(4))
    b("m", "scale", "c", factor=w(4))
    b("a", "scale", "m", factor=1.0, bias=np.broadcast_to(w(4)[:, None, None], (4, 2, 3)))
    b("n", "batchnorm", "a", **statistics(RNG, 4))
    return b.graph(b("r", "relu", "n"))


@case("dense(reshape[8](avgpool(relu(conv(x)))))")
def a_scale_goes_forward_where_it_cannot_go_back() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    b("r", "relu", "c")
    b("s", "scale", "r", factor=w(2), bias=w(2))
    b("p", "avgpool", "s")
    b("f", "reshape", "p", shape=(8,))
    return b.graph(b("d", "dense", "f", weight=w(3, 8)))


@case("conv(relu(conv(x)))")
def a_norm_that_cannot_go_back_goes_forward() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    b("r", "relu", "c")
    b("m", "scale", "r", factor=w(2), bias=w(2))
    b("n", "batchnorm", "m", **statistics(RNG, 2))
    b("s", "scale", "n", factor=w(2), bias=0.5)
    return b.graph(b("d", "conv", "s", weight=w(3, 2, 1, 1)))


@case("conv(scale(x))")
def pre_processing_is_one_scale_and_stays() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("m", "scale", "x", factor=1.0, bias=w(2))
    b("d", "scale", "m", factor=0.25)
    return b.graph(b("c", "conv", "d", weight=w(3, 2, 1, 1)))


@case("conv(scale(x))")
def pre_processing_takes_a_norm() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("m", "scale", "x", factor=0.5)
    b("n", "batchnorm", "m", **statistics(RNG, 2))
    return b.graph(b("c", "conv", "n", weight=w(3, 2, 1, 1)))


@case("relu(conv(x))")
def a_constant_added_is_a_bias() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    b("k", "constant", value=np.broadcast_to(w(2)[:, None, None], (2, 4, 4)))
    b("a", "add", "k", "c")
    return b.graph(b("r", "relu", "a"))


@case("scale(conv(x))")
def a_bias_that_differs_from_place_to_place_stays() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    return b.graph(b("a", "scale", "c", factor=1.0, bias=w(2, 4, 4)))


@case("relu(conv(x)); scale(conv(x))")
def a_layer_that_others_read_keeps_its_weights() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    return b.graph(b("r", "relu", "c"), b("s", "scale", "c", factor=2.0))


@case("scale(conv(x))")
def a_fold_that_float32_cannot_hold_is_none() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=np.full((2, 2, 1, 1), 1e25))
    return b.graph(b("s", "scale", "c", factor=1e20))


@case("relu(x)")
def a_scale_by_one_goes() -> Graph:
    b = Builder({"x": (2, 3)})
    b("s", "scale", "x", factor=np.ones((2, 3)), bias=np.zeros(2))
    return b.graph(b("r", "relu", "s"))


@case("relu(scale(x))")
def a_value_added_to_itself_is_a_multiple() -> Graph:
    b = Builder({"x": (2, 3)})
    b("a", "add", "x", "x", "x")
    return b.graph(b("r", "relu", "a"))


# --- windows and heads


@case("conv(x)")
def a_pad_goes_into_the_conv() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("p", "pad", "x", pads=(0, 1, 2, 0, 0, 1), interior=(0, 0, 0))
    return b.graph(b("c", "conv", "p", weight=w(3, 2, 3, 3), pads=(0, 0, 1, 1)))


@case("conv(pad(x))")
def a_pad_between_the_numbers_stays() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("p", "pad", "x", pads=(0, 1, 1, 0, 1, 1), interior=(0, 1, 1))
    return b.graph(b("c", "conv", "p", weight=w(3, 2, 3, 3)))


@case("avgpool(x)")
def a_pad_goes_into_a_mean_that_counts_it() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("p", "pad", "x", pads=(0, 1, 1, 0, 1, 1), interior=(0, 0, 0))
    return b.graph(b("m", "avgpool", "p", kernel=(2, 2), strides=(2, 2)))


@case("avgpool(pad(x))")
def a_pad_stays_before_a_mean_that_does_not_count_its_own() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("p", "pad", "x", pads=(0, 1, 1, 0, 0, 0), interior=(0, 0, 0))
    return b.graph(b("m", "avgpool", "p", kernel=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1), count_include_pad=0))


@case("maxpool(relu(x))")
def a_pad_goes_into_a_maximum_of_what_is_not_negative() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("r", "relu", "x")
    b("p", "pad", "r", pads=(0, 1, 1, 0, 1, 1), interior=(0, 0, 0))
    return b.graph(b("m", "maxpool", "p", kernel=(3, 3), strides=(2, 2)))


@case("maxpool(pad(x))")
def a_pad_stays_before_a_maximum_of_what_may_be_negative() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("p", "pad", "x", pads=(0, 1, 1, 0, 1, 1), interior=(0, 0, 0))
    return b.graph(b("m", "maxpool", "p", kernel=(3, 3), strides=(2, 2)))


@case("maxpool(pad(relu(x)))")
def a_pad_stays_where_a_window_would_see_nothing_else() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("r", "relu", "x")
    b("p", "pad", "r", pads=(0, 2, 2, 0, 2, 2), interior=(0, 0, 0))
    return b.graph(b("m", "maxpool", "p", kernel=(2, 2), strides=(2, 2)))


@case("dense(relu(dense(reshape[32](x))))")
def convs_of_a_whole_map_are_dense() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c1", "conv", "x", weight=w(5, 2, 4, 4), bias=w(5), strides=(4, 4))
    b("r", "relu", "c1")
    b("c2", "conv", "r", weight=w(3, 5, 3, 3), pads=(1, 1, 1, 1))
    return b.graph(b("f", "reshape", "c2", shape=(3,)))


@case("conv(x)")
def a_conv_that_leaves_out_a_part_is_none() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    return b.graph(b("c", "conv", "x", weight=w(3, 2, 3, 3), strides=(2, 2)))


@case("reshape[2](avgpool(x))")
def the_mean_over_the_map_is_a_pool() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    return b.graph(b("m", "reduce", "x", axes=(1, 2), by="mean"))


@case("reshape[2](avgpool(x))")
def a_pool_of_the_whole_map_has_one_form() -> Graph:
    b = Builder({"x": (2, 4, 5)})
    b("m", "avgpool", "x", kernel=(4, 5), strides=(4, 4), count_include_pad=1)
    b("n", "avgpool", "m", kernel=(1, 1), strides=(1, 1))
    return b.graph(b("f", "reshape", "n", shape=(2,)))


@case("avgpool(x)")
def a_mean_over_the_map_and_its_pads_is_none_over_the_map() -> Graph:
    b = Builder({"x": (2, 2, 2)})
    return b.graph(b("m", "avgpool", "x", kernel=(4, 4), pads=(1, 1, 1, 1), strides=(1, 1), count_include_pad=1))


@case("conv(pad(x))")
def a_pad_of_channels_stays() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("p", "pad", "x", pads=(1, 1, 1, 0, 1, 1), interior=(0, 0, 0))
    return b.graph(b("c", "conv", "p", weight=w(3, 3, 3, 3)))


# --- the rest


@case("logsoftmax(x)")
def the_log_of_a_softmax() -> Graph:
    b = Builder({"x": (2, 3)})
    b("s", "softmax", "x", axis=1)
    return b.graph(b("l", "log", "s"))


@case("relu(x)")
def relus_of_relus() -> Graph:
    b = Builder({"x": (2, 3)})
    b("a", "relu", "x", max=2.0)
    b("b", "relu", "a")
    b("c", "relu", "b", max=1.0)
    b("d", "abs", "c")
    return b.graph(b("e", "clip", "d", max=6.0))


@case("relu(x)")
def a_clip_from_zero_is_a_relu() -> Graph:
    b = Builder({"x": (2, 3)})
    return b.graph(b("a", "clip", "x", min=0.0, max=6.0))


@case("relu(add(sigmoid(relu(x)), relu(x), x))")
def a_sum_of_sums() -> Graph:
    b = Builder({"x": (2, 3)})
    b("r", "relu", "x")
    b("s", "sigmoid", "r")
    b("a", "add", "x", "r")
    b("c", "add", "a", "s")
    return b.graph(b("e", "relu", "c"))


@case("relu(add(sigmoid(add(relu(x), x)), add(relu(x), x)))")
def a_sum_that_others_read_stays() -> Graph:
    b = Builder({"x": (2, 3)})
    b("r", "relu", "x")
    b("a", "add", "r", "x")
    b("s", "sigmoid", "a")
    b("c", "add", "a", "s")
    return b.graph(b("e", "relu", "c"))


@case("trunc(div(x, constant()))")
def a_division_that_may_round_twice_stays() -> Graph:
    """6 / 3 is 2, but 6 times the float32 next to 1/3 is more, and what is just below goes down a step."""
    b = Builder({"x": (3,)})
    b("k", "constant", value=[3.0, 7.0, 10.0])
    b("d", "div", "x", "k")
    return b.graph(b("t", "trunc", "d"))


@case("trunc(scale(x))")
def a_division_by_powers_of_two_is_a_scale() -> Graph:
    b = Builder({"x": (3,)})
    b("k", "constant", value=[2.0, 0.25, -1024.0])
    b("d", "div", "x", "k")
    return b.graph(b("t", "trunc", "d"))


@case("slice[2,2](relu(x))")
def ops_that_do_nothing() -> Graph:
    b = Builder({"x": (2, 3)})
    b("a", "pad", "x", pads=(0, 0, 0, 0), interior=(0, 0))
    b("b", "expand", "a", shape=(2, 3))
    b("c", "slice", "b", starts=(0, 0), sizes=(2, 3), steps=(1, 1))
    b("d", "gather", "c", axis=0, index=(0, 1))
    b("e", "concat", "d", axis=0)
    b("f", "maximum", "e", "e")
    b("g", "reshape", "f", shape=(2, 3))
    b("h", "relu", "g")
    return b.graph(b("i", "gather", "h", axis=1, index=(1, 2)))


# --- activations in parts


def gated(*lines: tuple[str, dict[str, float]], tail: float | None = None) -> Graph:
    """A conv, and its value times a chain of ops of it."""
    b = Builder({"x": (2, 4, 4)})
    at = b("c", "conv", "x", weight=w(2, 2, 1, 1), bias=w(2))
    for i, (op, parts) in enumerate(lines):
        at = b(f"g{i}", op, at, **parts)
    at = b("m", "mul", at, "c")
    return b.graph(at if tail is None else b("t", "scale", at, factor=tail))


@case("swish(conv(x))")
def a_value_times_its_sigmoid() -> Graph:
    return gated(("sigmoid", {}))


@case("mish(conv(x))")
def a_value_times_the_tanh_of_its_softplus() -> Graph:
    return gated(("softplus", {}), ("tanh", {}))


@case("hardswish(conv(x))")
def a_value_times_its_hardsigmoid() -> Graph:
    return gated(("hardsigmoid", {"alpha": 1 / 6, "beta": 0.5}))


@case("hardswish(conv(x))")
def a_value_times_its_hardsigmoid_in_parts() -> Graph:
    return gated(("scale", {"factor": 1.0, "bias": 3.0}), ("relu", {"max": 6.0}), ("scale", {"factor": 1 / 6}))


@case("hardswish(conv(x))")
def a_value_times_its_shifted_relu6_divided_at_the_end() -> Graph:
    return gated(("scale", {"factor": 1.0, "bias": 3.0}), ("relu", {"max": 6.0}), tail=1 / 6)


@case("gelu(conv(x))")
def a_value_times_its_share_of_the_normal_distribution() -> Graph:
    return gated(("scale", {"factor": 0.5**0.5}), ("erf", {}), ("scale", {"factor": 1.0, "bias": 1.0}), tail=0.5)


@case("hardsigmoid(conv(x))")
def a_line_between_zero_and_six_divided_by_six() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    b("s", "scale", "c", factor=1.0, bias=3.0)
    b("r", "relu", "s", max=6.0)
    return b.graph(b("d", "scale", "r", factor=1 / 6))


@case("leakyrelu(conv(x))")
def the_larger_of_a_value_and_a_part_of_it() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    b("s", "scale", "c", factor=0.1)
    return b.graph(b("m", "maximum", "s", "c"))


@case("mul(tanh(conv(x)), sigmoid(conv(x)))")
def a_product_of_two_curves_stays() -> Graph:
    b = Builder({"x": (2, 4, 4)})
    b("c", "conv", "x", weight=w(2, 2, 1, 1))
    b("s", "sigmoid", "c")
    b("t", "tanh", "c")
    return b.graph(b("m", "mul", "s", "t"))


@pytest.mark.parametrize("name", CASES)
def test_a_rule(name: str) -> None:
    build, after = CASES[name]
    assert form(settled(build())) == after


def test_operands_stand_in_one_order_whatever_the_exporter_wrote() -> None:
    def block(swap: bool) -> Graph:
        rng = np.random.default_rng(0)
        b = Builder({"x": (2, 4, 4)})
        names = ("c1", "c2")
        for name in reversed(names) if swap else names:
            kernel = (3, 3) if name == "c1" else (1, 1)
            b(name, "conv", "x", weight=np.ones((2, 2, *kernel)), pads=(kernel[0] // 2,) * 4)
        b("r", "relu", "c2")
        b("a", "add", *(("r", "c1") if swap else ("c1", "r")))
        return b.graph(b("d", "conv", "a", weight=rng.normal(size=(2, 2, 1, 1))))

    assert to_text(settled(block(True))) == to_text(settled(block(False)))


def test_origins_are_collected() -> None:
    graph = transposes_around_every_layer_go()
    named = [replace(node, origin=(f"/{node.name}",)) for node in graph.nodes]
    made = settled(graph.edit(named))
    assert [node.origin for node in made.nodes] == [("/t1",), ("/c1",), ("/r",), ("/c2",)]
    graph = unfolded_norms_fold_into_the_layer_before()
    named = [replace(node, origin=(f"/{node.name}",)) for node in graph.nodes]
    assert settled(graph.edit(named)).nodes[0].origin == ("/c", "/m", "/a", "/n")


def test_outputs_keep_what_they_are_of() -> None:
    """A value shown to the user is the value it was, whatever moved past it."""
    b = Builder({"x": (2, 4, 5)})
    b("c", "conv", "x", weight=w(3, 2, 1, 1))
    b("t", "transpose", "c", perm=LAST)
    b("s", "scale", "t", factor=2.0)
    b("r", "relu", "s")
    graph = settled(b.graph("c", "t", "s", "r", "x"))
    assert list(graph.outputs) == ["out_c", "out_t", "out_s", "out_r", "out_x"]


def test_a_graph_in_its_form_is_given_back() -> None:
    graph = settled(transposes_around_every_layer_go())
    assert canonical(graph) is graph


def test_rules_that_undo_each_other_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "relus for ever", (lambda bench, node: True, ("relu",)))
    monkeypatch.setattr(module, "CHANGES", 2)
    b = Builder({"x": (2,)})
    with pytest.raises(GraphError, match="after 2 rewrites per node, the last one: relus for ever"):
        canonical(b.graph(b("r", "relu", "x")))


def test_the_table_names_ops_that_there_are() -> None:
    assert {op for _, ops in (*RULES.values(), *WRITTEN_OUT.values()) for op in ops} <= set(OPS)


@settings(max_examples=150)
@given(tangled_graphs())
def test_random_graphs_keep_their_function_and_settle_once(graph: Graph) -> None:
    settled(graph)


@pytest.mark.parametrize(
    ("source", "chain"),
    [
        ((2, 3, 4), [(1, 2, 0), (24,)]),
        ((2, 3, 4), [(2, 0, 1), (1, 2, 0)]),
        ((6, 4), [(2, 3, 4), (1, 0, 2), (12, 2)]),
        ((1, 5, 1), [(2, 1, 0), (5,)]),
        ((2, 3, 4), [(12, 2)]),
    ],
    ids=str,
)
def test_a_view_is_what_its_chain_does(source: tuple[int, ...], chain: list[tuple[int, ...]]) -> None:
    """Entries that permute the axes are transposes, the others reshapes."""
    array = np.arange(np.prod(source)).reshape(source)
    view, made = View.same(source), array
    for entry in chain:
        is_perm = sorted(entry) == list(range(made.ndim))
        turned = view.transposed(entry) if is_perm else view.reshaped(entry)
        assert turned is not None
        view, made = turned, made.transpose(entry) if is_perm else made.reshape(entry)
    np.testing.assert_array_equal(view.of(array), made)
    np.testing.assert_array_equal(view.inverse().of(made), array)
    short = array
    for op, attrs in view.steps():
        short = short.transpose(attrs["perm"]) if op == "transpose" else short.reshape(attrs["shape"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(short, made)
    assert len(view.steps()) <= len(chain)


def test_a_transpose_across_the_factors_is_no_view() -> None:
    view = View.same((2, 3)).transposed((1, 0))
    assert view is not None
    assert view.reshaped((2, 3)).transposed((1, 0)) is None
