"""limit-fan-in: few inputs that stand in for many, masks, biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Stage, to_text, verify
from snnc.passes import LimitFanIn, QuantizeWeights
from snnc.pipeline import Context
from snnc.sim.cost import fan_in
from snnc.sim.reference import run
from snnc.targets import DynapSim
from tests.conftest import Golden
from tests.graphs import Builder, data_for, spiking

WEIGHT = [[4, -3, 2, 1, 0.5, 0.25], [0.1, 0.2, 0.3, -0.4, 0.5, -0.6], [1, 1, 1, 1, 1, 1]]

BIAS: dict[str, Any] = {"bias": [1, -2, 3], "bias_at": "first-step"}


def network(weight: Any = WEIGHT, **bias: Any) -> Graph:
    """One layer of neurons that listens to its input as currents."""
    b = Builder({"x": (len(weight[0]),)}, 4)
    b("hidden", "dense", b("current", "encode", "x"), weight=weight, **bias)
    b("lif", "lif", "hidden")
    return b.graph(b("count", "decode", "lif"))


def data(x: Array) -> Data:
    split = Split(x.astype(np.float32), np.zeros(len(x), np.int64))
    return Data(split, split, split)


def orthogonal(count: int = 6, strength: Any = 1.0) -> Array:
    """Inputs of mean 0 without any correlation, each with its own strength."""
    hadamard = np.array([[1]])
    while len(hadamard) <= count:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return np.asarray(hadamard[:, 1 : count + 1] * np.broadcast_to(strength, count))


def limited(graph: Graph, given: Data, k: int) -> tuple[Graph, list[str]]:
    ctx = Context(given)
    new = LimitFanIn(k).run(graph, ctx)
    verify(new)
    assert new.stage is Stage.CONSTRAINED
    return new, ctx.notes


def drive(graph: Graph, x: Array, node: str = "hidden") -> Array:
    """The charge that arrives over all steps, [N, ...]."""
    found: dict[str, Array] = {}
    run(graph, {next(iter(graph.inputs)): x}, record=found)
    return np.asarray(found[node].sum(axis=0))


def kept(graph: Graph, node: str = "hidden") -> list[list[int]]:
    mask = graph.constraints[f"{node}.weight"].mask
    assert mask is not None
    return [np.flatnonzero(row).tolist() for row in mask]


def test_of_independent_inputs_the_strongest_stay_as_they_are() -> None:
    new, notes = limited(network(), data(orthogonal()), 3)
    assert kept(new) == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]  # ties go to the first
    weight = new.params["hidden.weight"]
    np.testing.assert_allclose(weight[0], [4, -3, 2, 0, 0, 0], rtol=2e-3)
    np.testing.assert_allclose(weight[1], [0, 0, 0, -0.4, 0.5, -0.6], rtol=2e-3)
    np.testing.assert_allclose(new.params["hidden.bias"], 0, atol=1e-6)
    assert notes == ["hidden: fan-in 6 -> 3, 50% of weights cut"]
    assert fan_in(new) == {"lif": 3}


def test_strength_counts_what_the_input_does() -> None:
    """A large weight on an input that hardly varies is no loss."""
    new, _ = limited(network(), data(orthogonal(strength=[0.01, 1, 1, 1, 1, 9])), 2)
    assert kept(new)[0] == [1, 5]
    new, _ = limited(network(), data(orthogonal(strength=[0.01, 1, 1, 1, 1, 9])), 1)
    assert kept(new)[0] == [1]


def test_one_of_two_equal_inputs_takes_over_the_weight_of_both() -> None:
    x = orthogonal(3)[:, [0, 0, 1, 1, 2, 2]]
    graph = network([[1, 2, 3, 1, 1, 1]])
    new, _ = limited(graph, data(x), 3)
    assert np.count_nonzero(new.params["hidden.weight"]) == 3
    np.testing.assert_allclose(drive(new, x), drive(graph, x), atol=0.01)


@pytest.mark.parametrize("bias", [{}, {"bias": [1, -2, 3], "bias_at": "per-step"}, BIAS], ids=str)
def test_the_mean_drive_stays(bias: dict[str, Any]) -> None:
    x = np.random.default_rng(0).gamma(1, 1, (100, 6))
    graph = network(**bias)
    new, _ = limited(graph, data(x), 2)
    before, after = drive(graph, x), drive(new, x)
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), rtol=1e-4)
    assert np.abs(after - before).max() > 0.1
    assert new["hidden"].attrs["bias_at"] == bias.get("bias_at", "per-step")


def test_the_mean_drive_of_a_conv_stays_borders_included() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (4, 5, 5)}, 4)
    weight = rng.normal(size=(4, 2, 3, 3))
    b("hidden", "conv", b("current", "encode", "x"), weight=weight, group=2, pads=(1, 0, 1, 2), strides=(2, 1))
    b("lif", "lif", "hidden")
    graph = b.graph(b("count", "decode", "lif"))
    x = rng.gamma(1, 1, (50, 4, 5, 5))
    new, _ = limited(graph, data(x), 5)
    before, after = (drive(g, x).mean(axis=(0, 2, 3)) for g in (graph, new))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    assert fan_in(new) == {"lif": 5}
    assert all(len(row) == 5 for row in kept(new))


def test_narrow_layers_get_a_mask_and_keep_their_weights() -> None:
    graph = network()
    ctx = Context()
    new = LimitFanIn(6).run(graph, ctx)
    verify(new)
    assert kept(new) == [list(range(6))] * 3
    assert new.params["hidden.weight"] is graph.params["hidden.weight"]
    assert ctx.notes == []


def test_limited_twice_is_limited_once() -> None:
    given = data(orthogonal())
    for k in (3, 6):
        new, _ = limited(network(), given, k)
        assert LimitFanIn(k).run(new, Context(given)) is new
        assert LimitFanIn(64).run(new, Context(given)) is new


def test_what_was_pruned_stays_pruned() -> None:
    """A second, tighter limit finds its inputs among those that are left; other layers keep their masks."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (8,)}, 4)
    b("wide", "dense", b("current", "encode", "x"), weight=rng.normal(size=(5, 8)))
    b("lif1", "lif", "wide")
    b("narrow", "dense", "lif1", weight=rng.normal(size=(3, 5)))
    b("lif2", "lif", "narrow")
    graph = b.graph(b("count", "decode", "lif2"))
    cut = np.ones((3, 5), bool)
    cut[:, :3] = False
    weight = np.where(cut, graph.params["narrow.weight"], np.float32(0))
    graph = graph.edit(
        params={"narrow.weight": weight}, constraints={"narrow.weight": Constraint(mask=cut)}, stage=Stage.CONSTRAINED
    )
    mixing = rng.normal(size=(8, 8))
    given = data(rng.normal(size=(200, 8)) @ mixing)
    first, _ = limited(graph, given, 4)
    second, _ = limited(first, given, 2)
    for before, after in ((graph, first), (first, second)):
        np.testing.assert_array_equal(after.constraints["narrow.weight"].mask, cut)
        if before is first:
            for rows, fewer in zip(kept(before, "wide"), kept(after, "wide"), strict=True):
                assert len(fewer) == 2
                assert set(fewer) <= set(rows)


