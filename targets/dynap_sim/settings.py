"""What programmed devices are set to: kept, set again, and rewired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from snnc.errors import ArtifactError
from snnc.ir import Array, Graph, roles

from .answers import host_params
from .device import Device
from .learning import Block

WORDS = "@words"
"""Behind the name of a weight: which of its connections a device has words for, if others than the artifact says."""


@dataclass(frozen=True, eq=False)
class Settings:
    """Of devices, one or several side by side.

    Attributes:
        graph: the placed network, as the artifact has it.
        device: their parts.
        block: their learning block.
    """

    graph: Graph
    device: Device
    block: Block

    def stored(self, k: int = 0) -> dict[str, Array]:
        """The registers of device k; and what is not as the artifact says: connections, thresholds and the host's
        read-out; by param.
        """
        registers = self.block.registers
        set_to = {name: self.device.nominal[name].chunk(self.device.copies)[k] for name in self._thresholds()}
        now = {name: value.cpu().numpy().copy() for name, value in set_to.items()}
        now |= {name: self.device.hosts[k][name].cpu().numpy() for name in host_params(self.graph)}
        found = {n: r.of(r.stored, k).cpu().numpy().copy() for n, r in registers.items()}
        found |= {name: value for name, value in now.items() if not np.array_equal(value, self.graph.params[name])}
        return found | {f"{name}{WORDS}": mask for name, mask in self.moved(k).items()}

    def moved(self, k: int = 0) -> dict[str, Array]:
        """The connections that device k has words for, by the weights that have others than the artifact says."""
        wired = {name: register.connected(k) for name, register in self.block.registers.items()}
        return {name: mask for name, mask in wired.items() if not np.array_equal(mask, self._words(name))}

    def program(self, stored: Mapping[str, Array], k: int = 0) -> None:
        """Set device k to what `stored` said.

        Raises:
            ArtifactError: this chip cannot be set to that.
        """
        for name, register in self.block.registers.items():
            if not self.rewire(name, stored.get(f"{name}{WORDS}", self._words(name)), k):
                raise ArtifactError(f"the state has no fitting '{name}{WORDS}'")
            if name not in stored or not register.restore(stored[name], k):
                raise ArtifactError(f"the state has no fitting '{name}'")
            self.block.program(name)
        thresholds = self._thresholds()
        for name in (*thresholds, *host_params(self.graph)):
            start = self.graph.params[name]
            value = stored.get(name, start)
            fits = value.shape == start.shape and value.dtype == np.float32 and np.isfinite(value).all()
            if not fits or (name in thresholds and (value <= 0).any()):
                raise ArtifactError(f"the state has no fitting '{name}'")
            if name in thresholds:
                parts = list(self.device.nominal[name].chunk(self.device.copies))
                parts[k] = torch.tensor(value, device=parts[k].device)
                self.device.nominal[name] = torch.cat(parts)
            else:
                self.device.hosts[k][name] = torch.tensor(value, device=self.device.hosts[k][name].device)

    def rewire(self, name: str, mask: Array, k: int = 0) -> bool:
        """Give the words of device k to those connections of a weight that `mask` says, unless a neuron had more or
        fewer of them then. What is new stores 0; what a word is worth stays with it.

        Raises:
            TargetError: connections of several neurons share what mismatch makes of them.
        """
        register, before = self.block.registers[name], self._words(name)
        if np.array_equal(mask, register.connected(k)):
            return True
        if not register.rewire(mask, k):
            return False
        on = self.device.nominal[name].device
        gone, come = (torch.tensor(part, device=on) for part in (before & ~mask, mask & ~before))
        self.device.move(name, gone, come, k)
        self.block.program(name)
        return True

    def _words(self, name: str) -> Array:
        """The connections of a param that the artifact has words for."""
        mask = self.graph.constraints[name].mask
        return np.ones(self.graph.params[name].shape, bool) if mask is None else mask

    def _thresholds(self) -> tuple[str, ...]:
        return tuple(roles(node, self.graph.params)["theta"] for node in self.graph.nodes if node.op == "lif")
