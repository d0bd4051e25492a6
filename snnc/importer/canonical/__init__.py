"""One graph for one network, whoever exported it: rewrites, each exact, until none has anything to do.

The table is the whole of it. What each rule does is in its docstring, the algebra in that of its file: `layout` for
reshapes and transposes, `linear` for weights, `windows` for pads, pools and heads, `trivial` for the rest. Inputs and
outputs keep their names and shapes; a node names all nodes of the user's model that went into it.
"""

from __future__ import annotations

from collections.abc import Callable

from snnc.errors import GraphError
from snnc.ir import Graph, Node

from . import layout, linear, trivial, windows
from .bench import VIEWS, Bench
from .order import order
from .transfer import ALONG, EACH, PAIRED

Rule = Callable[[Bench, Node], bool]
"""Changes the bench around a node, or says that there is nothing to do."""

ONE = tuple(op for op in (*EACH, *ALONG) if op not in (*PAIRED, "concat"))

RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "views of constants are constants": (layout.constants, VIEWS),
    "chains of views are one": (layout.merge, VIEWS),
    "what does nothing goes": (trivial.nothing, ("pad", "slice", "expand", "concat", "maximum", "minimum", "abs")),
    "an even gather is a slice": (trivial.progression, ("gather",)),
    "the log of a softmax": (trivial.logsoftmax, ("log",)),
    "relus are one": (trivial.rectified, ("relu", "clip")),
    "sums and concats are one": (trivial.nested, ("add", "concat")),
    "values and constants": (linear.constant, PAIRED),
    "small params": (linear.tidy, ("scale", "leakyrelu", "conv", "dense")),
    "views sink": (layout.sink, ONE),
    "views of several values sink": (layout.join, (*PAIRED, "concat")),
    "views in front": (layout.front, VIEWS),
    "views of dense layers": (layout.rows, VIEWS),
    "dense layers of views": (layout.columns, ("dense",)),
    "scales are one": (linear.chain, ("scale",)),
    "factors and biases backward": (linear.backward, ("scale", "batchnorm")),
    "factors and biases forward": (linear.forward, ("scale",)),
    "reductions of a map": (windows.reduced, ("reduce",)),
    "attributes without effect": (windows.inert, ("conv", "avgpool", "maxpool")),
    "pads in windows": (windows.pads, ("conv", "avgpool", "maxpool")),
    "pools of a whole map": (windows.whole, ("avgpool", "maxpool")),
    "convs of a whole map": (windows.head, ("conv",)),
}
"""By what it is about: the rule and the ops at which it looks; of two rules for an op the first goes first."""

BY_OP: dict[str, list[tuple[str, Rule]]] = {
    op: [(title, rule) for title, (rule, ops) in RULES.items() if op in ops]
    for op in dict.fromkeys(op for _, ops in RULES.values() for op in ops)
}

CHANGES = 200
"""Rewrites per node, after which something goes in a circle."""


def canonical(graph: Graph) -> Graph:
    """The canonical form of an imported graph: the same function, the same inputs and outputs.

    Raises:
        GraphError: the rules do not come to an end; names the last one.
    """
    bench, left = Bench(graph), CHANGES * (len(graph.nodes) + 5)
    changed = True
    while changed:
        changed = False
        bench.touched.update(dict.fromkeys(bench.nodes))
        while bench.touched:
            name, _ = bench.touched.popitem(last=False)
            if (done := _rewrite(bench, name)) is None:
                continue
            changed, left = True, left - 1
            bench.touch(name)
            if left < 0:
                raise GraphError(f"no canonical form after {CHANGES} rewrites per node, the last one: {done}")
    order(bench)
    return bench.done()


def _rewrite(bench: Bench, name: str) -> str | None:
    """Apply the first rule that has something to do at a node; its name."""
    node = bench.nodes.get(name)
    if node is None:
        return None
    return next((title for title, rule in BY_OP.get(node.op, ()) if rule(bench, node)), None)
