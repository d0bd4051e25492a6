"""The table of placements, on a small network."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from benchmarks import mappers
from benchmarks.mappers import Synapses, annealed, cut, grown, spinemap, swarm
from benchmarks.placement import main, rows, synthetic
from snnc.ir import Array
from snnc.targets.dynap_sim.mapping import Mapping, Mesh, Netlist, map_neurons, traffic, violations
from tests.targets.mapping.nets import drawn


def test_placed_below_in_order_below_at_random() -> None:
    """A network of at least four chips: 30 % below filling in order, all walls held."""
    nets = synthetic(10)
    found = {row.method: row for row in rows(nets, Mesh(neurons_per_core=64, tag_bits=12), ["greedy"], None)}
    assert found["greedy"].chips >= 4
    assert found["greedy"].broadcasts < 0.7 * found["in order"].broadcasts < 0.7 * found["random"].broadcasts
    assert found["greedy"].broken == ()


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNNC_MODELS", raising=False)
    main(["--networks", "mnist_cntk_op12"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| network | neurons | chips |")
    assert lines[2] == "mnist_cntk_op12: left out, SNNC_MODELS and SNNC_DATA are not set"


# --- in the manner of published methods


def apart(seed: int = 0) -> Netlist:
    """A chain of three layers; half of every layer hears one half of the layer before alone."""
    made = drawn(np.random.default_rng(seed), (40, 40, 40), 10, 6)
    half = (np.arange(130) // 20) % 2
    kept = (half[made.source] == half[made.target]) | (made.source >= 120)
    start = np.concatenate([[0], np.cumsum(np.bincount(made.source[kept], minlength=130))])
    return Netlist(
        made.layers, made.inputs, start, made.target[kept], made.words[kept], made.spikes, made.read, made.at
    )


def test_clusters_are_full_and_cut_less_than_any_order() -> None:
    nets = apart()
    found = grown(Synapses(nets), nets.neurons, 30)
    assert np.bincount(found).tolist() == [30] * 4
    shuffled = np.random.default_rng(0).permutation(found)
    in_order = np.arange(120) // 30
    assert cut(nets, found) < 0.8 * min(cut(nets, in_order), cut(nets, shuffled))


def test_the_cut_counts_every_synapse() -> None:
    nets = apart()
    assert cut(nets, np.zeros(120, int)) == 0
    one = nets.source < 120
    assert cut(nets, np.arange(120)) == pytest.approx((nets.spikes[nets.source] * nets.words)[one].sum())


@pytest.mark.parametrize("placer", [swarm, annealed])
def test_cores_that_talk_get_onto_one_chip(placer: object) -> None:
    """Eight cores in two rings of four, on two chips: no spike needs a hop."""
    flow = np.zeros((8, 8))
    for i in range(8):
        flow[i, (i + 2) % 8] = 5
    hops = (np.arange(8)[:, None] // 4 != np.arange(8) // 4).astype(int)
    slots: Array = placer(flow, hops, np.random.default_rng(1))  # type: ignore[operator]
    assert sorted(slots.tolist()) == list(range(8))
    assert (flow * hops[np.ix_(slots, slots)]).sum() == 0
    np.testing.assert_array_equal(slots, placer(flow, hops, np.random.default_rng(1)))  # type: ignore[operator]


def synapse_hops(nets: Netlist, made: Mapping) -> float:
    """Spikes times hops, every synapse for itself."""
    inside = nets.source < nets.neurons
    at = made.xy[made.chip[made.cores]]
    hops = np.abs(at[nets.source[inside]] - at[nets.target[inside]]).sum(axis=1)
    return float(((nets.spikes[nets.source] * nets.words)[inside] * hops).sum())


def test_the_swarm_places_clusters_better_than_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    nets, mesh = apart(), Mesh(chips=4, cores_per_chip=2, neurons_per_core=15)
    made = spinemap(nets, mesh)
    monkeypatch.setattr(mappers, "swarm", lambda flow, hops, rng: np.arange(len(flow)))
    assert synapse_hops(nets, made) < 0.9 * synapse_hops(nets, spinemap(nets, mesh))


def test_ours_is_below_what_published_methods_would_do() -> None:
    nets, mesh = synthetic(10), Mesh(chips=4)
    ours, theirs = traffic(nets, map_neurons(nets, mesh)), traffic(nets, made := spinemap(nets, mesh))
    assert ours.chips == theirs.chips == 4
    assert made.check(nets) == []
    assert violations(nets, made) == []
    assert ours.broadcasts < 0.7 * theirs.broadcasts
    assert ours.hops < theirs.hops


@pytest.mark.skipif(importlib.util.find_spec("pymetis") is None, reason="pymetis is not installed")
def test_no_part_is_too_large() -> None:
    nets = apart()
    assert np.bincount(mappers.multilevel(Synapses(nets), nets.neurons, 25)).max() <= 25


def test_the_published_figures_are_printed_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--published", "--samples", "20"])
    shown = capsys.readouterr().out
    assert shown.count("greedy (ours)") == shown.count("PACMAN |") == 2
    assert "SpiNeMap 45 % less energy" in shown
