"""The graph: a frozen, ordered table of nodes, each the one value it makes.

A graph is never changed: `Graph.edit` gives a new one, sorted, pruned and typed; a pass that has nothing to do
gives back the graph it got.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt

from snnc.errors import GraphError

Attr: TypeAlias = int | float | str | tuple[int, ...]
Array: TypeAlias = npt.NDArray[Any]
Kind: TypeAlias = Literal["analog", "current", "spikes"]
Shape: TypeAlias = tuple[int, ...]


class Stage(enum.StrEnum):
    """How far a graph has been lowered, in this order."""

    ANALOG = "analog"
    SPIKING = "spiking"
    CONSTRAINED = "constrained"
    PLACED = "placed"


@dataclass(frozen=True)
class TensorType:
    """What a value is: `analog` has one value per sample, `current` and `spikes` one per sample and time step.

    `shape` leaves out batch and time: both belong to whoever runs the graph.
    """

    kind: Kind
    shape: Shape
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype}[{','.join(map(str, self.shape))}]"


UNTYPED = TensorType("analog", ())


@dataclass(frozen=True)
class Node:
    """One operation and the one value it makes.

    Attributes:
        name: the name of the value, unique in its graph.
        op: a row of the op table (`snnc.ir.ops`).
        inputs: names of values, then names of params, in the order of the op table.
        type: filled in by `Graph.edit`.
        origin: the nodes of the user's own ONNX model that this one came from.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    origin: tuple[str, ...] = ()
    type: TensorType = UNTYPED

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("graphs are not pickled: use snnc.ir.to_text and Graph.arrays")

    @property
    def at(self) -> str:
        """The node and the user's own ONNX nodes behind it, for error messages and reports."""
        return f"{self.name} ({self.op}), from {', '.join(self.origin)}" if self.origin else f"{self.name} ({self.op})"

    def with_attrs(self, **attrs: Attr) -> Node:
        """This node with some attributes replaced."""
        return replace(self, attrs={**self.attrs, **attrs})


@dataclass(frozen=True, eq=False)
class Constraint:
    """What the hardware demands of a param; passes attach it, trainers and targets honour it.

    Attributes:
        bits: weights are `scale * q` with integer q, |q| <= 2**(bits-1) - 1 (symmetric, no lowest code).
        scale: the step between two levels, float32, broadcastable to the param.
        mask: bool, the shape of the param; False where a connection must stay absent.
        levels: the q that there are where they are not those integers: float32, ascending, with 0; at most 2**bits
            magnitudes (a sign may be stored elsewhere: on DYNAP-SE2 it is the type of the synapse). One set [L] for all
            of the param, or one for each of its rows (first axis), [rows, L]: there a level may stand several times, so
            that all rows have as many.
    """

    bits: int | None = None
    scale: Array | None = None
    mask: Array | None = None
    levels: Array | None = None

    def __post_init__(self) -> None:
        for name in CONSTRAINT_ARRAYS:
            if (array := getattr(self, name)) is not None:
                object.__setattr__(self, name, frozen(array))

    @property
    def top_level(self) -> int:
        """The largest level q, 2**(bits-1) - 1."""
        if self.bits is None:
            raise GraphError("this constraint has no levels")
        if self.levels is not None:
            raise GraphError("these levels are a set of their own, not the integers of so many bits")
        return int(2 ** (self.bits - 1) - 1)

    def project(self, param: Array) -> Array:
        """The nearest array that obeys: absent connections zero, the rest on levels (ties to even; of a set, down)."""
        out = param.astype(np.float32)
        if self.levels is not None and self.scale is not None:
            out = nearest(out / self.scale, self.levels) * self.scale
        elif self.bits is not None and self.scale is not None:
            out = np.clip(np.rint(out / self.scale), -self.top_level, self.top_level) * self.scale
        if self.mask is not None:
            out = np.where(self.mask, out, np.float32(0))
        return out.astype(np.float32)

    def times(self, param: Array, factor: Array) -> tuple[Array, Constraint | None]:
        """`param * factor`, float32, and the constraint that it obeys: levels stay levels, their step is multiplied.

        None for that where the factors of one row (first axis) of the param differ in size: no grid holds them.
        """
        if self.bits is None or self.scale is None:
            return np.asarray(param * factor, np.float32), self
        rows = np.abs(np.broadcast_to(factor, param.shape)).reshape(len(param) if param.ndim else 1, -1)
        most = rows.max(axis=1)
        if not ((rows == 0) | (rows == most[:, None])).all() or not (most > 0).all():
            return np.asarray(param * factor, np.float32), None
        size = most[0] if (most == most[0]).all() else most.reshape(-1, *[1] * (param.ndim - 1))
        step = np.asarray(self.scale * size, np.float32)
        if self.levels is not None and not np.array_equal(self.levels, -self.levels[..., ::-1]) and (factor < 0).any():
            return np.asarray(param * factor, np.float32), None
        near = np.rint(param / self.scale) if self.levels is None else nearest(param / self.scale, self.levels)
        made = np.asarray(near * np.sign(factor) * step, np.float32)
        return made, Constraint(self.bits, step, self.mask, self.levels)


