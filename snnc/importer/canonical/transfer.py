"""How each op does to a value what it does to a view of it:   f(view(x)) = view'(f'(x)).

Elementwise ops take any view, their params go through it backwards. Ops along axes take views that keep every axis
one axis, and name the axis that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from snnc.ir import CURVES, Array, Attr, Node, Shape, attr_ints
from snnc.ir.batchnorm import spread

from .view import Axes, View, along


@dataclass(frozen=True)
class Moved:
    """An op f' and the view' of what it makes; attributes and params None where they stay."""

    view: View
    attrs: Mapping[str, Attr] | None = None
    params: Mapping[str, Array] | None = None


def moved(node: Node, params: Mapping[str, Array], view: View, axes: Axes | None = None) -> Moved | None:
    """What becomes of `node` where it reads through `view` now; None if it cannot.

    Args:
        axes: which axis each axis was, where the view alone does not tell apart those of size 1.
    """
    if node.op in EACH:
        return EACH[node.op](node, params, view)
    axes = view.axes() if axes is None else axes
    if axes is None or node.op not in ALONG:
        return None
    return ALONG[node.op](_Along(node, view, axes))


def tight(param: Array) -> Array:
    """A param of the whole shape in the smallest form that says the same: a scalar, [C] or whole."""
    if param.ndim == 0:
        return param
    if (param == param.flat[0]).all():
        return np.asarray(param.flat[0])
    first = param.reshape(len(param), -1)[:, 0]
    return first if param.ndim > 1 and (spread(first, param.shape) == param).all() else param


def _elementwise(node: Node, params: Mapping[str, Array], view: View) -> Moved:
    back = view.inverse()
    return Moved(view, None, {role: _through(array, view.target, back) for role, array in params.items()})


def _through(param: Array, shape: Shape, view: View) -> Array:
    return param if param.ndim == 0 else tight(view.of(spread(param, shape)))


def _quantize(node: Node, params: Mapping[str, Array], view: View) -> Moved:
    """Step and zero have one shape."""
    made = _elementwise(node, params, view).params or {}
    rank = max(array.ndim for array in made.values())
    source = view.source[:1] if rank == 1 else view.source
    return Moved(view, None, {role: spread(a, source) if rank else a for role, a in made.items()})


@dataclass(frozen=True)
class _Along:
    """What an op along axes needs to know of a view: where each axis was."""

    node: Node
    view: View
    axes: Axes

    def at(self, axis: int) -> int | None:
        return self.axes[axis]

    def placed(self, values: Sequence[int], inert: int) -> list[int] | None:
        """Values given per axis, put where the axes were; None if an axis that was none does not have the inert one."""
        found = [inert] * len(self.view.source)
        for axis, value in zip(self.axes, values, strict=True):
            if axis is not None:
                found[axis] = value
            elif value != inert:
                return None
        return found

    def resized(self, attrs: Mapping[str, Attr], source: Sequence[int]) -> Moved:
        """The op makes `source` where it made what the node makes, each axis still where it was."""
        return Moved(along(tuple(source), self.axes, self.node.type.shape), attrs)


def _one_axis(it: _Along) -> Moved | None:
    """softmax and its like: the shape stays."""
    axis = it.at(int(str(it.node.attrs["axis"])))
    return None if axis is None else Moved(it.view, {**it.node.attrs, "axis": axis})


def _standardize(it: _Along) -> Moved | None:
    axes = [it.at(axis) for axis in attr_ints(it.node, "axes")]
    known = tuple(sorted(axis for axis in axes if axis is not None))
    return Moved(it.view, {**it.node.attrs, "axes": known}) if len(known) == len(axes) else None


def _resizing(it: _Along) -> Moved | None:
    """concat, gather and mix change the size of one axis."""
    axis = int(str(it.node.attrs["axis"]))
    if (was := it.at(axis)) is None:
        return None
    source = [*it.view.source]
    source[was] = it.node.type.shape[axis]
    return it.resized({**it.node.attrs, "axis": was}, source)


def _reduce(it: _Along) -> Moved | None:
    gone = attr_ints(it.node, "axes")
    axes = [it.at(axis) for axis in gone]
    known = tuple(sorted(axis for axis in axes if axis is not None))
    return _without(it, gone, {**it.node.attrs, "axes": known}) if len(known) == len(axes) else None


def _argmax(it: _Along) -> Moved | None:
    gone = int(str(it.node.attrs["axis"]))
    axis = it.at(gone)
    return None if axis is None else _without(it, (gone,), {**it.node.attrs, "axis": axis})


def _without(it: _Along, gone: Sequence[int], attrs: Mapping[str, Attr]) -> Moved:
    """The op takes the axes `gone` out of the view, and those that they were out of the source."""
    lost = {it.at(axis) for axis in gone}
    left = [axis for axis in range(len(it.view.source)) if axis not in lost]
    kept = [it.at(axis) for axis in range(len(it.axes)) if axis not in gone]
    source = tuple(it.view.source[axis] for axis in left)
    axes = tuple(None if axis is None else left.index(axis) for axis in kept)
    return Moved(along(source, axes, it.node.type.shape), attrs)


def _slice(it: _Along) -> Moved | None:
    parts = {"starts": 0, "sizes": 1, "steps": 1}
    made = {name: it.placed(attr_ints(it.node, name), inert) for name, inert in parts.items()}
    attrs: dict[str, Attr] = {name: tuple(values) for name, values in made.items() if values is not None}
    return it.resized(attrs, made["sizes"] or ()) if len(attrs) == 3 else None


def _pad(it: _Along) -> Moved | None:
    rank, pads = len(it.axes), attr_ints(it.node, "pads")
    before, after = it.placed(pads[:rank], 0), it.placed(pads[rank:], 0)
    interior = [0] * len(it.view.source)
    for axis, gap in zip(it.axes, attr_ints(it.node, "interior"), strict=True):
        if axis is not None:
            interior[axis] = gap
    if before is None or after is None:
        return None
    source = [n + (n - 1) * gap + a + b for n, gap, a, b in zip(it.view.source, interior, before, after, strict=True)]
    return it.resized({"pads": (*before, *after), "interior": tuple(interior)}, source)


def _expand(it: _Along) -> Moved | None:
    source = it.placed(attr_ints(it.node, "shape"), 1)
    return None if source is None else it.resized({"shape": tuple(source)}, source)


PAIRED = ("add", "mul", "div", "power", "maximum", "minimum")
"""Ops of several equal shapes."""

EACH: Mapping[str, Callable[[Node, Mapping[str, Array], View], Moved | None]] = {
    **dict.fromkeys(("relu", "scale", "leakyrelu", *CURVES, *PAIRED), _elementwise),
    "quantize": _quantize,
}
"""Ops that look at every number alone."""

ALONG: Mapping[str, Callable[[_Along], Moved | None]] = {
    **dict.fromkeys(("softmax", "logsoftmax"), _one_axis),
    **dict.fromkeys(("concat", "gather", "mix"), _resizing),
    "standardize": _standardize,
    "reduce": _reduce,
    "argmax": _argmax,
    "slice": _slice,
    "pad": _pad,
    "expand": _expand,
}
"""Ops that look along axes."""
