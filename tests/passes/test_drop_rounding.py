"""drop-rounding: what a quantizer of activations leaves when it no longer rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnc.ir import Graph, to_text
from snnc.passes import DropRounding
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, samples

STEP = 0.125


def quantized(
    relu: bool = True, zero: float = 0.0, low: int = 0, high: int = 255, factor: float = STEP, pool: bool = False
) -> Graph:
    """A layer, perhaps a relu and a pool, a quantizer, what undoes it, a layer with neurons, a read-out."""
    rng = np.random.default_rng(1)
    b = Builder({"x": (2, 4, 4)})
    at = b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1)))
    at = b("relu1", "relu", at) if relu else at
    at = b("pool1", "maxpool", at) if pool else at
    b("q", "quantize", at, step=STEP, zero=zero, min=low, max=high)
    b("back", "scale", "q", factor=factor, **({"bias": -zero * factor} if zero else {}))
    size = 12 if pool else 48
    b(
        "relu2",
        "relu",
        b("dense1", "dense", b("flat", "reshape", "back", shape=(size,)), weight=rng.normal(size=(5, size))),
    )
    return b.graph(b("dense2", "dense", "relu2", weight=rng.normal(size=(3, 5))))


def dropped(graph: Graph) -> tuple[Graph, dict[str, Any], dict[str, Any]]:
    """The new graph, and all values of both."""
    ctx = Context()
    new = DropRounding().run(graph, ctx)
    assert not any(n.op == "quantize" for n in new.nodes)
    assert ctx.notes == ["rounding dropped at q: a trainer must mend it"]
    assert DropRounding().run(new, Context()) is new
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    x = samples(graph, 40)
    run(new, x, ours)
    run(graph, x, theirs)
    return new, ours, theirs


@pytest.mark.parametrize(("zero", "low", "high"), [(0, 0, 255), (-128, -128, 127), (0, 0, 7), (-128, -128, -121)])
@pytest.mark.parametrize("relu", [True, False])
def test_behind_or_instead_of_a_relu_the_bounds_become_its_own(relu: bool, zero: int, low: int, high: int) -> None:
    new, ours, theirs = dropped(quantized(relu, zero, low, high))
    name = "relu1" if relu else "back"
    assert (new[name].op, new[name].attrs["max"]) == ("relu", (high - zero) * STEP)
    assert not any(n.op == "scale" for n in new.nodes)
    assert np.abs(ours[name] - theirs["back"]).max() <= STEP / 2 + 1e-6, "half a step, in the teacher's units"


def test_behind_a_pool_of_neurons_nothing_is_left() -> None:
    new, ours, theirs = dropped(quantized(pool=True))
    assert [n.op for n in new.nodes] == ["conv", "relu", "maxpool", "reshape", "dense", "relu", "dense"]
    assert np.abs(ours["pool1"] - theirs["back"]).max() <= STEP / 2 + 1e-6


def test_signed_values_are_read_as_they_are() -> None:
    new, ours, theirs = dropped(quantized(relu=False, zero=3, low=-128, high=127))
    assert new["flat"].inputs == ("conv1",)
    assert np.abs(ours["conv1"] - theirs["back"]).max() <= STEP / 2 + 1e-6


def test_what_is_not_undone_stays_scaled() -> None:
    _, ours, theirs = dropped(quantized(zero=2, low=2, factor=3 * STEP))
    assert np.abs(ours["back"] - theirs["back"]).max() <= 3 * STEP / 2 + 1e-6


def test_the_ends_may_round() -> None:
    b = Builder({"x": (3,)})
    b("raw", "quantize", "x", step=0.1, zero=0, min=0, max=255)
    b("dense1", "dense", "raw", weight=np.eye(3))
    graph = b.graph(b("end", "quantize", "dense1", step=0.1, zero=0, min=0, max=255))
    assert DropRounding().run(graph, Context()) is graph


def test_golden_drop_rounding(golden: Golden) -> None:
    graph = quantized(relu=False)
    golden(to_text(graph) + "\n" + to_text(DropRounding().run(graph, Context())))
