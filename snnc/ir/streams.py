r"""Inputs that are streams of events: values at every time step instead of one per sample.

An input of shape [C, H, W] may be given as x [N, T, C, H, W]: counts of events at each step, or other numbers. What is
analog reads the total, sum_t x[:, t]: the teacher, and every encoding but `events`, which hands on x step by step. The
total charge is the analog input either way.
"""

from __future__ import annotations

from typing import Protocol

from .graph import Array, Graph, Shape
from .once import once


class Samples(Protocol):
    """Samples [N, ...]: an array, or what reads those of a slice or of indices when it is asked."""

    @property
    def shape(self) -> Shape:
        """[N, ...]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Array, /) -> Array: ...


@once
def streamed(graph: Graph) -> frozenset[str]:
    """The inputs that an encoding of code `events` reads: these must be given as streams of T steps."""
    return frozenset(n.inputs[0] for n in graph.nodes if n.op == "encode" and n.attrs["code"] == "events")


def is_stream(graph: Graph, name: str, sample: Shape) -> bool:
    """Whether a sample of this shape is a stream of what the input `name` takes."""
    shape = graph.inputs[name].shape
    return len(sample) == len(shape) + 1 and tuple(sample[1:]) == shape


def sample_shape(graph: Graph, name: str, sample: Shape) -> Shape:
    """The shape that a sample must have for the input `name`: its own, or that of a stream, of T steps if `streamed`.

    Args:
        sample: the shape it has; a stream of any length suits an input whose total is read.
    """
    shape = graph.inputs[name].shape
    if name in streamed(graph):
        return (graph.steps, *shape)
    return (sample[0], *shape) if is_stream(graph, name, sample) else shape
