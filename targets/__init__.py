"""The targets; a new one is one line here."""

from snnc.spec import Registry
from snnc.target import Target

from .dynap_sim import DynapSim

TARGETS: Registry[Target] = Registry("snnc.targets", "target", {"dynap-sim": DynapSim})

__all__ = ["TARGETS", "DynapSim"]
