"""From a path to a complete, checked model: every byte is read here, and only from where it may be.

In order: the file's size and magic, the message, versions, names and nesting, values of tensors, functions inlined,
order of nodes, and only then the checker of ONNX, which by itself is no gate: it hangs on nested functions, and
accepts most lies about sizes. All of it runs in the limited process of `snnc.importer.worker`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from snnc.errors import ModelError
from snnc.ir import Array

from .external import Folder, place_of
from .inline import inline
from .options import DEFAULT, Limits, Options, raising
from .structure import check_standard, check_structure, keep_outputs, settle
from .tensors import all_tensors, constant, dtype_name, restore, take, take_constants, widenings

__all__ = ["Loaded", "dtype_name", "model_digest", "open_model", "read"]

LARGEST = 2**31 - 1
"""Bytes of one message: what protobuf can hold."""

MAGIC = {
    b"version https://git-lfs": ("is a git-LFS pointer, not the model itself", "git lfs pull"),
    b"PK\x03\x04": ("is a zip archive, a PyTorch or Keras file perhaps", "torch.onnx.export or tf2onnx"),
    b"\x89HDF": ("is an HDF5 file, a Keras model perhaps", "tf2onnx"),
    b"\x80\x02": ("is a Python pickle, a PyTorch file perhaps", "torch.onnx.export"),
    b"\x1f\x8b": ("is a gzip archive", "gunzip it"),
    b"ORTM": ("is in the format of ONNX Runtime", "name the .onnx file it was made from"),
}


@dataclass(frozen=True)
class Loaded:
    """A checked model; its large weights are out of the message.

    Attributes:
        proto: one graph without functions, nodes in runnable order; large initializers have name, type and sizes only.
        weights: the values of all initializers and of the nodes `Constant`, by the name of the value.
        notes: what was changed on the way in.
    """

    proto: ModelProto
    weights: dict[str, Array]
    notes: tuple[str, ...] = ()

    @property
    def graph(self) -> GraphProto:
        """The graph, as of a `ModelProto`."""
        return self.proto.graph


def open_model(path: str | Path, options: Options = DEFAULT) -> Loaded:
    """The model at `path`, checked.

    Raises:
        ModelError: the file, its external data or its ONNX version is not what it should be.
    """
    limits, path = options.limits, Path(path)
    content, folder = _content(path, limits)
    model, size = _parse(path.name, content), len(content)
    del content  # as large as the message, which holds all of it
    check_structure(model, limits)
    keep_outputs(model, options.outputs)
    weights = take(model, size, folder, limits)
    model = inline(_shrunk(model), limits)
    weights |= take_constants(model, size, folder, limits)
    model = _shrunk(model)
    notes = settle(model)
    check_standard(model)
    constants = [tensor for node in model.graph.node if (tensor := constant(node)) is not None]
    return Loaded(model, weights, widenings([*model.graph.initializer, *constants]) + notes)


def read(path: str | Path, options: Options = DEFAULT) -> ModelProto:
    """The model at `path` as `open_model` gives it, with all weights inside, as another reader of ONNX wants it.

    Raises:
        ModelError: the file, its external data or its ONNX version is not what it should be.
    """
    loaded = open_model(path, options)
    restore(loaded.proto, loaded.weights)
    return loaded.proto


def model_digest(path: str | Path, options: Options = DEFAULT) -> str:
    """SHA-256 over the model file, then location and SHA-256 of each external data file, sorted by location.

    Without external data it is what `sha256sum` prints.

    Raises:
        ModelError: the file, or an external data file, cannot be read.
    """
    path = Path(path)
    content, folder = _content(path, options.limits)
    digest = hashlib.sha256(content)
    model = _parse(path.name, content)
    check_structure(model, options.limits)
    tensors = [t for t in all_tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    for location in sorted({place_of(tensor).location for tensor in tensors}):
        with folder.open(location) as file:
            digest.update(b"\0" + location.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _content(path: Path, limits: Limits) -> tuple[bytes, Folder]:
    """The bytes of a regular file, and the folder it lies in."""
    most = min(limits.file_bytes, LARGEST)
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe must not block
        with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"'{path}' is not a file", hint="name the .onnx file itself", code="not-a-file")
            if status.st_size > most:
                message = f"'{path}' has {status.st_size} bytes, more than {most}"
                hint = raising("file_bytes") if most < LARGEST else "keep the weights in external data"
                raise ModelError(message, hint=hint, code="too-large")
            return file.read(), Folder(path.parent, (status.st_dev, status.st_ino))
    except IsADirectoryError:
        raise ModelError(f"'{path}' is not a file", hint="name the .onnx file itself", code="not-a-file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"'{path}' cannot be read: {reason}", code="unreadable") from None


def _parse(name: str, content: bytes) -> ModelProto:
    """The protobuf message; what is obviously something else is named."""
    if not content:
        raise ModelError(f"'{name}' is empty", code="empty")
    for magic, (what, hint) in MAGIC.items():
        if content.startswith(magic):
            raise ModelError(f"'{name}' {what}", hint=hint, code="not-onnx")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        raise ModelError(f"'{name}' is no ONNX model, or only a part of one", code="not-onnx") from None
    if not model.ir_version or not model.graph.output:
        message = f"'{name}' is no ONNX model: it has no IR version, or no graph with outputs"
        raise ModelError(message, code="not-onnx")
    return model


def _shrunk(model: ModelProto) -> ModelProto:
    """A copy without the memory of what was cleared: protobuf frees a message only as a whole."""
    made = ModelProto()
    made.ParseFromString(model.SerializeToString())
    return made
