"""ReduceMean, ReduceSum and the other reductions; ArgMax, ArgMin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from snnc.importer.call import Call, Handler, Value
from snnc.ir import Attr, Shape

from .arithmetic import INTEGERS, as_integer, plus


def _axes(call: Call, rank: int) -> Shape | None:
    """The axes that go, None if nothing is to be done."""
    axes = call.listed("axes", 1, 13 if call.op == "ReduceSum" else 18)
    if not axes:
        return None if call.attrs.get("noop_with_empty_axes", 0) else call.axes(range(rank + call.batched), rank)
    return call.axes(axes, rank)


def _reduction(by: str, before: str = "", after: str = "") -> Handler:
    """`before` and `after` are elementwise ops around the reduction; `square` multiplies a value by itself."""

    def handler(call: Call) -> Value:
        x = call.value()
        axes = _axes(call, len(x.shape))
        x = _applied(call, x, before)
        if axes is not None:
            x = _reduced(call, x, axes, by)
        made = call.reshaped(_applied(call, x, after), call.shape)
        return as_integer(call, made) if call.dtypes[0] in INTEGERS else made

    return handler


def _reduced(call: Call, x: Value, axes: Shape, by: str) -> Value:
    """A mean over all of an image is a global average pool."""
    if by != "mean" or len(x.shape) != 3 or axes != (1, 2):
        return call.node("reduce", x, axes=axes, by=by)
    whole: Mapping[str, Attr] = {"kernel": x.shape[1:], "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    return call.node("avgpool", x, attrs=whole, count_include_pad=0)


def _applied(call: Call, x: Value, op: str) -> Value:
    if op == "square":
        return call.node("mul", x, x)
    return call.node(op, x) if op else x


def _logsumexp(call: Call) -> Value:
    """max + log(sum(exp(x - max))), which does not overflow."""
    x = call.value()
    axes = _axes(call, len(x.shape))
    if axes is None:
        return x
    kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    top = call.reshaped(call.node("reduce", x, axes=axes, by="max"), kept)
    shifted = plus(call, x, call.scaled(call.stretched(top, x.shape), -1.0))
    total = call.node("log", call.node("reduce", call.node("exp", shifted), axes=axes, by="sum"))
    return call.reshaped(plus(call, call.reshaped(total, kept), top), call.shape)


def _arg(sign: float) -> Callable[[Call], Value]:
    def handler(call: Call) -> Value:
        x = call.value()
        axis = call.axis(int(call.attrs.get("axis", 0)), len(x.shape))
        x = x if sign > 0 else call.scaled(x, sign)
        made = call.node("argmax", x, axis=axis, last=int(call.attrs.get("select_last_index", 0)))
        return call.reshaped(made, call.shape)

    return handler


HANDLERS: Mapping[str, Handler] = {
    "ArgMax": _arg(1.0),
    "ArgMin": _arg(-1.0),
    "ReduceL1": _reduction("sum", before="abs"),
    "ReduceL2": _reduction("sum", before="square", after="sqrt"),
    "ReduceLogSum": _reduction("sum", after="log"),
    "ReduceLogSumExp": _logsumexp,
    "ReduceMax": _reduction("max"),
    "ReduceMean": _reduction("mean"),
    "ReduceMin": _reduction("min"),
    "ReduceProd": _reduction("prod"),
    "ReduceSum": _reduction("sum"),
    "ReduceSumSquare": _reduction("sum", before="square"),
}
