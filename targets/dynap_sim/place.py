r"""Lay a constrained graph out on the chip: every connection and every neuron becomes a part of its own.

A convolution kernel is shared in the graph, not on the chip: it is unrolled into one set of synapses per position
(op `local`), so that mismatch and learning act on each. Every neuron counts in units of its own smallest weight step:

    levels q = w / s,   bias b / s,   threshold theta / s,   start potential u0 / s      (s: the step of its channel)

q is an integer, or a sum of base currents (`levels`); the analog parameters are multiples of 1/f, with f the largest
of `FINENESS` for which all sums, multiples of 1/f themselves, stay below 2**24 / f whatever the spikes: then they are
exact in float32. What reads out the network is left to the host, which sees spikes only: the same sum, of counts.

Between neurons and synapses there may be wiring (reshape, transpose, slice, pad, gather, concat): it says which neuron
a synapse listens to; between synapses and neurons only what orders them anew.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from snnc.errors import TargetError
from snnc.ir import LAYERS, Array, Constraint, Graph, Node, Stage, attr_ints, roles, verify

from .host import host_readout
from .levels import BIT, FINEST, in_levels, on_grid, placeable
from .unchain import spread, unchained, unrolled
from .wiring import hidden, reads, share, synapses

FINENESS = tuple(FINEST // 2**i for i in range(7))
"""Steps into which analog parameters divide a weight step, the finest first."""
EXACT = 2**24 // min(FINENESS)
"""Potentials that may reach this many weight steps are refused."""
ANALOG_BITS = 24
"""Bits of an analog setting: more than the sums allow, so never a limit of its own."""

MOST_BITS = 8
"""Bits of a synapse; what has more is an analog setting."""


def place(graph: Graph) -> Graph:
    """The placed graph: `local`, `dense` and `scale` synapses in units of their neuron's step, a host read-out.

    Raises:
        TargetError: lists all nodes that have no form on the chip.
    """
    graph = host_readout(unchained(placeable(graph)))
    problems = [
        TargetError(f"'{node.attrs['code']}' coding is not modelled on this chip", at=node.at, hint="code=direct")
        for node in graph.nodes
        if node.op == "encode" and node.attrs["code"] == "rate"
    ]
    nodes: dict[str, Node] = {n.name: n for n in graph.nodes}
    params: dict[str, Array] = {}
    constraints: dict[str, Constraint] = {}
    for neuron in [n for n in graph.nodes if n.op == "lif"]:
        try:
            layer = Layer(graph, neuron)
            made = layer.nodes()
        except TargetError as error:
            problems.append(error)
            continue
        problems += [
            TargetError(f"'{name}' is shared with other neurons, whose weight steps differ", at=neuron.at)
            for name, array in layer.params.items()
            if name in params and not np.array_equal(array, params[name])
        ]
        nodes |= {n.name: n for n in made}
        params |= layer.params
        constraints |= layer.constraints
    if problems:
        raise TargetError.gather("the network has parts that the chip has no form for", problems)
    placed = graph.edit(nodes.values(), params=params, constraints=constraints, stage=Stage.PLACED)
    verify(placed)
    return placed


def counted(graph: Graph) -> tuple[Layer, ...]:
    """The layers of neurons of a constrained graph, in the units that the chip would count them in.

    Raises:
        TargetError: it cannot be placed.
    """
    graph = unchained(placeable(graph))
    return tuple(Layer(graph, node) for node in graph.nodes if node.op == "lif")


class Layer:
    """One layer of neurons and the synapses onto it."""

    def __init__(self, graph: Graph, neuron: Node) -> None:
        self.graph, self.neuron = graph, neuron
        self.where = dict(synapses(graph, graph.values(neuron)[0], _numbered(neuron.type.shape)))
        self.synapses = [graph[name] for name in self.where]
        hidden(graph, graph.values(neuron)[0])
        self.params: dict[str, Array] = {}
        self.constraints: dict[str, Constraint] = {}
        self.fine = FINENESS[0]
        self.unit = self._unit()

    def nodes(self) -> list[Node]:
        """The nodes of the layer in placed form; fills `params` and `constraints`."""
        most = self.reach()
        fits = [fine for fine in FINENESS if most * fine + self._roundings() < 2**24 * (1 - 1e-6)]
        if not fits:
            raise TargetError(
                f"a potential may reach {most:.0f} weight steps, exact are {EXACT}",
                at=self.neuron.at,
                hint="fewer bits, a smaller fan-in or fewer steps",
            )
        self.fine = fits[0]
        return [*(self._synapse(node) for node in self.synapses), self._neuron()]

    def reach(self) -> float:
        """The largest potential that any spikes can lead to, in weight steps."""
        shape, own = self.neuron.type.shape, roles(self.neuron, self.graph.params)
        most = np.zeros(shape)
        for node in self.synapses:
            charge = self._charge(node) / self.units(node)
            np.add.at(most.reshape(-1), self.where[node.name], charge)
        analog = sum(np.abs(spread(self.graph.params[own[role]], shape)) / self.unit for role in ("theta", "u0"))
        return float((most * self.graph.steps + analog).max())

    def _charge(self, node: Node) -> Array:
        """What all inputs of a synapse node's neurons, and their bias, can add in a step; in units of the graph."""
        own, shape = roles(node, self.graph.params), node.type.shape
        if node.op == "avgpool":
            made = np.full(shape, abs(share(self.graph, node)) * math.prod(attr_ints(node, "kernel")))
        elif node.op == "scale":
            made = np.abs(spread(self.graph.params[own["factor"]], shape)).astype(np.float64)
        else:
            weight = np.abs(self.graph.params[own["weight"]]).astype(np.float64)
            rows = shape if node.op == "local" else shape[:1]
            made = spread(weight.reshape(*rows, -1).sum(axis=-1), shape) * abs(reads(self.graph, node)[1])
        return made + np.abs(spread(self.graph.params[own["bias"]], shape)) if "bias" in own else made

    def _roundings(self) -> int:
        """How many times half a setting can be lost or gained on the way to a potential, at most."""
        each = [1 + math.prod(attr_ints(node, "kernel")) if node.op == "avgpool" else 2 for node in self.synapses]
        return self.graph.steps * sum(each) + 2

    def _neuron(self) -> Node:
        """The neurons with params of their own, one value each."""
        name, shape = self.neuron.name, self.neuron.type.shape
        given = {
            role: spread(self.graph.params[param], shape)
            for role, param in roles(self.neuron, self.graph.params).items()
        }
        own = {
            "alpha": np.array(given["alpha"]),
            "theta": self._snap(given["theta"] / self.unit),
            "u0": self._snap(given["u0"] / self.unit),
        }
        if (own["theta"] <= 0).any():
            raise TargetError("a threshold is below the chip's resolution", at=self.neuron.at)
        self.params |= {f"{name}.{role}": value for role, value in own.items()}
        return replace(self.neuron, inputs=(self.graph.values(self.neuron)[0], *(f"{name}.{role}" for role in own)))

    def _unit(self) -> Array:
        """The weight step of every neuron, in the shape of the layer."""
        unit = np.zeros(self.neuron.type.shape, np.float32)
        for node in sorted(self.synapses, key=_sets_unit):
            where = self.where[node.name]
            own = self.own_unit(node, where.shape)
            mine = unit.reshape(-1)[where] == 0
            unit.reshape(-1)[where[mine]] = own[mine]
        if not (unit > 0).all():
            raise TargetError("these neurons have no weights that set their unit", at=self.neuron.at)
        return unit

    def own_unit(self, node: Node, shape: tuple[int, ...]) -> Array:
        """The weight step of a synapse node's neurons, were there no other synapses onto them."""
        if node.op == "avgpool":
            return np.full(shape, abs(share(self.graph, node)), np.float32)
        if node.op == "scale":
            return np.abs(spread(self.graph.params[roles(node, self.graph.params)["factor"]], shape))
        return spread(np.broadcast_to(self.step(node).reshape(-1), shape[:1]), shape)

    def units(self, node: Node) -> Array:
        """The weight step of the neuron behind every output of a synapse node, in its shape."""
        return np.asarray(self.unit.reshape(-1)[self.where[node.name]])

    def levels(self, node: Node) -> Constraint:
        """The constraint that a layer's weights obey, one step for each neuron."""
        name = roles(node, self.graph.params)["weight"]
        constraint = self.graph.constraints.get(name)
        if constraint is None or constraint.bits is None:
            raise TargetError("weights are not quantized", at=node.at, hint="add quantize-weights to the pipeline")
        weight = self.graph.params[name]
        if constraint.scale is None or constraint.scale.shape not in ((), (1,) * weight.ndim, _per_neuron(weight)):
            raise TargetError("its weight steps differ within a neuron", at=node.at)
        return constraint

    def step(self, node: Node) -> Array:
        """What one spike through a weight of level 1 adds."""
        return np.asarray(np.asarray(self.levels(node).scale) * np.float32(reads(self.graph, node)[1]), np.float32)

    def _synapse(self, node: Node) -> Node:
        if node.op == "avgpool":
            return self._pool(node)
        own = roles(node, self.graph.params)
        shape = node.type.shape
        if node.op == "scale":
            factor = self._snap(spread(self.graph.params[own["factor"]], shape) / self.units(node))
            self.constraints[f"{node.name}.factor"] = Constraint()  # its levels were those of other units
            return self._made(node, "scale", {"factor": factor}, own)
        level = self.levels(node)
        weight = self.graph.params[own["weight"]]
        units = self.units(node).reshape(len(weight), -1)
        if not (units == units[:, :1]).all():
            raise TargetError("neurons that share its kernel have weight steps that differ", at=node.at)
        unit = units[:, 0].reshape(-1, *[1] * (weight.ndim - 1))
        step = np.broadcast_to(self._snap(self.step(node) / unit), _per_neuron(weight))
        if (step <= 0).any():
            raise TargetError("its weight steps are below the chip's resolution", at=node.at)
        made = np.asarray(in_levels(weight, level) * step, np.float32)
        levels = level.levels
        if levels is not None and not np.array_equal(made, self._snap(made)):
            levels, made = self._rounded(levels, in_levels(weight, level), (self.step(node) / unit).reshape(-1))
            step = np.ones_like(step)
        mask = np.ones(made.shape, bool) if level.mask is None else level.mask
        if node.op == "conv":
            made, mask, step = (unrolled(a, shape) for a in (made, mask, step))
        self.constraints[f"{node.name}.weight"] = Constraint(level.bits, np.array(step), np.array(mask), levels)
        return self._made(node, "local" if node.op == "conv" else node.op, {"weight": made}, own)

    def _rounded(self, levels: Array, weight: Array, step: Array) -> tuple[Array, Array]:
        """Levels [rows, L] and weights whose base currents are on the grid, in steps of 1.

        Args:
            levels: [L] or [rows, L].
            weight: [rows, ...], of these levels.
            step: of every row, or of all.
        """
        count = len(weight)
        before, steps = np.broadcast_to(levels, (count, levels.shape[-1])), np.broadcast_to(step, count)
        kinds, kind = np.unique(np.column_stack([steps, before]), axis=0, return_inverse=True)
        after = np.stack([on_grid(row[1:], float(row[0]), self.fine) for row in kinds])[kind.reshape(-1)]
        flat = weight.reshape(count, -1)
        made = np.empty_like(flat)
        for i in range(count):
            made[i] = after[i][np.abs(flat[i][:, None] - before[i]).argmin(axis=1)]
        ranked = np.sort(after, axis=1)
        return (ranked[0] if (ranked == ranked[0]).all() else ranked), made.reshape(weight.shape)

    def _pool(self, node: Node) -> Node:
        """An average pool as depthwise synapses, each a share of the window, times what a spike is worth."""
        channels, high, wide = node.type.shape
        kernel = attr_ints(node, "kernel")
        each = np.full((channels, high, wide, 1, *kernel), share(self.graph, node), np.float32)
        if not node.attrs["count_include_pad"] and any(attr_ints(node, "pads")):
            raise TargetError("an average pool with pads that do not count", at=node.at)
        weight = self._snap(each / self.units(node).reshape(channels, high, wide, 1, 1, 1))
        attrs = {k: v for k, v in node.attrs.items() if k not in ("kernel", "count_include_pad")}
        made = replace(node, attrs={**attrs, "group": channels})
        return self._made(made, "local", {"weight": weight}, {})

    def _made(self, node: Node, op: str, values: dict[str, Array], own: dict[str, str]) -> Node:
        names = [f"{node.name}.{role}" for role in values]
        self.params |= dict(zip(names, values.values(), strict=True))
        if "bias" in own:
            names.append(f"{node.name}.bias")
            self.params[names[-1]], self.constraints[names[-1]] = self._bias(node, own["bias"])
        return replace(node, op=op, inputs=(reads(self.graph, node)[0], *names))

    def _bias(self, node: Node, name: str) -> tuple[Array, Constraint]:
        """A bias in weight steps: any multiple of 1/f, or levels that it was given (of a set: each rounded to 1/f)."""
        bias = spread(self.graph.params[name], node.type.shape)
        given = self.graph.constraints.get(name, Constraint())
        if given.bits is None or given.scale is None or given.bits > MOST_BITS:
            return self._snap(bias / self.units(node)), Constraint(ANALOG_BITS, np.array(1 / self.fine, np.float32))
        scale = spread(given.scale, node.type.shape)
        if given.levels is not None and given.bits != BIT:
            rows = (scale / self.units(node)).reshape(len(scale), -1)
            if not (rows == rows[:, :1]).all():
                why = "tonic synapses of one channel have steps that differ"
                raise TargetError(why, at=node.at, hint="limit-biases{method=tonic}")
            levels = self._snap(rows[:, :1] * given.levels)
            levels[:, -1] = np.maximum(levels[:, -1], 1 / self.fine)
            levels[:, 0] = -levels[:, -1]
            placed = Constraint(given.bits, np.ones_like(scale), None, levels)
            return placed.project(bias / self.units(node)), placed
        step = np.maximum(self._snap(scale / self.units(node)), np.float32(1 / self.fine))
        return np.asarray(np.rint(bias / scale) * step, np.float32), Constraint(given.bits, step, None, given.levels)

    def _snap(self, values: Array) -> Array:
        return np.asarray(np.rint(values * self.fine) / self.fine, np.float32)


def tonic(graph: Graph, bias: str) -> bool:
    """Whether a bias is a synapse of a channel that always fires: it has levels of several bits (pass limit-biases)."""
    constraint = graph.constraints.get(bias)
    return constraint is not None and BIT < (constraint.bits or 0) <= MOST_BITS


def _sets_unit(node: Node) -> int:
    """Layers set the unit of their neurons; pools do where there is no layer, scales where there is no pool."""
    return 0 if node.op in LAYERS else 1 if node.op == "avgpool" else 2


def _per_neuron(weight: Array) -> tuple[int, ...]:
    """The shape of one step for each neuron or channel."""
    return (len(weight), *[1] * (weight.ndim - 1))


def _numbered(shape: tuple[int, ...]) -> Array:
    return np.arange(math.prod(shape)).reshape(shape)
