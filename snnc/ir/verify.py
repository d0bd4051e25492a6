"""What must hold of every graph, at every stage; checked after import and after every pass."""

from __future__ import annotations

import numpy as np

from snnc.errors import GraphError, SnncError

from .graph import Array, Constraint, Graph, Node, Stage, TensorType
from .ops import NAME, OPS, infer, roles


def verify(graph: Graph) -> None:
    """Check every invariant of `graph`.

    Raises:
        GraphError: lists all violations: names, order, types, stage, steps, params, constraints, outputs.
    """
    types: dict[str, TensorType] = dict(graph.inputs)
    names = [*graph.inputs, *(n.name for n in graph.nodes), *graph.params]
    problems = [GraphError(f"'{n}' is no valid name") for n in [*names, *graph.outputs] if not NAME.fullmatch(n)]
    problems += [GraphError(f"two things are named '{n}'") for n in sorted({n for n in names if names.count(n) > 1})]
    problems += [GraphError(f"input '{n}' is not analog") for n, t in graph.inputs.items() if t.kind != "analog"]
    for node in graph.nodes:
        try:
            made = infer(node, types, graph.params)
        except GraphError as error:
            problems.append(error)
            made = node.type
        else:
            problems += _node_problems(graph, node, made)
        types[node.name] = made
    problems += _outputs(graph, types) + _params(graph) + _stage(graph)
    if problems:
        raise GraphError.gather(f"the graph breaks {len(problems)} invariant(s)", problems)


def _node_problems(graph: Graph, node: Node, made: TensorType) -> list[GraphError]:
    found = []
    if made != node.type:
        found.append(GraphError(f"is declared {node.type} but makes {made}", at=node.at))
    if graph.stage not in OPS[node.op].stages:
        found.append(GraphError(f"op '{node.op}' has no place in a graph of stage {graph.stage}", at=node.at))
    charged = made.kind != "analog" and OPS[node.op].optional in roles(node, graph.params)
    if charged != ("bias_at" in node.attrs):
        found.append(GraphError("bias_at belongs to a time-stepped op with a bias, and to nothing else", at=node.at))
    if node.op == "encode":
        found += _chance(node)
        if node.attrs.get("code") == "events" and node.inputs[0] not in graph.inputs:
            found.append(GraphError("the code 'events' reads an input, nothing that is computed", at=node.at))
    return found + (_delay(graph, node) if node.attrs.get("skip") else [])


def _chance(node: Node) -> list[GraphError]:
    """The code `rate`, and no other, has a seed and the value that is an event at every step."""
    own = {"seed", "max"} & set(node.attrs)
    if own != ({"seed", "max"} if node.attrs.get("code") == "rate" else set()):
        return [GraphError("seed and max belong to the code 'rate', and to no other", at=node.at)]
    if own and not (0 < np.float32(str(node.attrs["max"])) < np.inf and 0 <= int(str(node.attrs["seed"])) < 2**63):
        return [GraphError("the code 'rate' needs a max above 0 and a seed from 0 to 2**63 - 1", at=node.at)]
    return []


def _delay(graph: Graph, node: Node) -> list[GraphError]:
    """A delayed read-out must leave steps to count, and lose no charge that arrives at the first one only."""
    skip = int(str(node.attrs["skip"]))
    if not 0 <= skip < graph.steps:
        return [GraphError(f"a read-out cannot skip {skip} of {graph.steps} steps", at=node.at)]
    early = sorted(_early(graph, graph.values(node)[0]))
    why = f"the read-out skips the first {skip} step(s), at which all charge of {', '.join(early)} arrives"
    return [GraphError(why, at=node.at, hint="spread it over the steps: bias-per-step, code=direct")] if early else []


def _early(graph: Graph, name: str) -> set[str]:
    """The biases and encodings of the first step only that reach the current `name` without neurons between."""
    if name not in graph or graph[name].op == "lif":
        return set()
    node = graph[name]
    if node.op == "encode":
        return {name} if node.attrs["code"] == "first-step" else set()
    own = {name} if node.attrs.get("bias_at") == "first-step" else set[str]()
    return own.union(*(_early(graph, value) for value in graph.values(node)))


