"""snnc: compile a trained network from an ONNX file into a spiking network for neuromorphic hardware."""

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
