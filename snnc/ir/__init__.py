"""What a network is at every stage of its compilation: nodes, types, constraints, text."""

from .graph import Array, Attr, Constraint, Graph, Kind, Node, Shape, Stage, TensorType
from .ops import CURVES, LINEAR, NAME, OPS, WEIGHTED, WIRING, attr_ints, roles
from .text import parse, to_text
from .verify import verify

__all__ = [
    "CURVES",
    "LINEAR",
    "NAME",
    "OPS",
    "WEIGHTED",
    "WIRING",
    "Array",
    "Attr",
    "Constraint",
    "Graph",
    "Kind",
    "Node",
    "Shape",
    "Stage",
    "TensorType",
    "attr_ints",
    "parse",
    "roles",
    "to_text",
    "verify",
]
