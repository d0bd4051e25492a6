"""One order of the nodes, and of the operands whose order does not matter.

Operands stand the deepest first (the main path before its shortcut), then by what is computed, not by what an
exporter wrote first; nodes in the order in which the outputs ask for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from snnc.ir import Node

from .bench import Bench

COMMUTATIVE = ("add", "mul", "maximum", "minimum")

Key = tuple[int, str, str]
"""Minus the number of ops before a value, a hash of what they are, a hash of what they hold."""


def order(bench: Bench) -> None:
    """Bring the nodes of the bench, and the operands of those that commute, into their order."""
    keys: dict[str, Key] = {name: (0, f"{kind}", "") for name, kind in bench.graph.inputs.items()}
    for name in _asked(bench):
        node = bench.nodes[name]
        if node.op in COMMUTATIVE:
            values = sorted(bench.values(node), key=keys.__getitem__)
            node = bench.nodes[name] = replace(node, inputs=tuple(values))
        keys[name] = _key(bench, node, keys)
    bench.nodes = {name: bench.nodes[name] for name in _asked(bench)}


def _asked(bench: Bench) -> list[str]:
    """The nodes, each behind what it reads."""
    found: dict[str, None] = {}
    stack = [(name, False) for name in reversed(list(bench.ends.values()))]
    while stack:
        name, ready = stack.pop()
        if name in found or name not in bench.nodes:
            continue
        if ready:
            found[name] = None
        else:
            stack.append((name, True))
            stack += [(value, False) for value in reversed(bench.values(bench.nodes[name]))]
    return list(found)


def _key(bench: Bench, node: Node, keys: dict[str, Key]) -> Key:
    before = [keys[value] for value in bench.values(node)]
    arrays = [str(bench.params[n].flat[:64].round(4).tolist()) for n in node.inputs if n in bench.params]
    shape = _hash([node.op, str(sorted(node.attrs.items())), str(node.type), *(key[1] for key in before)])
    return min((key[0] for key in before), default=0) - 1, shape, _hash([*arrays, *(key[2] for key in before)])


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
