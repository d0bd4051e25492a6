"""Names: the user's, made to fit the graph, and the graph's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from snnc.ir import NAME, Graph


def fit(names: Iterable[str]) -> dict[str, str]:
    """The user's names, each made to fit `snnc.ir.NAME`, all different."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for raw in names:
        clean = "".join(c if NAME.fullmatch(c) else "_" for c in raw) or "_"
        name, number = clean, 2
        while name in taken:
            name, number = f"{clean}_{number}", number + 1
        found[raw] = name
        taken.add(name)
    return found


def named(graph: Graph) -> Graph:
    """Nodes named by op and counter in order of execution, params by node and role."""
    taken = {*graph.inputs, *graph.outputs}
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for node in graph.nodes:
        number = counts.get(node.op, 0) + 1
        while any(re.match(rf"{node.op}{number}(\.|$)", name) for name in taken):
            number += 1
        counts[node.op] = number
        names[node.name] = f"{node.op}{number}"
    for param in graph.params:
        owner, role = param.rsplit(".", 1)
        names[param] = f"{names[owner]}.{role}"
    return Graph(
        graph.inputs,
        tuple(
            replace(node, name=names[node.name], inputs=tuple(names.get(i, i) for i in node.inputs))
            for node in graph.nodes
        ),
        {names[param]: array for param, array in graph.params.items()},
        {user: names.get(value, value) for user, value in graph.outputs.items()},
        constraints={names[param]: constraint for param, constraint in graph.constraints.items()},
    ).edit()
