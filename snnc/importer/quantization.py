"""Weights that the model itself keeps as integers (QuantizeLinear / DequantizeLinear pairs): found, followed, kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from snnc.ir import WEIGHTED, Array, Constraint, Graph

CARRIERS = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators behind which a quantized constant still is one."""
BITS: Mapping[str, int] = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int16": 16, "uint16": 16}


@dataclass(frozen=True)
class Grid:
    """The levels of a constant: whole multiples of `step`, one step for all or one per output channel."""

    step: Array
    bits: int


@dataclass
class Quantized:
    """The grids of constants by ONNX name, and of the graph's params."""

    constants: dict[str, Grid] = field(default_factory=dict)
    params: dict[str, Grid] = field(default_factory=dict)

    def learn(self, node: NodeProto, known: Mapping[str, Array]) -> None:
        """Note what `node` says of a constant that it makes."""
        if node.op_type in CARRIERS and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        if node.op_type != "DequantizeLinear" or any(name and name not in known for name in node.input):
            return
        levels, step = known[node.input[0]], known[node.input[1]]
        if levels.dtype.name in BITS and step.dtype.kind == "f" and step.ndim < 2:
            self.constants[node.output[0]] = Grid(step.astype(np.float32).reshape(-1), BITS[levels.dtype.name])

    def constrained(self, graph: Graph) -> tuple[Graph, list[str]]:
        """The graph with a constraint on every weight that lies on its grid, and a note for each that does not."""
        found, notes = {}, []
        for node in graph.nodes:
            if node.op not in WEIGHTED or node.op == "scale" or (grid := self.params.get(node.inputs[1])) is None:
                continue
            weight = graph.params[node.inputs[1]]
            constraint = _constraint(weight, grid)
            if constraint is None:
                notes.append(f"{node.at}: its integer weights are not symmetric around 0, imported as plain numbers")
            else:
                found[node.inputs[1]] = constraint
        return (graph.edit(constraints=found) if found else graph), notes


def _constraint(weight: Array, grid: Grid) -> Constraint | None:
    """None if the weights do not lie on symmetric levels."""
    if grid.step.size not in (1, len(weight)) or not (grid.step > 0).all():
        return None
    shape = () if grid.step.size == 1 else (-1, *[1] * (weight.ndim - 1))
    made = Constraint(bits=grid.bits, scale=grid.step.reshape(shape))
    return made if np.array_equal(made.project(weight), weight) else None
