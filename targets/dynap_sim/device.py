r"""One simulated mixed-signal device: what mismatch made of the placed network, and its noise while it runs.

Frozen per device, drawn once per physical part from the device's seed (sigma = `mismatch`):

    synapse      w  -> w * (1 + sigma * N)            (LTL section 3.4; Buechel et al. 2021)
    bias         b  -> b * (1 + sigma * N)
    threshold    theta -> max(|theta * (1 + sigma * N)|, theta / 10)
    leak (LIF)   tau -> |tau * (1 + sigma * N)|, that is alpha -> alpha ** (tau / tau')

Mismatch multiplies what is realised, after quantization, and so also the effect of every update. At every step:
thermal noise on the summed current, I -> I * (1 + thermal * N), and the neurons that are silenced stay silent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from snnc.ir import WEIGHTED, Array, Graph, Node, roles
from snnc.sim.stepper import Disturb, Stepper
from snnc.sim.torch import tensors


class Device:
    """The physical parts of one chip with the placed network on them.

    Attributes:
        graph: the placed network.
        nominal: what the parts are set to, by param name; learning changes it.
        factor: what mismatch makes of every weight and bias: realised = nominal * factor.
    """

    def __init__(
        self, graph: Graph, seed: int, mismatch: float, thermal: float, silencing: float, device: str = "cpu"
    ) -> None:
        self.graph, self.seed, self.thermal = graph, seed, thermal
        self.nominal = tensors(graph, device)
        self.factor: dict[str, Tensor] = {}
        self._device = device
        self._fixed: dict[str, Tensor] = {}
        for node in graph.nodes:
            if node.op in WEIGHTED and node.type.kind == "current":
                for name in roles(node, graph.params).values():
                    spread = 1 + mismatch * self._normal(name, graph.params[name].shape)
                    self.factor[name] = torch.tensor(spread, device=device)
            elif node.op == "lif":
                self._fixed |= self._neurons(node, mismatch)
        self.silent = {n.name: self._silenced(n, silencing) for n in graph.nodes if n.op == "lif" and silencing > 0}

    def params(self) -> dict[str, Tensor]:
        """What the parts really do, by param name."""
        realised = {name: self.nominal[name] * factor for name, factor in self.factor.items()}
        return {**self.nominal, **self._fixed, **realised}

    def stepper(self, x: Mapping[str, Tensor], stream: int) -> Stepper:
        """Start on a batch; `stream` numbers it, so that equal calls see equal noise."""
        disturb: dict[str, Disturb] = {}
        if self.thermal > 0:
            noise = torch.Generator(self._device).manual_seed(int(_rng(self.seed, f"thermal {stream}").integers(2**62)))

            def heated(node: Node, current: Tensor) -> Tensor:
                normal = torch.randn(current.shape, generator=noise, device=current.device)
                return current * (1 + self.thermal * normal)

            disturb["current"] = heated
        if self.silent:
            disturb["spikes"] = lambda node, spikes: spikes * self.silent[node.name]
        return Stepper(self.graph, self.params(), x, disturb)

    def _neurons(self, node: Node, mismatch: float) -> dict[str, Tensor]:
        names = roles(node, self.graph.params)
        theta, alpha = (self.graph.params[names[role]] for role in ("theta", "alpha"))
        drawn = np.abs(theta * (1 + mismatch * self._normal(names["theta"], theta.shape)))
        slower = np.abs(1 + mismatch * self._normal(names["alpha"], alpha.shape)).clip(0.1)
        made = {names["theta"]: np.maximum(drawn, theta / 10), names["alpha"]: alpha ** (1 / slower)}
        return {name: torch.tensor(np.asarray(value, np.float32), device=self._device) for name, value in made.items()}

    def _silenced(self, node: Node, share: float) -> Tensor:
        alive = _rng(self.seed, f"silent {node.name}").random(node.type.shape) >= share
        return torch.tensor(alive, dtype=torch.float32, device=self._device)

    def _normal(self, name: str, shape: tuple[int, ...]) -> Array:
        return _rng(self.seed, name).standard_normal(shape, np.float32)


def _rng(seed: int, name: str) -> np.random.Generator:
    """A stream of its own for every part of every device."""
    return np.random.default_rng([seed, *name.encode()])
