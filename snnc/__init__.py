"""snnc: compile a trained network from an ONNX file into a spiking network for neuromorphic hardware."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data, passes, targets, train
    from .api import Build, build, check, compile, load, open, simulate
    from .artifact import Bundle
    from .errors import SnncError
    from .feasibility import Check
    from .ir import Constraint, Graph, Node, Stage, TensorType, parse, to_text, verify
    from .pipeline import Context, Pass, Pipeline
    from .report import Ledger, Row
    from .target import Artifact, Chip, Limits, Target

__all__ = [
    "Artifact",
    "Build",
    "Bundle",
    "Check",
    "Chip",
    "Constraint",
    "Context",
    "Graph",
    "Ledger",
    "Limits",
    "Node",
    "Pass",
    "Pipeline",
    "Row",
    "SnncError",
    "Stage",
    "Target",
    "TensorType",
    "build",
    "check",
    "compile",
    "data",
    "load",
    "open",
    "parse",
    "passes",
    "simulate",
    "targets",
    "to_text",
    "train",
    "verify",
]

_HOMES = {
    "api": ("Build", "build", "check", "compile", "load", "open", "simulate"),
    "artifact": ("Bundle",),
    "errors": ("SnncError",),
    "feasibility": ("Check",),
    "ir": ("Constraint", "Graph", "Node", "Stage", "TensorType", "parse", "to_text", "verify"),
    "pipeline": ("Context", "Pass", "Pipeline"),
    "report": ("Ledger", "Row"),
    "target": ("Artifact", "Chip", "Limits", "Target"),
}
"""Module -> the public names that it holds."""

_MODULES = {*_HOMES, "data", "importer", "passes", "sim", "spec", "targets", "train", "trial"}


def __getattr__(name: str) -> Any:
    """Loaded when asked for (PEP 562): the process that reads models needs neither torch nor the rest."""
    for module, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = found
            return found
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
