"""The converters of others, as benchmarks/peers.py uses them: what each is given, and how it is run.

Its columns are described there. Nothing here imports a peer before it is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import snnc
from benchmarks.twin import Twin, pools_before_relus, twin
from snnc.data import Data
from snnc.ir import Array
from snnc.pipeline import single
from snnc.sim import torch as executor

BATCH = 100


@dataclass(frozen=True, eq=False)
class Case:
    """A network and what it is calibrated and judged on."""

    name: str
    graph: snnc.Graph
    samples: Data

    @property
    def calibration(self) -> Tensor:
        """The training images, scaled, [N, ...]."""
        return torch.from_numpy(self.samples.train.x())

    def known(self, scores: Array) -> Array:
        """Which test images have their label as the largest of scores [N, classes], bool [N]."""
        return np.asarray(scores.argmax(axis=1) == self.samples.test.labels)

    def right(self, graph: snnc.Graph) -> Array:
        """Which test images a graph knows, bool [N]."""
        return self.known(single(executor.run(graph, {next(iter(graph.inputs)): self.samples.test.x()})))


@dataclass(frozen=True)
class Converted:
    """What a peer made: scores [N, classes] of one more step of x [N, ...], and how to begin anew.

    Attributes:
        wait: by T, the steps before the read-out begins.
    """

    step: Callable[[Tensor], Tensor]
    reset: Callable[[], Any]
    wait: Callable[[int], int] = lambda steps: 0


def spikingjelly(case: Case, kind: str, **options: Any) -> Converted:
    """The network by one of SpikingJelly's recipes."""
    ann2snn, functional = (peer(f"spikingjelly.activation_based.{part}") for part in ("ann2snn", "functional"))
    batches = case.calibration.split(BATCH)
    recipe = getattr(ann2snn, kind)(dataloader=batches, **options)
    net = ann2snn.Converter(recipe=recipe).convert(_twin(case)).eval()
    return Converted(net, partial(functional.reset_net, net), partial(_wait, ann2snn, net, batches))


def _wait(ann2snn: Any, net: nn.Module, batches: Sequence[Tensor], steps: int) -> int:
    return int(ann2snn.estimate_delay_start(net, batches, "cpu", steps, num_batches=len(batches)))


def sinabs_plain(case: Case) -> Converted:
    """The network as it is, by Sinabs' defaults."""
    return _from_model(_twin(case))


def sinabs_normalized(case: Case) -> Converted:
    """The network after Sinabs' own normalize_weights, by its default percentile.

    Raises:
        ValueError: the network adds: normalize_weights knows one layer per activation, and scales branches apart.
    """
    net = _twin(case)
    if any(len(line.reads) > 1 for line in net.lines):
        raise ValueError("normalize_weights would scale the branches of an add apart")
    weighted, pairs = "", []
    for line in net.lines:
        module = getattr(net, line.module, None)
        if isinstance(module, nn.Conv2d | nn.Linear):
            weighted = line.module
        elif isinstance(module, nn.ReLU):
            pairs.append((line.module, weighted))
    outputs, params = map(list, zip(*pairs, strict=True))
    peer("sinabs.utils").normalize_weights(net, case.calibration, outputs, params)
    return _from_model(net)


def sinabs_channels(case: Case, spikes: str, early: bool) -> Converted:
    """The network with every channel of every relu scaled by a percentile; `early`: max pools before neurons."""
    graph = pools_before_relus(case.graph) if early else case.graph
    net = twin(graph, case.samples.train.x(slice(BATCH)))
    for name, level in levels(net, case.calibration).items():
        setattr(net, name, nn.Sequential(Times(1 / level), nn.ReLU(), Times(level)))
    return _from_model(net, spike_fn=getattr(peer("sinabs.activation"), spikes))


class Times(nn.Module):
    """x [N, C, ...] times one factor per channel [C]."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, ...]."""
        return x * executor.per_channel(self.factor, x.ndim - 1)


def levels(net: Twin, x: Tensor, percentile: float = 99) -> dict[str, Tensor]:
    """By the name of every relu module: that percentile of every channel [C] over samples x [N, ...], or 1 for 0."""
    found: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> None:
        level = np.percentile(made.movedim(1, 0).flatten(1).numpy(), percentile, axis=1)
        found[name] = torch.tensor(np.where(level > 0, level, 1), dtype=torch.float32)

    hooks = [m.register_forward_hook(partial(look, n)) for n, m in net.named_children() if isinstance(m, nn.ReLU)]
    with torch.inference_mode():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def _from_model(net: nn.Module, **options: Any) -> Converted:
    made = peer("sinabs.from_torch").from_model(net, num_timesteps=1, **options)
    return Converted(made, made.reset_states)


def _twin(case: Case) -> Twin:
    return twin(case.graph, case.samples.train.x(slice(BATCH)))


def peer(module: str) -> Any:
    """A module of a peer; ends the benchmark where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"no {module} ({error}): pip install '.[peers]', or pip install spikingjelly sinabs")


CHANNELS = {"channel_wise": True, "half_threshold": True, "pre_spike_maxpool": True}
PEERS: Mapping[str, Callable[[Case], Converted]] = {
    "SJ layer": partial(spikingjelly, kind="RateCodingRecipe", mode="99.9%"),
    "SJ channel": partial(spikingjelly, kind="RateCodingRecipe", mode="99.9%", **CHANNELS),
    "SJ 99%": partial(spikingjelly, kind="RateCodingRecipe", mode="99%", **CHANNELS),
    "SJ LTB": partial(spikingjelly, kind="LocalThresholdBalancingRecipe"),
    "Si channel": partial(sinabs_channels, spikes="SingleSpike", early=False),
    "Si pool": partial(sinabs_channels, spikes="SingleSpike", early=True),
    "Si plain*": sinabs_plain,
    "Si norm*": sinabs_normalized,
    "Si chan.*": partial(sinabs_channels, spikes="MultiSpike", early=False),
    "Si pool*": partial(sinabs_channels, spikes="MultiSpike", early=True),
}
