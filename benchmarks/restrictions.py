"""What each restriction of a DYNAP-SE2 costs the digits example, one after the other.

    python benchmarks/restrictions.py [--seeds 3] [--only NAME ...]

Test accuracy of the spiking network after five epochs of LTL (mean and standard deviation over the seeds): free; then
fan-in, base currents, biases as tonic synapses and resets to zero, which is the recipe of dynap-sim; and what else
could be done instead of one of these.
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
HEAD = "threshold-layernorm,bias-per-step"
ZERO = "threshold-layernorm{reset=zero},bias-per-step,refine-thresholds{per=layer start=layer}"
SUMS = "quantize-weights{per=tensor levels=base-currents},share-thresholds"
STEPS = "quantize-weights{per=core},share-thresholds"
RECIPES = {
    "none": HEAD,
    "fan-in 64": f"{HEAD},limit-fan-in",
    "four base currents per layer, a threshold per core": f"{HEAD},limit-fan-in,{SUMS}",
    "biases as tonic synapses": f"{HEAD},limit-fan-in{{k=63}},{SUMS},limit-biases{{method=tonic per=layer}}",
    "resets to zero": f"{ZERO},limit-fan-in{{k=63}},{SUMS},limit-biases{{method=tonic per=layer}}",
    "instead: thresholds not refined": (
        f"threshold-layernorm{{reset=zero}},bias-per-step,limit-fan-in{{k=63}},{SUMS},"
        "limit-biases{method=tonic per=layer}"
    ),
    "instead: 4-bit integers, a step per core": f"{ZERO},limit-fan-in{{k=63}},{STEPS},limit-biases{{method=tonic}}",
    "the same without resets to zero": f"{HEAD},limit-fan-in{{k=63}},{STEPS},limit-biases{{method=tonic}}",
    "instead: 4-bit integers, a step per channel, free biases": f"{ZERO},limit-fan-in,quantize-weights",
    "the same, thresholds averaged over cores": f"{ZERO},limit-fan-in,quantize-weights,share-thresholds",
    "instead: biases as bits of a direct current": f"{ZERO},limit-fan-in,{SUMS},limit-biases{{method=dc-bit}}",
    "instead: biases folded into gains, not refined": (
        f"threshold-layernorm{{reset=zero}},bias-per-step,limit-fan-in,limit-biases{{method=fold}},{SUMS}"
    ),
    "instead: SE1, weights of one bit and a sign": (
        f"{ZERO},limit-fan-in{{k=63}},quantize-weights{{per=core bits=2}},share-thresholds,"
        "limit-biases{method=tonic bits=2}"
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
        recipe = Pipeline.parse(f"{RECIPES[name]},ltl")
        shares = []
        for seed in range(given.seeds):
            made, _ = recipe(ann, data=samples, seed=seed)
            scores = single(executor.run(made, {next(iter(made.inputs)): samples.test.x()}))
            shares.append(100 * accuracy(scores, samples.test.labels))
        print(f"{name:56} {np.mean(shares):.2f} +- {np.std(shares):.2f} %", flush=True)


if __name__ == "__main__":
    main()
