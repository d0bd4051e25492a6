"""What a network is at every stage of its compilation: nodes, types, constraints, text."""

from .draft import OFF, Draft, stands_for
from .graph import Array, Attr, Constraint, Graph, Kind, Node, Shape, Stage, TensorType
from .ops import CURVES, LINEAR, NAME, OPS, WEIGHTED, WIRING, attr_ints, roles
from .parts import LAYERS, between_layers, chained, earlier_than, front, last_read, later_than, params_of, steady
from .streams import Samples
from .text import parse, to_text
from .verify import verify

__all__ = [
    "CURVES",
    "LAYERS",
    "LINEAR",
    "NAME",
    "OFF",
    "OPS",
    "WEIGHTED",
    "WIRING",
    "Array",
    "Attr",
    "Constraint",
    "Draft",
    "Graph",
    "Kind",
    "Node",
    "Samples",
    "Shape",
    "Stage",
    "TensorType",
    "attr_ints",
    "between_layers",
    "chained",
    "earlier_than",
    "front",
    "last_read",
    "later_than",
    "params_of",
    "parse",
    "roles",
    "stands_for",
    "steady",
    "to_text",
    "verify",
]
