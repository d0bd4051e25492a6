"""The tensors of a model as arrays: what a tensor declares must be what it stores, to the byte.

All sizes are Python integers, so that nothing wraps; `onnx.checker` accepts most of the lies refused here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from snnc.errors import ModelError
from snnc.ir import Array

from .external import Folder, place_of
from .options import Limits, raising

_WIDTHS = {
    64: ("DOUBLE", "INT64", "UINT64", "COMPLEX64"),
    32: ("FLOAT", "INT32", "UINT32"),
    16: ("FLOAT16", "BFLOAT16", "INT16", "UINT16"),
    8: ("INT8", "UINT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"),
    4: ("INT4", "UINT4", "FLOAT4E2M1"),
    2: ("INT2", "UINT2"),
    128: ("COMPLEX128",),
}
BITS: dict[int, int] = {
    TensorProto.DataType.Value(name): bits
    for bits, names in _WIDTHS.items()
    for name in names
    if name in TensorProto.DataType.keys()  # noqa: SIM118 (an enum wrapper is no dict)
}
"""Bits per element of the types that the installed ONNX stores side by side."""

FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
LARGE = 4096
"""Bytes from which on a tensor leaves the message: shapes, axes and pads stay, weights go."""

MOST_AXES = 32
WIDENED = {
    TensorProto.FLOAT16: "are float16, widened to float32",
    TensorProto.BFLOAT16: "are bfloat16, widened to float32",
    TensorProto.DOUBLE: "are float64, rounded to float32",
}


def dtype_name(code: int) -> str:
    """ONNX's name of an element type, which in a damaged file can be any number."""
    return str(TensorProto.DataType.Name(code)) if code in TensorProto.DataType.values() else f"number {code}"


def take(model: ModelProto, size: int, folder: Folder, limits: Limits) -> dict[str, Array]:
    """Move the values of all initializers out of `model`, a file of `size` bytes.

    The arrays are write-protected; large tensors keep only name, type and sizes in the message.

    Raises:
        ModelError: a tensor is not what it declares, or its external data not where it should be.
    """
    _check_total(model, size, limits)
    taken: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        _take(tensor, tensor.name, folder, taken)
    return taken


def take_constants(model: ModelProto, size: int, folder: Folder, limits: Limits) -> dict[str, Array]:
    """As `take`, for the nodes `Constant` of the main graph, of which the large ones become initializers; all tensors
    that are left in attributes are checked.
    """
    _check_total(model, size, limits)
    taken: dict[str, Array] = {}
    large = []
    for index, node in enumerate(model.graph.node):
        value = constant(node)
        if value is None:
            continue
        _take(value, node.output[0], folder, taken)
        if not _stored(value) and taken[node.output[0]].size:
            large.append(index)
            stub = model.graph.initializer.add(name=node.output[0], data_type=value.data_type, dims=value.dims)
            if model.ir_version < 4:
                model.graph.input.append(helper.make_tensor_value_info(stub.name, stub.data_type, list(stub.dims)))
    for index in reversed(large):
        del model.graph.node[index]
    for node in model.graph.node:
        for tensor in (t for attribute in node.attribute for t in attribute_tensors(attribute)):
            if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
                message = f"a {node.op_type} has external data; only initializers and Constant may"
                raise ModelError(message, at=node.name, code="external-place")
            check(tensor, _raw(tensor))
    return taken


def constant(node: NodeProto) -> TensorProto | None:
    """The tensor of a node `Constant`, if it has one."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)


def restore(model: ModelProto, weights: dict[str, Array]) -> None:
    """Put back what `take` and `take_constants` took."""
    for tensor in model.graph.initializer:
        if not _stored(tensor):
            tensor.raw_data = weights[tensor.name].tobytes()


def is_stub(tensor: TensorProto) -> bool:
    """Whether the values of an initializer were taken out."""
    return not _stored(tensor) and 0 not in tensor.dims


def widenings(tensors: Iterable[TensorProto]) -> tuple[str, ...]:
    """One note per floating type that is not float32."""
    counts = Counter(tensor.data_type for tensor in tensors)
    return tuple(f"{counts[kind]} weights {what}" for kind, what in WIDENED.items() if counts[kind])


def all_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph: initializers and attributes, in subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute_tensors(attribute)


def attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    """Every tensor of an attribute."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for graph in (attribute.g, *attribute.graphs):
        yield from all_tensors(graph)


def count(tensor: TensorProto) -> int:
    """Elements of a tensor.

    Raises:
        ModelError: a negative size, or more axes than an array can have.
    """
    dims = [int(d) for d in tensor.dims]
    if min(dims, default=0) < 0:
        raise ModelError(f"the tensor has a negative size: {dims[:8]}", at=tensor.name, code="tensor-size")
    if len(dims) > MOST_AXES:
        message = f"the tensor has {len(dims)} axes, more than {MOST_AXES}"
        raise ModelError(message, at=tensor.name, code="tensor-size")
    return math.prod(dims)


