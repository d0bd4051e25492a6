"""What a loss reads: the scores of classes, before what only squashes or picks them; of targets the output itself."""

from __future__ import annotations

import math

from snnc.errors import PipelineError
from snnc.ir import Graph, Node, later_than, roles
from snnc.score import ACCURACY, Score

SQUASHING = (
    "sigmoid",
    "hardsigmoid",
    "tanh",
    "softplus",
    "softsign",
    "exp",
    "erf",
    "relu",
    "clip",
    "quantize",
    "round",
)
"""Elementwise functions that keep the order of scores (or make some equal): an answer is the same before them."""
FLAT = ("argmax", "quantize", "round", "floor", "ceil", "trunc", "sign", "roundfloat", "wrap")
"""Ops whose gradient is 0 or none."""


def readout(graph: Graph, score: Score = ACCURACY) -> str:
    """The scores of the one output, before all that keeps their order: softmax, squashing functions, the argmax.

    A change of shape or a positive factor is passed where one of these lies before it. What is judged by another score
    than accuracy is the output, whatever it comes through.

    Raises:
        PipelineError: there are several outputs; or no gradient gets from the scores to the neurons.
    """
    if len(graph.outputs) != 1:
        raise PipelineError(
            f"learning from labels needs one output, not {len(graph.outputs)}: {', '.join(graph.outputs)}"
        )
    (at,) = graph.outputs.values()
    found = at
    while score is ACCURACY and at not in graph.inputs and _keeps_order(graph, graph[at]):
        shift = graph[at].op in ("reshape", "scale")
        at = graph.values(graph[at])[0]
        found = found if shift else at
    _check_gradient(graph, found)
    return found


def check_classes(rule: str, graph: Graph, scores: str, score: Score = ACCURACY) -> None:
    """Refuse scores that are no classes'; targets are as the output is, and anything may be one.

    Raises:
        PipelineError: `rule` needs one score for each of two or more.
    """
    shape = graph.type(scores).shape
    if score is not ACCURACY:
        return
    if math.prod(shape) < 2 or max(shape) != math.prod(shape):
        raise PipelineError(
            f"'{rule}' needs one score for each of two or more classes, not {list(shape)}",
            at=graph[scores].at if scores in graph else "",
        )


def _keeps_order(graph: Graph, node: Node) -> bool:
    """Whether the largest element stays the largest, or one of the largest."""
    if node.op in ("softmax", "logsoftmax", "argmax"):
        shape = graph.type(graph.values(node)[0]).shape
        return shape[int(str(node.attrs["axis"]))] == math.prod(shape)
    if node.op == "scale":
        own = {role: graph.params[name] for role, name in roles(node, graph.params).items()}
        return all(array.size == 1 for array in own.values()) and bool((own["factor"] > 0).all())
    if node.op == "quantize":
        return all(graph.params[name].size == 1 for name in roles(node, graph.params).values())
    return node.op == "reshape" or node.op in SQUASHING


def _check_gradient(graph: Graph, scores: str) -> None:
    """Refuse ops without a gradient between the read-out and the scores."""
    late, todo = later_than(graph, "decode"), [scores]
    while todo:
        name = todo.pop()
        if name not in late:
            continue
        if graph[name].op in FLAT:
            raise PipelineError(
                f"the scores come through '{graph[name].op}', which has no gradient to learn from",
                at=graph[name].at, hint="cut the model before it, or try the pass drop-rounding",
            )  # fmt: skip
        todo += graph.values(graph[name])
