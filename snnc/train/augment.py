"""Images moved and mirrored by chance while a network learns.

    shift        by up to an eighth of the height and of the width; zeros of the raw numbers come in
    shift-flip   and every second one, by chance, mirrored left to right

All steps of a stream of events are moved alike. What is drawn for a batch is drawn for all of its samples at once:
processes that share it agree, and an update that is made again sees the same images.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from snnc.data import Split
from snnc.errors import PipelineError
from snnc.ir import Array, Graph, attr_ints

Kind = Literal["none", "shift", "shift-flip"]
PART = 8
"""Images move by at most height / PART and width / PART."""


class Augment:
    """Draws how images move, and moves them.

    Raises:
        PipelineError: the network reads no images.
    """

    def __init__(self, kind: Kind, graph: Graph) -> None:
        self.kind, (name,) = kind, graph.inputs
        shape = graph.inputs[name].shape
        if kind != "none" and len(shape) != 3:
            hint = "augment=none"
            raise PipelineError(f"augment={kind} moves images, but '{name}' has shape {list(shape)}", hint=hint)
        self.axes = (-3, -2) if _channels_last(graph, name) else (-2, -1)
        self.most = [shape[axis] // PART for axis in self.axes] if kind != "none" else [0, 0]

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Rows down, columns right and whether mirrored, [count, 3]; draws nothing if there is nothing to do."""
        drawn = np.zeros((count, 3), np.int64)
        if self.kind != "none":
            drawn[:, :2] = rng.integers(np.negative(self.most), self.most, (count, 2), endpoint=True)
        if self.kind == "shift-flip":
            drawn[:, 2] = rng.integers(0, 2, count)
        return drawn

    def x(self, split: Split, index: Array, drawn: Array) -> Array:
        """The samples `index` [n], moved as drawn [n, 3], then scaled: float32 [n, ...]."""
        return split.x(index) if self.kind == "none" else split.scaling(self.moved(split.raw[index], drawn))

    def moved(self, raw: Array, drawn: Array) -> Array:
        """Samples raw [n, ...] moved as drawn [n, 3]."""
        images = np.moveaxis(raw, self.axes, (-2, -1))
        made = np.stack([_moved(image, *how) for image, how in zip(images, drawn.tolist(), strict=True)])
        return np.moveaxis(made, (-2, -1), self.axes)


def _moved(image: Array, down: int, right: int, mirrored: int) -> Array:
    """An image [..., height, width], moved, then mirrored."""
    height, width = image.shape[-2:]
    made = np.zeros_like(image)
    rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    cut = image[..., max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    made[..., rows, columns] = cut
    return made[..., ::-1] if mirrored else made


def _channels_last(graph: Graph, name: str) -> bool:
    """Whether the first that happens to the input is that its channels come to the front."""
    users = graph.users(name)
    while len(users) == 1 and users[0].op == "encode":
        users = graph.users(users[0].name)
    return bool(users) and all(n.op == "transpose" and attr_ints(n, "perm") == (2, 0, 1) for n in users)