def declared(tensor: TensorProto) -> int:
    """Bytes that a tensor should store.

    Raises:
        ModelError: its type is unknown or has no fixed width.
    """
    if tensor.data_type not in BITS:
        message = f"a tensor of type {dtype_name(tensor.data_type)} is not supported"
        raise ModelError(message, at=tensor.name, code="tensor-type")
    return -(-count(tensor) * BITS[tensor.data_type] // 8)


def check(tensor: TensorProto, raw: bytes | None) -> None:
    """Hold a tensor to what it declares; `raw` are its raw bytes, read once because every look at them copies them.

    Raises:
        ModelError: it stores its values twice, in the wrong place, or not as many as it declares.
    """
    if tensor.HasField("segment"):
        raise ModelError("a tensor in segments is not supported", at=tensor.name, code="tensor-data")
    filled = [name for name in FIELDS if len(getattr(tensor, name))]
    if raw or (raw is not None and not filled):
        filled.append("raw_data")
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        filled = [name for name in filled if name != "raw_data" or raw]
        filled.append("external_data")
    if len(filled) > 1:
        message = f"a tensor stores its values more than once: {', '.join(filled)}"
        raise ModelError(message, at=tensor.name, code="tensor-data")
    wanted = 0 if tensor.data_type == TensorProto.STRING else declared(tensor)
    place = filled[0] if filled else ""
    if place == "raw_data":
        if tensor.data_type == TensorProto.STRING:
            raise ModelError("a tensor of texts has raw bytes", at=tensor.name, code="tensor-data")
        _same(tensor, wanted, len(raw or b""), "bytes")
    elif place != "external_data":
        _check_typed(tensor, place, wanted)


def _check_typed(tensor: TensorProto, place: str, wanted: int) -> None:
    """The values of a tensor in one of the fields for numbers."""
    field = helper.tensor_dtype_to_field(tensor.data_type)
    if place not in ("", field):
        message = f"a tensor of type {dtype_name(tensor.data_type)} has its values in {place}, not in {field}"
        raise ModelError(message, at=tensor.name, code="tensor-data")
    expected = wanted if BITS.get(tensor.data_type, 8) < 8 else count(tensor)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        expected *= 2
    _same(tensor, expected, len(getattr(tensor, place)) if place else 0, "values")


def _same(tensor: TensorProto, expected: int, found: int, what: str) -> None:
    if expected != found:
        kind = f"{dtype_name(tensor.data_type)}{[int(d) for d in tensor.dims]}"
        message = f"the tensor stores {found} {what}, but {kind} takes {expected}"
        raise ModelError(message, at=tensor.name, code="tensor-size")


def _check_total(model: ModelProto, size: int, limits: Limits) -> None:
    """Refuse external data that are too large before any is read."""
    outside = [t for t in all_tensors(model.graph) if t.external_data or t.data_location == TensorProto.EXTERNAL]
    total = size + sum(map(declared, outside))
    if total > limits.file_bytes:
        message = f"the model with its external data takes {total} bytes, more than {limits.file_bytes}"
        raise ModelError(message, hint=raising("file_bytes"), code="too-large")


def _raw(tensor: TensorProto) -> bytes | None:
    return tensor.raw_data if tensor.HasField("raw_data") else None


def _take(tensor: TensorProto, name: str, folder: Folder, taken: dict[str, Array]) -> None:
    raw = _raw(tensor)
    check(tensor, raw)
    outside = bool(tensor.external_data) or tensor.data_location == TensorProto.EXTERNAL
    try:
        array = _external(tensor, name, folder) if outside else _internal(tensor, raw)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"this tensor cannot be read: {error}", at=name, code="tensor-data") from None
    array.flags.writeable = False
    taken[name] = array
    if array.nbytes >= LARGE and BITS.get(tensor.data_type, 0) >= 8:
        for field in ("raw_data", *FIELDS):
            tensor.ClearField(field)
    elif outside:
        tensor.raw_data = array.tobytes()
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _external(tensor: TensorProto, name: str, folder: Folder) -> Array:
    place, wanted = place_of(tensor), declared(tensor)
    if BITS[tensor.data_type] < 8:
        message = f"external data of type {dtype_name(tensor.data_type)} is not supported"
        raise ModelError(message, at=name, code="tensor-type")
    if place.length not in (None, wanted):
        kind = f"{dtype_name(tensor.data_type)}{[int(d) for d in tensor.dims]}"
        message = f"external data declares {place.length} bytes, but {kind} takes {wanted}"
        raise ModelError(message, at=name, code="external-size")
    flat: Any = np.empty(wanted, np.uint8)  # takes no memory before it is filled
    folder.read_into(place, name, memoryview(flat))
    return _viewed(flat, tensor)


def _internal(tensor: TensorProto, raw: bytes | None) -> Array:
    """The values of a tensor; raw ones without another copy, typed ones without a list of Python numbers."""
    width = BITS.get(tensor.data_type, 0)
    if raw is not None and width >= 8:
        return _viewed(np.frombuffer(raw, np.uint8), tensor)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    field = helper.tensor_dtype_to_field(tensor.data_type)
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64):
        values = np.fromiter(getattr(tensor, field), kind, count(tensor))
        return values.reshape([int(d) for d in tensor.dims])
    with np.errstate(all="ignore"):
        return np.array(numpy_helper.to_array(tensor))


def _viewed(flat: Array, tensor: TensorProto) -> Array:
    """Bytes as the array that they are."""
    dims = [int(d) for d in tensor.dims]
    if tensor.data_type == TensorProto.BOOL:
        return np.asarray(flat != 0).reshape(dims)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return flat.view(kind).reshape(dims)


def _stored(tensor: TensorProto) -> bool:
    return tensor.HasField("raw_data") or any(len(getattr(tensor, name)) for name in FIELDS)
