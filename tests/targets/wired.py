"""Networks whose layers are wired in other ways than one behind the other: what importers make of real models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from snnc.data import Data, Split
from snnc.ir import Array, Graph
from snnc.sim.reference import run
from tests.graphs import Builder

PAD = (1, 1, 1, 1)


class Net(Builder):
    """A builder that draws its weights."""

    def __init__(self, *shape: int) -> None:
        super().__init__({"x": shape})
        self.rng = np.random.default_rng(7)

    def drawn(self, *shape: int) -> Array:
        return np.asarray(self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))

    def conv(self, name: str, source: str, out: int, inner: int, kernel: tuple[int, int] = (3, 3), **attrs: Any) -> str:
        group = attrs.get("group", 1)
        return self(
            name, "conv", source, weight=self.drawn(out, inner // group, *kernel), bias=self.rng.normal(size=out) / 10,
            **{"pads": (kernel[0] // 2, kernel[1] // 2) * 2, **attrs},
        )  # fmt: skip

    def dense(self, name: str, source: str, out: int, inner: int) -> str:
        return self(name, "dense", source, weight=self.drawn(out, inner), bias=self.rng.normal(size=out) / 10)

    def head(self, source: str, size: int) -> Graph:
        """A dense layer with neurons and a read-out of three classes."""
        flat = self("flat", "reshape", source, shape=(size,))
        return self.graph(self.dense("out", self("relu9", "relu", self.dense("fc", flat, 10, size)), 3, 10))


def channel_last() -> Graph:
    """Channels come last, and the features are flattened that way too (Keras)."""
    b = Net(6, 6, 1)
    b("first", "transpose", "x", perm=(2, 0, 1))
    b("relu1", "relu", b.conv("conv1", "first", 4, 1))
    b("relu2", "relu", b.conv("conv2", "relu1", 4, 4, strides=(2, 2)))
    return b.head(b("last", "transpose", "relu2", perm=(1, 2, 0)), 36)


def split() -> Graph:
    """Two halves of the channels go their own ways and meet again (ShuffleNet)."""
    b = Net(1, 6, 6)
    b("relu1", "relu", b.conv("conv1", "x", 4, 1))
    for i in (0, 1):
        b(f"half{i}", "slice", "relu1", starts=(2 * i, 0, 0), sizes=(2, 6, 6), steps=(1, 1, 1))
    b("relu2", "relu", b.conv("conv2", "half0", 2, 2))
    b("both", "concat", "relu2", "half1", axis=0)
    b("shuffled", "gather", "both", axis=0, index=(0, 2, 1, 3))
    b("relu3", "relu", b.conv("conv3", "shuffled", 4, 4, strides=(2, 2)))
    return b.head("relu3", 36)


def upsampled() -> Graph:
    """A transposed convolution: zeros between the elements, then a convolution (U-Net)."""
    b = Net(1, 6, 6)
    b("relu1", "relu", b.conv("conv1", "x", 4, 1, strides=(2, 2)))
    b("spaced", "pad", "relu1", pads=(0, 1, 1, 0, 1, 1), interior=(0, 1, 1))
    b("relu2", "relu", b.conv("conv2", "spaced", 4, 4, (2, 2), pads=(0, 0, 0, 0)))
    return b.head("relu2", 4 * 36)


def one_dimensional() -> Graph:
    """A convolution over time, reshaped to an image of height 1 and back, with a scale behind (a batch norm)."""
    b = Net(2, 18)
    b("image1", "reshape", "x", shape=(2, 1, 18))
    b("line1", "reshape", b.conv("conv1", "image1", 4, 2, (1, 3)), shape=(4, 18))
    b("relu1", "relu", "line1")
    b("image2", "reshape", "relu1", shape=(4, 1, 18))
    b("line2", "reshape", b.conv("conv2", "image2", 4, 4, (1, 3), strides=(1, 2)), shape=(4, 9))
    b("norm", "scale", "line2", factor=[0.5, 1, 1.5, 2], bias=[0.1, 0, -0.1, 0])
    b("relu2", "relu", "norm")
    return b.head(b("turned", "transpose", "relu2", perm=(1, 0)), 36)


def joined() -> Graph:
    """Branches are concatenated before the activation (Inception) and again behind it (DenseNet)."""
    b = Net(1, 6, 6)
    b("relu0", "relu", b.conv("conv0", "x", 3, 1, strides=(2, 2)))
    b("both", "concat", b.conv("conv1", "relu0", 2, 3), b.conv("conv2", "relu0", 2, 3, (1, 1)), axis=0)
    b("relu1", "relu", "both")
    b("dense", "concat", "relu1", "relu0", axis=0)
    b("norm", "scale", "dense", factor=b.rng.uniform(0.5, 1.5, 7), bias=b.rng.normal(size=7) / 10)
    b("relu2", "relu", "norm")
    b("relu3", "relu", b.conv("conv3", "relu2", 4, 7, (1, 1)))
    return b.head("relu3", 36)


def normalized() -> Graph:
    """A batch norm behind the activation, in front of a convolution with pads (Keras): no weight takes its shift."""
    b = Net(1, 6, 6)
    b("relu1", "relu", b.conv("conv1", "x", 4, 1))
    b("norm1", "scale", "relu1", factor=[0.5, -1, 1.5, 2], bias=[0.3, 0.2, -0.3, 0.1])
    b("relu2", "relu", b.conv("conv2", "norm1", 4, 4, strides=(2, 2)))
    return b.head("relu2", 36)


def densely() -> Graph:
    """A layer without an activation is concatenated with what it read, and normalized with it (DenseNet)."""
    b = Net(1, 6, 6)
    b("relu1", "relu", b.conv("conv1", "x", 3, 1, strides=(2, 2)))
    b("both", "concat", "relu1", b.conv("conv2", "relu1", 2, 3), axis=0)
    b("norm1", "scale", "both", factor=b.rng.uniform(0.5, 1.5, 5), bias=b.rng.normal(size=5) / 10)
    b("relu2", "relu", "norm1")
    b("all", "concat", "both", b.conv("conv3", "relu2", 2, 5), axis=0)
    b("norm2", "scale", "all", factor=b.rng.uniform(0.5, 1.5, 7), bias=b.rng.normal(size=7) / 10)
    b("relu3", "relu", "norm2")
    return b.head("relu3", 63)


def leaky() -> Graph:
    """LeakyReLU, one slope and one per channel, with a residual connection."""
    b = Net(1, 6, 6)
    b("leaky1", "leakyrelu", b.conv("conv1", "x", 4, 1, strides=(2, 2)), slope=0.1)
    b("sum", "add", b.conv("conv2", "leaky1", 4, 4), "leaky1")
    b("leaky2", "leakyrelu", "sum", slope=[0.1, 0.2, 0.3, 0.25])
    return b.head("leaky2", 36)


def curved() -> Graph:
    """tanh and sigmoid (LeNet as it was)."""
    b = Net(1, 6, 6)
    b("tanh1", "tanh", b.conv("conv1", "x", 4, 1))
    b("pool1", "avgpool", "tanh1")
    b("sigmoid2", "sigmoid", b.conv("conv2", "pool1", 4, 4))
    return b.head("sigmoid2", 36)


def padded() -> Graph:
    """Analog pre-processing in front, a cropped pool, one value repeated, a sigmoid behind."""
    b = Net(1, 6, 6)
    b("norm", "scale", "x", factor=2.0, bias=-0.5)
    b("wide", "pad", "norm", pads=(0, 1, 1, 0, 1, 1), interior=(0, 0, 0))
    b("relu1", "relu", b.conv("conv1", "wide", 4, 1, pads=(0, 0, 0, 0)))
    b("pool", "avgpool", "relu1")
    b("mirrored", "slice", "pool", starts=(0, 0, 2), sizes=(4, 3, 3), steps=(1, 1, -1))
    b("relu2", "relu", b.conv("conv2", "mirrored", 4, 4))
    b("small", "slice", "relu2", starts=(0, 0, 0), sizes=(4, 1, 1), steps=(1, 1, 1))
    b("large", "expand", "small", shape=(4, 3, 3))
    b("relu3", "relu", b.conv("conv3", "large", 4, 4))
    graph = b.head("relu3", 36)
    b("share", "softmax", "out", axis=0)
    assert graph
    return b.graph("share")


WIRED: dict[str, Callable[[], Graph]] = {
    made.__name__: made
    for made in (channel_last, split, upsampled, one_dimensional, joined, normalized, densely, leaky, curved, padded)
}


def samples(net: str, count: int = 150) -> Data:
    """Grey levels k/16, labelled by the network: 2/3 to train."""
    graph = WIRED[net]()
    shape = graph.inputs["x"].shape
    x = (np.random.default_rng(12).integers(0, 17, (count, *shape)) / 16).astype(np.float32)
    scores = next(iter(run(graph, {"x": x}).values()))
    y = scores.argmax(axis=1).astype(np.int64)
    a, b = count * 2 // 3, count * 5 // 6
    return Data(Split(x[:a], y[:a]), Split(x[a:b], y[a:b]), Split(x[b:], y[b:]))
