"""What each restriction of a DYNAP-SE2 costs the digits example, one after the other.

    python benchmarks/restrictions.py [--seeds 3] [--only NAME ...]

Test accuracy of the spiking network after five epochs of LTL (mean and standard deviation over the seeds): free; then
fan-in, weight bits with a step per channel, with a step and a threshold per core, and biases as tonic synapses, which
is the recipe of dynap-sim; and what else could be done instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import snnc
from snnc.pipeline import Pipeline, single
from snnc.sim import torch as executor
from snnc.sim.judge import accuracy

EXAMPLES = Path(__file__).parents[1] / "examples"
HEAD = "threshold-layernorm{{reset={}}},bias-per-step"
CORE = "quantize-weights{per=core},share-thresholds"
RECIPES = {
    "free": "",
    "fan-in 64": "limit-fan-in",
    "4 bits, a step per channel": "limit-fan-in,quantize-weights",
    "4 bits, a step and a threshold per core": f"limit-fan-in,{CORE}",
    "biases as tonic synapses": f"limit-fan-in{{k=63}},{CORE},limit-biases{{method=tonic}}",
    "instead: biases as bits of a direct current": f"limit-fan-in,{CORE},limit-biases{{method=dc-bit}}",
    "instead: biases folded into gains": f"limit-fan-in,limit-biases{{method=fold}},{CORE}",
    "and resets to zero, as the chip's": f"limit-fan-in{{k=63}},{CORE},limit-biases{{method=tonic}}",
    "instead: steps per channel, thresholds averaged": "limit-fan-in,quantize-weights,share-thresholds",
    "instead: four base currents per layer, tonic": (
        "limit-fan-in{k=63},quantize-weights{per=tensor levels=base-currents},share-thresholds,"
        "limit-biases{method=tonic core=1048576}"
    ),
    "instead: SE1, weights of one bit and a sign": (
        "limit-fan-in{k=63},quantize-weights{per=core bits=2},share-thresholds,limit-biases{method=tonic bits=2}"
    ),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    given = parser.parse_args()
    ann, samples = snnc.load(EXAMPLES / "digits_cnn.onnx"), snnc.data.load(EXAMPLES / "digits.npz")
    for name in given.only:
        head = HEAD.format("zero" if "resets to zero" in name else "subtract")
        recipe = Pipeline.parse(",".join(part for part in (head, RECIPES[name], "ltl") if part))
        shares = []
        for seed in range(given.seeds):
            made, _ = recipe(ann, data=samples, seed=seed)
            scores = single(executor.run(made, {next(iter(made.inputs)): samples.test.x()}))
            shares.append(100 * accuracy(scores, samples.test.labels))
        print(f"{name:48} {np.mean(shares):.2f} +- {np.std(shares):.2f} %", flush=True)


if __name__ == "__main__":
    main()
