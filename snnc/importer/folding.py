"""Folding of constants: what may be computed while a model is read, and how large it may be.

The size of what a node makes is known, in Python integers, before it is made: a file of 152 bytes can ask for
a tebibyte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TypeProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator

from snnc.errors import ModelError
from snnc.ir import Array, Shape

from .options import raising

FOLDED = frozenset(
    word
    for line in (
        "Abs Add And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil",
        "Celu Clip Compress Concat Constant ConstantOfShape Conv Cos CumSum DepthToSpace",
        "DequantizeLinear Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND",
        "Gelu Gemm GlobalAveragePool Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN",
        "LayerNormalization LeakyRelu Less LessOrEqual Log MatMul Max Mean Min Mish Mod Mul Neg NonZero Not",
        "OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp",
        "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round",
        "ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softplus Softsign SpaceToDepth Split Sqrt",
        "Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor",
    )
    for word in line.split()
)
"""Operators that ONNX's reference evaluator may compute. Not: random ones, those with graphs, those that decode texts
or images, and those of which it computes some forms wrong (onnx 1.23: BatchNormalization, Softmax, pools)."""

LARGEST_VALUE = 2**33
"""Elements of one value: nothing that makes more can ever run."""


def evaluate(node: NodeProto, given: Mapping[str, Array], opset: int) -> dict[str, Array]:
    """What `node` makes; wrapped into a model, because the evaluator takes a bare node for one of the newest opset."""
    inputs = [ValueInfoProto(name=name) for name in given]
    outputs = [ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "fold", inputs, outputs)
    newer = (
        19 if node.op_type in ("DequantizeLinear", "QuantizeLinear") else 0
    )  # it knows no older form, which is the same
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(opset, newer))])
    made = ReferenceEvaluator(model).run(None, dict(given))
    return {value.name: np.asarray(array) for value, array in zip(outputs, made, strict=True)}


def check_size(node: NodeProto, inferred: Mapping[str, TypeProto], most: int) -> None:
    """Refuse to fold what could be large, before it is.

    Raises:
        ModelError: `node` may make more than `most` bytes, or its size is unknown.
    """
    for name in filter(None, node.output):
        shape = static_shape(inferred[name]) if name in inferred else None
        if shape is None:
            raise ModelError("the size of this constant cannot be told before computing it", code="fold-size")
        if (size := math.prod(shape) * 8) > most:
            raise too_large(f"{list(shape)} takes up to {size} bytes", most)


def refuse_giants(inferred: Mapping[str, TypeProto]) -> None:
    """Refuse values that nothing could ever hold.

    Raises:
        ModelError: one has more than `LARGEST_VALUE` elements.
    """
    for shape in filter(None, map(static_shape, inferred.values())):
        if math.prod(shape) > LARGEST_VALUE:
            raise ModelError(f"the value {list(shape)} has more than {LARGEST_VALUE} elements", code="value-size")


def too_large(what: str, most: int) -> ModelError:
    """The error of a constant beyond the limit."""
    return ModelError(
        f"this constant {what}, more than {most}",
        hint=raising("fold_bytes"),
        code="fold-size",
    )


def static_shape(kind: TypeProto) -> Shape | None:
    """The shape that a type tells, None if any of it is open."""
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims):
        return None
    return tuple(int(d.dim_value) for d in dims)
