"""Kill a compile with SIGKILL at many points, go on with it, and compare the artifacts byte for byte.

    python benchmarks/kill.py [--points 100] [--seed 0] [--pipeline TEXT]

Half of the points are moments drawn over the whole run, the other half calls in the middle of saving a checkpoint:
before a file is synced, before it gets its name, before its folder is synced, before an old one is deleted. The example
model on 200 samples, a checkpoint after every update. Every run is a process of its own, forked from one that has
loaded torch and the model but computed nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import snnc
from snnc import api
from snnc.data import Data
from snnc.data import load as load_data

EXAMPLES = Path(__file__).parents[1] / "examples"
PIPELINE = (
    "fold-batchnorm,threshold-layernorm{steps=4},bias-per-step,limit-fan-in,quantize-weights,ltl{epochs=2 batch=20}"
)
SAVING = ((os, "fsync"), (Path, "replace"), (Path, "unlink"))


def main() -> None:
    """Print a line a point and the sum; exit code 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pipeline", default=PIPELINE, help=f"by default {PIPELINE}")
    options = parser.parse_args()
    points, seed, text = options.points, options.seed, options.pipeline
    graph = snnc.load(EXAMPLES / "digits_cnn.onnx")
    data = load_data(EXAMPLES / "digits.npz", train_samples=200, test_samples=50)
    rng = np.random.default_rng(seed)
    same = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        start = time.monotonic()
        calls = place / "calls"
        ended(forked(lambda: compiled(graph, data, text, place / "whole", lambda count: calls.write_text(str(count)))))
        seconds, saving = time.monotonic() - start, int(calls.read_text())
        wanted = contents(place / "whole")
        print(f"undisturbed {seconds:.1f} s, {saving} calls while saving")
        for point in range(points):
            out = place / f"build{point}"
            call = int(rng.integers(1, saving)) if point % 2 else 0
            moment, died = float(rng.uniform(0, 2 * seconds)), False
            while not died:
                moment /= 2  # it had ended before, if this is not the first time
                shutil.rmtree(out, ignore_errors=True)
                process = forked(lambda out=out, call=call: compiled(graph, data, text, out, suicide(call)))  # type: ignore[misc]
                if not call:
                    time.sleep(moment)
                    os.kill(process, signal.SIGKILL)
                died = ended(process) == -signal.SIGKILL
            ended(forked(lambda out=out: compiled(graph, data, text, out, suicide(0))))  # type: ignore[misc]
            equal = contents(out) == wanted and not Path(f"{out}.checkpoints").exists()
            same += equal
            where = f"call {call}" if call else f"{moment:.2f} s"
            print(f"{point:4} {where:>10}  {'same' if equal else 'DIFFERENT'}")
    print(f"{points} times killed, {same} times the same bytes")
    sys.exit(same != points)


def compiled(graph: snnc.Graph, data: Data, text: str, out: Path, saving: Callable[[int], object]) -> None:
    """Compile, and go on if something is left; `saving` is told the number of every call that saves."""
    count = 0

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            saving(count)
            return real(*args, **kwargs)

        return call

    for home, name in SAVING:
        setattr(home, name, watched(getattr(home, name)))
    api.build(graph, data=data, out=out, pipeline=text, chips=0, resume=True, save_every=0)


def suicide(at: int) -> Callable[[int], None]:
    """Kills its own process before the call number `at`."""

    def saving(count: int) -> None:
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return saving


def forked(work: Callable[[], None]) -> int:
    """The id of a child that does `work` and ends."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def ended(process: int) -> int:
    """The exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    """All files of an artifact; none if there is no artifact."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


if __name__ == "__main__":
    main()
