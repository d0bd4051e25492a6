"""Placement on cores and chips: how many cores spikes are sent to, against filling in order and at random.

    python benchmarks/placement.py [--networks NAME ...] [--methods NAME ...] [--samples 200] [--apart]
    python benchmarks/placement.py --published [--samples 200]

For every network, with expected spikes measured on training samples: core broadcasts (spikes times destination cores)
and hops between chips per inference, of neurons placed at random, layer after layer in raster order, and by snnc; the
processor time that takes, and the walls that break. In order, cores often listen to more sources than there are tags
before they are full; a row shows what that order costs without this wall, and `below in order` is below the cheaper.

The digits example always; MNIST and Fashion-MNIST models, before training, where
SNNC_MODELS and SNNC_DATA are set; `conv100k`, a network of 102,336 neurons with up to 64 connections each, weights
and rates drawn. `--methods greedy mtkahypar` adds the partitioner of the extra `placement`. What breaks no wall is
replayed, and must deliver exactly the netlist.

`--published`: two examples of 4 chips, `digits` on cores of 128 neurons and `conv3k` (drawn, 3,264 neurons), and the
methods of `benchmarks/mappers.py` beside ours, by broadcasts, hops, energy in uJ (profile se2), and what those methods
minimize (spikes over synapses between cores, each for itself), relative to PACMAN's filling in order. SNEAP's needs
`pip install pymetis`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import snnc
from benchmarks import mappers
from benchmarks.conversion import MODELS, OUTPUTS, fitted
from snnc import data
from snnc.ir import Array, Attr, Constraint, Graph, Node, Stage, TensorType
from snnc.targets import DynapSim
from snnc.targets.dynap_sim import place
from snnc.targets.dynap_sim.energy import Expense
from snnc.targets.dynap_sim.mapping import (
    Mapping,
    Mesh,
    Netlist,
    expected_spikes,
    map_neurons,
    netlist,
    traffic,
    violations,
)
from snnc.targets.dynap_sim.mapping.mapping import in_rows
from snnc.targets.dynap_sim.mapping.partition import fill
from snnc.targets.dynap_sim.mapping.refine import Walls
from snnc.targets.dynap_sim.profile import load_profile
from snnc.train import Trainer

EXAMPLES = Path(__file__).parents[1] / "examples"
NETWORKS = (
    "digits",
    "mnist_lenet_residual_torch13",
    "mnist_cnn_bn_torch20_op16",
    "fashion_cnn_torch13",
    "mnist_cntk_op12",
    "conv100k",
)
FAN_IN, STEPS = 64, 16
UNLIMITED = "in order, any tags"
Group: TypeAlias = dict[str, Array] | None


@dataclass(frozen=True)
class Row:
    """One way to place one network.

    Attributes:
        broadcasts, hops: per inference.
        seconds: of processor time.
        broken: walls that break, layer by layer.
    """

    method: str
    broadcasts: float
    hops: float
    cores: int
    chips: int
    seconds: float
    broken: tuple[str, ...]


def rows(nets: Netlist, mesh: Mesh, methods: list[str], group: Group) -> list[Row]:
    """Placed at random, in order, in order as if tags were unlimited, and by every method; each replayed."""
    found = []
    for method in ("random", "in order", UNLIMITED, *methods):
        start = time.process_time()
        made = placed_by(method, nets, mesh, group)
        seconds = time.process_time() - start
        cost, broken = traffic(nets, made), violations(nets, made)
        if not broken and (wrong := made.check(nets)):
            raise AssertionError(f"{method} delivers wrongly: {wrong[0]}")
        why = tuple(problem.message for problem in broken)
        found.append(Row(method, cost.broadcasts, cost.hops, len(cost.cores), cost.chips, seconds, why))
    return found


def placed_by(method: str, nets: Netlist, mesh: Mesh, group: Group) -> Mapping:
    """The mapping that one row is about."""
    if method == "random":
        return shuffled(nets, mesh, group)
    if method == UNLIMITED:
        return replace(map_neurons(nets, replace(mesh, tag_bits=32), "sequential", group), mesh=mesh)
    return map_neurons(nets, mesh, "sequential" if method == "in order" else method, group)


def shuffled(nets: Netlist, mesh: Mesh, group: Group) -> Mapping:
    """Neurons on cores in a random order; inside each group, where there are groups."""
    order, kinds = np.random.default_rng(0).permutation(nets.neurons), None
    if group is not None:
        kinds = np.concatenate([array.reshape(-1) for array in group.values()])
        order = order[np.argsort(kinds[order], kind="stable")]
    walls = Walls(mesh.neurons_per_core, mesh.tags)
    return in_rows(nets, mesh, fill(nets.hypergraph(nets.spikes), order, walls, kinds))


def layers(nets: Netlist) -> dict[str, Array]:
    """Every layer as a group of its own."""
    return {name: np.full(shape, i) for i, (name, shape) in enumerate(nets.layers.items())}


def compiled(name: str, samples: int) -> Netlist | None:
    """A real network as dynap-sim{levels=symmetric reset=subtract} leaves it untrained; None without its files."""
    if name == "digits":
        graph, images = snnc.load(EXAMPLES / "digits_cnn.onnx"), data.load(EXAMPLES / "digits.npz")
    else:
        folders = [os.environ.get(folder) for folder in ("SNNC_MODELS", "SNNC_DATA")]
        if None in folders:
            return None
        graph = snnc.load(f"{folders[0]}/{name}.onnx", outputs=OUTPUTS.get(name, ()))
        where, scaling = MODELS[name]
        images = data.load(f"{folders[1]}/{where}.npz", scaling=scaling, train_samples=1000)
        [kind] = graph.inputs.values()
        images = replace(images, train=replace(images.train, raw=fitted(images.train.raw, kind.shape)))
    lowering = [
        p
        for p in DynapSim(steps=STEPS, fan_in=FAN_IN, levels="symmetric", reset="subtract").pipeline().passes
        if not isinstance(p, Trainer)
    ]
    images = replace(images, validation=images.train.take(1), test=images.train.take(1))  # nothing is judged here
    snn, _ = snnc.Pipeline(*lowering)(graph, data=images)
    placed = place(snn)
    return netlist(placed, expected_spikes(placed, images.train.x()[:samples]))


def synthetic(side: int = 58) -> Netlist:
    """Six convolutions of 3 x 3 on images of `side` x `side`, with 64 connections as `limit-fan-in` leaves them.

    Rates are drawn from an exponential distribution: few neurons send most spikes.
    """
    rng = np.random.default_rng(0)
    channels, strides = (1, 8, 8, 16, 16, 32, 64), (1, 1, 2, 1, 2, 1)
    nodes = [Node("current", "encode", ("image",), {"code": "direct"})]
    params: dict[str, Array] = {}
    constraints: dict[str, Constraint] = {}
    at = "current"
    for i, stride in enumerate(strides):
        shape = (channels[i + 1], channels[i], 3, 3)
        weight = rng.choice([-3, -2, -1, 1, 2, 3], shape)
        mask = np.argsort(np.argsort(rng.random((shape[0], shape[1] * 9)), axis=1), axis=1) < FAN_IN
        params[f"w{i}"] = np.asarray(weight * mask.reshape(shape), np.float32)
        constraints[f"w{i}"] = Constraint(4, np.ones((), np.float32), mask.reshape(shape))
        window: dict[str, Attr] = {"strides": (stride,) * 2, "pads": (1,) * 4, "dilations": (1, 1), "group": 1}
        nodes.append(Node(f"conv{i}", "conv", (at, f"w{i}"), window))
        own = {"alpha": 1.0, "theta": 8.0, "u0": 4.0}
        params |= {f"lif{i}.{role}": np.asarray(value, np.float32) for role, value in own.items()}
        at = f"lif{i}"
        nodes.append(Node(at, "lif", (f"conv{i}", *(f"{at}.{role}" for role in own)), {"reset": "subtract"}))
    nodes.append(Node("count", "decode", (at,)))
    image = {"image": TensorType("analog", (1, side, side))}
    empty = Graph(image, (), {}, {}, Stage.CONSTRAINED, STEPS)
    placed = place(empty.edit(nodes, params=params, constraints=constraints, outputs={"y": "count"}))
    rates = {n.name: rng.exponential(1.0, n.type.shape) for n in placed.nodes if n.op == "lif"}
    return netlist(placed, {**rates, "current": np.zeros((1, side, side))})


PUBLISHED = """Published, each in a set-up of its own: SpiNeMap 45 % less energy and 21 % less latency (DYNAP-SE);
SNEAP 23 % less energy and 51 % less latency than SpiNeMap."""


def published(samples: int) -> None:
    """The examples of 4 chips."""
    digits = compiled("digits", samples)
    assert digits is not None
    examples = {
        "digits": (digits, Mesh(chips=4, neurons_per_core=128)),
        "conv3k": (synthetic(10), Mesh(chips=4)),
    }
    chip = load_profile("se2")
    print("| network | neurons, chips | method | core broadcasts | hops | energy | cut synapses | walls |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (nets, mesh) in examples.items():
        base: tuple[float, ...] = ()
        for method, place_by in METHODS.items():
            try:
                made = place_by(nets, mesh)
            except ImportError as error:
                print(f"| `{name}` | | {method}: left out, {error} | | | | | |")
                continue
            cost, broken = traffic(nets, made), violations(nets, made)
            energy = 1e6 * Expense.of(cost, chip, STEPS).energy
            found = cost.broadcasts, cost.hops, energy, mappers.cut(nets, made.cores)
            base = base or found
            shown = [f"{value:,.4g} ({value / first - 1:+.0%})" for value, first in zip(found, base, strict=True)]
            held = f"{len(broken)} broken" if broken else "held"
            about = f"`{name}` | {nets.neurons:,}, {cost.chips} | {method}"
            print(f"| {about} | {' | '.join(shown)} | {held} |", flush=True)
    print(PUBLISHED)


METHODS: dict[str, Callable[[Netlist, Mesh], Mapping]] = {
    "PACMAN": lambda nets, mesh: placed_by(UNLIMITED, nets, mesh, None),
    "SpiNeMap": mappers.spinemap,
    "SNEAP": mappers.sneap,
    "greedy (ours)": map_neurons,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", default=["greedy"])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--apart", action="store_true", help="layers on cores of their own")
    parser.add_argument("--published", action="store_true", help="4 chips, and methods in the manner of published ones")
    given = parser.parse_args(arguments)
    if given.published:
        published(given.samples)
        return
    print("| network | neurons | chips | placed | core broadcasts | below in order | hops | seconds | walls |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.networks:
        nets = synthetic() if name == "conv100k" else compiled(name, given.samples)
        if nets is None:
            print(f"{name}: left out, SNNC_MODELS and SNNC_DATA are not set")
            continue
        found = rows(nets, Mesh(), given.methods, layers(nets) if given.apart else None)
        in_order = min(row.broadcasts for row in found if row.method in ("in order", UNLIMITED))
        for i, row in enumerate(found):
            about = f"`{name}` | {nets.neurons:,}" if i == 0 else " | "
            less = f"{1 - row.broadcasts / in_order:.0%}" if in_order else ""
            broken = f"{len(row.broken)} broken" if row.broken else "held"
            sent = f"{row.broadcasts:,.0f} | {less} | {row.hops:,.0f}"
            print(f"| {about} | {row.chips} | {row.method} | {sent} | {row.seconds:.1f} | {broken} |", flush=True)
            for why in row.broken:
                print(f"    {why}")


if __name__ == "__main__":
    main()
