"""The original model, run by onnxruntime: the independent judge of what was imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import helper

from snnc.errors import DataError, ModelError
from snnc.ir import Array

from .files import read
from .naming import fit
from .options import DEFAULT, Options
from .trace import Port, batch_of, model_inputs, ports

CHUNK = 256
"""Samples of a run where the batch size is dynamic."""

SILENT = 4
"""onnxruntime's level of logging: fatal errors only."""


def judge(path: str | Path, x: Mapping[str, Array], options: Options = DEFAULT) -> dict[str, Array]:
    """Outputs [N, ...] of the model at `path` for inputs `x` [N, ...], both under the names they have in the graph.

    All graph optimizations are off: with them onnxruntime computes some models wrong (Pad before a pool).
    Safe to call from several threads.

    Raises:
        ModelError: the file is no readable model, or onnxruntime cannot run it.
        DataError: `x` does not fit the model's inputs.
    """
    model = read(path, options)
    inputs = model_inputs(model)
    feeds, count = _feeds(inputs, x, options.batched)
    outputs = fit(port.name for port in ports(model.graph.output))
    fixed = batch_of(inputs) if options.batched else None
    size = fixed or CHUNK
    try:
        session = _session(model.SerializeToString())
        if not options.batched:
            parts = [_sample(session, list(outputs), feeds, i) for i in range(count)]
        else:
            starts = range(0, count, size)
            parts = [_chunk(session, list(outputs), feeds, i, min(i + size, count), fixed or 1) for i in starts]
    except Exception as error:  # onnxruntime's own exceptions have no common base but this
        message = f"onnxruntime cannot run '{Path(path).name}': {error}"
        raise ModelError(message, code="onnxruntime") from None
    made = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(outputs.values())}
    return {name: array.astype(np.float32) for name, array in made.items()}


def _feeds(inputs: tuple[Port, ...], x: Mapping[str, Array], batched: bool) -> tuple[dict[str, Array], int]:
    """The arrays under the model's own names and types, and how many samples they hold."""
    names = fit(port.name for port in inputs)
    if set(x) != set(names.values()):
        raise DataError(f"inputs {sorted(x)} given, the model reads {sorted(names.values())}")
    feeds = {}
    for port in inputs:
        array = np.asarray(x[names[port.name]])
        sizes = port.dims[batched:]
        if array.ndim != len(sizes) + 1 or any(d not in (None, s) for d, s in zip(sizes, array.shape[1:], strict=True)):
            raise DataError(f"input '{names[port.name]}' is {list(array.shape)}, the model reads {list(port.dims)}")
        feeds[port.name] = array.astype(helper.tensor_dtype_to_np_dtype(port.dtype))
    counts = {len(array) for array in feeds.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"the inputs hold {sorted(counts)} samples; all must hold the same number, one or more")
    return feeds, counts.pop()


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = SILENT
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _chunk(
    session: onnxruntime.InferenceSession,
    outputs: list[str],
    feeds: Mapping[str, Array],
    start: int,
    stop: int,
    pad: int,
) -> list[Array]:
    """Outputs for the samples from `start` to `stop`; the last one repeated up to a batch of `pad`."""
    index = np.minimum(np.arange(start, start + max(stop - start, pad)), stop - 1)
    made = session.run(outputs, {name: array[index] for name, array in feeds.items()}, _quiet())
    for name, array in zip(outputs, made, strict=True):
        if array.shape[:1] != index.shape:
            raise ValueError(f"output '{name}' is {list(array.shape)} for {len(index)} samples")
    return [array[: stop - start] for array in made]


def _sample(
    session: onnxruntime.InferenceSession, outputs: list[str], feeds: Mapping[str, Array], i: int
) -> list[Array]:
    """Outputs [1, ...] for the whole tensors of one sample."""
    made = session.run(outputs, {name: array[i] for name, array in feeds.items()}, _quiet())
    return [np.asarray(array)[None] for array in made]


def _quiet() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.log_severity_level = SILENT
    return options
