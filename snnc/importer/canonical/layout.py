r"""Layout: views (chains of reshapes and transposes) sink towards the outputs until they meet their inverse or stick.

    f(view(x))            ->  view'(f'(x))                 sink
    f(view(x), view(y))   ->  view'(f'(x, y))              join; also where the others take the inverse for nothing
    view(f(x))            ->  f'(view(x))                  front, where x is an input of the graph but for such f
    view'(view(x))        ->  one view, in its shortest chain
    dense(view(x), W)     ->  dense(flatten(x), W')        W' the columns of W in the order of x
    view(dense(x, W))     ->  reshape(dense(x, W'))        W' the rows of W in the order of the view

A view of an input of the graph stays where it is: the user's own shape, made ours once, in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from snnc.ir import Node, Shape

from .bench import VIEWS, Bench, together
from .transfer import ALONG, EACH, PAIRED, Moved, moved
from .view import Axes, Step, View, along

DEEP = 32
"""Ops that a view is carried up through at most."""

Count = tuple[int, int]
"""Transposes, reshapes."""


def merge(bench: Bench, node: Node) -> bool:
    """A chain of views is the shortest that does the same, shared by all that need it."""
    if not _needed(bench, node):
        return False
    root, view = bench.view(node.name)
    new = bench.viewed(root, view.steps(), bench.origins(node.name, root))
    if new == node.name:
        return False
    bench.turn(node.name, new)
    return True


def _needed(bench: Bench, node: Node) -> bool:
    """Whether anything but a longer chain of views reads this one."""
    readers = [bench.nodes[r] for r in bench.readers[node.name]]
    return bench.shown(node.name) or any(
        r.op not in VIEWS or bench.view(r.name)[0] in (r.name, node.name) for r in readers
    )


def sink(bench: Bench, node: Node) -> bool:
    """An op of one value is done before the view that it reads, unless that is of an input of the graph."""
    values = bench.values(node)
    if len(values) != 1:
        return False
    root, view = bench.view(values[0])
    if view.nothing or bench.given(root):
        return False
    new = moved(node, bench.arrays(node), view)
    if new is None:
        return False
    origin = bench.origins(values[0], root)
    bench.change(node, (root,), new.view.steps(), params=new.params, attrs=new.attrs, origin=origin)
    return True


def join(bench: Bench, node: Node) -> bool:
    """An op of several values is done before the view that they share, where that leaves fewer transposes."""
    values = bench.values(node)
    seen = [bench.view(value) for value in values]
    before = _total(_count(view.steps()) for root, view in seen if not bench.given(root))
    for view in {v: None for root, v in seen if not bench.given(root) and not v.nothing}:
        new, backs = moved(node, bench.arrays(node), view), _inverses(bench, values, view, node)
        if new is None or backs is None:
            continue
        prices = [_price(bench, value, back) for value, back in zip(values, backs, strict=True)]
        after = _total((*prices, _count(new.view.steps())))
        if after < before or (after[0] == before[0] == 1):
            origin = together(*(bench.origins(value, root) for value, (root, _) in zip(values, seen, strict=True)))
            read = [_carried(bench, value, back) for value, back in zip(values, backs, strict=True)]
            bench.change(node, read, new.view.steps(), params=new.params, attrs=new.attrs, origin=origin)
            return True
    return False


def _inverses(bench: Bench, values: Sequence[str], view: View, node: Node) -> list[View] | None:
    """The view taken back from each of the values; their sizes may differ along the axis of a concat."""
    if node.op in PAIRED:
        return [view.inverse()] * len(values)
    axes = view.axes()
    if axes is None:
        return None
    return [_taken_back(axes, len(view.source), bench.shape(value)) for value in values]


def _taken_back(axes: Axes, rank: int, shape: Shape) -> View:
    """The inverse of a view of these axes that makes `shape`."""
    places = tuple(axes.index(a) if a in axes else None for a in range(rank))
    return along(shape, places, tuple(1 if place is None else shape[place] for place in places))


def front(bench: Bench, node: Node) -> bool:
    """A view goes up to the input of the graph where only ops of one value that nobody else reads lie between."""
    if not _needed(bench, node):
        return False
    root, view = bench.view(node.name)
    if bench.given(root) or view.nothing or not _private(bench, node.name, root):
        return False
    same = View.same(node.type.shape)
    if not _leads_up(bench, _lift(bench, node.name, same)):
        return False
    bench.turn(node.name, _carried(bench, node.name, same, up=True))
    return True


@dataclass(frozen=True)
class _Lift:
    """A view of what an op makes, as a view of what it reads: value, its view, what becomes of the op."""

    value: str
    view: View
    node: Node
    made: Moved


def _leads_up(bench: Bench, lift: _Lift | None) -> bool:
    """Whether a view that goes up by `lift` can go on up to an input of the graph, nobody else reading in between."""
    for _ in range(DEEP):
        if lift is None:
            return False
        root, _ = bench.view(lift.value)
        if bench.given(root):
            return True
        if not _private(bench, lift.value, root, also=True):
            return False
        lift = _lift(bench, lift.value, lift.view)
    return False


def _private(bench: Bench, name: str, root: str, also: bool = False) -> bool:
    """Whether only the chain from `root` to `name` reads root and what lies between; `also`: one node reads `name`."""
    if also and bench.alone(name) is None:
        return False
    while name != root:
        name = bench.nodes[name].inputs[0]
        if bench.alone(name) is None:
            return False
    return True


def _lift(bench: Bench, name: str, after: View) -> _Lift | None:
    """Take a view of `name` up over the op behind it."""
    root, view = bench.view(name)
    whole, node = view.then(after), bench.nodes.get(root)
    if whole is None or node is None or len(bench.values(node)) != 1:
        return None
    before, params = bench.shape(node.inputs[0]), bench.arrays(node)
    if node.op in EACH:
        new = moved(node, params, whole.inverse())
        return None if new is None else _Lift(node.inputs[0], whole, node, new)
    axes = whole.axes()
    if node.op not in ALONG or axes is None or len(before) != len(node.type.shape):
        return None
    if any(size > 1 and axis not in axes for axis, size in enumerate(before)):
        return None
    inner = along(before, axes, tuple(1 if a is None else before[a] for a in axes))
    back = tuple(axes.index(a) if a in axes else None for a in range(len(before)))
    new = moved(node, params, inner.inverse(), back)
    return None if new is None else _Lift(node.inputs[0], inner, node, new)


def _price(bench: Bench, name: str, after: View, deep: int = DEEP) -> Count:
    """Transposes and reshapes that `_carried` would need."""
    root, view = bench.view(name)
    whole = view.then(after)
    if whole is None:
        return _total((_count(view.steps()), _count(after.steps())))
    if root in bench.nodes and bench.nodes[root].op == "constant":
        return 0, 0
    price = _count(whole.steps())
    if bench.given(root) and _there(bench, root, whole.steps()):
        return 0, price[1]
    lift = _lift(bench, name, after) if deep and _private(bench, name, root, also=True) else None
    return price if lift is None else min(price, _price(bench, lift.value, lift.view, deep - 1))


def _carried(bench: Bench, name: str, after: View, up: bool = False) -> str:
    """A view of `name`, made above the ops before it where that spares a transpose, or all the way `up`."""
    root, view = bench.view(name)
    whole = view.then(after)
    origin = bench.origins(name, root)
    if whole is None:
        return bench.viewed(name, after.steps())
    lift = None if bench.given(root) else _lift(bench, name, after)
    if lift is None or not (up or _price(bench, name, after) < _price(bench, name, after, 0)):
        return bench.viewed(root, whole.steps(), origin)
    inner = _carried(bench, lift.value, lift.view, up=up)
    attrs = lift.node.attrs if lift.made.attrs is None else lift.made.attrs
    params = bench.arrays(lift.node) if lift.made.params is None else lift.made.params
    made = bench.add(lift.node.op, (inner,), attrs, lift.node.origin, params)
    rest = lift.made.view.then(whole)
    assert rest is not None
    return bench.viewed(made, rest.steps(), origin)


def _there(bench: Bench, name: str, steps: Sequence[Step]) -> bool:
    """Whether this chain of views stands behind `name` already."""
    for op, attrs in steps:
        readers = (bench.nodes[r] for r in bench.readers[name])
        found = next((n.name for n in readers if n.op == op and dict(n.attrs) == attrs), None)
        if found is None:
            return False
        name = found
    return True


def _count(steps: Sequence[Step]) -> Count:
    transposes = sum(op == "transpose" for op, _ in steps)
    return transposes, len(steps) - transposes


def _total(counts: Iterable[Count]) -> Count:
    found = list(counts)
    return sum(t for t, _ in found), sum(r for _, r in found)


def columns(bench: Bench, node: Node) -> bool:
    """A dense layer takes its columns in the order in which the value before any transpose stands."""
    root, view = bench.view(node.inputs[0])
    if view.straight:
        return False
    params = bench.arrays(node)
    place = view.of(np.arange(params["weight"].shape[1]))
    weight = np.empty_like(params["weight"])
    weight[:, place] = params["weight"]
    origin = bench.origins(node.inputs[0], root)
    flat = bench.viewed(root, View.same(view.source).reshaped(view.target).steps(), origin)
    bench.put(node, (flat,), params={**params, "weight": weight})
    return True


def rows(bench: Bench, node: Node) -> bool:
    """A transpose behind a dense layer is one of its rows, also through ops of one value that nobody else reads."""
    if not _needed(bench, node):
        return False
    root, view = bench.view(node.name)
    if view.straight or len(view.source) != 1 or not _private(bench, node.name, root):
        return False
    path = []
    at = bench.nodes.get(root)
    while at is not None and at.op in EACH and len(bench.values(at)) == 1 and bench.alone(at.inputs[0]):
        path.append(at)
        at = bench.source(at)
    if at is None or at.op != "dense":
        return False
    turn = view.reshaped(view.source)
    moves = [moved(n, bench.arrays(n), turn.inverse()) for n in path]
    if None in moves:
        return False
    place = turn.of(np.arange(view.source[0]))
    bench.put(at, params={role: array[place] for role, array in bench.arrays(at).items()})
    for n, new in zip(path, moves, strict=True):
        assert new is not None
        bench.put(n, params=new.params)
    origin = bench.origins(node.name, root)
    bench.turn(node.name, bench.viewed(root, View.same(view.source).reshaped(view.target).steps(), origin))
    return True


def constants(bench: Bench, node: Node) -> bool:
    """A view of a constant is a constant."""
    root, view = bench.view(node.name)
    made = bench.nodes.get(root)
    if made is None or made.op != "constant":
        return False
    origin = together(made.origin, bench.origins(node.name, root))
    value = view.of(bench.params[made.inputs[0]])
    bench.turn(node.name, bench.add("constant", (), {}, origin, {"value": value}))
    return True
