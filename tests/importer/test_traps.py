"""What is legal ONNX but easily got wrong, by numbers worked out by hand: no oracle is asked.

Images are one row high, [1,W], so that every case can be followed on paper; both executors must agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from snnc.errors import ModelError
from snnc.importer.build import build
from snnc.importer.options import Options
from snnc.ir import Graph, verify
from snnc.passes import FoldBatchNorm
from snnc.pipeline import Context
from snnc.sim import reference, torch

Save = Callable[..., Path]
EXECUTORS = (reference.run, torch.run)


@dataclass(frozen=True)
class Trap:
    """A model of a few nodes, one sample (without batch), and what comes out of it."""

    lines: Sequence[Any]
    x: Any
    y: Any
    consts: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 13


def floats(*values: float) -> Any:
    """A constant list of float32."""
    return np.array(values, np.float32)


def row(*values: float) -> Any:
    """One channel, one row high."""
    return floats(*values).reshape(1, 1, -1)


def kernel(*values: float) -> Any:
    """A conv weight [1,1,1,K]."""
    return floats(*values).reshape(1, 1, 1, -1)


def norm(gamma: float, beta: float, mean: float, var: float) -> dict[str, Any]:
    """Statistics of one channel."""
    return {"g": floats(gamma), "b": floats(beta), "m": floats(mean), "v": floats(var)}


def pooled(op: str, **attrs: Any) -> tuple[str, str, str, dict[str, Any]]:
    """A pool of a row: `kernel`, `stride` and `pads` (left, right) along it."""
    width, stride, (left, right) = attrs.pop("kernel"), attrs.pop("stride", 1), attrs.pop("pads", (0, 0))
    window = {"kernel_shape": [1, width], "strides": [1, stride], "pads": [0, left, 0, right]}
    return (op, "x", "y", {**window, **attrs})


def resized(scale: float, **attrs: Any) -> dict[str, Any]:
    """Line and constants of a resize of a row along its width."""
    line = ("Resize", "x _ s", "y", {"mode": "nearest", **attrs})
    return {"lines": [line], "consts": {"s": floats(1, 1, 1, scale)}}


BATCHNORM = ("BatchNormalization", "x g b m v", "y", {"epsilon": 1.0})
TEN = kernel(1, 10, 100)

TRAPS: Mapping[str, Trap] = {
    # s = -2 / sqrt(3 + 1) = -1: y = -(x - 1) + 0.5
    "negative gamma": Trap([BATCHNORM], [3.0], [-1.5], norm(-2, 0.5, 1, 3), 15),
    # the channel is constant, whatever comes in; relu behind it keeps it
    "gamma of zero": Trap(
        [(*BATCHNORM[:2], "n", BATCHNORM[3]), ("Relu", "n", "y")], [7.0], [0.25], norm(0, 0.25, 1, 3)
    ),
    # s = 3 / sqrt(0 + 0.25) = 6: y = 6 * (x - 1) - 2
    "variance of zero": Trap([(*BATCHNORM[:3], {"epsilon": 0.25})], [2.0], [4.0], norm(3, -2, 1, 0), 15),
    # s = (1, -2) / sqrt(var + 1) = (0.5, -1): (4 - 2) * 0.5 + 0 and (4 - 1) * -1 + 10
    "batch norm of features": Trap(
        [BATCHNORM],
        [4.0, 4.0],
        [1.0, 7.0],
        {"g": floats(1, -2), "b": floats(0, 10), "m": floats(2, 1), "v": floats(3, 3)},
        9,
    ),
    # weights (4 - 1) * 0.5 and (3 - 1) * 0.5, norms -1.5 * (3 - 1) + 0.5 and 1 * (3 - 1) + 0.5: 1.5 * -2.5 + 1 * 2.5;
    # the norm cannot go into the weights: -2.25 is no whole number of their steps
    "batch norm in front of a quantised weight": Trap(
        [
            ("Relu", "x", "r"),
            ("BatchNormalization", "r g b m v", "n", {"epsilon": 1.0}),
            ("DequantizeLinear", "q s z", "w"),
            ("Conv", "n w", "y"),
        ],
        [[[3.0]], [[3.0]]],
        [[[-1.25]]],
        {
            "g": floats(-3, 2),
            "b": floats(0.5, 0.5),
            "m": floats(1, 1),
            "v": floats(3, 3),
            "q": np.array([4, 3], np.int8).reshape(1, 2, 1, 1),
            "s": np.float32(0.5),
            "z": np.int8(1),
        },
    ),
    # conv gives -1 everywhere, relu 0, the matrix 0, what is left is the last bias
    "dead layer": Trap(
        [("Conv", "x w b", "c"), ("Relu", "c", "r"), ("Flatten", "r", "f"), ("Gemm", "f k l", "y")],
        row(5, -5),
        [0.5],
        {"w": kernel(0), "b": floats(-1), "k": floats(3, 4).reshape(2, 1), "l": floats(0.5)},
    ),
    # row by row: [[1,2,3],[4,5,6]] -> [[1,2],[3,4],[5,6]]; 0 keeps the batch, -1 is what is left
    "reshape with 0 and -1": Trap(
        [("Reshape", "x s", "y")], [[1, 2, 3], [4, 5, 6]], [[1, 2], [3, 4], [5, 6]], {"s": np.array([0, -1, 2])}
    ),
    # 0 copies the size in its own place: [N,2,3] by (0, 0, -1, 1) -> [N,2,3,1]
    "reshape with two 0": Trap(
        [("Reshape", "x s", "y")], [[1, 2, 3]], [[[1], [2], [3]]], {"s": np.array([0, 0, -1, 1])}
    ),
    "reshape with allowzero and no zero": Trap(
        [("Reshape", "x s", "y", {"allowzero": 1})], [[1, 2], [3, 4]], [1, 2, 3, 4], {"s": np.array([-1, 4])}, 14
    ),
    # windows (1,2) (3,4) (5): the last one reaches over the edge
    "ceil_mode of a maximum": Trap(
        [pooled("MaxPool", kernel=2, stride=2, ceil_mode=1)], row(1, 2, 3, 4, 5), row(2, 4, 5)
    ),
    # the same windows: 3/2, 7/2, and 5/1, because there is one number in the last one
    "ceil_mode of an average": Trap(
        [pooled("AveragePool", kernel=2, stride=2, ceil_mode=1)], row(1, 2, 3, 4, 5), row(1.5, 3.5, 5)
    ),
    # ceil((3 + 1 - 2) / 3) + 1 = 2 windows, but the second would begin at 3, in the padding: opset 22 says to drop it
    "ceil_mode drops a window in the padding": Trap(
        [pooled("MaxPool", kernel=2, stride=3, pads=(0, 1), ceil_mode=1)], row(1, 2, 3), row(2), opset=22
    ),
    # windows (0,1) (2,3) (4,0), all divided by 2
    "count_include_pad": Trap(
        [pooled("AveragePool", kernel=2, stride=2, pads=(1, 1), count_include_pad=1)], row(1, 2, 3, 4), row(0.5, 2.5, 2)
    ),
    # windows (1) (2,3) (4), divided by what is in them
    "average without the padding": Trap(
        [pooled("AveragePool", kernel=2, stride=2, pads=(1, 1))], row(1, 2, 3, 4), row(1, 2.5, 4)
    ),
    # windows (1) (1,2) (1,2,3): two pads on the left, none on the right
    "average with uneven pads": Trap([pooled("AveragePool", kernel=3, pads=(2, 0))], row(1, 2, 3), row(1, 1.5, 2)),
    # 3 numbers to 3 by kernel 2: one pad, in front: windows (1) (1,2) (2,3)
    "average with SAME_LOWER": Trap(
        [("AveragePool", "x", "y", {"kernel_shape": [1, 2], "auto_pad": "SAME_LOWER"})], row(1, 2, 3), row(1, 1.5, 2.5)
    ),
    # (0,-1,-2,0): windows (0,-1) (-1,-2) (-2,0); zeros of a Pad count
    "Pad before a maximum of negatives": Trap(
        [("Pad", "x p", "q"), ("MaxPool", "q", "y", {"kernel_shape": [1, 2]})],
        row(-1, -2),
        row(0, -1, 0),
        {"p": np.array([0, 0, 0, 1, 0, 0, 0, 1])},
    ),
    # windows (-1) (-1,-2) (-2): a pool's own padding never wins
    "maximum of negatives with pads": Trap([pooled("MaxPool", kernel=2, pads=(1, 1))], row(-1, -2), row(-1, -1, -2)),
    # (1) (1,2) (2,3) ... with dilation 2 and one pad on either side: (_,2) (1,3) (2,4) (3,_)
    "maximum with dilation and pads": Trap(
        [pooled("MaxPool", kernel=2, pads=(1, 1), dilations=[1, 2])], row(1, 2, 3, 4), row(2, 3, 4, 3)
    ),
    # ONNX: min(max, max(x, min)); where the bounds cross it is max for all
    "Clip with crossed bounds": Trap(
        [("Clip", "x a b", "y")], [-9.0, 2.0, 9.0], [1, 1, 1], {"a": np.float32(3), "b": np.float32(1)}
    ),
    "Clip without a minimum": Trap([("Clip", "x _ b", "y")], [-9.0, 2.0], [-9, 1], {"b": np.float32(1)}, 11),
    "Clip of negatives only": Trap(
        [("Clip", "x", "y", {"min": -3.0, "max": -1.0})], [-9.0, -2.0, 5.0], [-3, -2, -1], {}, 9
    ),
    # 0.5 * (1*1 + 2*3, 1*2 + 2*4) + 2 * (1, -1) = (3.5, 5) + (2, -2)
    "Gemm with alpha, beta and transB": Trap(
        [("Gemm", "x w b", "y", {"alpha": 0.5, "beta": 2.0, "transB": 1})],
        [1.0, 2.0],
        [5.5, 3.0],
        {"w": floats(1, 3, 2, 4).reshape(2, 2), "b": floats(1, -1)},
    ),
    # each channel has its own weight
    "grouped conv": Trap(
        [("Conv", "x w", "y", {"group": 2})],
        [[[1]], [[2]]],
        [[[3]], [[-2]]],
        {"w": floats(3, -1).reshape(2, 1, 1, 1)},
    ),
    # channels (1,2) make the first two outputs, (3,4) the last two: 1+20, 100+2000 of group 1; 3+40, 300+4000
    "grouped conv with several outputs": Trap(
        [("Conv", "x w", "y", {"group": 2})],
        [[[1]], [[2]], [[3]], [[4]]],
        [[[21]], [[2100]], [[43]], [[4300]]],
        {"w": floats(1, 10, 100, 1000, 1, 10, 100, 1000).reshape(4, 2, 1, 1)},
    ),
    # every second number: 1 + 3*10 + 5*100
    "dilated conv": Trap([("Conv", "x w", "y", {"dilations": [1, 2]})], row(1, 2, 3, 4, 5), row(531), {"w": TEN}),
    # (0,0,1,2,3): 0, 10*1, 1+10*2, 2+10*3
    "conv with uneven pads": Trap(
        [("Conv", "x w", "y", {"pads": [0, 2, 0, 0]})], row(1, 2, 3), row(0, 10, 21, 32), {"w": kernel(1, 10)}
    ),
    # 4 numbers by stride 2 are 2 windows over (1,2,3,4,0): SAME_UPPER pads behind: 1+20+300, 3+40+0
    "conv with SAME_UPPER": Trap(
        [("Conv", "x w", "y", {"auto_pad": "SAME_UPPER", "strides": [1, 2]})], row(1, 2, 3, 4), row(321, 43), {"w": TEN}
    ),
    # each number is written as (1,10,100) times itself, two apart: 1, 10, 100+2, 20, 200
    "transposed conv": Trap(
        [("ConvTranspose", "x w", "y", {"strides": [1, 2]})], row(1, 2), row(1, 10, 102, 20, 200), {"w": TEN}
    ),
    # the same without its first and last number, and one more behind: 10, 102, 20, then the one that pads cut off
    "transposed conv with pads and output_padding": Trap(
        [("ConvTranspose", "x w", "y", {"strides": [1, 2], "pads": [0, 1, 0, 1], "output_padding": [0, 1]})],
        row(1, 2),
        row(10, 102, 20, 200),
        {"w": TEN},
    ),
    # behind what any input reaches there is only the bias
    "transposed conv with output_padding beyond": Trap(
        [("ConvTranspose", "x w b", "y", {"strides": [1, 3], "output_padding": [0, 2]})],
        row(1, 2),
        row(1.5, 10.5, 0.5, 2.5, 20.5, 0.5, 0.5),
        {"w": kernel(1, 10), "b": floats(0.5)},
    ),
    # x + 1000 * relu(x)
    "residual of unequal scales": Trap(
        [("Relu", "x", "r"), ("Mul", "r k", "s"), ("Add", "x s", "y")], [-1.0, 2.0], [-1, 2002], {"k": np.float32(1000)}
    ),
    # (2,1) W = (2, 2*2 + 3) = (2,7), times W again (2, 2*2 + 7*3)
    "shared weights": Trap(
        [("MatMul", "x w", "h"), ("MatMul", "h w", "y")], [2.0, 1.0], [2, 25], {"w": floats(1, 2, 0, 3).reshape(2, 2)}
    ),
    # h = 3x + 1 by one use of w, y = 3h of the other: a bias of one must not reach the other
    "shared weights, one with a bias": Trap(
        [("MatMul", "x w", "h"), ("Add", "h b", "i"), ("MatMul", "i w", "y")],
        [2.0],
        [21],
        {"w": floats(3).reshape(1, 1), "b": floats(1)},
    ),
    # old Softmax: all axes from 1 on count as one: e^x = 1, 2, 3, 4 of 10
    "Softmax of opset 11 over several axes": Trap(
        [("Softmax", "x", "y")], np.log([[1, 2], [3, 4]]), [[0.1, 0.2], [0.3, 0.4]], {}, 11
    ),
    # new Softmax: the last axis: 1, 3 of 4 and 2, 8 of 10
    "Softmax of opset 13 over the last": Trap(
        [("Softmax", "x", "y")], np.log([[1, 3], [2, 8]]), [[0.25, 0.75], [0.2, 0.8]], {}, 13
    ),
    "LeakyRelu": Trap([("LeakyRelu", "x", "y", {"alpha": 0.25})], [-4.0, 4.0], [-1, 4]),
    "LeakyRelu with a slope above 1": Trap([("LeakyRelu", "x", "y", {"alpha": 2.0})], [-4.0, 4.0], [-8, 4]),
    "LeakyRelu by default": Trap([("LeakyRelu", "x", "y")], [-4.0, 4.0], [-0.04, 4]),
    # one slope a channel: 2 * -1, 0.5 * -1
    "PRelu by channel": Trap(
        [("PRelu", "x s", "y")], [[[-1]], [[-1]]], [[[-2]], [[-0.5]]], {"s": floats(2, 0.5).reshape(2, 1, 1)}
    ),
    # max(0, min(1, x / 5 + 1/2))
    "HardSigmoid by default": Trap([("HardSigmoid", "x", "y")], [-3.0, 0.0, 1.0, 3.0], [0, 0.5, 0.7, 1]),
    # of 4 to 2, the centres of the new pixels lie at 0.5 and 2.5: on the edge between two old ones
    "nearest resize rounds a half down": Trap(**resized(0.5), x=row(1, 2, 3, 4), y=row(1, 3)),
    "nearest resize rounds a half up": Trap(
        **resized(0.5, nearest_mode="round_prefer_ceil"), x=row(1, 2, 3, 4), y=row(2, 4)
    ),
    # output i reads input i / 1.5 = 0, 0.67, 1.33: down to 0, 0, 1
    "nearest resize, asymmetric": Trap(
        **resized(1.5, coordinate_transformation_mode="asymmetric", nearest_mode="floor"), x=row(1, 2), y=row(1, 1, 2)
    ),
    # centres at -0.25, 0.25, 0.75, 1.25: the edges repeat, between them it is straight
    "linear resize": Trap(**resized(2, mode="linear"), x=row(1, 5), y=row(1, 2, 4, 5)),
    # corner on corner: steps of 1/3
    "linear resize, align_corners": Trap(
        **resized(2, mode="linear", coordinate_transformation_mode="align_corners"), x=row(0, 3), y=row(0, 1, 2, 3)
    ),
    # from the last backwards by 2
    "slice with a negative step": Trap(
        [("Slice", "x a b i s", "y")],
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [5, 3, 1],
        {"a": np.array([-1]), "b": np.array([-(2**63)]), "i": np.array([1]), "s": np.array([-2])},
    ),
    # the end does not belong to it, and -1 is the last
    "slice by negative ends": Trap(
        [("Slice", "x", "y", {"axes": [1], "starts": [-3], "ends": [-1]})], [1.0, 2.0, 3.0, 4.0], [2, 3], {}, 9
    ),
    # the parts come back in the other order
    "split in uneven parts": Trap(
        [("Split", "x s", "a b", {"axis": 1}), ("Concat", "b a", "y", {"axis": -1})],
        [1.0, 2.0, 3.0],
        [3, 1, 2],
        {"s": np.array([2, 1])},
    ),
    # mirrored at 1 and at 3, which do not repeat
    "reflected pad": Trap(
        [("Pad", "x p", "y", {"mode": "reflect"})],
        row(1, 2, 3),
        row(3, 2, 1, 2, 3, 2),
        {"p": np.array([0, 0, 0, 2, 0, 0, 0, 1])},
    ),
    # a negative pad takes away
    "negative pad": Trap(
        [("Pad", "x p v", "y")],
        row(1, 2, 3),
        row(2, 3, 7),
        {"p": np.array([0, 0, 0, -1, 0, 0, 0, 1]), "v": np.float32(7)},
    ),
    # depth first: pixel (i,j) of channel c is channel (2i + j) * 2 + c
    "DepthToSpace": Trap(
        [("DepthToSpace", "x", "y", {"blocksize": 2})],
        np.arange(8).reshape(8, 1, 1),
        [[[0, 2], [4, 6]], [[1, 3], [5, 7]]],
    ),
    # column first: pixel (i,j) of channel c is channel 4c + 2i + j
    "DepthToSpace, column first": Trap(
        [("DepthToSpace", "x", "y", {"blocksize": 2, "mode": "CRD"})],
        np.arange(8).reshape(8, 1, 1),
        [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
    ),
    # mean 2, variance 1, root of 1 + 3 is 2: (-0.5, 0.5) * (2, 4) + (0, 1)
    "layer norm with a large epsilon": Trap(
        [("LayerNormalization", "x g b", "y", {"epsilon": 3.0})],
        [1.0, 3.0],
        [-1, 3],
        {"g": floats(2, 4), "b": floats(0, 1)},
        17,
    ),
    # mean 2, variance 1 over the row: the same, gamma and beta by channel
    "instance norm": Trap(
        [("InstanceNormalization", "x g b", "y", {"epsilon": 3.0})],
        row(1, 3),
        row(-2, 0),
        {"g": floats(2), "b": floats(-1)},
    ),
    "constant minus value": Trap([("Sub", "c x", "y")], [0.25, 3.0], [0.75, -2], {"c": np.float32(1)}),
    "constant over value": Trap([("Div", "c x", "y")], [4.0, -0.5], [0.25, -2], {"c": np.float32(1)}),
    # 3-4-5
    "2-norm pool": Trap([pooled("LpPool", kernel=2, p=2)], row(3, -4, 0), row(5, 4)),
    # (1 + 2) / 2 and (3 + 4) / 2
    "mean over a negative axis": Trap(
        [("ReduceMean", "x", "y", {"axes": [-1], "keepdims": 0})], [[1, 2], [3, 4]], [1.5, 3.5]
    ),
    "sum of one": Trap([("Sum", "x", "y")], [1.0, -2.0], [1, -2]),
}


def imported(path: Path, batched: bool = True) -> Graph:
    """The graph, built in this process."""
    made = build(onnx.load(path), Options(batched=batched))
    if made.graph is None:
        raise ModelError.gather("refused", [f.problem for f in made.findings if f.problem is not None])
    return made.graph


def check(graph: Graph, x: Any, y: Any) -> None:
    """Both executors; the sample beside another one, which must not reach it."""
    [name] = graph.inputs
    sample = np.asarray(x, np.float32)
    for run in EXECUTORS:
        [made] = run(graph, {name: np.stack([sample, -sample])}).values()
        np.testing.assert_allclose(made[0], np.asarray(y, np.float32), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TRAPS)
def test_trap(save: Save, name: str) -> None:
    trap = TRAPS[name]
    shape = ("N", *np.asarray(trap.x).shape)
    graph = imported(save(trap.lines, {"x": shape}, trap.consts, opset=trap.opset))
    check(graph, trap.x, trap.y)
    folded = FoldBatchNorm().run(graph, Context())
    verify(folded)
    check(folded, trap.x, trap.y)


def test_gemm_with_trans_a(save: Save) -> None:
    """The columns of [[1,2],[3,4],[5,6]] add up to 9 and 12, halved; the batch would be the second axis."""
    lines = [("Gemm", "x w b", "y", {"transA": 1, "alpha": 0.5, "beta": 2.0})]
    consts = {"w": floats(1, 1, 1).reshape(3, 1), "b": floats(1)}
    graph = imported(save(lines, {"x": (3, 2)}, consts), batched=False)
    check(graph, [[1, 2], [3, 4], [5, 6]], [[6.5], [8.0]])


def test_allowzero_means_what_it_says(save: Save) -> None:
    """With allowzero, 0 is a size of zero, which cannot hold four numbers."""
    lines = [("Reshape", "x s", "y", {"allowzero": 1})]
    for batched in (True, False):
        with pytest.raises(ModelError):
            imported(save(lines, {"x": (2, 2)}, {"s": np.array([0, 4])}, opset=14), batched)


def test_a_batch_norm_behind_one_of_two_convs_that_share_their_weight(save: Save) -> None:
    """3x, normed to -(3x - 1) + 0.5, then 3 times that: folding must not change the weight of the other."""
    lines = [
        ("Conv", "x w", "c"),
        ("BatchNormalization", "c g b m v", "n", {"epsilon": 1.0}),
        ("Conv", "n w", "y"),
    ]
    graph = imported(save(lines, {"x": ("N", 1, 1, 1)}, {"w": kernel(3), **norm(-2, 0.5, 1, 3)}))
    for made in (graph, FoldBatchNorm().run(graph, Context())):
        check(made, row(2), row(-13.5))
