r"""The algebra of reshapes and transposes: every chain of them is one view, and every view has one shortest chain.

A view cuts what it reads, row by row, into factors of sizes f_1, ..., f_k, and reads them in another order:

    reshape to [f_1, ..., f_k]  ->  transpose by `order`  ->  reshape to `target`

Factors of size 1 are left out and factors that stay neighbours are one, so two chains do the same exactly if their
views are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from snnc.ir import Array, Attr, Shape

Step = tuple[str, dict[str, Attr]]
"""An op, `reshape` or `transpose`, and its attributes."""

Axes = tuple[int | None, ...]
"""For every axis of what is made the axis it was; None for one of size 1 that was none."""


@dataclass(frozen=True)
class View:
    """The same numbers in another order and shape.

    Attributes:
        source: the shape of what is read.
        factors: sizes above 1, outermost first; their product is the size of `source`.
        order: which factor stands at each place of what is made.
        target: the shape of what is made.
    """

    source: Shape
    factors: Shape
    order: tuple[int, ...]
    target: Shape

    @staticmethod
    def same(shape: Shape) -> View:
        """The view that changes nothing."""
        size = math.prod(shape)
        return View(shape, (size,) if size > 1 else (), (0,) if size > 1 else (), shape)

    @property
    def straight(self) -> bool:
        """Whether the numbers keep their order, so that a reshape does it."""
        return len(self.factors) < 2

    @property
    def nothing(self) -> bool:
        return self.straight and self.source == self.target

    def reshaped(self, shape: Shape) -> View:
        """This view, then a reshape."""
        return View(self.source, self.factors, self.order, shape)

    def transposed(self, perm: Sequence[int]) -> View | None:
        """This view, then a transpose; None where its axes cut across the factors."""
        parts = _cut([self.factors[i] for i in self.order], self.target)
        if parts is None:
            return None
        place, pieces = 0, list[tuple[tuple[int, int], int]]()  # (factor, part of it), size: in the order of the target
        counts = dict.fromkeys(range(len(self.factors)), 0)
        by_axis: list[list[int]] = []
        for axis in parts:
            by_axis.append([])
            for factor, size in axis:
                index = self.order[factor]
                pieces.append(((index, counts[index]), size))
                counts[index] += 1
                by_axis[-1].append(place)
                place += 1
        rank = {key: i for i, (key, _) in enumerate(sorted(pieces))}
        turned = [rank[pieces[i][0]] for axis in perm for i in by_axis[axis]]
        factors = tuple(size for _, size in sorted(pieces))
        return _merged(self.source, factors, turned, tuple(self.target[axis] for axis in perm))

    def then(self, after: View) -> View | None:
        """This view, then another; None where the two cut across each other."""
        turned = self.reshaped(after.factors).transposed(after.order)
        return None if turned is None else turned.reshaped(after.target)

    def inverse(self) -> View:
        """The view that takes this one back."""
        back = tuple(int(i) for i in np.argsort(self.order))
        return View(self.target, tuple(self.factors[i] for i in self.order), back, self.source)

    def of(self, array: Array) -> Array:
        """What the view makes of an array."""
        return np.asarray(array.reshape(self.factors).transpose(self.order).reshape(self.target))

    def axes(self) -> Axes | None:
        """Which axis each axis was, where every axis above size 1 was exactly one; axes of size 1 in their order."""
        index = np.arange(math.prod(self.source)).reshape(self.source)
        strides = {index.strides[a] // index.itemsize: a for a, size in enumerate(self.source) if size > 1}
        if self.straight:
            if [s for s in self.source if s > 1] != [s for s in self.target if s > 1]:
                return None
            known = iter([a for a, size in enumerate(self.source) if size > 1])
            found: list[int | None] = [next(known) if size > 1 else None for size in self.target]
        else:
            made = index.reshape(self.factors).transpose(self.order)
            parts = _cut(list(made.shape), self.target)
            if parts is None:
                return None
            found = []
            inner = [stride // index.itemsize for stride in made.strides]
            left = list(made.shape)
            for axis in parts:
                if len(axis) != 1:
                    found.append(None)
                    if axis:
                        return None
                    continue
                factor, size = axis[0]
                left[factor] //= size
                found.append(strides.get(inner[factor] * left[factor]))
                if found[-1] is None or self.source[found[-1]] != size:
                    return None
        spare = [a for a, size in enumerate(self.source) if size == 1]
        for place, size in enumerate(self.target):
            if size == 1 and spare:
                found[place] = spare.pop(0)
        return tuple(found)

    def steps(self) -> list[Step]:
        """The shortest chain that does it: transpose before reshape, reshape before transpose, or three."""
        if self.straight:
            return [] if self.source == self.target else [_reshape(self.target)]
        axes = self.axes()
        if axes is not None and None not in axes and len(axes) == len(self.source):
            return [_transpose(axes)]
        if (perm := self._whole_axes()) is not None:
            return [_transpose(perm), _reshape(self.target)]
        if (back := self.inverse()._whole_axes()) is not None and len(back) == len(self.target):
            middle = tuple(self.target[i] for i in back)
            return [_reshape(middle), _transpose(tuple(int(i) for i in np.argsort(back)))]
        return [_reshape(self.factors), _transpose(self.order), _reshape(self.target)]

    def _whole_axes(self) -> tuple[int, ...] | None:
        """The order in which whole axes of the source are read, those of size 1 last; None if one is cut."""
        parts = _cut(list(self.factors), tuple(s for s in self.source if s > 1))
        if parts is None or any(len(axis) != 1 for axis in parts):
            return None
        large = [a for a, size in enumerate(self.source) if size > 1]
        groups: dict[int, list[int]] = {}
        for axis, ((factor, _),) in zip(large, parts, strict=True):
            groups.setdefault(factor, []).append(axis)
        units = [a for a, size in enumerate(self.source) if size == 1]
        return (*(a for factor in self.order for a in groups[factor]), *units)


def along(source: Shape, axes: Axes, target: Shape) -> View:
    """The view that reads the given axes of `source`, and its axes of size 1 wherever it likes."""
    named = [a for a in axes if a is not None]
    rest = [a for a in range(len(source)) if a not in named]
    view = View.same(source).transposed((*named, *rest))
    assert view is not None
    return view.reshaped(target)


def _reshape(shape: Shape) -> Step:
    return "reshape", {"shape": shape}


def _transpose(perm: Sequence[int | None]) -> Step:
    return "transpose", {"perm": tuple(int(i) for i in perm if i is not None)}


def _cut(factors: Sequence[int], shape: Shape) -> list[list[tuple[int, int]]] | None:
    """For every axis of `shape` the (factor, size) pieces it consists of; None where they do not fit."""
    found: list[list[tuple[int, int]]] = []
    at, left = 0, factors[0] if factors else 1
    for size in shape:
        found.append([])
        need = size
        while need > 1:
            piece = min(need, left)
            if need % piece or left % piece:
                return None
            found[-1].append((at, piece))
            need, left = need // piece, left // piece
            if left == 1 and at + 1 < len(factors):
                at, left = at + 1, factors[at + 1]
    return found


def _merged(source: Shape, factors: Shape, order: Sequence[int], target: Shape) -> View:
    """Factors that follow each other before and after become one."""
    runs: list[list[int]] = []
    for factor in order:
        if runs and runs[-1][-1] + 1 == factor:
            runs[-1].append(factor)
        else:
            runs.append([factor])
    first = sorted(run[0] for run in runs)
    sizes = {run[0]: math.prod(factors[i] for i in run) for run in runs}
    return View(source, tuple(sizes[i] for i in first), tuple(first.index(run[0]) for run in runs), target)
