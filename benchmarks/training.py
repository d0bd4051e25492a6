"""Training speed: milliseconds and bytes saved for backward of one update, beside the same rule of others.

    python benchmarks/training.py [--steps 4 8 16 32] [--rounds 5] [--batch 16] [--width 32] [RULE ...]

The network is a VGG-11 for images of 32 x 32 (average pools, no biases, IF neurons, direct encoding), `--width`
channels in its first layer, 64 in the original. Weights and images are random, thresholds the 95 percentile's, start
potentials half of them: about one neuron in six fires at a step, in every layer and at every T. Weights, thresholds
and images lie on dyadic grids, where sums in float32 are exact: all sides see the very same spikes. Before anything
is timed, the gradients of both sides are compared.

Peers: SJ is SpikingJelly 2.0 (benchmarks/training_spikingjelly.py; pip install ".[peers]", left out where it is not
installed), textbook the paper's equations in plain autograd (benchmarks/training_peers.py). One thread. Both sides take
turns, round by round; a time is the processor's, so that other jobs count little; times are medians over the rounds,
ratios medians of each round's own. An update is the gradients of one batch, teacher included; the optimizer's step, the
same on both sides, is not. Bytes are those of benchmarks/memory.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.memory import Saved
from benchmarks.training_peers import TEXTBOOK, Case, Gradients, Update
from benchmarks.training_spikingjelly import SPIKINGJELLY
from snnc import spec
from snnc.data import Data, Split
from snnc.ir import Array, Attr, Graph, Node, TensorType, roles
from snnc.passes import ThresholdLayerNorm
from snnc.pipeline import Context, Pipeline
from snnc.sim.torch import exact, tensors
from snnc.train import TRAINERS, Batch
from snnc.train.units import weights_of

RULES = ("bptt", "ltl", "ltl-online", "sltt", "sltt{k=1}", "ottt", "tandem")
STEPS = (4, 8, 16, 32)
CLASSES = 10
LEVELS = 127
"""Weights are integers of at most this size, times a power of two."""
SIDE = 32
ONES: Mapping[str, Attr] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
HALVES: Mapping[str, Attr] = {
    "strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1), "kernel": (2, 2), "count_include_pad": 0
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One rule beside one peer at one T: seconds by round, bytes saved for backward, how alike the gradients are."""

    rule: str
    steps: int
    peer: str
    ours: Sequence[float]
    theirs: Sequence[float]
    bytes: tuple[int, int]
    cosine: float
    apart: float

    def __str__(self) -> str:
        mine = f"| `{self.rule}` | {self.steps} | {1e3 * median(self.ours):.0f} | {self.bytes[0] / 1e6:.1f} "
        if not self.peer:
            return mine + "| - " * 6 + "|"
        ratios = sorted(their / our for our, their in zip(self.ours, self.theirs, strict=True))
        return mine + (
            f"| {self.peer} | {1e3 * median(self.theirs):.0f} | {self.bytes[1] / 1e6:.1f} "
            f"| {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {self.cosine:.6f} | {self.apart:.0e} |"
        )


HEADER = (
    "| rule | T | snnc, ms | snnc, MB | peer | ms | MB | times faster (range) | cosine | relative error |\n"
    f"|{' --- |' * 10}"
)


