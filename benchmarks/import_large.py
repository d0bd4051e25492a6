"""What importing a large model takes: seconds, and peak memory of the process that reads it and of the caller.

    python benchmarks/import_large.py [--megabytes 100]

Four models of about that size are made in a temporary folder: dense layers as torch exports them (Gemm, transB=1),
dense layers that must be transposed (MatMul), convolutions, and dense layers in external data. Each is imported in a
fresh process. Memory is the peak of resident memory over the size of the files, once whole and once without what
the process takes to import a tiny model. The goal: below 3 times the size, below 10 seconds on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).absolute().parents[1]
KINDS = ("gemm", "matmul", "conv", "external")
GOAL_MEMORY, GOAL_SECONDS = 3.0, 10.0

MEASURE = """
import json, pathlib, re, resource, sys, time
from snnc.importer import sandbox
from snnc.importer.options import DEFAULT
start = time.perf_counter()
reply = sandbox.ask("examine", sys.argv[1], DEFAULT)
seconds = time.perf_counter() - start
assert reply.made is not None and reply.made.graph is not None, reply
try:  # not getrusage: on Linux its peak is inherited from whoever started this process
    own = int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
except OSError:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "child": reply.usage.peak, "caller": own, "cpu": reply.usage.cpu}))
"""


def write(folder: Path, kind: str, megabytes: float) -> Path:
    """A model of about `megabytes` MB of float32 weights in layers of 16 MB at most."""
    rng = np.random.default_rng(0)
    width = 1024 if megabytes >= 4 else 32
    layers = max(round(megabytes * 1e6 / (4 * width * width)), 1)
    nodes, weights, value = [], [], "x"
    for i in range(layers):
        shape = (width // 3, width // 3, 3, 3) if kind == "conv" else (width, width)
        weights.append(numpy_helper.from_array(rng.standard_normal(shape, np.float32) / width, f"w{i}"))
        op = {"conv": "Conv", "matmul": "MatMul"}.get(kind, "Gemm")
        attrs: dict[str, Any] = {"pads": [1] * 4} if op == "Conv" else {"transB": 1} if op == "Gemm" else {}
        nodes.append(helper.make_node(op, [value, f"w{i}"], [f"v{i}"], name=f"n{i}", **attrs))
        nodes.append(helper.make_node("Relu", [f"v{i}"], [f"r{i}"], name=f"a{i}"))
        value = f"r{i}"
    sizes: list[int | str | None] = ["N", width // 3, 4, 4] if kind == "conv" else ["N", width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in ("x", value)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{kind}.onnx"
    onnx.save(model, path, save_as_external_data=kind == "external", location="weights.bin")
    return path


def measure(path: Path) -> dict[str, float]:
    """What one import in a fresh process takes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """One row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100.0)
    wanted = parser.parse_args()
    good = True
    print("model    |   MB | seconds | CPU of child | child / size (less base) | caller / size (less base)")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            base = measure(write(Path(folder), "gemm", 0.01))
            path = write(Path(folder), kind, wanted.megabytes)
            size = sum(file.stat().st_size for file in Path(folder).iterdir() if file.stat().st_size > 10_000)
            found = measure(path)
        ratios = {who: (found[who] / size, (found[who] - base[who]) / size) for who in ("child", "caller")}
        shown = " | ".join(f"{whole:8.2f} ({net:.2f})        " for whole, net in ratios.values())
        print(f"{kind:8s} | {size / 1e6:4.0f} | {found['seconds']:7.2f} | {found['cpu']:12.2f} | {shown}")
        good &= found["seconds"] < GOAL_SECONDS and all(whole < GOAL_MEMORY for whole, _ in ratios.values())
    print("goal met" if good else f"goal missed: {GOAL_MEMORY} times the size, {GOAL_SECONDS} seconds")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