def _outputs(graph: Graph, types: dict[str, TensorType]) -> list[GraphError]:
    if not graph.outputs:
        return [GraphError("the graph has no outputs")]
    found = [
        GraphError(f"output '{u}' is '{n}', which nothing makes") for u, n in graph.outputs.items() if n not in types
    ]
    analog = [n for n in graph.outputs.values() if n in types and types[n].kind != "analog"]
    return found + [GraphError(f"output '{n}' is {types[n].kind}: it needs a decode") for n in analog]


def _params(graph: Graph) -> list[GraphError]:
    read = {name for node in graph.nodes for name in node.inputs}
    found = [GraphError(f"param '{name}' is read by nothing") for name in graph.params if name not in read]
    for name, array in graph.params.items():
        if array.dtype != np.float32:
            found.append(GraphError(f"param '{name}' is {array.dtype}, not float32"))
        elif not np.isfinite(array).all():
            found.append(GraphError(f"param '{name}' holds NaN or infinity"))
    for name, constraint in graph.constraints.items():
        if name not in graph.params:
            found.append(GraphError(f"a constraint is on '{name}', which is no param"))
        else:
            found += _constraint(name, constraint, graph)
    return found


def _constraint(name: str, constraint: Constraint, graph: Graph) -> list[GraphError]:
    param = graph.params[name]
    if (constraint.bits is None) != (constraint.scale is None):
        return [GraphError(f"the constraint on '{name}' has bits without scale, or scale without bits")]
    if constraint.mask is not None and (constraint.mask.dtype != np.bool_ or constraint.mask.shape != param.shape):
        return [GraphError(f"the mask on '{name}' is not bool{list(param.shape)}")]
    if constraint.scale is not None:
        try:
            shape = np.broadcast_shapes(constraint.scale.shape, param.shape)
        except ValueError:
            shape = ()
        if shape != param.shape or constraint.scale.dtype != np.float32 or not (constraint.scale > 0).all():
            return [GraphError(f"the scale on '{name}' is not positive float32 broadcastable to {list(param.shape)}")]
    if constraint.levels is not None and (wrong := _levels(constraint.levels, constraint.bits, param)):
        return [GraphError(f"the levels on '{name}' {wrong}")]
    off = int((constraint.project(param) != param).sum())
    return [GraphError(f"{off} of {param.size} values of '{name}' break its constraint")] if off else []


def _levels(levels: Array, bits: int | None, param: Array) -> str:
    """What is wrong with a set of levels, or one for each row of the param; nothing: empty."""
    if bits is None:
        return "have neither bits nor scale"
    if levels.ndim not in (1, 2) or levels.dtype != np.float32 or not np.isfinite(levels).all():
        return "are no finite float32 vector, nor one for each row"
    if levels.ndim == 2 and (not param.ndim or len(levels) != len(param)):
        return f"are {len(levels)} sets for {len(param) if param.ndim else 'no'} rows"
    sets, apart = np.atleast_2d(levels), np.diff(levels, axis=-1)
    if not (apart > 0 if levels.ndim == 1 else apart >= 0).all() or not (sets == 0).any(axis=1).all():
        return "do not ascend, or lack 0"
    most = max(len(np.unique(np.abs(own))) for own in sets)
    return f"are {most} magnitudes: {bits} bits tell {2**bits} apart" if most > 2**bits else ""


def _stage(graph: Graph) -> list[GraphError]:
    found = []
    if (graph.stage is Stage.ANALOG) != (graph.steps == 0) or graph.steps < 0:
        found.append(GraphError(f"a graph of stage {graph.stage} with {graph.steps} steps"))
    if graph.stage is Stage.CONSTRAINED and not graph.constraints:
        found.append(GraphError("a constrained graph carries no constraint"))
    if graph.teacher is not None:
        if graph.teacher.stage is not Stage.ANALOG or graph.teacher.teacher is not None:
            found.append(GraphError("the teacher is not a plain analog graph"))
        try:
            verify(graph.teacher)
        except SnncError as error:
            found.append(GraphError(f"in the teacher: {error}"))
    return found
