"""One graph for one network, whoever exported it: rewrites, each exact, until none has anything to do.

The tables are the whole of it. What each rule does is in its docstring, the algebra in that of its file: `layout` for
reshapes and transposes, `linear` for weights, `windows` for pads, pools and heads, `curves` for activations, `trivial`
for the rest. Inputs and outputs keep their names and shapes; a node names all nodes of the user's model in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from snnc.errors import GraphError
from snnc.ir import Graph, Node

from . import curves, layout, linear, trivial, windows
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
    "a value added to itself": (trivial.doubled, ("add",)),
    "values and constants": (linear.constant, PAIRED),
    "small params": (linear.tidy, ("scale", "leakyrelu", "conv", "dense")),
    "views sink": (layout.sink, ONE),
    "views of several values sink": (layout.join, (*PAIRED, "concat")),
    "views in front": (layout.front, VIEWS),
    "views of dense layers": (layout.rows, VIEWS),
    "dense layers of views": (layout.columns, ("dense",)),
    "scales are one": (linear.chain, ("scale",)),
    "factors and biases backward": (linear.backward, ("scale",)),
    "batch norms are scales": (linear.normed, ("batchnorm",)),
    "factors and biases forward": (linear.forward, ("scale",)),
    "reductions of a map": (windows.reduced, ("reduce",)),
    "attributes without effect": (windows.inert, ("conv", "avgpool", "maxpool")),
    "pads in windows": (windows.pads, ("conv", "avgpool", "maxpool")),
    "pools of a whole map": (windows.whole, ("avgpool", "maxpool")),
    "convs of a whole map": (windows.head, ("conv",)),
}
"""By what it is about: the rule and the ops at which it looks; of two rules for an op the first goes first."""

WRITTEN_OUT: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "products are curves": (curves.product, ("mul",)),
    "clipped lines are curves": (curves.clipped, ("scale",)),
    "maxima are leaky relus": (curves.leaky, ("maximum",)),
}
"""The rules that go before all others: afterwards, the parts of an activation may be elsewhere."""

CHANGES = 50
"""Rewrites per node, after which something goes in a circle."""


def canonical(graph: Graph) -> Graph:
    """The canonical form of an imported graph: the same function, the same inputs and outputs.

    Raises:
        GraphError: the rules do not come to an end; names the last one.
    """
    bench, left = Bench(graph), CHANGES * (len(graph.nodes) + 5)
    for rules in (WRITTEN_OUT, {**WRITTEN_OUT, **RULES}):
        left = _settle(bench, rules, left)
    order(bench)
    return bench.done()


def _settle(bench: Bench, rules: Mapping[str, tuple[Rule, tuple[str, ...]]], left: int) -> int:
    """Apply the rules where something changed, then everywhere, until nothing does; how many rewrites are left."""
    by_op: dict[str, list[tuple[str, Rule]]] = {}
    for title, (rule, ops) in rules.items():
        for op in ops:
            by_op.setdefault(op, []).append((title, rule))
    changed = True
    while changed:
        changed = False
        bench.touched.update(dict.fromkeys(bench.nodes))
        while bench.touched:
            name, _ = bench.touched.popitem(last=False)
            node = bench.nodes.get(name)
            tried = by_op.get(node.op, ()) if node is not None else ()
            done = next((title for title, rule in tried if node is not None and rule(bench, node)), None)
            if done is None:
                continue
            changed, left = True, left - 1
            bench.touch(name)
            if left < 0:
                raise GraphError(f"no canonical form after {CHANGES} rewrites per node, the last one: {done}")
    return left
