"""Several devices with the same network as one network: K times as many channels, of which no two devices share any.

    value      [C, ...]  ->  [K * C, ...], device after device
    local      `group` groups  ->  K * `group`
    dense      a `local` of K groups with one position: [F] read as [F, 1, 1]
    wiring     the same on [K, C, ...], along axes that are one further behind

So what steps one network steps K of them, in as many calls. It is done for one device too: a product of matrices adds
up in the same order however many stand beside it, so that a device does the same, bit for bit, alone and among others.

What the host computes, before the encoders and behind the decoders, it computes for each device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snnc.errors import TargetError
from snnc.ir import Array, Attr, Constraint, Graph, Node, Shape, TensorType, attr_ints, earlier_than, roles

from .unchain import spread

AS_THEY_ARE = ("encode", "decode", "lif", "scale", "add", "maxpool")
"""Ops that act on channels, each by itself."""
ALONG_AXES = ("transpose", "slice", "pad", "gather", "concat", "expand")
"""Ops with attributes that name axes."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A placed network in three: what the host computes first, what the chip does, what the host makes of its spikes.

    Attributes:
        before: analog, from the inputs to what is encoded.
        chip: from what is encoded to what is decoded.
        after: analog, from what is decoded (and inputs and values of `before` that it reads) to the outputs.
    """

    before: Graph
    chip: Graph
    after: Graph

    @classmethod
    def of(cls, graph: Graph) -> Parts:
        """Cut a placed network.

        Raises:
            TargetError: something is encoded that was decoded before.
        """
        early = earlier_than(graph, "encode")
        nodes: dict[str, list[Node]] = {"before": [], "chip": [], "after": []}
        for node in graph.nodes:
            if node.type.kind != "analog" or node.op == "decode":
                if node.op == "decode" and node.name in early:
                    raise TargetError("what it reads out is encoded again: the chip runs once a sample", at=node.at)
                nodes["chip"].append(node)
            else:
                nodes["before" if node.name in early else "after"].append(node)
        late = {node.name for node in nodes["after"]}
        wanted = [name for node in nodes["after"] for name in graph.values(node)] + list(graph.outputs.values())
        given = [name for name in dict.fromkeys(wanted) if name not in late]
        encoded = [node.inputs[0] for node in nodes["chip"] if node.op == "encode"]
        decoded = [node.name for node in nodes["chip"] if node.op == "decode"]
        chip = replace(_empty(graph, encoded), stage=graph.stage, steps=graph.steps)
        return cls(
            _part(_empty(graph, list(graph.inputs)), graph, nodes["before"], [*encoded, *given]),
            _part(chip, graph, nodes["chip"], decoded),
            _part(_empty(graph, given), graph, nodes["after"], list(graph.outputs.values())),
        )


def _empty(graph: Graph, inputs: list[str]) -> Graph:
    return Graph({name: TensorType("analog", graph.type(name).shape) for name in inputs}, (), {}, {})


def _part(start: Graph, graph: Graph, nodes: list[Node], outputs: list[str]) -> Graph:
    made = {node.name for node in nodes} | start.inputs.keys()
    return start.edit(nodes, params=graph.params, outputs={name: name for name in outputs if name in made})


def side_by_side(graph: Graph, count: int) -> Graph:
    """`count` times the chip's part of a network. Params keep their names; so do values, but for the read shape.

    Raises:
        TargetError: an op has no such form.
    """
    made: list[Node] = []
    params: dict[str, Array] = {}
    now = {name: name for name in graph.inputs}

    def reshaped(name: str, stem: str, shape: Shape) -> str:
        made.append(Node(graph.fresh(stem), "reshape", (name,), {"shape": shape}))
        return made[-1].name

    for node in graph.nodes:
        own = roles(node, graph.params)
        read = [now[name] for name in graph.values(node)]
        shape = node.type.shape
        params |= {name: _param(graph.params[name], node, role, count) for role, name in own.items()}
        now[node.name] = node.name
        if node.op == "dense":
            flat = reshaped(read[0], f"{node.name}.read", (count * graph.params[own["weight"]].shape[1], 1, 1))
            window: dict[str, Attr] = {"pads": (0, 0, 0, 0), "strides": (1, 1), "dilations": (1, 1), "group": count}
            made.append(replace(node, op="local", inputs=(flat, *own.values()), attrs={**node.attrs, **window}))
            now[node.name] = reshaped(node.name, f"{node.name}.flat", beside(shape, count))
        elif node.op == "local":
            group = int(str(node.attrs["group"])) * count
            made.append(replace(node, inputs=(*read, *own.values()), attrs={**node.attrs, "group": group}))
        elif node.op == "reshape":
            made.append(replace(node, inputs=tuple(read), attrs={"shape": beside(shape, count)}))
        elif node.op in AS_THEY_ARE or (node.op in ALONG_AXES and count == 1):
            made.append(replace(node, inputs=(*read, *own.values())))
        elif node.op in ALONG_AXES:
            shapes = [graph.type(name).shape for name in graph.values(node)]
            apart = [
                reshaped(name, f"{node.name}.read{i}", (count, *each))
                for i, (name, each) in enumerate(zip(read, shapes, strict=True))
            ]
            made.append(replace(node, inputs=tuple(apart), attrs=_further(node, count)))
            now[node.name] = reshaped(node.name, f"{node.name}.flat", beside(shape, count))
        else:
            raise TargetError(f"'{node.op}' is not simulated on a chip", at=node.at)
    inputs = {name: replace(t, shape=beside(t.shape, count)) for name, t in graph.inputs.items()}
    start = Graph(inputs, (), {}, {}, graph.stage, graph.steps)
    return start.edit(made, params=params, outputs={user: now[name] for user, name in graph.outputs.items()})


def beside(shape: Shape, count: int) -> Shape:
    """The shape of so many values of this shape, side by side."""
    return (count * shape[0], *shape[1:]) if shape else (count,)


def share(shape: Shape, rank: int, count: int) -> Shape:
    """The shape of one device's values, where those of all have `shape`: [..., K * C, ...], of `rank` axes."""
    axis = len(shape) - rank
    return shape if count == 1 else (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])


