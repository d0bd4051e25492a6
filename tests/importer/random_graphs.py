"""Random graphs in which every op may follow every other: far from any network, close to every corner of a rewrite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from snnc.ir import Array, Graph, Shape
from tests.graphs import Builder, statistics

FAMILIES = (
    ("relu", "relu", "abs", "sigmoid", "scale", "scale", "scale", "leakyrelu", "batchnorm", "softmax", "standardize"),
    ("transpose", "transpose", "transpose", "reshape", "reshape", "flatten"),
    ("transpose", "transpose", "transpose", "reshape", "reshape", "flatten"),
    ("slice", "pad", "expand", "gather", "reduce", "mix"),
    ("add", "add", "mul", "maximum", "concat", "constant"),
    ("conv", "conv", "dense", "avgpool", "maxpool", "head"),
)
LARGE = 60


@st.composite
def tangled_graphs(draw: st.DrawFn) -> Graph:
    """Up to 13 ops over values of up to three axes, the last value and perhaps others as outputs."""
    return tangled(draw(st.integers(0, 2**20)), draw(st.integers(1, 13)))


def tangled(seed: int, count: int) -> Graph:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.choice([1, 2, 3, 4], rng.integers(1, 4)).tolist())
    grown = _Grown(rng, Builder({"x": shape}), [("x", shape)])
    for i in range(count):
        op = str(rng.choice(FAMILIES[rng.integers(len(FAMILIES))]))
        grown.grow(f"v{i}", op, *grown.values[-1 if rng.random() < 0.7 else rng.integers(len(grown.values))])
    ends = {grown.values[-1][0], *(name for name, _ in grown.values if rng.random() < 0.1)} - {"x"}
    b = grown.b
    return b.graph(*sorted(ends)) if ends else b.graph(b("last", "relu", "x"))


class _Grown:
    """What is there so far, and one method per op that adds one where it fits and gives back the new shape."""

    def __init__(self, rng: np.random.Generator, b: Builder, values: list[tuple[str, Shape]]) -> None:
        self.rng, self.b, self.values = rng, b, values

    def grow(self, name: str, op: str, at: str, shape: Shape) -> None:
        made = GROW[op](self, name, op, at, shape)
        if made is not None:
            self.values.append((name, tuple(int(size) for size in made)))

    def param(self, shape: Shape) -> Array:
        sizes: list[Shape] = [(), shape[:1], shape]
        return self.rng.normal(size=sizes[self.rng.integers(3)])

    def maybe(self, chance: float, **parts: Any) -> Mapping[str, Any]:
        return parts if self.rng.random() < chance else {}

    def axis(self, shape: Shape) -> int:
        return int(self.rng.integers(len(shape)))

    def each(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        self.b(name, op, at, **(self.maybe(0.3, max=1.0) if op == "relu" else {}))
        return shape

    def scale(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        factor = self.param(shape) if self.rng.random() < 0.7 else 1.0
        self.b(name, op, at, factor=factor, **self.maybe(0.6, bias=self.param(shape)))
        return shape

    def leakyrelu(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        self.b(name, op, at, slope=self.param(shape))
        return shape

    def batchnorm(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if not shape:
            return None
        self.b(name, op, at, **statistics(self.rng, shape[0]))
        return shape

    def softmax(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if not shape:
            return None
        self.b(name, op, at, axis=self.axis(shape))
        return shape

    def standardize(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if not shape:
            return None
        self.b(name, op, at, axes=(self.axis(shape),), epsilon=0.1)
        return shape

    def transpose(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        perm = tuple(self.rng.permutation(len(shape)).tolist())
        self.b(name, op, at, perm=perm)
        return tuple(shape[axis] for axis in perm)

    def reshape(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        size = math.prod(shape)
        made = [size]
        while op == "reshape" and made[-1] > 1 and self.rng.random() < 0.7:
            made[-1:] = [(d := int(self.rng.choice(_divisors(made[-1])))), made[-1] // d]
        for _ in range(self.rng.integers(3) if op == "reshape" else 0):
            made.insert(int(self.rng.integers(len(made) + 1)), 1)
        self.b(name, "reshape", at, shape=tuple(made))
        return tuple(made)

    def slice(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        starts = tuple(int(self.rng.integers(n)) for n in shape)
        sizes = tuple(int(self.rng.integers(1, n - s + 1)) for n, s in zip(shape, starts, strict=True))
        self.b(name, op, at, starts=starts, sizes=sizes, steps=(1,) * len(shape))
        return sizes

    def pad(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        rank = len(shape)
        if math.prod(shape) > LARGE:
            return None
        pads = self.rng.integers(0, 2, 2 * rank).tolist()
        interior = [0] * rank if self.rng.random() < 0.7 else self.rng.integers(0, 2, rank).tolist()
        if rank == 3 and self.rng.random() < 0.5:
            pads[0] = pads[3] = 0
        self.b(name, op, at, pads=tuple(pads), interior=tuple(interior))
        return tuple(
            n + (n - 1) * g + pads[i] + pads[i + rank] for i, (n, g) in enumerate(zip(shape, interior, strict=True))
        )

    def expand(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if math.prod(shape) > LARGE:
            return None
        made = tuple(int(self.rng.integers(1, 4)) if n == 1 else n for n in shape)
        self.b(name, op, at, shape=made)
        return made

    def gather(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if not shape:
            return None
        axis = self.axis(shape)
        index = tuple(self.rng.integers(0, shape[axis], self.rng.integers(1, 4)).tolist())
        self.b(name, op, at, axis=axis, index=index)
        return (*shape[:axis], len(index), *shape[axis + 1 :])

    def mix(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if not shape:
            return None
        axis = self.axis(shape)
        self.b(name, op, at, axis=axis, weight=self.rng.normal(size=(2, shape[axis])))
        return (*shape[:axis], 2, *shape[axis + 1 :])

    def reduce(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if len(shape) < 2:
            return None
        axes = (1, 2) if len(shape) == 3 and self.rng.random() < 0.5 else (self.axis(shape),)
        self.b(name, op, at, axes=axes, by=str(self.rng.choice(["mean", "sum", "max"])))
        return tuple(n for axis, n in enumerate(shape) if axis not in axes)

    def paired(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        others = [other for other, size in self.values if size == shape]
        self.b(name, op, at, others[self.rng.integers(len(others))])
        return shape

    def constant(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        self.b(f"{name}.c", op, value=self.rng.normal(size=shape))
        self.b(name, str(self.rng.choice(["add", "mul", "maximum"])), at, f"{name}.c")
        return shape

    def concat(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if not shape or math.prod(shape) > LARGE:
            return None
        axis = self.axis(shape)
        fitting = [(n, s) for n, s in self.values if (*s[:axis], *s[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :])]
        other, size = [(n, s) for n, s in fitting if len(s) == len(shape)][-1]
        self.b(name, op, at, other, axis=axis)
        return (*shape[:axis], shape[axis] + size[axis], *shape[axis + 1 :])

    def window(self, shape: Shape) -> tuple[dict[str, Any], Shape]:
        """A random window, and the map it makes."""
        rng = self.rng
        kernel = tuple(int(rng.integers(1, min(3, n) + 1)) for n in shape[1:])
        kernel = shape[1:] if rng.random() < 0.3 else kernel
        pads = tuple(int(k > 1 and rng.random() < 0.3) for k in kernel * 2)
        strides = tuple(rng.integers(1, 3, 2).tolist())
        made = ((shape[a + 1] + pads[a] + pads[a + 2] - kernel[a]) // strides[a] + 1 for a in (0, 1))
        return {"kernel": kernel, "pads": pads, "strides": strides}, tuple(made)

    def conv(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if len(shape) != 3:
            return None
        window, made = self.window(shape)
        group, out = (shape[0], 2 * shape[0]) if self.rng.random() < 0.3 else (1, 3)
        weight = self.rng.normal(size=(out, shape[0] // group, *window.pop("kernel"))) / 3
        self.b(name, op, at, weight=weight, group=group, **window, **self.maybe(0.5, bias=self.rng.normal(size=out)))
        return (out, *made)

    def head(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if len(shape) != 3:
            return None
        self.b(name, "conv", at, weight=self.rng.normal(size=(3, *shape)) / 3)
        return (3, 1, 1)

    def dense(self, name: str, op: str, at: str, shape: Shape) -> Shape:
        size = math.prod(shape)
        at = self.b(f"{name}.flat", "reshape", at, shape=(size,))
        weight = self.rng.normal(size=(4, size)) / size**0.5
        self.b(name, op, at, weight=weight, **self.maybe(0.5, bias=self.rng.normal(size=4)))
        return (4,)

    def pool(self, name: str, op: str, at: str, shape: Shape) -> Shape | None:
        if len(shape) != 3:
            return None
        window, made = self.window(shape)
        counted = {"count_include_pad": int(self.rng.integers(2))} if op == "avgpool" else {}
        self.b(name, op, at, **window, **counted)
        return (shape[0], *made)


def _divisors(size: int) -> list[int]:
    return [d for d in range(1, size + 1) if size % d == 0]


GROW: Mapping[str, Callable[[_Grown, str, str, str, Shape], Shape | None]] = {
    **dict.fromkeys(("relu", "abs", "sigmoid"), _Grown.each),
    **dict.fromkeys(("add", "mul", "maximum"), _Grown.paired),
    **dict.fromkeys(("avgpool", "maxpool"), _Grown.pool),
    "flatten": _Grown.reshape,
    **{op: getattr(_Grown, op) for family in FAMILIES for op in family if hasattr(_Grown, op)},
}