def test_levels_stay_levels() -> None:
    quantized = QuantizeWeights(bits=4).run(network(), Context())
    new, _ = limited(quantized, data(orthogonal()), 3)
    assert new.constraints["hidden.weight"].bits == 4
    assert fan_in(new) == {"lif": 3}


def pooled() -> Graph:
    b = Builder({"x": (2, 4, 4)}, 4)
    b("lif1", "lif", b("current", "encode", "x"), theta=0.1)
    b("pool", "avgpool", "lif1")
    b("flat", "reshape", "pool", shape=(8,))
    b("hidden", "dense", "flat", weight=np.random.default_rng(0).normal(size=(3, 8)))
    b("lif2", "lif", "hidden")
    return b.graph(b("count", "decode", "lif2"))


def test_an_input_behind_a_pool_counts_as_often_as_it_can_fire() -> None:
    given = data_for(pooled())
    new, _ = limited(pooled(), given, 15)
    assert all(len(row) == 3 for row in kept(new))
    assert fan_in(new) == {"lif2": 12}
    with pytest.raises(PipelineError) as caught:
        limited(pooled(), given, 3)
    assert str(caught.value) == (
        "not one input fits into a fan-in of 3\n  at: hidden (dense)\n  try: pool-neurons before"
    )


def test_the_read_out_is_not_limited() -> None:
    graph = spiking()
    new, _ = limited(graph, data_for(graph), 36)
    assert "dense1.weight" not in new.constraints
    assert fan_in(new)["relu1"] == 18


@pytest.mark.parametrize("options", [{"k": 0}, {"samples": 0}, {"k": -3}])
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="'limit-fan-in' cannot work with k="):
        LimitFanIn(**options)


def test_data_is_needed_only_to_prune() -> None:
    with pytest.raises(PipelineError, match="'limit-fan-in' needs data"):
        LimitFanIn(3).run(network(), Context())


def test_a_dead_input_is_no_problem() -> None:
    new, _ = limited(network(), data(orthogonal(strength=[1, 1, 0, 0, 0, 0])), 3)
    assert np.isfinite(new.params["hidden.weight"]).all()
    assert kept(new)[0][:2] == [0, 1]


