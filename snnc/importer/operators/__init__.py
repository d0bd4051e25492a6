"""What each ONNX operator becomes: one table, operator -> handler."""

from __future__ import annotations

from collections.abc import Mapping

from snnc.importer.call import Handler

from . import arithmetic, elementwise, layers, norms, pools, precision, reduction, resize, wiring

HANDLERS: Mapping[str, Handler] = {
    **layers.HANDLERS,
    **norms.HANDLERS,
    **pools.HANDLERS,
    **elementwise.HANDLERS,
    **arithmetic.HANDLERS,
    **precision.HANDLERS,
    **reduction.HANDLERS,
    **resize.HANDLERS,
    **wiring.HANDLERS,
}

_FEEDFORWARD = "only feed-forward models become spiking"
_CONTROL = "export without control flow: torch.onnx.export with fixed sizes, or onnxsim"
_FLOAT = "export the float model, or with QuantizeLinear and DequantizeLinear pairs (QDQ): snnc quantises itself"
_POST = "cut the model before it: post-processing runs on the host"

HINTS: Mapping[str, str] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _FEEDFORWARD),
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), _CONTROL),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"), _FLOAT),
    **dict.fromkeys(("NonMaxSuppression", "TopK", "NonZero", "OneHot", "Unique", "Where"), _POST),
    "LRN": "train the model with batch normalisation instead of local response normalisation",
}
"""What to try where an operator is not supported."""
