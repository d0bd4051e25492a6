"""What test_parallel runs in several processes: train as one, then lose a process.

    python tests/train/together.py FOLDER

Every process stores what it saw and made in FOLDER/RANK.npz, and prints how the second training ended.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from snnc.data import Data
from snnc.errors import SnncError
from snnc.ir import Graph
from snnc.pipeline import Context, Pipeline
from snnc.train import LTL, Batch, Checkpoints, parallel
from snnc.train.loop import loop
from tests.train.conftest import labelled, teacher

RULE = LTL(epochs=29, batch=33, rate=0.01)
"""Batches of 33 and one of 1 sample: 7 updates an epoch, 203 in all; shares that differ, and one that is empty."""
RECIPE = "threshold-layernorm{steps=4},bias-per-step"


def samples() -> Data:
    """199 for training."""
    data = labelled()
    return Data(data.train.take(199), data.validation, data.test)


def trained(graph: Graph, data: Data, folder: Path | None = None) -> dict[str, np.ndarray]:
    """What this process saw of every batch, `x0`, `x1`, ..., and the last weights: all epochs are as good."""
    ctx = Context(data, graph.teacher)
    if folder is not None:
        ctx.checkpoints = Checkpoints(folder)
    learn = RULE.learner(graph, ctx)
    seen: list[np.ndarray] = []

    def watch(batch: Batch) -> torch.Tensor:
        seen.append(batch.x.numpy())
        return learn(batch)

    weights = loop(RULE, graph, ctx, watch, judge=lambda made: 0.5 if parallel.is_first() else 0.1)
    found = {f"x{i}": x for i, x in enumerate(seen)}
    return {**found, **{f"w.{name}": array for name, array in weights.items()}, "note": np.array(ctx.notes[-1])}


def lose(graph: Graph, data: Data) -> None:
    """The second process fails at its third update."""
    ctx = Context(data, graph.teacher)
    learn = RULE.learner(graph, ctx)
    updates = []

    def fail(batch: Batch) -> torch.Tensor:
        updates.append(batch)
        if not parallel.is_first() and len(updates) == 3:
            raise SnncError("the second process fails")
        return learn(batch)

    loop(RULE, graph, ctx, fail)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    data = samples()
    graph = Pipeline.parse(RECIPE)(teacher(), data=data)[0]
    with parallel.joined():
        np.savez(folder / f"{os.environ['RANK']}.npz", **trained(graph, data, folder / "checkpoints"))
        start = time.monotonic()
        try:
            lose(graph, data)
        except SnncError as error:
            print(f"{parallel.first_to_fail()} {time.monotonic() - start:.1f} {error.message}")
            sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