def vgg11(width: int, seed: int = 0) -> Graph:
    """The analog network, random weights."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    params: dict[str, Array] = {}
    value, inside, side = "image", 3, SIDE
    for number, wide in enumerate((1, 2, 4, 4, 8, 8, 8, 8)):
        if number in (1, 2, 4, 6):
            nodes.append(Node(f"pool{number}", "avgpool", (value,), HALVES))
            value, side = nodes[-1].name, side // 2
        shape = (wide * width, inside, 3, 3)
        params[f"w{number}"] = (rng.normal(size=shape) * np.sqrt(2 / (9 * inside))).astype(np.float32)
        nodes.append(Node(f"conv{number}", "conv", (value, f"w{number}"), ONES))
        nodes.append(Node(f"relu{number}", "relu", (f"conv{number}",)))
        value, inside = nodes[-1].name, wide * width
    flat = inside * side**2
    params["w8"] = (rng.normal(size=(CLASSES, flat)) / np.sqrt(flat)).astype(np.float32)
    nodes += [Node("flat", "reshape", (value,), {"shape": (flat,)}), Node("dense", "dense", ("flat", "w8"))]
    image = {"image": TensorType("analog", (3, SIDE, SIDE))}
    return Graph(image, (), {}, {}).edit(nodes, params=params, outputs={"scores": "dense"})


def on_grid(graph: Graph) -> Graph:
    """A spiking graph whose weights are integers up to `LEVELS`, and thresholds sixteenths, of a power of two."""
    made: dict[str, Array] = {}
    grid = 1.0
    for node in graph.nodes:
        own = roles(node, graph.params)
        if "weight" in own:
            weight = graph.params[own["weight"]]
            grid = float(2.0 ** np.ceil(np.log2(np.abs(weight).max() / LEVELS)))
            made[own["weight"]] = (np.rint(weight / grid) * grid).astype(np.float32)
        if "theta" in own:
            theta = graph.params[own["theta"]]
            made[own["theta"]] = (np.rint(theta / grid * 16).clip(1) * grid / 16).astype(np.float32)
            made[own["u0"]] = made[own["theta"]] / 2
    return graph.edit(params=made)


def case(steps: int, batch: int, width: int) -> Case:
    """The network at T steps and a batch of random images, blocks of 4 x 4 pixels in eighths, with random labels."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 16, (max(batch, 64), 3, SIDE // 4, SIDE // 4))
    x = (blocks.repeat(4, 2).repeat(4, 3) / 8).astype(np.float32)
    split = Split(x, rng.integers(0, CLASSES, len(x)))
    lower = Pipeline(ThresholdLayerNorm(steps=steps, percentile=95))
    graph, _ = lower(vgg11(width), data=Data(split, split.take(2), split.take(2)))
    return Case(on_grid(graph), torch.tensor(x[:batch]), torch.tensor(split.labels[:batch]))


def ours(rule: str, made: Case) -> Update:
    """The gradients of a rule of snnc."""
    graph, units = made.graph, weights_of(made.graph)
    ((name, options),) = spec.split_specs(rule)
    split = Split(made.x.numpy(), made.labels.numpy())
    learn = spec.build(TRAINERS[name], options).learner(graph, Context(Data(split, split, split), graph.teacher))  # type: ignore[attr-defined]
    params = {key: value.requires_grad_(key in units) for key, value in tensors(graph).items()}

    def update() -> Gradients:
        for key in units:
            params[key].grad = None
        with exact():
            learn(Batch(params, made.x, made.labels, np.random.default_rng(0)))
        return {key: grad for key in units if (grad := params[key].grad) is not None}

    return update


def peers(rule: str, made: Case) -> dict[str, Update]:
    """The same rule of others, by name."""
    found = {}
    if rule in SPIKINGJELLY and find_spec("spikingjelly") is not None:
        found["SJ"] = SPIKINGJELLY[rule](made)
    if rule in TEXTBOOK:
        found["textbook"] = TEXTBOOK[rule](made)
    return found


def likeness(one: Gradients, other: Gradients) -> tuple[float, float]:
    """The cosine of all gradients together, and the relative error."""
    a, b = (torch.cat([made[name].flatten().double() for name in sorted(one)]) for made in (one, other))
    return float(torch.cosine_similarity(a, b, 0)), float((a - b).norm() / a.norm())


def saved(update: Update) -> int:
    """Bytes that one update saves for backward, the most at a time."""
    with Saved() as count:
        update()
    return count.peak


def seconds(update: Update) -> float:
    """Of the processor, for one update."""
    start = time.process_time()
    update()
    return time.process_time() - start


def measure(rule: str, made: Case, rounds: int) -> list[Row]:
    """A rule beside all its peers, or alone; everything has run before it is timed."""
    updates = {"": ours(rule, made), **peers(rule, made)}
    gradients = {name: {key: grad.clone() for key, grad in update().items()} for name, update in updates.items()}
    sizes = {name: saved(update) for name, update in updates.items()}
    times: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(rounds):
        for name, update in updates.items():
            times[name].append(seconds(update))
    return [
        Row(
            rule, made.graph.steps, peer, times[""], times[peer], (sizes[""], sizes[peer]),
            *likeness(gradients[""], gradients[peer]),
        )
        for peer in [name for name in updates if name] or [""]
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """One line a rule, T and peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", metavar="RULE", help=f"{' '.join(RULES)} by default")
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"batch of {given.batch}, {given.width} channels in the first layer, {given.rounds} rounds, 1 thread")
    print(HEADER)
    for steps in given.steps:
        made = case(steps, given.batch, given.width)
        for rule in given.rules or RULES:
            for row in measure(rule, made, given.rounds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
