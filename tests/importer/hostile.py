"""The hostile corpus: files that attack an importer, and legal files that look as if they did.

    python tests/importer/hostile.py FOLDER

Every file is made here from a few lines; none is copied from anywhere. Each case gets a folder of its own with
`model.onnx` and what belongs beside it. The groups are those of the threat list (container, tensor, bomb, graph,
semantic, external, legal). A case names the codes that its error may have; "accepted" where importing it is right, and
"any" where another part of the importer words the refusal.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

F, I64 = TensorProto.FLOAT, TensorProto.INT64
HUGE = 2**40
FIFO, FOLDER = "fifo", "folder"

Content = ModelProto | bytes | Callable[[Path], Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One hostile or legal model.

    Attributes:
        codes: of the error, any of them; "accepted": it may be imported; "any": any typed error.
        content: the model, its bytes, or a function that writes `model.onnx` into a folder.
    """

    group: str
    name: str
    codes: tuple[str, ...]
    content: Content

    def write(self, folder: Path) -> Path:
        """Make the files of this case; gives the path of the model."""
        folder.mkdir(parents=True)
        path = folder / "model.onnx"
        if isinstance(self.content, ModelProto):
            path.write_bytes(self.content.SerializeToString())
        elif isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(folder)
        return path


CASES: list[Case] = []


def add(group: str, name: str, codes: str, content: Content) -> None:
    """Register a case; `codes` apart by blanks."""
    CASES.append(Case(group, name, tuple(codes.split()), content))


# --- how models are made


def node(op: str, inputs: str, outputs: str, name: str = "", domain: str = "", **attrs: Any) -> NodeProto:
    """A node; `_` stands for an input that is left out."""
    given = ["" if i == "_" else i for i in inputs.split()]
    return helper.make_node(op, given, outputs.split(), name=name or f"n_{op}", domain=domain, **attrs)


def model(
    nodes: Iterable[NodeProto],
    weights: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Iterable[str] = ("y",),
    opset: int = 13,
    **options: Any,
) -> ModelProto:
    """A model with an input x [N,4] unless said otherwise; weights are arrays or tensors."""
    ins = [helper.make_tensor_value_info(n, F, s) for n, s in (inputs or {"x": ["N", 4]}).items()]
    outs = [helper.make_tensor_value_info(n, F, ["any"]) for n in outputs]
    tensors = [
        w if isinstance(w, TensorProto) else numpy_helper.from_array(np.asarray(w), n)
        for n, w in (weights or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "g", ins, outs, tensors)
    options = {"opset_imports": [helper.make_opsetid("", opset)], "ir_version": 8, **options}
    return helper.make_model(graph, **options)


def tensor(name: str, dims: Sequence[int], kind: int = F, raw: bytes | None = None, **fields: Any) -> TensorProto:
    """A tensor that may lie."""
    made = TensorProto(name=name, data_type=kind, dims=dims)
    if raw is not None:
        made.raw_data = raw
    for field, values in fields.items():
        getattr(made, field).extend(values)
    return made


RNG = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    """Random float32."""
    return RNG.standard_normal(shape).astype(np.float32)


def dense(weight: Any) -> ModelProto:
    """x [N,4] @ w, all of the type of w."""
    held = weight if isinstance(weight, TensorProto) else numpy_helper.from_array(weight, "w")
    made = model([node("MatMul", "x w", "y")], {"w": held})
    if held.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
        made.graph.input[0].type.tensor_type.elem_type = held.data_type
        made.graph.output[0].type.tensor_type.elem_type = held.data_type
    return made


def plain() -> ModelProto:
    """A valid model of two layers."""
    nodes = [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "r"), node("MatMul", "r v", "y")]
    return model(nodes, {"w": weights(5, 4), "b": weights(5), "v": weights(5, 3)})


def image(*nodes: NodeProto, consts: Mapping[str, Any] | None = None, **options: Any) -> ModelProto:
    """A model of x [N,3,8,8]."""
    return model(nodes, consts, {"x": ["N", 3, 8, 8]}, **options)


def conv(weight: Any, **attrs: Any) -> ModelProto:
    """One convolution of x [N,3,8,8]."""
    return image(node("Conv", "x w", "y", **attrs), consts={"w": weight})


def edited(change: Callable[[ModelProto], Any], base: ModelProto | None = None) -> ModelProto:
    """A model after a change of its message."""
    made = base or plain()
    change(made)
    return made


def set_of(made: ModelProto, **fields: Any) -> ModelProto:
    """A model with some scalar fields of its message replaced."""
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def opsets(*pairs: tuple[str, int]) -> ModelProto:
    """A valid model that imports these operator sets."""
    made = plain()
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in pairs)
    return made


def integers(*values: int) -> Any:
    """int64, as shapes are."""
    return np.array(values, np.int64)


# --- container