CONSTRAINT_ARRAYS = ("scale", "mask", "levels")


def nearest(values: Array, levels: Array) -> Array:
    """The nearest of ascending `levels` to every value; halfway between two, the lower one.

    Args:
        levels: [L], or [rows, L]: a set for each row (first axis) of the values.
    """
    if levels.ndim > 1:
        return np.stack([nearest(row, own) for row, own in zip(values, levels, strict=True)])
    middles = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    return np.asarray(levels[np.searchsorted(middles, values)])


def frozen(array: Array) -> Array:
    """A contiguous, write-protected array; copies unless it is one already."""
    if array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array, order="C", copy=True)
        array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, nodes in an order in which they can run, and the arrays they read.

    Attributes:
        inputs: the user's input names and their types (always analog).
        nodes: in runnable order.
        params: float32 arrays by name, write-protected.
        outputs: the user's output names and the values behind them.
        stage: how far the graph is lowered.
        steps: T, the number of time steps; 0 for an analog graph.
        constraints: by param name.
        teacher: the imported analog graph that this one was made from, which every later step is judged against;
            None for that graph itself.
    """

    inputs: Mapping[str, TensorType]
    nodes: tuple[Node, ...]
    params: Mapping[str, Array]
    outputs: Mapping[str, str]
    stage: Stage = Stage.ANALOG
    steps: int = 0
    constraints: Mapping[str, Constraint] = field(default_factory=dict)
    teacher: Graph | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "constraints"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "params", MappingProxyType({k: frozen(v) for k, v in self.params.items()}))
        object.__setattr__(self, "_index", {node.name: node for node in self.nodes})
        object.__setattr__(self, "_values", {})

    def __getitem__(self, name: str) -> Node:
        index: dict[str, Node] = self.__dict__["_index"]
        try:
            return index[name]
        except KeyError:
            raise GraphError(f"no node is named '{name}'", hint=f"one of {', '.join(index)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__["_index"]

    def type(self, name: str) -> TensorType:
        """The type of a graph input or node."""
        return self.inputs[name] if name in self.inputs else self[name].type

    def values(self, node: Node) -> tuple[str, ...]:
        """Those inputs of `node` that are values (graph inputs or nodes), not params."""
        known: dict[tuple[str, ...], tuple[str, ...]] = self.__dict__["_values"]
        if (found := known.get(node.inputs)) is None:
            found = known[node.inputs] = tuple(name for name in node.inputs if name not in self.params)
        return found

    def arrays(self) -> dict[str, Array]:
        """Every array of the graph by name: params, and `PARAM@scale`, `@mask`, `@levels` of the constraints."""
        found = dict(self.params)
        for name, constraint in self.constraints.items():
            for part in CONSTRAINT_ARRAYS:
                if (array := getattr(constraint, part)) is not None:
                    found[f"{name}@{part}"] = array
        return dict(sorted(found.items()))

    def digraph(self) -> nx.DiGraph[str]:
        """Values as nodes, an edge from each value to each of its readers."""
        made = nx.DiGraph()
        made.add_nodes_from(self.inputs)
        made.add_nodes_from(node.name for node in self.nodes)
        made.add_edges_from((name, node.name) for node in self.nodes for name in self.values(node))
        return made

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the value or param `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def feeds(self, name: str, *ops: str) -> bool:
        """Whether a node of one of `ops` lies anywhere behind the value `name`."""
        return any(self[later].op in ops for later in nx.descendants(self.digraph(), name))

    def is_output(self, name: str) -> bool:
        """Whether `name` is behind one of the graph's outputs."""
        return name in self.outputs.values()

    def fresh(self, stem: str) -> str:
        """A name that is not taken yet: `stem`, or `stem` and a number."""
        taken = {*self.inputs, *(node.name for node in self.nodes), *self.params}
        if stem not in taken:
            return stem
        return next(name for i in range(2, len(taken) + 3) if (name := f"{stem}{i}") not in taken)

    def edit(
        self,
        nodes: Iterable[Node] | None = None,
        *,
        params: Mapping[str, Array] | None = None,
        rename: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        constraints: Mapping[str, Constraint] | None = None,
        stage: Stage | None = None,
        steps: int | None = None,
    ) -> Graph:
        """A new graph: sorted, without unread nodes, params and constraints, every type inferred anew.

        Args:
            nodes: all nodes of the new graph, in any order; the present ones by default.
            params: params to add or replace.
            rename: readers of the key read the value instead; the key's own node goes when nothing reads it.
            outputs: the new outputs; the present ones, renamed, by default.
            constraints: constraints to add or replace.

        Raises:
            GraphError: two nodes share a name, the nodes form a cycle, read something that nothing makes, or do not fit
                together.
        """
        from .ops import infer

        turn = dict(rename or {})

        def target(name: str) -> str:
            for _ in range(len(turn) + 1):
                if name not in turn:
                    return name
                name = turn[name]
            raise GraphError(f"renaming '{name}' goes in a circle")

        all_params = {**self.params, **(params or {})}
        drafts: dict[str, Node] = {}
        for node in self.nodes if nodes is None else nodes:
            if node.name in drafts:
                raise GraphError(f"two nodes are named '{node.name}'", at=node.at)
            drafts[node.name] = replace(node, inputs=tuple(map(target, node.inputs)))
        outputs = {user: target(name) for user, name in (self.outputs if outputs is None else outputs).items()}
        ordered = _sorted(drafts, set(self.inputs) | set(all_params), outputs.values())
        types = dict(self.inputs)
        typed = []
        for node in ordered:
            node = replace(node, type=infer(node, types, all_params))
            types[node.name] = node.type
            typed.append(node)
        read = {name for node in typed for name in node.inputs}
        return replace(
            self,
            nodes=tuple(typed),
            params={k: v for k, v in all_params.items() if k in read},
            outputs=outputs,
            constraints={k: v for k, v in {**self.constraints, **(constraints or {})}.items() if k in read},
            stage=self.stage if stage is None else stage,
            steps=self.steps if steps is None else steps,
        )


def _sorted(drafts: Mapping[str, Node], known: set[str], outputs: Iterable[str]) -> list[Node]:
    """The nodes that the outputs need, in a runnable order that keeps the given one where it can."""
    flow = nx.DiGraph()
    flow.add_nodes_from(drafts)
    for node in drafts.values():
        for name in node.inputs:
            if name in drafts:
                flow.add_edge(name, node.name)
            elif name not in known:
                raise GraphError(f"'{name}' is read but nothing makes it", at=node.at)
    needed = set(outputs) & set(drafts)
    needed |= {a for name in list(needed) for a in nx.ancestors(flow, name)}
    rank = {name: i for i, name in enumerate(drafts)}
    try:
        order = list(nx.lexicographical_topological_sort(flow.subgraph(needed), key=rank.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = " -> ".join(edge[0] for edge in nx.find_cycle(flow.subgraph(needed)))
        raise GraphError(f"the graph has a cycle without a delay: {cycle}") from None
    return [drafts[name] for name in order]
