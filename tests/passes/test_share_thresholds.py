"""share-thresholds: one threshold, leak and start potential a core, in weight steps."""

from __future__ import annotations

import numpy as np
import pytest

from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Stage, to_text, verify
from snnc.passes import QuantizeWeights, ShareThresholds
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, integers


def network(theta: object = 1.0, scale: Array | None = None, **neuron: object) -> Graph:
    """Four channels of two neurons; their weights on integers of `scale`, or free."""
    weight = np.arange(-4, 4).reshape(4, 2, 1, 1) * (1.0 if scale is None else scale)
    b = Builder({"x": (2, 2, 1)}, 4)
    b("conv", "conv", b("current", "encode", "x"), weight=weight)
    b("lif", "lif", "conv", theta=theta, **neuron)
    graph = b.graph(b("out", "decode", "lif"))
    if scale is None:
        return graph
    return graph.edit(constraints={"conv.weight": Constraint(4, scale)}, stage=Stage.CONSTRAINED)


def shared(graph: Graph, core: int = 4) -> tuple[Graph, list[str]]:
    ctx = Context()
    new = ShareThresholds(core).run(graph, ctx)
    verify(new)
    assert ShareThresholds(core).run(new, Context()) is new, "shared twice is shared once"
    return new, ctx.notes


def steps(*values: float) -> Array:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def test_what_is_shared_already_stays() -> None:
    for graph in (network(), network([1, 2, 3, 4]), network([1, 1, 3, 3], steps(2, 2, 6, 6))):
        assert shared(graph) == (graph, [])


def test_thresholds_are_averaged_in_weight_steps() -> None:
    """Cores of two channels: theta / s is 1, 1/2 and 1/2, 3/2; the means are 3/4 and 1."""
    graph = network([1, 1, 1, 3], steps(1, 2, 2, 2), u0=[0.5, 0.5, 0.5, 1.5])
    new, notes = shared(graph)
    np.testing.assert_allclose(new.params["lif.theta"][:, 0, 0], [0.75, 1.5, 2, 2])
    np.testing.assert_allclose(new.params["lif.u0"][:, 0, 0], [0.375, 0.75, 1, 1], err_msg="still half of theta")
    off = np.sqrt(np.mean(np.square([0.25, 0.5, 1, 1 / 3])))
    assert notes[0].startswith(
        f"lif: thresholds averaged, off by {off:.1%} (largest 100.0%), start potentials averaged"
    )


def test_leaks_and_start_potentials_are_averaged() -> None:
    graph = network(2.0, alpha=[0.8, 1.0, 0.9, 0.9], u0=[0, 1, 1, 1])
    new, notes = shared(graph)
    np.testing.assert_allclose(new.params["lif.alpha"][:, 0, 0], [0.9] * 4, rtol=1e-6)
    np.testing.assert_allclose(new.params["lif.u0"][:, 0, 0], [0.5, 0.5, 1, 1])
    assert new.params["lif.theta"] is graph.params["lif.theta"]
    assert "leaks averaged, off by 8.0% (largest 12.5%)" in notes[0]
    assert "start potentials averaged, off by 17.7% (largest 25.0%)" in notes[0]


def test_a_neuron_may_be_a_core() -> None:
    graph = network([1, 1, 1, 3], steps(1, 2, 2, 2))
    assert shared(graph, 1) == (graph, [])


def test_thresholds_that_others_read_are_left() -> None:
    b = Builder({"x": (4,)}, 4)
    b("current", "encode", "x")
    b("lif1", "lif", b("d1", "dense", "current", weight=np.eye(4)), alpha=[0.5, 1, 1, 1])
    graph = b.graph(b("out", "decode", "lif1"))
    twin = [*graph.nodes, graph["lif1"].__class__("lif2", "lif", graph["lif1"].inputs, graph["lif1"].attrs)]
    tied = graph.edit([*twin, graph["out"].__class__("end", "decode", ("lif2",))], outputs={"a": "out", "b": "end"})
    new, notes = shared(tied)
    assert new is tied
    assert notes == [f"lif{i}: declined: other neurons read the same thresholds" for i in (1, 2)]


def test_while_weights_are_free_a_core_costs_no_threshold() -> None:
    """Grids in units of thresholds: theta / s is one number in each core, and nothing is left to average."""
    graph = network([1, 2, 4, 3])
    made = QuantizeWeights(bits=8, per="core", core=4).run(graph, Context())
    scale = made.constraints["conv.weight"].scale
    assert scale is not None
    ratio = graph.params["lif.theta"] / scale.reshape(-1)
    np.testing.assert_allclose(ratio[::2], ratio[1::2], rtol=1e-6)
    assert ratio[0] != pytest.approx(ratio[2])
    assert shared(made) == (made, [])
    assert QuantizeWeights(bits=8, per="core", core=4).run(made, Context()) is made


def test_dividing_a_neuron_by_a_number_changes_none_of_its_spikes() -> None:
    """The algebra of the module, on powers of two."""
    graph = network([1, 2, 4, 3], u0=[0.5, 1, 2, 1])
    by = np.array([1, 2, 4, 8], np.float32)
    scaled = graph.edit(
        params={
            "conv.weight": graph.params["conv.weight"] / by.reshape(-1, 1, 1, 1),
            **{f"lif.{role}": graph.params[f"lif.{role}"] / by for role in ("theta", "u0")},
        }
    )
    x = integers(graph, 6)
    spikes, again = (run(g, x)["out_out"] for g in (graph, scaled))
    assert spikes.any()
    np.testing.assert_array_equal(spikes, again)


def test_impossible_core() -> None:
    with pytest.raises(PipelineError, match="'share-thresholds' cannot work with core=0"):
        ShareThresholds(0)


def test_golden_share_thresholds(golden: Golden) -> None:
    graph = network([1, 1, 1, 3], steps(1, 2, 2, 2))
    new, notes = shared(graph)
    golden("\n".join([to_text(graph), to_text(new), *notes, str(new.params["lif.theta"].tolist())]) + "\n")
