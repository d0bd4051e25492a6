"""The learning rules, one file each; a new one is one line here."""

from snnc.pipeline import Pass
from snnc.spec import Registry

from .ltl import LTL
from .trainer import Trainer

TRAINERS: Registry[Pass] = Registry("snnc.trainers", "trainer", {"ltl": LTL})

__all__ = ["LTL", "TRAINERS", "Trainer"]
