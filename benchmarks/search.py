"""The search for the smallest T against a full sweep over every T.

    python benchmarks/search.py [--max-drop 1.0] [--steps 1 32] [--samples 1000] [--refine] [--models NAME ...]

Each model is converted without training, to weights of 8 bits or fewer (`--refine`: with refine-thresholds). The sweep
converts and judges every T of the range on all samples, with the recipe's percentile and bits, the cheapest way: no
costs, no checks. The search may choose percentile and bits as well; its cost counts every candidate, and its SynOps.
Cost: sample steps (samples times T that spiking networks were simulated for, to judge them), and seconds of the
processor. Calibrated on the first 1,000 training images, judged on the last `--samples` of the 10,000 read. `digits` is
the embedded example on its own training part; the others need SNNC_MODELS and SNNC_DATA. Nothing here is random.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from conversion import CALIBRATION, MODELS, OUTPUTS, PLAIN, fitted

import snnc
from snnc import data
from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.pipeline import Context, Pipeline, single
from snnc.search import Choice, Goal, search
from snnc.sim import torch as executor

EXAMPLES = Path(__file__).parents[1] / "examples"
DEFAULT = (
    "digits",
    "mnist_cnn_torch29_dynamo",
    "mnist_cnn_bn_torch20_op16",
    "mnist_lenet_residual_torch13",
    "fashion_mlp_tf2onnx117",
    "fashion_cnn_torch13",
)
READ = 10_000
PERCENTILE = 99.9
"""Of the recipe: the default of threshold-layernorm."""


def network(name: str, samples: int) -> tuple[snnc.Graph, Data]:
    """A model, and calibration and validation samples of its training part."""
    if name == "digits":
        return snnc.load(EXAMPLES / "digits_cnn.onnx"), data.load(EXAMPLES / "digits.npz")
    folders = [os.environ.get(key) for key in ("SNNC_MODELS", "SNNC_DATA")]
    if None in folders:
        sys.exit("set SNNC_MODELS and SNNC_DATA to the folders of the models and the data")
    graph = snnc.load(f"{folders[0]}/{name}.onnx", outputs=OUTPUTS.get(name, ()))
    [kind], (where, scaling) = graph.inputs.values(), MODELS[name]
    stored = np.load(f"{folders[1]}/{where}{'_train_1' if where == 'cifar10' else ''}.npz")
    keys = ("x", "y") if where == "cifar10" else ("x_train", "y_train")
    x, y = (stored[key][:READ] for key in keys)
    x = fitted(x, kind.shape)
    train, held = (Split(x[at], y[at], scaling) for at in (slice(CALIBRATION), slice(-samples, None)))
    return graph, Data(train, held, held.take(0))


def swept(recipe: Pipeline, graph: snnc.Graph, samples: Data, goal: Goal) -> tuple[int | None, int, float]:
    """The smallest T of the range whose drop is within the budget, the sample steps, the seconds."""
    start, split = time.process_time(), samples.validation
    source, x = next(iter(graph.inputs)), split.x()

    def right(g: snnc.Graph) -> int:
        return int((single(executor.run(g, {source: x})).argmax(1) == split.labels).sum())

    ctx, ann, found = Context(samples, graph), right(graph), []
    at = next(i for i, p in enumerate(recipe.passes) if p.name == "threshold-layernorm")
    before = graph
    for step in recipe.passes[:at]:
        before = step.run(before, ctx)
    for steps in goal.steps:
        made = before
        for step in Choice(steps, PERCENTILE).passes(recipe.passes)[at:]:
            made = step.run(made, ctx)
        if 100 * (ann - right(made)) <= goal.max_drop * len(split) + 1e-6:
            found.append(steps)
    return min(found, default=None), len(split) * sum(goal.steps), time.process_time() - start


def main() -> None:
    """One line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--steps", type=int, nargs=2, default=[1, 32], metavar=("FIRST", "LAST"))
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=list(DEFAULT), choices=["digits", *MODELS], metavar="NAME")
    given = parser.parse_args()
    goal = Goal(given.max_drop, range(given.steps[0], given.steps[1] + 1))
    passes = (PLAIN.format(steps=16), *(["refine-thresholds"] if given.refine else []), "quantize-weights{bits=8}")
    recipe = Pipeline.parse(",".join(passes))
    print("model | T of the sweep | T at its percentile | chosen | drop | candidates | sample steps | seconds")
    for name in given.models:
        graph, samples = network(name, given.samples)
        least, swept_steps, swept_seconds = swept(recipe, graph, samples, goal)
        start = time.process_time()
        try:
            found = search(recipe, graph, samples, goal)
        except PipelineError as error:
            print(f"{name} | {least} | {error.message}", flush=True)
            continue
        seconds = time.process_time() - start
        own = min(t.latency for t in found.curve if t.within and t.choice.percentile == PERCENTILE)
        print(
            f"{name} | {least} | {own} | {found.chosen} | {found.best.drop:.2f} | {len(found.curve)} | "
            f"{found.sample_steps:,} of {swept_steps:,}: {found.sample_steps / swept_steps:.0%} | "
            f"{seconds:.0f} of {swept_seconds:.0f}: {seconds / swept_seconds:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