def containers() -> None:
    """Files that are no models, parts of models, or models of strange versions."""
    good = plain().SerializeToString()
    noise = random.Random(0)
    for name, content, code in [
        ("empty", b"", "empty"),
        ("zero-byte", b"\0", "not-onnx"),
        ("text", b"just some text\n", "not-onnx"),
        ("html", b"<!DOCTYPE html><html>404</html>", "not-onnx"),
        ("json", b'{"irVersion": 8}', "not-onnx"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "not-onnx"),
        ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(64), "not-onnx"),
        ("pickle", b"\x80\x02cos\nsystem\n(S'true'\ntR.", "not-onnx"),
        ("pickle4", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94.", "not-onnx"),
        ("ort", b"ORTM" + bytes(64), "not-onnx"),
        ("gzip", gzip.compress(good, mtime=0), "not-onnx"),
        ("noise", noise.randbytes(5000), "not-onnx"),
        ("length-lie", b"\x3a\xff\xff\xff\xff\xff\x7f" + good[:40], "not-onnx"),
        ("endless-varint", b"\x08" + b"\xff" * 40, "not-onnx"),
        ("groups", b"\x0b" * 5000, "not-onnx"),
        ("only-ir", b"\x08\x08", "not-onnx"),
        ("unknown-fields", b"\xfa\x7f\x80\x80\x40" + bytes(2**20) + good, "accepted not-onnx"),
        ("trailing-zeros", good + bytes(100), "not-onnx"),
        ("twice", good + good, "duplicate-name"),
    ]:
        add("container", name, code, content)
    for part in (1, 10, 50, 90, 99):
        add("container", f"cut-{part}", "not-onnx", good[: len(good) * part // 100])
    add("container", "zip", "not-onnx", _zip)
    add("container", "is-a-folder", "not-a-file", lambda folder: (folder / "model.onnx").mkdir())
    add("container", "is-a-pipe", "not-a-file", lambda folder: os.mkfifo(folder / "model.onnx"))
    add("container", "is-a-device", "not-a-file", lambda folder: (folder / "model.onnx").symlink_to("/dev/zero"))
    add("container", "link-loop", "unreadable", lambda folder: (folder / "model.onnx").symlink_to("model.onnx"))
    add("container", "ir-9999", "ir-version", set_of(plain(), ir_version=9999))
    add("container", "ir-0", "not-onnx", set_of(plain(), ir_version=0))
    add("container", "ir-negative", "standard ir-version opset", set_of(plain(), ir_version=-3))
    for name, pairs in {
        "9999": [("", 9999)],
        "6": [("", 6)],
        "0": [("", 0)],
        "negative": [("", -13)],
        "none": [],
        "two": [("", 13), ("", 17)],
        "two-names": [("", 13), ("ai.onnx", 11)],
        "ml-only": [("ai.onnx.ml", 3)],
    }.items():
        add("container", f"opset-{name}", "opset", opsets(*pairs))
    add("container", "no-outputs", "not-onnx", edited(lambda m: m.graph.ClearField("output")))
    add("container", "training", "training", edited(lambda m: m.training_info.add()))
    name = plain().SerializeToString().replace(b"n_Relu", b"\xff\xfe_\xc0\x80u")
    add("container", "name-no-utf8", "name-encoding", name)


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.onnx", "w") as file:
        file.writestr("archive/data.pkl", b"cos\nsystem\n.")


# --- tensors that lie


def tensors() -> None:
    """Weights that are not what they declare."""
    raw = weights(4, 3).tobytes()
    lies: dict[str, tuple[TensorProto, str]] = {
        "negative": (tensor("w", [-4, 3], raw=raw), "tensor-size"),
        "both-negative": (tensor("w", [-4, -3], raw=raw), "tensor-size"),
        "huge": (tensor("w", [HUGE, 3], raw=raw), "tensor-size"),
        "wraps-to-zero": (tensor("w", [2**32, 2**32], raw=b""), "tensor-size"),
        "wraps-to-twelve": (tensor("w", [2**62 + 3, 4], raw=raw), "tensor-size"),
        "largest": (tensor("w", [2**63 - 1, 2**63 - 1], raw=raw), "tensor-size"),
        "short": (tensor("w", [4, 3], raw=raw[:-1]), "tensor-size"),
        "long": (tensor("w", [4, 3], raw=raw + b"\0"), "tensor-size"),
        "nothing": (tensor("w", [4, 3]), "tensor-size"),
        "raw-empty": (tensor("w", [4, 3], raw=b""), "tensor-size"),
        "few-floats": (tensor("w", [4, 3], float_data=[1.0] * 11), "tensor-size"),
        "many-floats": (tensor("w", [4, 3], float_data=[1.0] * 13), "tensor-size"),
        "raw-and-floats": (tensor("w", [4, 3], raw=raw, float_data=[1.0] * 12), "tensor-data"),
        "two-fields": (tensor("w", [4, 3], float_data=[1.0] * 12, int32_data=[1] * 12), "tensor-data"),
        "wrong-field": (tensor("w", [4, 3], int64_data=[1] * 12), "tensor-data"),
        "type-0": (tensor("w", [4, 3], 0, raw), "tensor-type"),
        "type-99": (tensor("w", [4, 3], 99, raw), "tensor-type"),
        "type-negative": (tensor("w", [4, 3], -1, raw), "tensor-type"),
        "string-raw": (tensor("w", [4, 3], TensorProto.STRING, raw), "tensor-data"),
        "string": (tensor("w", [4, 3], TensorProto.STRING, string_data=[b"1"] * 12), "any"),
        "string-few": (tensor("w", [4, 3], TensorProto.STRING, string_data=[b"1"] * 2), "tensor-size"),
        "complex": (tensor("w", [4, 3], TensorProto.COMPLEX64, raw * 2), "any"),
        "complex-half": (tensor("w", [4, 3], TensorProto.COMPLEX64, raw), "tensor-size"),
        "int4-long": (tensor("w", [4, 3], TensorProto.INT4, bytes(12)), "tensor-size"),
        "uint4-typed-long": (tensor("w", [4, 3], TensorProto.UINT4, int32_data=[0] * 12), "tensor-size"),
        "float8-short": (tensor("w", [4, 3], TensorProto.FLOAT8E5M2, bytes(11)), "tensor-size"),
        "half-as-float": (tensor("w", [4, 3], TensorProto.FLOAT16, raw), "tensor-size"),
        "double-as-float": (tensor("w", [4, 3], TensorProto.DOUBLE, raw), "tensor-size"),
        "rank-40": (tensor("w", [1] * 40, raw=raw[:4]), "tensor-size"),
        "rank-100000": (tensor("w", [1] * 100_000, raw=raw[:4]), "tensor-size"),
        "empty-weight": (tensor("w", [4, 0], raw=b""), "any"),
        "zero-times-huge": (tensor("w", [0, 2**62], raw=b""), "any"),
        "zero-times-huge-3d": (tensor("w", [0, 2**62, 2**62], raw=b""), "any"),
        "nan": (tensor("w", [4, 3], raw=np.full((4, 3), np.nan, np.float32).tobytes()), "nan-weight"),
        "one-nan": (tensor("w", [4, 3], raw=raw[:-4] + np.float32(np.nan).tobytes()), "nan-weight"),
        "inf": (tensor("w", [4, 3], raw=raw[:-4] + np.float32(np.inf).tobytes()), "nan-weight"),
        "minus-inf": (tensor("w", [4, 3], raw=raw[:-4] + np.float32(-np.inf).tobytes()), "nan-weight"),
        "double-overflow": (numpy_helper.from_array(np.full((4, 3), 1e300), "w"), "nan-weight"),
        "half-inf": (numpy_helper.from_array(np.full((4, 3), np.inf, np.float16), "w"), "nan-weight"),
        "no-name": (tensor("", [4, 3], raw=raw), "any"),
    }
    for name, (lie, code) in lies.items():
        add("tensor", name, code, dense(lie))
    segment = tensor("w", [4, 3], raw=raw)
    segment.segment.begin, segment.segment.end = 0, 2**62
    add("tensor", "segment", "tensor-data", dense(segment))
    both = model([node("MatMul", "x w", "y")], {"w": weights(4, 3)})
    both.graph.initializer.append(tensor("w", [4, 3], raw=raw))
    add("tensor", "duplicate", "duplicate-name", both)
    add(
        "tensor",
        "made-and-stored",
        "duplicate-name",
        model([node("Relu", "x", "w"), node("MatMul", "x w", "y")], {"w": weights(4, 3)}),
    )
    add(
        "tensor",
        "nan-bias",
        "nan-weight",
        model([node("Gemm", "x w b", "y")], {"w": weights(4, 3), "b": np.array([0, np.nan, 0], np.float32)}),
    )
    for name, value, code in [
        ("short", tensor("c", [4, 3], raw=raw[:-1]), "tensor-size"),
        ("huge", tensor("c", [HUGE], raw=raw), "tensor-size"),
        ("type", tensor("c", [4, 3], 77, raw), "tensor-type"),
    ]:
        add(
            "tensor",
            f"constant-{name}",
            code,
            model([node("Constant", "", "w", value=value), node("MatMul", "x w", "y")]),
        )
    two = node("Constant", "", "w", value_float=1.0)
    two.attribute.append(helper.make_attribute("value_int", 1))
    add("tensor", "constant-two-values", "standard fold-size", model([two, node("Add", "x w", "y")]))
    add("tensor", "constant-no-value", "standard any", model([node("Constant", "", "w"), node("Add", "x w", "y")]))
    fill = tensor("v", [HUGE], raw=b"")
    nodes = [node("ConstantOfShape", "s", "c", value=fill), node("Add", "x c", "y")]
    add("tensor", "attribute-lies", "tensor-size", model(nodes, {"s": integers(4)}))
    sparse = helper.make_sparse_tensor(tensor("w", [1], raw=raw[:4]), tensor("i", [1], I64, bytes(8)), [HUGE, HUGE])
    add("tensor", "sparse", "sparse", edited(lambda m: m.graph.sparse_initializer.append(sparse)))
    nodes = [node("Constant", "", "w", sparse_value=sparse), node("Add", "x w", "y")]
    add("tensor", "sparse-constant", "sparse", model(nodes))


# --- bombs


def bombs() -> None:
    """Small files that ask for much memory or time."""
    folded: dict[str, tuple[list[NodeProto], dict[str, Any], str]] = {
        "constant-of-shape": ([node("ConstantOfShape", "a", "c")], {"a": integers(HUGE)}, "fold-size value-size"),
        "constant-wraps": ([node("ConstantOfShape", "a", "c")], {"a": integers(2**32, 2**32)}, "fold-size value-size"),
        "constant-negative": ([node("ConstantOfShape", "a", "c")], {"a": integers(-1, HUGE)}, "any"),
        "expand": ([node("Expand", "a b", "c")], {"a": weights(1), "b": integers(HUGE, 4)}, "fold-size value-size"),
        "expand-wraps": ([node("Expand", "a b", "c")], {"a": weights(1), "b": integers(2**33, 2**31)}, "any"),
        "tile": ([node("Tile", "a b", "c")], {"a": weights(4), "b": integers(HUGE)}, "fold-size value-size"),
        "tile-wraps": ([node("Tile", "a b", "c")], {"a": weights(4), "b": integers(2**62)}, "any"),
        "tile-negative": ([node("Tile", "a b", "c")], {"a": weights(4), "b": integers(-1)}, "any"),
        "pad": ([node("Pad", "a b", "c")], {"a": weights(4), "b": integers(HUGE, 0)}, "fold-size value-size"),
        "pad-wraps": ([node("Pad", "a b", "c")], {"a": weights(4), "b": integers(2**62, 2**62)}, "any"),
        "pad-negative": ([node("Pad", "a b", "c")], {"a": weights(4), "b": integers(-HUGE, 0)}, "any"),
        "range": (
            [node("Range", "a b d", "c")],
            {"a": np.int64(0), "b": np.int64(2**62), "d": np.int64(1)},
            "fold-size value-size",
        ),
        "range-fine": (
            [node("Range", "a b d", "c")],
            {"a": np.float32(0), "b": np.float32(1), "d": np.float32(1e-30)},
            "fold-size value-size any",
        ),
        "range-no-step": (
            [node("Range", "a b d", "c")],
            {"a": np.int64(0), "b": np.int64(9), "d": np.int64(0)},
            "any",
        ),
        "range-nan": (
            [node("Range", "a b d", "c")],
            {"a": np.float32(0), "b": np.float32(np.nan), "d": np.float32(1)},
            "any",
        ),
        "one-hot": (
            [node("OneHot", "a b d", "c")],
            {"a": integers(1), "b": integers(HUGE), "d": weights(2)},
            "fold-size value-size",
        ),
        "resize": (
            [node("Resize", "a _ b", "c")],
            {"a": weights(1, 1, 4, 4), "b": np.array([1, 1, 2**20, 2**20], np.float32)},
            "fold-size value-size",
        ),
        "resize-sizes": (
            [node("Resize", "a _ _ b", "c")],
            {"a": weights(1, 1, 4, 4), "b": integers(1, 1, HUGE, HUGE)},
            "fold-size value-size",
        ),
        "resize-nan": (
            [node("Resize", "a _ b", "c")],
            {"a": weights(1, 1, 4, 4), "b": np.array([1, 1, np.nan, 1], np.float32)},
            "any",
        ),
        "eye": ([node("ConstantOfShape", "a", "e"), node("EyeLike", "e", "c")], {"a": integers(2**20, 2**20)}, "any"),
        "top-k": ([node("TopK", "a b", "c i")], {"a": weights(4), "b": integers(2**62)}, "any"),
        "gather": ([node("Gather", "a b", "c")], {"a": weights(4), "b": integers(2**62)}, "any"),
        "slice": (
            [node("Slice", "a b d", "c")],
            {"a": weights(4), "b": integers(2**62), "d": integers(-(2**62))},
            "any",
        ),
        "split-many": (
            [node("Split", "a", " ".join(["c", *(f"s{i}" for i in range(50_000))]))],
            {"a": weights(4)},
            "any",
        ),
        "divide-by-zero": ([node("Div", "a b", "c")], {"a": integers(4), "b": integers(0)}, "any"),
        "shift": (
            [node("BitShift", "a b", "c", direction="LEFT")],
            {"a": np.array([1], np.uint64), "b": np.array([2**60], np.uint64)},
            "any",
        ),
        "random": ([node("RandomNormal", "", "c", shape=[HUGE])], {}, "any"),
        "multinomial": ([node("Multinomial", "a", "c", sample_size=2**30)], {"a": weights(1, 4)}, "any"),
        "matmul": (
            [
                node("ConstantOfShape", "a", "e"),
                *(node("MatMul", f"e{i} e" if i else "e e", f"e{i + 1}") for i in range(40)),
                node("ReduceSum", "e40", "c"),
            ],
            {"a": integers(4000, 4000)},
            "cpu-limit any",
        ),
        "einsum": (
            [node("ConstantOfShape", "a", "e"), node("Einsum", "e e e e", "c", equation="ab,cd,ef,gh->")],
            {"a": integers(400, 400)},
            "cpu-limit accepted",
        ),
        "doubling": (
            [node("Concat", f"d{i} d{i}" if i else "a a", f"d{i + 1}", axis=0) for i in range(40)]
            + [node("ReduceSum", "d40", "c")],
            {"a": weights(4)},
            "fold-size any",
        ),
        "many-large": (
            [
                n
                for i in range(200)
                for n in (node("ConstantOfShape", "a", f"m{i}"), node("ReduceSum", f"m{i}", f"s{i}"))
            ]
            + [node("Sum", " ".join(f"s{i}" for i in range(200)), "c")],
            {"a": integers(2**24)},
            "any",
        ),
    }
    for name, (nodes, consts, code) in folded.items():
        opset = 12 if name in ("matmul", "doubling", "many-large") else 13
        add("bomb", name, code, model([*nodes, node("Add", "x c", "y")], consts, opset=opset))
    live: dict[str, tuple[ModelProto, str]] = {
        "live-tile": (model([node("Tile", "x a", "y")], {"a": integers(1, 2**60)}), "any"),
        "live-expand": (model([node("Expand", "x a", "y")], {"a": integers(HUGE, 1, 4)}), "any"),
        "live-pad": (model([node("Pad", "x a", "y")], {"a": integers(0, HUGE, 0, HUGE)}), "any"),
        "live-resize": (
            image(node("Resize", "x _ a", "y"), consts={"a": np.array([1, 1, 1e6, 1e6], np.float32)}),
            "any",
        ),
        "live-upsample": (
            image(node("Upsample", "x a", "y"), consts={"a": np.array([1, 1, 1e6, 1e6], np.float32)}, opset=9),
            "any",
        ),
        "live-doubling": (
            model(
                [
                    node("Concat", f"d{i} d{i}" if i else "x x", f"d{i + 1}" if i < 59 else "y", axis=1)
                    for i in range(60)
                ]
            ),
            "any",
        ),
        "input-huge": (model([node("Relu", "x", "y")], inputs={"x": ["N", 2**62]}), "value-size"),
        "input-wraps": (model([node("Relu", "x", "y")], inputs={"x": ["N", 2**32, 2**32]}), "value-size"),
        "gemm-huge-bias": (
            model(
                [node("ConstantOfShape", "s", "b"), node("Gemm", "x w b", "y")],
                {"w": weights(4, 3), "s": integers(2**20, 3)},
            ),
            "any accepted",  # all its rows are alike, so no batch size matters
        ),
    }
    for name, (made, code) in live.items():
        add("bomb", name, code, made)
    functions()
    add("bomb", "nested-if-3", "control-flow", nested(3))
    add("bomb", "nested-if-8", "nesting", nested(8))
    add("bomb", "nested-if-20", "nesting", nested(20))
    add("bomb", "nested-if-3000", "not-onnx", nested_bytes(3000))
    add("bomb", "loop", "control-flow", loop())
    add("bomb", "chain-120000", "too-many-nodes", chain(120_000))
    add("bomb", "name-4mb", "name-length", model([node("Relu", "x", "y", name="n" * 2**22)]))
    add("bomb", "value-name-2kb", "name-length", model([node("Relu", "x", "v" * 2048), node("Relu", "v" * 2048, "y")]))
    add("bomb", "type-name-2kb", "name-length", model([node("R" * 2048, "x", "y")]))
    add("bomb", "many-outputs", "any", model([node("Relu", "x", "y")], outputs=[f"o{i}" for i in range(20_000)]))


def chain(length: int) -> ModelProto:
    """Relu after Relu."""
    return model([node("Relu", f"v{i}" if i else "x", f"v{i + 1}" if i < length - 1 else "y") for i in range(length)])


def nested(depth: int) -> ModelProto:
    """If within If."""
    value = helper.make_tensor_value_info("q", F, ["N", 4])
    body = helper.make_graph([node("Relu", "x", "q")], "b", [], [value])
    for level in range(depth):
        value = helper.make_tensor_value_info(f"q{level}", F, ["N", 4])
        inner = node("If", "c", f"q{level}", then_branch=body, else_branch=helper.make_graph([], "e", [], []))
        body = helper.make_graph([inner], "b", [], [value])
    top = node("If", "c", "y", then_branch=body, else_branch=body if depth < 10 else helper.make_graph([], "e", [], []))
    return model([top], {"c": np.array(True)})


def nested_bytes(depth: int) -> bytes:
    """If within If, deeper than protobuf itself writes: a graph's field 1 is a node, a node's 5 an attribute, its 6 a
    graph.
    """

    def field(number: int, content: bytes) -> bytes:
        size, head = len(content), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes(head) + bytes([size]) + content

    graph = plain().graph.SerializeToString()
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(7, graph)


def loop() -> ModelProto:
    """2**62 rounds."""
    ends = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", I64), ("t", TensorProto.BOOL))]
    ends.append(helper.make_tensor_value_info("a", F, ["N", 4]))
    outs = [helper.make_tensor_value_info("t2", TensorProto.BOOL, []), helper.make_tensor_value_info("a2", F, ["N", 4])]
    body = helper.make_graph([node("Identity", "t", "t2"), node("Relu", "a", "a2")], "body", ends, outs)
    return model([node("Loop", "m t0 x", "y", body=body)], {"m": np.int64(2**62), "t0": np.array(True)})


def function(name: str, nodes: Sequence[NodeProto], domain: str = "laughs", opset: int = 13) -> onnx.FunctionProto:
    """A function a -> b."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("laughs", 1)]
    return helper.make_function(domain, name, ["a"], ["b"], list(nodes), imports)


def with_functions(found: Iterable[onnx.FunctionProto], call: str) -> ModelProto:
    """x -> the function `call` -> y."""
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("laughs", 1)]
    return model([node(call, "x", "y", domain="laughs")], opset_imports=imports, functions=list(found))


def laughs(depth: int, times: int) -> ModelProto:
    """Each function calls the one before `times` times."""
    found = [function("f0", [node("Relu", "a", "b")])]
    for level in range(1, depth):
        names = ["a", *(f"t{i}" for i in range(times - 1)), "b"]
        calls = [node(f"f{level - 1}", names[i], names[i + 1], domain="laughs") for i in range(times)]
        found.append(function(f"f{level}", calls))
    return with_functions(found, f"f{depth - 1}")


def functions() -> None:
    """Functions that make many nodes, or never end."""
    add("bomb", "laughs-25", "function-budget nesting", laughs(25, 2))
    add("bomb", "laughs-8-wide", "function-budget", laughs(8, 8))
    add("bomb", "laughs-200-deep", "nesting", laughs(200, 1))
    me = [function("f0", [node("f0", "a", "b", domain="laughs")])]
    add("bomb", "function-calls-itself", "cycle", with_functions(me, "f0"))
    two = [function(f"f{i}", [node(f"f{1 - i}", "a", "b", domain="laughs")]) for i in (0, 1)]
    add("bomb", "functions-call-each-other", "cycle", with_functions(two, "f0"))
    value = helper.make_tensor_value_info("q", F, ["N", 4])
    body = helper.make_graph([node("f0", "a", "q", domain="laughs")], "b", [], [value])
    hidden = [
        node("Constant", "", "c", value=numpy_helper.from_array(np.array(True))),
        node("If", "c", "b", then_branch=body, else_branch=body),
    ]
    add("bomb", "function-cycle-in-subgraph", "cycle", with_functions([function("f0", hidden)], "f0"))
    same = [function("f0", [node("Relu", "a", "b")]) for _ in (0, 1)]
    add("bomb", "function-twice", "duplicate-name", with_functions(same, "f0"))
    add("bomb", "function-missing", "any", with_functions([], "f0"))
    old = [function("f0", [node("Softmax", "a", "b")], opset=11)]
    add("bomb", "function-of-another-opset", "function", with_functions(old, "f0"))
    values = numpy_helper.from_array(np.zeros(2**16, np.float32))
    fat = [
        function("f0", [node("Constant", "", "c", value=values), node("ReduceSum", "c", "s"), node("Add", "a s", "b")])
    ]
    wide = with_functions(fat, "f0")
    del wide.graph.node[:]
    wide.graph.node.extend(
        node("f0", f"v{i}" if i else "x", f"v{i + 1}" if i < 9999 else "y", domain="laughs") for i in range(10_000)
    )
    add("bomb", "function-fat", "function-budget", wide)


# --- graphs that make no sense


def graphs() -> None:
    """Wrong wiring, wrong attributes, wrong kinds."""
    wiring: dict[str, tuple[ModelProto, str]] = {
        "circle": (model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]), "cycle"),
        "self": (model([node("Add", "x y", "y")]), "cycle"),
        "dead-circle": (model([node("Relu", "b", "a"), node("Relu", "a", "b"), node("Relu", "x", "y")]), "cycle"),
        "unknown-value": (model([node("Relu", "nowhere", "y")]), "unknown-value"),
        "unknown-output": (model([node("Relu", "x", "z")]), "unknown-value"),
        "made-twice": (model([node("Relu", "x", "y"), node("Neg", "x", "y")]), "duplicate-name"),
        "twice-in-one": (model([node("Split", "x", "y y", axis=1)]), "duplicate-name"),
        "makes-input": (model([node("Relu", "x", "x"), node("Relu", "x", "y")]), "duplicate-name"),
        "inputs-twice": (edited(lambda m: m.graph.input.append(m.graph.input[0])), "duplicate-name"),
        "outputs-twice": (edited(lambda m: m.graph.output.append(m.graph.output[0])), "duplicate-name"),
        "no-op-type": (model([node("", "x", "y")]), "any"),
        "unknown-op": (model([node("Explode", "x", "y")]), "standard"),
        "unknown-domain": (model([node("Relu", "x", "y", domain="com.evil")]), "foreign-operator"),
        "foreign-op": (
            model(
                [node("Relu", "x", "y", domain="com.evil")],
                opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.evil", 1)],
            ),
            "any",
        ),
        "ml-op": (
            model(
                [node("Scaler", "x", "y", domain="ai.onnx.ml", scale=[1.0], offset=[0.0])],
                opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 3)],
            ),
            "any",
        ),
        "op-ansi": (model([node("\x1b[31mRelu\x1b[0m", "x", "y")]), "operator-name"),
        "domain-ansi": (model([node("Relu", "x", "y", domain="\x1b]0;pwned\x07")]), "operator-name"),
        "too-few-inputs": (model([node("MatMul", "x", "y")]), "standard"),
        "no-inputs-at-all": (model([node("Relu", "", "y")]), "standard any"),
        "too-many-inputs": (model([node("Relu", "x x x", "y")]), "standard"),
        "input-left-out": (model([node("MatMul", "_ w", "y")], {"w": weights(4, 3)}), "any"),
        "output-is-weight": (model([node("Relu", "x", "h")], {"y": weights(3)}), "any"),
        "nothing-depends": (model([node("Relu", "w", "y")], {"w": weights(3)}), "any"),
        "no-graph-inputs": (
            edited(lambda m: m.graph.ClearField("input"), model([node("Relu", "w", "y")], {"w": weights(3)})),
            "any",
        ),
        "batch-into-features": (model([node("Reshape", "x s", "y")], {"s": integers(1, -1)}), "any"),
        "transpose-batch": (model([node("Transpose", "x", "y", perm=[1, 0])]), "any"),
        "concat-batch": (model([node("Concat", "x x", "y", axis=0)]), "any"),
        "reduce-batch": (model([node("ReduceMean", "x", "y", axes=[0])]), "any"),
        "dynamic-sizes": (model([node("Relu", "x", "y")], inputs={"x": ["N", 3, "H", "W"]}), "any"),
        "negative-size": (model([node("Relu", "x", "y")], inputs={"x": ["N", -4]}), "any"),
        "scalar-input": (model([node("Relu", "x", "y")], inputs={"x": []}), "any"),
        "batches-differ": (model([node("Add", "x z", "y")], inputs={"x": [2, 4], "z": [3, 4]}), "any"),
    }
    for name, (made, code) in wiring.items():
        add("graph", name, code, made)
    shapes: dict[str, tuple[ModelProto, str]] = {
        "reshape-4-to-15": (model([node("Reshape", "x s", "y")], {"s": integers(-1, 15)}), "any"),
        "reshape-two-minus": (model([node("Reshape", "x s", "y")], {"s": integers(-1, -1)}), "any"),
        "reshape-negative": (model([node("Reshape", "x s", "y")], {"s": integers(0, -7)}), "any"),
        "reshape-huge": (model([node("Reshape", "x s", "y")], {"s": integers(0, 2**62, 2**2)}), "any"),
        "flatten-axis": (model([node("Flatten", "x", "y", axis=99)]), "any"),
        "softmax-axis": (model([node("Softmax", "x", "y", axis=99)]), "any"),
        "concat-axis": (model([node("Concat", "x x", "y", axis=-99)]), "any"),
        "transpose-perm": (model([node("Transpose", "x", "y", perm=[0, 0])]), "any"),
        "squeeze-wide": (model([node("Squeeze", "x a", "y")], {"a": integers(1)}), "any"),
        "unsqueeze-twice": (model([node("Unsqueeze", "x a", "y")], {"a": integers(1, 1)}), "any"),
        "split-sizes": (model([node("Split", "x s", "y z", axis=1)], {"s": integers(1, 1)}), "any"),
        "split-negative": (model([node("Split", "x s", "y z", axis=1)], {"s": integers(-1, 5)}), "any"),
        "slice-step-0": (
            model(
                [node("Slice", "x a b c d", "y")],
                {"a": integers(0), "b": integers(4), "c": integers(1), "d": integers(0)},
            ),
            "any",
        ),
        "gather-outside": (model([node("Gather", "x i", "y", axis=1)], {"i": integers(99)}), "any"),
        "matmul-sizes": (dense(weights(5, 3)), "any"),
        "gemm-1d": (model([node("Gemm", "x w", "y")], {"w": weights(4)}), "any"),
        "add-sizes": (model([node("Add", "x w", "y")], {"w": weights(3)}), "any"),
        "conv-group-0": (conv(weights(3, 3, 3, 3), group=0), "group"),
        "conv-group-negative": (conv(weights(3, 3, 3, 3), group=-1), "group"),
        "conv-group-huge": (conv(weights(3, 3, 3, 3), group=2**62), "any"),
        "conv-group-2": (conv(weights(3, 3, 3, 3), group=2), "any"),
        "conv-channels": (conv(weights(4, 5, 3, 3)), "any"),
        "conv-rank-2": (conv(weights(4, 3)), "any"),
        "conv-rank-6": (conv(weights(4, 3, 1, 1, 1, 1)), "any"),
        "conv-kernel-lie": (conv(weights(4, 3, 3, 3), kernel_shape=[5, 5]), "any"),
        "conv-kernel-0": (conv(np.zeros((4, 3, 0, 0), np.float32)), "any"),
        "conv-larger-than-image": (conv(weights(4, 3, 9, 9)), "any"),
        "conv-strides-0": (conv(weights(4, 3, 3, 3), strides=[0, 0]), "any"),
        "conv-strides-negative": (conv(weights(4, 3, 3, 3), strides=[-1, -1]), "any"),
        "conv-strides-one": (conv(weights(4, 3, 3, 3), strides=[1]), "any"),
        "conv-dilations-0": (conv(weights(4, 3, 3, 3), dilations=[0, 0]), "any"),
        "conv-dilations-huge": (conv(weights(4, 3, 3, 3), dilations=[2**62, 2**62]), "any"),
        "conv-pads-huge": (conv(weights(4, 3, 3, 3), pads=[HUGE] * 4), "any"),
        "conv-pads-wrap": (conv(weights(4, 3, 3, 3), pads=[2**63 - 1] * 4), "any"),
        "conv-pads-three": (conv(weights(4, 3, 3, 3), pads=[1, 1, 1]), "any"),
        "conv-auto-pad": (conv(weights(4, 3, 3, 3), auto_pad="EVIL"), "any"),
        "maxpool-0": (image(node("MaxPool", "x", "y", kernel_shape=[0, 0])), "any"),
        "maxpool-negative": (image(node("MaxPool", "x", "y", kernel_shape=[-2, -2])), "any"),
        "maxpool-none": (image(node("MaxPool", "x", "y")), "standard"),
        "maxpool-3d": (image(node("MaxPool", "x", "y", kernel_shape=[2, 2, 2])), "any"),
        "maxpool-indices": (
            image(node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Cast", "i", "y", to=1)),
            "any",
        ),
    }
    for name, (made, code) in shapes.items():
        add("graph", name, code, made)
    kinds()


def kinds() -> None:
    """Attributes and inputs of kinds that do not belong there."""
    wrong = node("Conv", "x w", "y")
    wrong.attribute.append(helper.make_attribute("strides", [1.5, 1.5]))
    add("graph", "attribute-kind", "standard", image(wrong, consts={"w": weights(4, 3, 3, 3)}))
    twice = node("Flatten", "x", "y", axis=1)
    twice.attribute.append(helper.make_attribute("axis", 0))
    add("graph", "attribute-twice", "standard any accepted", model([twice]))
    unknown = node("Relu", "x", "y", evil=1)
    add("graph", "attribute-unknown", "standard", model([unknown]))
    ref = node("Flatten", "x", "y")
    ref.attribute.append(AttributeProto(name="axis", ref_attr_name="axis", type=AttributeProto.INT))
    add("graph", "attribute-reference", "standard any", model([ref]))
    untyped = node("Flatten", "x", "y")
    untyped.attribute.append(AttributeProto(name="axis", i=1))
    add("graph", "attribute-untyped", "standard any accepted", model([untyped]))
    makers = {
        "sequence": helper.make_tensor_sequence_value_info("x", F, ["N", 4]),
        "optional": helper.make_value_info(
            "x", helper.make_optional_type_proto(helper.make_tensor_type_proto(F, ["N", 4]))
        ),
        "map": helper.make_value_info("x", helper.make_map_type_proto(I64, helper.make_tensor_type_proto(F, [4]))),
        "sparse": helper.make_sparse_tensor_value_info("x", F, ["N", 4]),
    }
    for name, value in makers.items():
        made = model([node("Relu", "x", "y")])
        made.graph.input[0].CopyFrom(value)
        add("graph", f"input-{name}", "value-kind", made)
    for name, kind in {"string": TensorProto.STRING, "99": 99, "0": 0, "complex": TensorProto.COMPLEX64}.items():
        made = model([node("Relu", "x", "y")])
        made.graph.input[0].type.tensor_type.elem_type = kind
        add("graph", f"input-type-{name}", "any", made)
    made = model([node("Relu", "x", "y")])
    made.graph.input[0].ClearField("type")
    add("graph", "input-untyped", "any", made)
    made = model([node("Relu", "x", "y")])
    made.graph.input[0].name = ""
    add("graph", "input-unnamed", "any", made)
    nodes = [node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", "y", axis=1)]
    add("graph", "sequence-inside", "any", model(nodes))
    add(
        "graph",
        "text-inside",
        "any",
        model([node("Cast", "x", "s", to=TensorProto.STRING), node("Cast", "s", "y", to=1)]),
    )
    deep = helper.make_tensor_type_proto(F, [1])
    for _ in range(60):
        deep = helper.make_sequence_type_proto(deep)
    made = model([node("Relu", "x", "y")])
    made.graph.input[0].type.CopyFrom(deep)
    add("graph", "type-nested-60", "value-kind not-onnx", made.SerializeToString())


# --- well-formed files of which the numbers make no sense


def norm(gamma: Any = 1.0, mean: Any = 0.0, var: Any = 1.0, outputs: str = "y", **attrs: Any) -> ModelProto:
    """Batch normalisation of x [N,3,8,8]."""
    values = {"g": gamma, "b": 0.5, "m": mean, "v": var}
    consts = {name: np.full(3, value, np.float32) for name, value in values.items()}
    return image(node("BatchNormalization", "x g b m v", outputs, **attrs), consts=consts, opset=15)


SEMANTIC = {
    **dict.fromkeys(("bn-no-variance", "bn-negative-variance", "bn-negative-epsilon", "bn-nan-epsilon"), "variance"),
    **dict.fromkeys(("bn-nan-mean", "bn-inf-mean", "bn-nan-gamma", "bn-nan-variance"), "nan-weight"),
    **dict.fromkeys(
        ("prelu-nan", "add-nan", "mul-inf", "folded-nan", "folded-inf", "quantize-scale-nan"), "nan-weight"
    ),
    **dict.fromkeys(("bn-training", "dropout-training"), "training-mode"),
    **dict.fromkeys(("random-normal", "random-like", "random-uniform", "bernoulli"), "unsupported-operator"),
}


def semantics() -> None:
    """Statistics, bounds and modes that no inference has."""
    nan, inf = float("nan"), float("inf")
    for name, made in {
        "bn-no-variance": norm(var=0.0, epsilon=0.0),
        "bn-negative-variance": norm(var=-1.0),
        "bn-negative-epsilon": norm(var=0.5, epsilon=-1.0),
        "bn-nan-mean": norm(mean=nan),
        "bn-inf-mean": norm(mean=inf),
        "bn-nan-gamma": norm(gamma=nan),
        "bn-nan-variance": norm(var=nan),
        "bn-nan-epsilon": norm(epsilon=nan),
        "bn-training": norm(outputs="y rm rv", training_mode=1),
        "bn-two-channels": image(
            node("BatchNormalization", "x g g g g", "y"), consts={"g": np.ones(2, np.float32)}, opset=15
        ),
        "dropout-training": model([node("Dropout", "x r t", "y")], {"r": np.float32(0.5), "t": np.array(True)}),
        "random-normal": model([node("RandomNormal", "", "r", shape=[1, 4]), node("Add", "x r", "y")]),
        "random-like": model([node("RandomNormalLike", "x", "r"), node("Add", "x r", "y")]),
        "random-uniform": model([node("RandomUniform", "", "r", shape=[1, 4]), node("Add", "x r", "y")]),
        "bernoulli": model([node("Bernoulli", "x", "y")], opset=15),
        "gemm-alpha-nan": model([node("Gemm", "x w", "y", alpha=nan)], {"w": weights(4, 3)}),
        "gemm-alpha-inf": model([node("Gemm", "x w", "y", alpha=inf)], {"w": weights(4, 3)}),
        "gemm-beta-nan": model([node("Gemm", "x w b", "y", beta=nan)], {"w": weights(4, 3), "b": weights(3)}),
        "clip-nan": model([node("Clip", "x a b", "y")], {"a": np.float32(nan), "b": np.float32(1)}),
        "leaky-nan": model([node("LeakyRelu", "x", "y", alpha=nan)]),
        "prelu-nan": model([node("PRelu", "x s", "y")], {"s": np.array([nan], np.float32)}),
        "add-nan": model([node("Add", "x c", "y")], {"c": np.array([nan] * 4, np.float32)}),
        "mul-inf": model([node("Mul", "x c", "y")], {"c": np.array([inf] * 4, np.float32)}),
        "div-zero": model([node("Div", "x c", "y")], {"c": np.zeros(4, np.float32)}),
        "folded-nan": model([node("Log", "c", "l"), node("Add", "x l", "y")], {"c": np.full(4, -1, np.float32)}),
        "folded-inf": model([node("Reciprocal", "c", "l"), node("Mul", "x l", "y")], {"c": np.zeros(4, np.float32)}),
        "quantize-scale-0": model(
            [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
            {"s": np.float32(0), "z": np.uint8(0)},
        ),
        "quantize-scale-nan": model(
            [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
            {"s": np.float32(nan), "z": np.uint8(0)},
        ),
    }.items():
        add("semantic", name, SEMANTIC.get(name, "any"), made)


# --- weights outside the model


def outside(change: Mapping[str, str | None], extra: Callable[[Path], Any] | None = None) -> Callable[[Path], None]:
    """A model with its weight in w.bin, and some entries of its external data changed, None: left out."""

    def write(folder: Path) -> None:
        made = dense(weights(4, 3))
        held = made.graph.initializer[0]
        (folder / "w.bin").write_bytes(b"pad!" + held.raw_data)
        held.ClearField("raw_data")
        held.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "w.bin", "offset": "4", "length": "48"} | dict(change)).items():
            if value is not None:
                held.external_data.add(key=key, value=value)
        (folder / "model.onnx").write_bytes(made.SerializeToString())
        if extra is not None:
            extra(folder)

    return write


def externals() -> None:
    """Locations that lead elsewhere, sizes that lie."""
    for name, location in {
        "parent": "../secret.bin",
        "absolute": "/etc/passwd",
        "inside-out": "a/../../secret.bin",
        "nul": "w.bin\0.png",
        "drive": "C:\\secret.bin",
        "backslash": "..\\secret.bin",
        "url": "http://example.com/w.bin",
        "empty": "",
        "dot": ".",
        "dots": "..",
        "proc": "/proc/self/environ",
        "device": "/dev/zero",
        "slashes": "//etc/passwd",
    }.items():
        add("external", name, "external-escape", outside({"location": location}))
    add("external", "missing", "external-missing", outside({"location": "none.bin"}))
    add("external", "long", "external-missing external-escape", outside({"location": "a" * 5000}))
    add("external", "home", "external-missing", outside({"location": "~/.ssh/id_rsa"}))
    for name, location, extra, code in [
        ("link", "l.bin", lambda f: (f / "l.bin").symlink_to("/etc/passwd"), "external-link"),
        ("link-inside", "l.bin", lambda f: (f / "l.bin").symlink_to("w.bin"), "external-link"),
        ("link-dangling", "l.bin", lambda f: (f / "l.bin").symlink_to("nowhere"), "external-link"),
        ("link-folder", "d/passwd", lambda f: (f / "d").symlink_to("/etc"), "external-link"),
        ("link-folder-inside", "d/w.bin", lambda f: (f / "d").symlink_to("."), "external-link"),
        ("hard-link", "h.bin", lambda f: (f / "h.bin").hardlink_to(f / "w.bin"), "external-link"),
        ("pipe", "p.bin", lambda f: os.mkfifo(f / "p.bin"), "external-special"),
        ("folder", "d.bin", lambda f: (f / "d.bin").mkdir(), "external-special"),
        ("model-itself", "model.onnx", None, "external-self"),
        ("file-as-folder", "w.bin/w.bin", None, "external-missing"),
    ]:
        add("external", name, code, outside({"location": location, "offset": "0"}, extra))
    for name, change, code in [
        ("offset-negative", {"offset": "-4"}, "external-size"),
        ("offset-beyond", {"offset": "52"}, "external-size"),
        ("offset-wraps", {"offset": "18446744073709551600"}, "external-size"),
        ("offset-9-exa", {"offset": "9223372036854775807"}, "external-size"),
        ("offset-float", {"offset": "4.0"}, "external-size"),
        ("offset-arabic", {"offset": "٤"}, "external-size"),
        ("offset-digits", {"offset": "4" * 100_000}, "external-size"),
        ("offset-blank", {"offset": " 4"}, "external-size"),
        ("length-peta", {"length": "1000000000000000"}, "external-size"),
        ("length-negative", {"length": "-1"}, "external-size"),
        ("length-short", {"length": "44"}, "external-size"),
        ("length-word", {"length": "many"}, "external-size"),
        ("length-empty", {"length": ""}, "external-size"),
        ("checksum-wrong", {"checksum": "0" * 40}, "external-sum"),
        ("key-unknown", {"__class__": "evil"}, "external-key"),
        ("key-basepath", {"basepath": "/etc"}, "external-key"),
        ("no-location", {"location": None}, "external-escape"),
    ]:
        add("external", name, code, outside(change))  # type: ignore[arg-type]
    odd_externals()


def odd_externals() -> None:
    """External data where none belong, or of impossible sizes."""
    far = TensorProto(name="w", data_type=F, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="w.bin")
    both = TensorProto()
    both.CopyFrom(far)
    both.raw_data = bytes(48)
    add("external", "and-raw", "tensor-data", dense(both))
    twice = TensorProto()
    twice.CopyFrom(far)
    twice.external_data.add(key="location", value="/etc/passwd")
    add("external", "location-twice", "external-key", dense(twice))
    huge = TensorProto()
    huge.CopyFrom(far)
    huge.dims[0] = HUGE
    add("external", "tensor-huge", "too-large", dense(huge))
    unknown = TensorProto()
    unknown.CopyFrom(far)
    unknown.data_type = 99
    add("external", "type-unknown", "tensor-type", dense(unknown))
    text = TensorProto()
    text.CopyFrom(far)
    text.data_type = TensorProto.STRING
    add("external", "text", "tensor-type", dense(text))
    undeclared = TensorProto()
    undeclared.CopyFrom(far)
    undeclared.ClearField("data_location")
    undeclared.raw_data = bytes(48)
    add("external", "undeclared", "tensor-data", dense(undeclared))
    fill = TensorProto(name="v", data_type=F, dims=[1], data_location=TensorProto.EXTERNAL)
    fill.external_data.add(key="location", value="/etc/passwd")
    nodes = [node("ConstantOfShape", "s", "c", value=fill), node("Add", "x c", "y")]
    add("external", "in-an-attribute", "external-place", model(nodes, {"s": integers(4)}))
    inside = helper.make_graph(
        [node("Constant", "", "q", value=fill)], "b", [], [helper.make_tensor_value_info("q", F, [1])]
    )
    add(
        "external",
        "in-a-branch",
        "external-place",
        model([node("If", "c", "y", then_branch=inside, else_branch=inside)], {"c": np.array(True)}),
    )
    body = [node("Constant", "", "c", value=fill), node("Add", "a c", "b")]
    add("external", "in-a-function", "external-escape", with_functions([function("f0", body)], "f0"))
    add(
        "external",
        "in-a-constant",
        "external-escape",
        model([node("Constant", "", "c", value=fill), node("Add", "x c", "y")]),
    )


# --- legal models that look odd


def legal() -> None:
    """What an importer must not refuse."""
    ansi = "\x1b[31m/../../x\x1b[0m\u202e"
    half, double = np.float16, np.float64
    for name, made in {
        "plain": plain(),
        "negative-gamma": norm(gamma=-2.0),
        "zero-gamma": norm(gamma=0.0),
        "no-variance-but-epsilon": norm(var=0.0),
        "tiny-variance": norm(var=1e-12),
        "dead-layer": dense(np.zeros((4, 3), np.float32)),
        "dead-conv": conv(np.zeros((4, 3, 3, 3), np.float32)),
        "subnormal": dense(np.full((4, 3), 1e-42, np.float32)),
        "huge-weights": dense(np.full((4, 3), 3e38, np.float32)),
        "minus-zero": dense(np.full((4, 3), -0.0, np.float32)),
        "half": dense(weights(4, 3).astype(half)),
        "double": dense(weights(4, 3).astype(double)),
        "brain-float": dense(
            tensor("w", [4, 3], TensorProto.BFLOAT16, (weights(4, 3).view(np.uint32) >> 16).astype(np.uint16).tobytes())
        ),
        "typed-floats": dense(tensor("w", [4, 3], float_data=[float(i) for i in range(12)])),
        "typed-halves": dense(tensor("w", [4, 3], TensorProto.FLOAT16, int32_data=[15360] * 12)),
        "static-batch": model([node("Relu", "x", "y")], inputs={"x": [1, 4]}),
        "batch-of-64": model([node("Relu", "x", "y")], inputs={"x": [64, 4]}),
        "batch-of-zero": model([node("Relu", "x", "y")], inputs={"x": [0, 4]}),
        "batch-minus-one": model([node("Relu", "x", "y")], inputs={"x": [-1, 4]}),
        "node-name-path": model([node("Relu", "x", "y", name="../../etc/passwd")]),
        "node-name-ansi": model([node("Relu", "x", "y", name=ansi)]),
        "value-name-ansi": model([node("Relu", "x", ansi), node("Relu", ansi, "y")]),
        "input-name-path": model([node("Relu", "../../x", "y")], inputs={"../../x": ["N", 4]}),
        "input-name-ansi": model([node("Relu", ansi, "y")], inputs={ansi: ["N", 4]}),
        "output-name-odd": model([helper.make_node("Relu", ["x"], ["a b;rm -rf *"])], outputs=["a b;rm -rf *"]),
        "weight-name-odd": model([helper.make_node("MatMul", ["x", "../w\n"], ["y"])], {"../w\n": weights(4, 3)}),
        "name-1024": model([node("Relu", "x", "y", name="n" * 1024)]),
        "name-none": model([helper.make_node("Relu", ["x"], ["y"])]),
        "names-alike": model([node("Relu", "x", "a"), node("Relu", "a", "y")]),
        "emoji": model([node("Relu", "x", "🧠"), node("Relu", "🧠", "y")]),
        "chain-2000": chain(2000),
        "doc-1mb": edited(lambda m: setattr(m, "doc_string", "d" * 2**20)),
        "metadata": edited(lambda m: m.metadata_props.add(key="a", value="b" * 5000)),
        "ir-3-weights-as-inputs": _old(),
        "opset-7": model([node("Gemm", "x w b", "y")], {"w": weights(4, 3), "b": weights(3)}, opset=7),
        "opset-newest": model(
            [node("Relu", "x", "y")], opset=onnx.defs.onnx_opset_version(), ir_version=onnx.IR_VERSION
        ),
        "opset-ml-too": opsets(("", 13), ("ai.onnx.ml", 3)),
        "opset-both-names": opsets(("", 13), ("ai.onnx", 13)),
        "clip-min-over-max": model([node("Clip", "x a b", "y")], {"a": np.float32(0), "b": np.float32(6)}),
        "reshape-copy": image(node("Reshape", "x s", "y"), consts={"s": integers(0, 0, -1)}, opset=14),
        "reshape-allowzero": image(node("Reshape", "x s", "y", allowzero=1), consts={"s": integers(-1, 192)}, opset=14),
        "ceil-mode-even": image(node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
        "dropout-off": model([node("Dropout", "x r t", "y")], {"r": np.float32(0.5), "t": np.array(False)}),
        "constant-folded": model(
            [node("Constant", "", "c", value=numpy_helper.from_array(weights(4))), node("Add", "x c", "y")]
        ),
        "constant-large": model(
            [node("Constant", "", "c", value=numpy_helper.from_array(weights(4, 2000))), node("MatMul", "x c", "y")]
        ),
        "dead-branch": model([node("Relu", "x", "y"), node("Sin", "x", "unused")]),
        "dead-weight": model([node("Relu", "x", "y")], {"unused": weights(3, 3)}),
        "unsorted": model([node("Relu", "h", "y"), node("Relu", "x", "h")]),
        "two-outputs": model([node("Relu", "x", "y"), node("Relu", "y", "z")], outputs=["y", "z"]),
        "grouped-conv": conv(weights(6, 1, 3, 3), group=3),
        "dilated-conv": conv(weights(4, 3, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
        "function": with_functions([function("f0", [node("Relu", "a", "b")])], "f0"),
        "function-nested": laughs(4, 3),
        "function-uncalled": edited(
            lambda m: m.functions.append(function("f0", [node("Relu", "a", "b")])), opsets(("", 13), ("laughs", 1))
        ),
        "value-info-lies": edited(
            lambda m: m.graph.value_info.append(helper.make_tensor_value_info("h", I64, [7, 7, 7]))
        ),
    }.items():
        add("legal", name, "accepted", made)
    legal_externals()


def _old() -> ModelProto:
    made = plain()
    made.ir_version = 3
    for held in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(held.name, held.data_type, list(held.dims)))
    made.opset_import[0].version = 8
    return made


def legal_externals() -> None:
    """External data as exporters write them."""
    sum_ = hashlib.sha1(b"pad!" + bytes(48)).hexdigest()

    def zeros(folder: Path) -> None:
        (folder / "w.bin").write_bytes(b"pad!" + bytes(48))

    def deeper(folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / "w.bin").rename(folder / "data" / "w.bin")

    add("legal", "external", "accepted", outside({}))
    add("legal", "external-no-length", "accepted", outside({"length": None}))
    add("legal", "external-no-offset", "accepted", outside({"offset": None}))
    add("legal", "external-checksum", "accepted", outside({"checksum": sum_}, zeros))
    add("legal", "external-in-folder", "accepted", outside({"location": "data/w.bin"}, deeper))
    add("legal", "external-dot-slash", "accepted", outside({"location": "./w.bin"}))


for group in (containers, tensors, bombs, graphs, semantics, externals, legal):
    group()


def write_all(folder: Path) -> dict[Case, Path]:
    """Make the files of all cases, each in a folder of its own."""
    return {case: case.write(folder / case.group / case.name) for case in CASES}


if __name__ == "__main__":
    made_paths = write_all(Path(sys.argv[1]))
    print(f"{len(made_paths)} models in {sys.argv[1]}, {sum(c.group == 'legal' for c in made_paths)} of them legal")
