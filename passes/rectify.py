r"""Write every function that is piecewise linear as a sum of relus, exactly.

    leakyrelu   f(x) = relu(x) - sign(a) relu(-|a| x)          a: the slope, per channel where it is
    abs         f(x) = relu(x) + relu(-x)
    clip        f(x) = relu{max}(x) - relu{-min}(-x)           min <= 0 <= max; a bound that is absent is no bound
                f(x) = min + relu{max - min}(x - min)          min > 0
                f(x) = max - relu{max - min}(max - x)          max < 0
    hardsigmoid f(x) = relu{1}(alpha x + beta)
    maximum     max(a, b) = b + relu(a - b)
    minimum     min(a, b) = b - relu(b - a)

Of a pair that is max(f, 0) - max(-f, 0) the first takes the function's own name NAME, the second is NAME.off: the
neurons of the first learn from the teacher's values, which a trainer cuts at 0, those of the second read the same
weights through a negative scale and so learn with them. Functions without layers on both sides stay: they are
pre-processing or read-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snnc.ir import OFF, Array, Attr, Draft, Graph, Node, Stage, between_layers, roles
from snnc.pipeline import Context, Pass

PAIR = "becomes two layers of neurons, one for each sign (exact)"
ONE = "becomes one layer of neurons (exact)"


@dataclass(frozen=True)
class Rectify(Pass):
    """Turn piecewise linear functions between layers into relus, exactly."""

    name = "rectify"
    takes = frozenset({Stage.ANALOG})
    rewrites: ClassVar[Mapping[str, str]] = {
        "leakyrelu": PAIR,
        "abs": PAIR,
        "clip": PAIR,
        "hardsigmoid": ONE,
        "maximum": ONE,
        "minimum": ONE,
    }

    def run(self, graph: Graph, ctx: Context) -> Graph:
        inside = between_layers(graph)
        mine = [n for n in graph.nodes if n.op in self.rewrites and n.name in inside]
        if not mine:
            return graph
        draft = Draft(graph)
        for node in mine:
            draft.replace(node, FORMS[node.op](draft, node))
        return draft.finish()


def _pair(
    draft: Draft, node: Node, down: Array, sign: Array, most: float | None, least: float | None, keeps: bool
) -> str:
    """relu{most}(x) + sign * relu{least}(down * x), with down below 0; the first half keeps the node's name or not."""
    x = draft.graph.values(node)[0]
    positive = draft.add(node, "" if keeps else "right", "relu", x, attrs=_bound(most))
    negative = draft.add(
        node, OFF if keeps else "left", "relu", draft.add(node, "minus", "scale", x, factor=down), attrs=_bound(least)
    )
    return draft.add(node, "both", "add", positive, draft.add(node, "signed", "scale", negative, factor=sign))


def _bound(most: float | None) -> dict[str, Attr]:
    return {} if most is None else {"max": most}


def _leakyrelu(draft: Draft, node: Node) -> str:
    slope = draft.graph.params[roles(node, draft.graph.params)["slope"]]
    if not slope.any():
        return draft.add(node, "", "relu", draft.graph.values(node)[0])
    down = np.where(slope == 0, np.float32(-1), -np.abs(slope))
    return _pair(draft, node, down, -np.sign(slope), None, None, bool((slope >= 0).all()))


def _abs(draft: Draft, node: Node) -> str:
    return _pair(draft, node, np.array(-1.0), np.array(1.0), None, None, False)


def _clip(draft: Draft, node: Node) -> str:
    x = draft.graph.values(node)[0]
    least, most = (None if name not in node.attrs else float(str(node.attrs[name])) for name in ("min", "max"))
    if least is not None and most is not None and least >= most:
        least = most
    if least is not None and least > 0:
        above = draft.add(node, "above", "scale", x, factor=1.0, bias=-least)
        span = None if most is None else most - least
        return draft.add(
            node, "sum", "scale", draft.add(node, "over", "relu", above, attrs=_bound(span)), factor=1.0, bias=least
        )
    if most is not None and most < 0:
        below = draft.add(node, "below", "scale", x, factor=-1.0, bias=most)
        span = None if least is None else most - least
        return draft.add(
            node, "sum", "scale", draft.add(node, "under", "relu", below, attrs=_bound(span)), factor=-1.0, bias=most
        )
    if least == 0:
        return draft.add(node, "", "relu", x, attrs=_bound(most))
    return _pair(draft, node, np.array(-1.0), np.array(-1.0), most, None if least is None else -least, True)


def _hardsigmoid(draft: Draft, node: Node) -> str:
    slope, offset = (float(str(node.attrs[name])) for name in ("alpha", "beta"))
    line = draft.add(node, "line", "scale", draft.graph.values(node)[0], factor=slope, bias=offset)
    return draft.add(node, "", "relu", line, attrs=_bound(1.0))


def _extreme(sign: float) -> Callable[[Draft, Node], str]:
    """b + sign * relu(sign * (a - b)), folded over all values."""

    def form(draft: Draft, node: Node) -> str:
        first, *others = draft.graph.values(node)
        for i, b in enumerate(others):
            tag = str(i + 1) if len(others) > 1 else ""
            more = draft.add(node, f"more{tag}", "scale", first, factor=sign)
            less = draft.add(node, f"less{tag}", "scale", b, factor=-sign)
            over = draft.add(node, f"over{tag}", "relu", draft.add(node, f"difference{tag}", "add", more, less))
            if sign < 0:
                over = draft.add(node, f"under{tag}", "scale", over, factor=-1.0)
            first = draft.add(node, f"sum{tag}", "add", b, over)
        return first

    return form


FORMS: Mapping[str, Callable[[Draft, Node], str]] = {
    "leakyrelu": _leakyrelu,
    "abs": _abs,
    "clip": _clip,
    "hardsigmoid": _hardsigmoid,
    "maximum": _extreme(1.0),
    "minimum": _extreme(-1.0),
}
"""Each op's form: adds its nodes and gives back the name of what replaces it."""
