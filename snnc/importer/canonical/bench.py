"""A graph while it is rewritten: nodes, params and readers by name, changed in place by one rule at a time.

`Graph.edit` sorts and types everything anew, which a rewrite of one node in a graph of thousands cannot afford. The
bench keeps types and readers up to date and becomes a graph again at the end.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from snnc.ir import OPS, Array, Attr, Graph, Node, Shape, TensorType, attr_ints, roles
from snnc.ir.ops import infer

from .view import Step, View

VIEWS = ("reshape", "transpose")


class Bench:
    """The graph on which the rules work.

    Attributes:
        nodes: by name; what nothing reads any more goes at once.
        ends: the outputs, as in a graph.
        readers: by value, the names of the nodes that read it, in the order in which they came to.
        touched: nodes whose surroundings changed since they were last looked at.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
        self.params: dict[str, Array] = dict(graph.params)
        self.types: dict[str, TensorType] = {**graph.inputs, **{n.name: n.type for n in graph.nodes}}
        self.ends: dict[str, str] = dict(graph.outputs)
        self.readers: dict[str, dict[str, None]] = {name: {} for name in self.types}
        self.touched: OrderedDict[str, None] = OrderedDict.fromkeys(self.nodes)
        self._numbers = itertools.count(1)
        for node in graph.nodes:
            for value in self.values(node):
                self.readers[value][node.name] = None

    def done(self) -> Graph:
        """The graph it has become; the very one it was made of if nothing changed."""
        if list(self.nodes.values()) == list(self.graph.nodes) and self.ends == dict(self.graph.outputs):
            return self.graph
        return self.graph.edit(self.nodes.values(), params=self.params, outputs=self.ends)

    # --- looking

    def shape(self, name: str) -> Shape:
        return self.types[name].shape

    def values(self, node: Node) -> tuple[str, ...]:
        """The inputs of `node` that are values."""
        return tuple(name for name in node.inputs if name not in self.params)

    def source(self, node: Node, index: int = 0) -> Node | None:
        """The node that makes a value that `node` reads; None for an input of the graph."""
        return self.nodes.get(node.inputs[index]) if node.inputs else None

    def param(self, node: Node, role: str) -> Array | None:
        """A param of `node` by its role in the op table."""
        name = roles(node, self.params).get(role)
        return None if name is None else self.params[name]

    def arrays(self, node: Node) -> dict[str, Array]:
        """All params of `node` by role."""
        return {role: self.params[name] for role, name in roles(node, self.params).items()}

    def shown(self, name: str) -> bool:
        """Whether `name` is behind an output."""
        return name in self.ends.values()

    def alone(self, name: str) -> Node | None:
        """The one node that reads `name`; None if there are more or it is an output."""
        readers = self.readers[name]
        return self.nodes[next(iter(readers))] if len(readers) == 1 and not self.shown(name) else None

    def view(self, name: str) -> tuple[str, View]:
        """The value behind the reshapes and transposes that make `name`, and the view of it that they are."""
        view = View.same(self.shape(name))
        while (node := self.nodes.get(name)) is not None and node.op in VIEWS:
            before = self.shape(node.inputs[0])
            longer = step(before, node).then(view)
            if longer is None:
                break
            name, view = node.inputs[0], longer
        return name, view

    def given(self, name: str) -> bool:
        """Whether `name` is an input of the graph, or a view of one."""
        while (node := self.nodes.get(name)) is not None and node.op in VIEWS:
            name = node.inputs[0]
        return node is None

    def origins(self, name: str, root: str) -> tuple[str, ...]:
        """The origins of the views from `root` to `name`."""
        found: tuple[str, ...] = ()
        while name != root:
            node = self.nodes[name]
            found, name = node.origin + found, node.inputs[0]
        return found

    # --- changing

    def put(
        self,
        node: Node,
        values: Iterable[str] | None = None,
        *,
        op: str | None = None,
        params: Mapping[str, Array] | None = None,
        attrs: Mapping[str, Attr] | None = None,
        origin: tuple[str, ...] = (),
    ) -> str:
        """Add a node, or change the one of its name; params by role, all of them, or the present ones."""
        name, op = node.name, op or node.op
        read = tuple(values) if values is not None else self.values(node)
        old = self.nodes.get(name)
        if params is None:
            own = tuple(n for n in node.inputs if n in self.params)
        else:
            known = [r for r in (*OPS[op].params, OPS[op].optional) if r in params]
            own = tuple(f"{name}.{role}" for role in known)
            self.params |= {f"{name}.{role}": params[role].astype("float32") for role in known}
        made = replace(
            node,
            op=op,
            inputs=(*read, *own),
            attrs=node.attrs if attrs is None else attrs,
            origin=together(node.origin, origin),
        )
        made = replace(made, type=infer(made, self.types, self.params))
        dropped = {} if old is None else dict.fromkeys(v for v in self.values(old) if v not in read)
        self.nodes[name], self.types[name] = made, made.type
        self.readers.setdefault(name, {})
        for value in read:
            self.readers[value][name] = None
        for value in dropped:
            self.readers[value].pop(name, None)
        for value in dropped:
            self._prune(value)
        self.touch(name)
        return name

    def add(
        self,
        op: str,
        values: Iterable[str],
        attrs: Mapping[str, Attr],
        origin: tuple[str, ...] = (),
        params: Mapping[str, Array] | None = None,
    ) -> str:
        """A node under a new name."""
        name = next(n for i in self._numbers if (n := f"{op}_{i}") not in self.types)
        return self.put(Node(name, op, (), {}, origin), values, params=params or {}, attrs=attrs)

    def viewed(self, name: str, steps: Iterable[Step], origin: tuple[str, ...] = ()) -> str:
        """`name` after some reshapes and transposes; those that are there already are taken."""
        for op, attrs in steps:
            same = (self.nodes[r] for r in self.readers[name])
            found = next((n.name for n in same if n.op == op and dict(n.attrs) == attrs), None)
            name = found or self.add(op, (name,), attrs, origin)
        return name

    def change(
        self,
        node: Node,
        values: Iterable[str],
        steps: Iterable[Step],
        *,
        op: str | None = None,
        params: Mapping[str, Array] | None = None,
        attrs: Mapping[str, Attr] | None = None,
        origin: tuple[str, ...] = (),
    ) -> None:
        """Let `node` compute something else, of which `steps`, of this origin, make what it computed so far."""
        old, name = [*self.readers[node.name]], node.name
        held = [user for user, value in self.ends.items() if value == name]
        self.put(node, values, op=op, params=params, attrs=attrs)
        for view, how in steps:
            name = self.add(view, (name,), how, origin)
        if name != node.name:
            self.ends |= dict.fromkeys(held, name)
            self.turn(node.name, name, old)

    def turn(self, old: str, new: str, readers: Iterable[str] | None = None) -> None:
        """What reads `old` reads `new` from now on: some nodes, or by default all other nodes and the outputs."""
        if readers is None:
            self.ends = {user: new if value == old else value for user, value in self.ends.items()}
            readers = [r for r in self.readers[old] if r != new]
        for reader in readers:
            node = self.nodes[reader]
            self.nodes[reader] = replace(node, inputs=tuple(new if n == old else n for n in node.inputs))
            del self.readers[old][reader]
            self.readers[new][reader] = None
            self.touch(reader)
        self.touch(new)
        self._prune(old)

    def touch(self, name: str) -> None:
        """Look at a node and its neighbours again."""
        if (node := self.nodes.get(name)) is not None:
            self.touched.update(dict.fromkeys((*(v for v in self.values(node) if v in self.nodes), name)))
            self.touched.update(dict.fromkeys(self.readers[name]))

    def _prune(self, name: str) -> None:
        """Remove a node that nothing reads, and what only it read."""
        stack = [name]
        while stack:
            name = stack.pop()
            node = self.nodes.get(name)
            if node is None or self.readers[name] or self.shown(name):
                if node is not None:
                    self.touch(name)
                continue
            del self.nodes[name], self.types[name], self.readers[name]
            self.touched.pop(name, None)
            for value in set(self.values(node)):
                self.readers[value].pop(node.name, None)
                stack.append(value)


def step(source: Shape, node: Node) -> View:
    """The view that one reshape or transpose of a value of shape `source` is."""
    if node.op == "reshape":
        return View.same(source).reshaped(attr_ints(node, "shape"))
    view = View.same(source).transposed(attr_ints(node, "perm"))
    assert view is not None
    return view


def together(*origins: tuple[str, ...]) -> tuple[str, ...]:
    """Origins behind each other, each once."""
    return tuple(dict.fromkeys(name for origin in origins for name in origin))
