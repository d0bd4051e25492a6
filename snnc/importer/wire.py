"""What passes between the caller and the process that reads models: JSON and raw arrays, nothing that can run code.

A message is 8 bytes of length and so much JSON; in an answer the raw bytes of the arrays follow, in the order and of
the types that the JSON tells. The caller believes none of it: sizes are checked before memory is taken, and the graph
is parsed from its text, which verifies it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from snnc.errors import ModelError, SnncError, printable
from snnc.ir import Array, parse, to_text

from .options import Limits, Options

if TYPE_CHECKING:
    from .build import Import

PATIENCE = 4
"""Seconds of time per second of processor that reading a model may take, against one that sleeps."""

STARVED, FAILED = 1, 2
"""How a child exits that found no memory even for its answer, and one that failed otherwise."""

LENGTH = 8
LARGEST_HEADER = 2**30
DTYPES = {"float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}

Read = Callable[[memoryview], None]
"""Fills the memory with the next bytes of the stream."""


class GarbledError(Exception):
    """An answer that the process cannot have meant."""


def framed(header: Mapping[str, Any]) -> bytes:
    """A message without arrays."""
    text = json.dumps(header, allow_nan=False).encode()
    return len(text).to_bytes(LENGTH, "big") + text


def unframed(read: Read) -> dict[str, Any]:
    """The JSON of the next message.

    Raises:
        GarbledError: it is none, or of an absurd size.
    """
    head = bytearray(LENGTH)
    read(memoryview(head))
    if (size := int.from_bytes(head, "big")) > LARGEST_HEADER:
        raise GarbledError(f"a header of {size} bytes")
    text = bytearray(size)
    read(memoryview(text))
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GarbledError(str(error)) from None
    if not isinstance(header, dict):
        raise GarbledError("no object")
    return header


def options_to_json(options: Options) -> dict[str, Any]:
    """Plain data."""
    shapes = {name: [int(size) for size in shape] for name, shape in options.shapes.items()}
    limits = {name: int(value) for name, value in asdict(options.limits).items()}
    return {
        "batched": bool(options.batched),
        "shapes": shapes,
        "outputs": [str(name) for name in options.outputs],
        "limits": limits,
    }


def options_from_json(made: Mapping[str, Any]) -> Options:
    """The inverse of `options_to_json`."""
    shapes = {name: tuple(shape) for name, shape in made["shapes"].items()}
    return Options(made["batched"], shapes, tuple(made["outputs"]), Limits(**made["limits"]))


def error_to_json(error: SnncError) -> dict[str, Any]:
    """An error and the problems it lists."""
    texts = {"message": error.message, "at": error.at, "hint": error.hint, "code": error.code}
    return {**texts, "problems": [error_to_json(problem) for problem in error.problems]}


def error_from_json(made: Mapping[str, Any]) -> ModelError:
    """The inverse of `error_to_json`; whatever it was is a `ModelError` here."""
    problems = [error_from_json(problem) for problem in made["problems"]]
    texts = {name: str(made[name]) for name in ("at", "hint", "code")}
    return ModelError(str(made["message"]), **texts, problems=problems)


def import_to_json(made: Import) -> tuple[dict[str, Any], list[Array]]:
    """What became of a model, and the arrays of its graph in the order that the JSON lists them."""
    found = [
        {"node": printable(f.node), "op": f.op, "problem": None if f.problem is None else error_to_json(f.problem)}
        for f in made.findings
    ]
    header: dict[str, Any] = {"findings": found, "notes": list(made.notes), "graph": None, "arrays": []}
    if made.graph is None:
        return header, []
    arrays = made.graph.arrays()
    header["graph"] = to_text(made.graph)
    header["arrays"] = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    return header, list(arrays.values())


def import_from_json(header: Mapping[str, Any], read: Read, most: int) -> Import:
    """The inverse of `import_to_json`; the arrays are read straight into their place.

    Raises:
        GarbledError: arrays of strange types, or of more than `most` bytes.
        GraphError: the text and the arrays are no valid graph.
    """
    from .build import Finding, Import  # late: that loads onnx, which only the process that reads models needs

    arrays = dict(_arrays(header["arrays"], most))
    for array in arrays.values():
        if array.nbytes:
            read(_bytes(array))
        array.flags.writeable = False
    problems = [None if f["problem"] is None else error_from_json(f["problem"]) for f in header["findings"]]
    found = tuple(
        Finding(str(f["node"]), str(f["op"]), problem) for f, problem in zip(header["findings"], problems, strict=True)
    )
    graph = None if header["graph"] is None else parse(header["graph"], arrays)
    return Import(graph, found, tuple(map(str, header["notes"])))


def array_bytes(arrays: list[Array]) -> Iterator[memoryview]:
    """The raw bytes of each array, without a copy where it lies in one piece."""
    for array in arrays:
        if array.nbytes:
            yield _bytes(np.ascontiguousarray(array))


def _bytes(array: Array) -> memoryview:
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _arrays(declared: list[Any], most: int) -> Iterator[tuple[str, Array]]:
    """Empty arrays of the sizes that an answer declares."""
    total = 0
    for name, kind, shape in declared:
        sizes = all(isinstance(size, int) and size >= 0 for size in shape)
        if not isinstance(name, str) or kind not in DTYPES or not sizes:
            raise GarbledError(f"an array {kind}{shape}")
        total += math.prod(shape) * np.dtype(kind).itemsize
        if total > most:
            raise GarbledError(f"arrays of {total} bytes")
        yield name, np.empty(shape, kind)
