r"""Let max pools read neurons, exactly: relus that follow max pools go before them, scales that precede go behind.

    relu(maxpool(x)) = maxpool(relu(x))                  relu is monotone, with a maximum of its own too
    relu(w(x))       = w(relu(x))                        w: wiring in between, whose pads are 0 = relu(0)
    maxpool(x) * f + b = maxpool(x * f + b)              f >= 0: one value per channel, as a batch norm leaves it

In PyTorch's own examples relus follow max pools; in Keras batch norms stand between the two. A scale goes behind where
the max pool then reads neurons, and before along with a relu that follows both. All this only where nothing else reads
what lies in between, and no relu goes before a max pool that reads neurons already. What the pool read gives its name
to the relu, so that its neurons learn from the teacher's value of that name (a trainer cuts it at 0), and the whole
takes the name of the relu.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from snnc.ir import WIRING, Graph, Node, Stage, front, roles
from snnc.pipeline import Context, Pass
from snnc.sim.worths import spike_worths


@dataclass(frozen=True)
class ReluBeforeMaxPool(Pass):
    """Let relus stand before max pools instead of behind them, exactly."""

    name = "relu-before-max-pool"
    takes = frozenset({Stage.ANALOG})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        for name in [node.name for node in graph.nodes if node.op == "maxpool"]:
            graph = _unscaled(graph, graph[name])
        for name in [node.name for node in graph.nodes if node.op == "relu"]:
            graph = _moved(graph, graph[name])
        return graph


def _unscaled(graph: Graph, pool: Node) -> Graph:
    """The graph with the scale that `pool` reads behind it, itself if that lets it read no neurons."""
    name = graph.values(pool)[0]
    if name not in graph or graph[name].op != "scale" or not _single(graph, name) or not _grows(graph, graph[name]):
        return graph
    scale = graph[name]
    if not _spiking(graph, graph.values(scale)[0]):
        return graph
    bare = replace(pool, name=graph.fresh(f"{pool.name}.unscaled"), inputs=(graph.values(scale)[0],))
    behind = replace(_reading(graph, scale, bare.name), name=pool.name)
    return graph.edit([*(n for n in graph.nodes if n not in (scale, pool)), bare, behind])


def _spiking(graph: Graph, name: str) -> bool:
    """Whether the value `name` would be spikes, were all relus neurons."""
    return spike_worths(graph, name, {n.name: 1.0 for n in graph.nodes if n.op == "relu"}) is not None


def _grows(graph: Graph, scale: Node) -> bool:
    """Whether a scale keeps the order of the values within a channel."""
    params = {role: graph.params[name] for role, name in roles(scale, graph.params).items()}
    return all(param.ndim <= 1 for param in params.values()) and bool((params["factor"] >= 0).all())


def _moved(graph: Graph, relu: Node) -> Graph:
    """The graph with `relu` before the max pools that it reads, itself if it reads none."""
    between = _between(graph, relu)
    if not between:
        return graph
    source = graph.values(between[0])[0]
    scales, rest = [n for n in between if n.op == "scale"], [n for n in between if n.op != "scale"]
    made = [n for n in graph.nodes if n is not relu and n not in between]
    first = graph.fresh(f"{relu.name}.before")
    if not scales and source in graph and _single(graph, source):
        first, linear = source, graph.fresh(f"{source}.linear")
        made = [replace(n, name=linear) if n.name == source else n for n in made]
        source = linear
    for node in scales:
        made.append(_reading(graph, node, source))
        source = node.name
    made.append(replace(_reading(graph, relu, source), name=first))
    source = first
    for node in rest:
        name = relu.name if node is rest[-1] else node.name
        made.append(replace(_reading(graph, node, source), name=name))
        source = name
    return graph.edit(made)


def _reading(graph: Graph, node: Node, value: str) -> Node:
    """The node, reading another value and its own params."""
    return replace(node, inputs=(value, *(name for name in node.inputs if name in graph.params)))


def _between(graph: Graph, relu: Node) -> list[Node]:
    """The first max pool before the relu and what follows it up to there, if all that commutes; in that order."""
    before = front(graph)
    chain, found = list[Node](), list[Node]()
    name = graph.values(relu)[0]
    while name in graph and name not in before and graph[name].op in (*WIRING, "maxpool", "scale"):
        if not _single(graph, name):
            break
        chain.insert(0, graph[name])
        name = graph.values(graph[name])[0]
        if chain[0].op == "maxpool" and _commute(graph, chain):
            found = list(chain)
    return [] if found and _spiking(graph, graph.values(found[0])[0]) else found


def _commute(graph: Graph, chain: list[Node]) -> bool:
    """Whether every scale of the chain, which begins with a max pool, may go before it, and so the relu behind."""
    for at, node in enumerate(chain):
        wired = any(ahead.op in WIRING for ahead in chain[:at])
        if node.op == "scale" and (wired or not _grows(graph, node)):
            return False
    return True


def _single(graph: Graph, name: str) -> bool:
    """Whether one node reads the value `name`, and no output."""
    return len(graph.users(name)) == 1 and not graph.is_output(name)