def test_golden_limit_fan_in(golden: Golden) -> None:
    graph = network()
    golden(to_text(graph) + "\n" + to_text(limited(graph, data(orthogonal()), 3)[0]))


def branches(skip: bool = True, second: int = 0) -> Graph:
    """Neurons onto which a layer of 12 inputs, perhaps a skip and perhaps a second layer converge."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (12,)}, 4)
    b("current", "encode", "x")
    parts = [b("wide", "dense", "current", weight=rng.normal(size=(12, 12)))]
    if skip:
        parts.append(b("skip", "scale", "current", factor=2.0))
    if second:
        few = b("few", "slice", "current", starts=(0,), sizes=(second,), steps=(1,))
        parts.append(b("narrow", "dense", few, weight=rng.normal(size=(12, second))))
    b("lif", "lif", b("sum", "add", *parts))
    return b.graph(b("count", "decode", "lif"))


@pytest.mark.parametrize(
    ("skip", "second", "wide", "narrow"),
    [(True, 0, 7, None), (False, 2, 6, 2), (True, 2, 5, 2), (True, 11, 4, 3), (False, 11, 4, 4)],
)
def test_what_meets_at_a_neuron_shares_its_connections(skip: bool, second: int, wide: int, narrow: int | None) -> None:
    graph = branches(skip, second)
    new, _ = limited(graph, data(np.random.default_rng(1).normal(size=(64, 12))), 8)
    assert fan_in(new) == {"lif": 8}
    kept = {n: int((new.params[f"{n}.weight"] != 0).sum(axis=1).max()) for n in ("wide", "narrow") if n in new}
    assert kept == {"wide": wide} | ({} if narrow is None else {"narrow": narrow})
    assert LimitFanIn(8).run(new, Context()) is new


def test_a_skip_that_takes_all_leaves_nothing() -> None:
    with pytest.raises(PipelineError, match="not one input fits into a fan-in of 1, 1 taken"):
        limited(branches(), data(np.ones((4, 12))), 1)


def split(graph: Graph, given: Data, k: int, **options: Any) -> tuple[Graph, list[str]]:
    ctx = Context(given)
    new = LimitFanIn(k, method="split", **options).run(graph, ctx)
    verify(new)
    assert max(fan_in(new).values()) <= k
    assert LimitFanIn(k, method="split").run(new, Context()) is new
    return new, ctx.notes


def wide(inputs: int, seed: int = 0, **bias: Any) -> Graph:
    """Spiking inputs, read by neurons that need all of them, read out."""
    rng = np.random.default_rng(seed)
    b = Builder({"x": (inputs,)}, 32)
    b("in", "scale", b("current", "encode", "x"), factor=1.0)
    b("lif1", "lif", "in", theta=1 / 32, u0=0.5 / 32)
    b("wide", "dense", "lif1", weight=rng.normal(size=(6, inputs)) / 32, **bias)
    b("lif2", "lif", "wide", theta=1 / 32, u0=0.5 / 32)
    b("head", "dense", "lif2", weight=rng.normal(size=(4, 6)))
    return b.graph(b("scores", "decode", "head"))


@pytest.mark.parametrize(("inputs", "levels"), [(12, 1), (60, 2), (300, 3)])
def test_split_keeps_every_connection(inputs: int, levels: int) -> None:
    graph = wide(inputs, bias=np.ones(6) / 32, bias_at="per-step")
    x = np.random.default_rng(1).uniform(0, 1, (64, inputs))
    new, notes = split(graph, data(x), 8)
    assert sum("partial sums" in note for note in notes) == levels
    parts = -(-inputs // 8)
    assert notes[0] == f"wide: fan-in {inputs} -> {parts} partial sums, {12 * parts} neurons added, no step more"
    assert np.count_nonzero(new.params["wide.sums.weight"]) == 2 * np.count_nonzero(graph.params["wide.weight"])
    before, after = drive(graph, x, "wide"), drive(new, x, "wide")
    assert np.linalg.norm(after - before) < (0.1 + 0.1 * levels) * np.linalg.norm(before)


def test_split_conv_and_skip_share() -> None:
    """What meets at a neuron leaves fewer inputs for the last sum, not for the partial ones."""
    new, _ = split(branches(second=2), data(np.random.default_rng(1).normal(size=(64, 12))), 8)
    assert fan_in(new)["wide.partial"] == 6
    assert fan_in(new)["lif"] == 1 + 2 + 4


def test_four_bits_hold_the_worths_of_partial_sums() -> None:
    graph = wide(60)
    new, _ = split(graph, data(np.random.default_rng(1).uniform(0, 1, (64, 60))), 16)
    quantized = QuantizeWeights(bits=4).run(new, Context())
    name = next(n.name for n in new.nodes if n.name == "wide.sum")
    np.testing.assert_allclose(quantized.params[f"{name}.weight"], new.params[f"{name}.weight"], rtol=1e-5)


def test_partial_sums_have_a_form_on_the_chip() -> None:
    """Placed, in units of the weight steps, they make the same scores."""
    x = np.random.default_rng(1).uniform(0, 1, (64, 60)).astype(np.float32)
    quantized = QuantizeWeights(bits=4).run(split(wide(60), data(x), 16)[0], Context())
    placed = DynapSim(fan_in=16).place(quantized)
    assert fan_in(placed) == {"lif1": 1, "wide.partial": 15, "lif2": 8}
    before, after = (run(g, {"x": x})["out_scores"] for g in (quantized, placed))
    assert np.abs(after - before).mean() < 0.05 * np.abs(before).mean()


def test_quantized_weights_are_not_split() -> None:
    quantized = QuantizeWeights(bits=4).run(network(), Context())
    with pytest.raises(PipelineError, match="quantized weights are not split") as caught:
        LimitFanIn(4, method="split").run(quantized, Context(data(orthogonal())))
    assert "limit-fan-in before quantize-weights" in str(caught.value)


def test_auto_prunes_within_the_budget_and_splits_beyond() -> None:
    """Twenty inputs that know nothing of each other: eight of them cannot stand in for all."""
    graph = wide(20)
    x = np.random.default_rng(1).uniform(0, 1, (200, 20)).astype(np.float32)
    labels = run(graph, {"x": x})["out_scores"].argmax(axis=1)
    part = Split(x, labels)
    given = Data(part, part, Split(x[:0], labels[:0]))
    ctx = Context(given)
    new = LimitFanIn(8, method="auto", budget=1.0).run(graph, ctx)
    verify(new)
    assert fan_in(new)["lif2"] == 6
    assert "wide.partial" in new
    assert ctx.notes[0].startswith("unlimited 100.00%, all pruned ")
    assert ctx.notes[1].startswith("all split ")
    assert ctx.notes[-1] == "wide: fan-in 20 -> 3 partial sums, 36 neurons added, no step more"
    ctx = Context(given)
    rather = LimitFanIn(8, method="auto", budget=100.0).run(graph, ctx)
    assert "wide.partial" not in rather
    assert ctx.notes[-1] == "wide: fan-in 20 -> 8, 60% of weights cut"
    pruned = LimitFanIn(8).run(graph, Context(given))
    np.testing.assert_array_equal(rather.params["wide.weight"], pruned.params["wide.weight"])


def two_layers() -> tuple[Graph, Data]:
    """A wide layer whose inputs are all alike, so that one stands for all, behind one whose inputs are not."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (20,)}, 32)
    b("in", "scale", b("current", "encode", "x"), factor=1.0)
    b("lif1", "lif", "in", theta=1 / 32, u0=0.5 / 32)
    b("first", "dense", "lif1", weight=np.outer(np.ones(12), rng.uniform(0.5, 1.5, 20)) / 640)
    b("lif2", "lif", "first", theta=1 / 32, u0=0.5 / 32)
    b("second", "dense", "lif2", weight=np.array([[1.0] * 12, [-1.0] * 12]) / 384)
    b("lif3", "lif", "second", theta=1 / 32, u0=0.5 / 32)
    b("head", "dense", "lif3", weight=[[1.0, 0], [0, 0]], bias=[-16.5, 0.0], bias_at="first-step")
    graph = b.graph(b("scores", "decode", "head"))
    x = rng.uniform(0, 1, (1000, 20)).astype(np.float32)
    scores = run(graph, {"x": x})["out_scores"]
    clear = np.abs(scores[:, 0]) > 1
    part = Split(x[clear], scores[clear].argmax(axis=1))
    return graph, Data(part, part, part)


def test_auto_splits_only_where_it_must() -> None:
    graph, given = two_layers()
    ctx = Context(given)
    new = LimitFanIn(8, method="auto", budget=4.0).run(graph, ctx)
    assert "first.partial" in new
    assert "second.partial" not in new, ctx.notes
    assert any(note.startswith("second pruned rather: ") and note.endswith("neurons saved") for note in ctx.notes)


@pytest.mark.parametrize(
    "options", [{"budget": -1.0}, {"percentile": 0.0}, {"percentile": 101.0}, {"k": 3, "method": "split"}], ids=str
)
def test_impossible_options_of_split(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="'limit-fan-in' cannot"):
        LimitFanIn(**options)
