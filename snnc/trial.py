"""What a compile tries its result on, once: the test part, on the original model, both networks and simulated chips."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import importer
from .data import BATCH, Data, Split
from .ir import Array, Graph, Stage
from .pipeline import Progress, single
from .population import Population, Spread, known_in, population
from .report import Row
from .sim import torch as torch_executor
from .sim.encoding import totals
from .target import Artifact

HELD = 2**28
"""Bytes of test samples that the original model is given at once, unless one batch of them has more."""


def on_test_part(
    model: str | Path | Graph,
    reading: importer.Options,
    ann: Graph,
    snn: Graph,
    data: Data,
    device: str,
    progress: Progress,
) -> list[Row]:
    """The test part, seen once: the original model, the imported one, the spiking one."""
    test, name = data.test, next(iter(ann.inputs))
    found: list[tuple[str, Array, Graph, float]] = []
    notes: tuple[str, ...] = ()
    start = time.perf_counter()
    progress("judge on the test part", 0, 3)
    ours = single(torch_executor.run(ann, {name: data.test}, device))
    seconds = time.perf_counter() - start
    if not isinstance(model, Graph):
        start = time.perf_counter()
        progress("judge on the test part", 1, 3)
        theirs = _original(model, reading, ann, data.test)
        notes = (f"largest difference to the imported network: {np.abs(theirs - ours).max():.1e}",)
        found.append(("onnxruntime", theirs, ann, time.perf_counter() - start))
    found.append(("ann", ours, ann, seconds))
    start = time.perf_counter()
    progress("judge on the test part", 2, 3)
    spiking = single(torch_executor.run(snn, {name: data.test}, device))
    found.append(("snn", spiking, snn, time.perf_counter() - start))
    return [
        Row(
            step, test.score.measure(made, test.labels), "test", g.stage, len(g.nodes), {},
            notes if step == "onnxruntime" else (), True, took, score=test.score,
        )
        for step, made, g, took in found
    ]  # fmt: skip


def _original(model: str | Path, reading: importer.Options, ann: Graph, split: Split) -> Array:
    """What the model file gives, [N, ...], on samples of which at most `HELD` bytes are read at a time."""
    (name,) = ann.inputs
    whole = max(HELD // (4 * math.prod(split.shape[1:])) // BATCH, 1) * BATCH
    parts = [single(importer.judge(model, totals(ann, {name: x}), reading)) for x in split.batches(whole)]
    return np.concatenate(parts)


def on_chips(
    artifact: Artifact, data: Data, chips: int, device: str, progress: Progress, kept: Path | None = None
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Try the artifact on devices 0..chips-1, before and after one epoch of calibration.

    Args:
        kept: folder of what was reached so far, to go on from after an interruption.
    """
    if not chips:
        return [], []

    def keep(found: Population) -> None:
        if kept is not None:
            found.bundle().write(kept)

    start = time.perf_counter()
    found = population(artifact, data, chips, device=device, progress=progress, known=known_in(kept), keep=keep)
    took = time.perf_counter() - start
    rows = []
    for step, values, seconds in (("chips", found.before, 0.0), ("chips, calibrated", found.after, took)):
        spread = Spread.of(values, found.score)
        note = f"{spread.text(found.score)} of {chips} chips on {found.samples} test samples"
        rows.append(Row(step, spread.mean, "test", Stage.PLACED, 0, {}, (note,), True, seconds, score=found.score))
    return found.chips, rows