def joined(parts: list[Tensor], rank: int) -> Tensor:
    """Every device's values [..., C, ...] of `rank` axes, side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, parts[0].ndim - rank)


def apart(value: Tensor, rank: int, count: int) -> list[Tensor]:
    """Every device's share of a value [..., K * C, ...] of `rank` axes, in memory of its own: the order in which a
    product adds up may depend on where its operands lie.
    """
    parts = value.chunk(count, value.ndim - rank) if count > 1 else []
    return [part.clone(memory_format=torch.contiguous_format) for part in parts] or [value]


def tiled(constraint: Constraint, param: Array, count: int) -> Constraint:
    """What `count` copies of a param obey, side by side along its first axis."""

    def rows(array: Array | None, rank: int) -> Array | None:
        whole = array is not None and array.ndim == rank and len(array) == len(param)
        return np.concatenate([array] * count) if whole and count > 1 else array

    scale, mask = rows(constraint.scale, max(param.ndim, 1)), rows(constraint.mask, max(param.ndim, 1))
    return Constraint(constraint.bits, scale, mask, rows(constraint.levels, 2))


def stacked(param: Array, node: Node, count: int) -> Array:
    """A param of `node` for every device, side by side along its first axis."""
    if count == 1:
        return param
    whole = param if node.op in ("local", "dense") else spread(param, node.type.shape)
    return np.concatenate([whole] * count)


def _param(param: Array, node: Node, role: str, count: int) -> Array:
    """The same in the shape that the op reads which stands for `node`."""
    made = stacked(param, node, count)
    if node.op != "dense":
        return made
    return made[:, None, None, :, None, None] if role == "weight" else made[:, None, None]


def _further(node: Node, count: int) -> dict[str, Attr]:
    """The attributes of what acts along axes, with the axis of devices in front."""
    first: dict[str, tuple[int, ...]] = {
        "starts": (0,), "sizes": (count,), "steps": (1,), "interior": (0,), "shape": (count,),
    }  # fmt: skip
    found: dict[str, Attr] = {}
    for name, value in node.attrs.items():
        if name == "axis":
            found[name] = int(str(value)) + 1
        elif name == "perm":
            found[name] = (0, *(axis + 1 for axis in attr_ints(node, name)))
        elif name == "pads":
            pads = attr_ints(node, name)
            found[name] = (0, *pads[: len(pads) // 2], 0, *pads[len(pads) // 2 :])
        else:
            found[name] = (*first[name], *attr_ints(node, name)) if name in first else value
    return found
