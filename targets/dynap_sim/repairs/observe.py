"""What a host sees of a running chip: the spikes of its neurons, counted, and what its own read-out makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snnc.ir import WIRING, Graph
from snnc.score import Score
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.device import advance
from snnc.train.readout import readout


@dataclass(frozen=True, eq=False)
class Observed:
    """One batch as the host sees it.

    Attributes:
        counts: spikes [N, ...] by layer of neurons; asking for those of a layer costs its events.
        read: what the read-out reads, the decoded counts [N, K] of all neurons that it listens to.
        scores: the output before any softmax, [N, ...], as the read-out was compiled.
        values: all that is known at the end, by node name: what was decoded, and what the host made of it.
        shown: the layers that the read-out listens to, whose spikes leave the chip anyway.
    """

    counts: dict[str, Tensor]
    read: Tensor
    scores: Tensor
    values: Mapping[str, Tensor]
    shown: tuple[str, ...]

    @property
    def events(self) -> int:
        """Spikes of all neurons."""
        return sum(int(count.sum()) for count in self.counts.values())

    @property
    def shown_events(self) -> int:
        """Spikes of the neurons that the read-out listens to."""
        return sum(int(self.counts[layer].sum()) for layer in self.shown)


class Observer:
    """Runs batches on a chip and watches its spikes."""

    def __init__(self, chip: DynapChip, score: Score) -> None:
        """Of this chip, whose outputs are judged by `score`.

        Raises:
            PipelineError: the network has several outputs.
        """
        self.chip, self.graph = chip, chip.graph
        self.input = next(iter(self.graph.inputs))
        self.scores = readout(self.graph, score)
        self._decodes = [node.name for node in self.graph.nodes if node.op == "decode"]
        self.shown = tuple(dict.fromkeys(layer for name in self._decodes for layer in _neurons(self.graph, name)))

    def __call__(self, x: Tensor, stream: int) -> Observed:
        """Run inputs x [N, ...] through all steps; `stream` numbers the batch, so that equal calls see equal noise."""
        with torch.no_grad():
            stepper = self.chip.device.stepper({self.input: x}, stream)
            for _ in advance(stepper, self.graph.steps, counting=True):
                pass
            (values,) = self.chip.device.read_out(stepper, {self.input: x})
            read = torch.cat([values[name].flatten(1) for name in self._decodes], 1)
            return Observed(dict(stepper.count), read, values[self.scores], values, self.shown)


def _neurons(graph: Graph, name: str) -> list[str]:
    """The layers of neurons that a decode listens to, through wiring and pools of spikes."""
    node = graph[name]
    if node.op == "lif":
        return [name]
    if node.op not in ("decode", "concat", "maxpool", *WIRING):
        return []
    return [layer for value in graph.values(node) if value in graph for layer in _neurons(graph, value)]
