"""What reads out the network is left to the host, which sees spikes only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from snnc.errors import TargetError
from snnc.ir import WIRING, Array, Attr, Graph, Node, roles


def host_readout(graph: Graph) -> Graph:
    """Decode the spikes themselves and read them out analog: sum_t W s[t] = W sum_t s[t], biases T-fold.

    A spiking max pool in the read-out is the maximum of the counts.
    """
    tail = {
        n.name for n in graph.nodes if n.type.kind == "current" and n.op != "encode" and not graph.feeds(n.name, "lif")
    }
    tail |= {
        n.name
        for n in graph.nodes
        if n.op in (*WIRING, "concat", "maxpool") and n.type.kind == "spikes" and not graph.feeds(n.name, "lif")
    }
    if not tail:
        return graph
    skip = _delay(graph, tail)
    made: dict[str, Node] = {}
    params: dict[str, Array] = {}
    rename: dict[str, str] = {}
    for node in graph.nodes:
        if node.op == "decode" and node.inputs[0] in tail:
            rename[node.name] = node.inputs[0]
        elif node.name in tail:
            inputs = []
            for name in node.inputs:
                if name in graph.params or name in tail:
                    inputs.append(name)
                    continue
                inputs.append(f"{name}.count")
                made[f"{name}.count"] = Node(f"{name}.count", "decode", (name,), skip, graph[name].origin)
            attrs: dict[str, Attr] = {k: v for k, v in node.attrs.items() if k != "bias_at"}
            if node.attrs.get("bias_at") == "per-step":
                bias = roles(node, graph.params)["bias"]
                params[bias] = graph.params[bias] * np.float32(graph.steps)
            made[node.name] = replace(node, inputs=tuple(inputs), attrs=attrs)
        else:
            made[node.name] = node
    return graph.edit(made.values(), params=params, rename=rename)


def _delay(graph: Graph, tail: set[str]) -> Mapping[str, Attr]:
    """How late the read-out behind `tail` begins to count: the attributes of its decodes, which must be the same."""
    ends = [node for node in graph.nodes if node.op == "decode" and node.inputs[0] in tail]
    if late := [n for n in ends if n.attrs != ends[0].attrs]:
        raise TargetError(f"'{ends[0].name}' and '{late[0].name}' skip different steps", at=late[0].at)
    pools = [graph[name] for name in sorted(tail) if graph[name].op == "maxpool"]
    if pools and any(n.attrs.get("skip") for n in ends):
        raise TargetError("a max pool in a delayed read-out", at=pools[0].at, hint="threshold-layernorm{skip=0}")
    return ends[0].attrs if ends else {}
