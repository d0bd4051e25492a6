"""A host sets the parts of a chip that learn, synapse by synapse, and counts what it had to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from snnc.errors import TargetError
from snnc.ir import Graph
from snnc.targets.dynap_sim.chip import DynapChip

from .contract import SETTING_BYTES, WRITE_BYTES, Traffic


def set_to(chip: DynapChip) -> Graph:
    """The placed network with every part, and the host's read-out, as it is set and wired now."""
    found = {name: replace(chip.graph.constraints[name], mask=mask) for name, mask in chip.settings.moved().items()}
    set_now = {name: value.cpu().numpy().copy() for name, value in chip.device.nominal.items()}
    return chip.graph.edit(params=set_now, constraints=found)


def program(chip: DynapChip, wanted: Mapping[str, Tensor]) -> Traffic:
    """Set synapses and biases to what obeys their constraints; only what changes is written.

    Args:
        wanted: by param name, of the params that have registers; the rest is left out.

    Raises:
        TargetError: a value is no level of its part.
    """
    made = Traffic()
    for name, register in chip.block.registers.items():
        if name not in wanted:
            continue
        before, stored = chip.device.nominal[name].clone(), register.stored.cpu().numpy()
        fits = register.restore(np.asarray(register.standing_for(wanted[name].detach()).cpu().numpy()))
        if not fits or not torch.allclose(register.nominal(), wanted[name].to(before), rtol=1e-5, atol=1e-6):
            register.restore(stored)
            raise TargetError(f"'{name}' cannot be set to these values", hint="project them onto its constraint")
        chip.block.program(name)
        changed = int((chip.device.nominal[name] != before).sum())
        if register.bias:
            made += Traffic(sent=changed * SETTING_BYTES, settings=changed)
        else:
            made += Traffic(sent=changed * WRITE_BYTES, writes=changed)
    return made
