"""What training keeps for the way back: bytes saved for backward, for every learning rule and number of time steps.

    python benchmarks/memory.py [--steps 1 2 8 32 128] [--samples 16] [RULE ...]

One update on a batch of the digits example. torch's own hooks on saved tensors count, so it is the same on every
machine: the most that is held at any moment, every storage once, the weights themselves among them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

import snnc
from snnc.data import Data
from snnc.ir import Graph
from snnc.pipeline import Context, Pass, Pipeline
from snnc.spec import from_spec
from snnc.train import TRAINERS

EXAMPLES = Path(__file__).parents[1] / "examples"
LOWERING = "threshold-layernorm{{steps={steps}}},bias-per-step"
STEPS = (1, 2, 8, 32, 128)


class Saved:
    """Inside, every tensor that autograd saves is counted.

    Attributes:
        now, peak: bytes that are held, and the most that were.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.holders: Counter[int] = Counter()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Held(self, tensor), lambda held: held.tensor
        )

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hooks.__exit__(kind, error, at)

    def hold(self, place: int, size: int) -> None:
        """A storage was saved, once more perhaps."""
        self.holders[place] += 1
        if self.holders[place] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)

    def release(self, place: int, size: int) -> None:
        """One that saved a storage needs it no longer."""
        self.holders[place] -= 1
        if not self.holders[place]:
            self.now -= size


class _Held:
    """A saved tensor, cut off from its own graph; counted until the graph lets it go."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.saved, self.tensor = saved, tensor.detach()
        self.place, self.size = storage.data_ptr(), storage.nbytes()
        saved.hold(self.place, self.size)

    def __del__(self) -> None:
        self.saved.release(self.place, self.size)


def peak(rule: Pass, graph: Graph, data: Data) -> int:
    """The most bytes that `rule` holds for the way back while it runs."""
    with Saved() as saved:
        rule.run(graph, Context(data, graph.teacher or graph))
    return saved.peak


def one_update(text: str, ann: Graph, data: Data, steps: int) -> int:
    """The most bytes that one update of a rule holds, on all samples at once; each stage's, of one with stages."""
    asked = from_spec(text, TRAINERS)
    known = {field.name for field in fields(asked)}
    options = {"epochs": 1, "batch": len(data.train), "steps": steps}
    rule = replace(asked, **{key: value for key, value in options.items() if key in known})  # type: ignore[type-var]
    lowering = Pipeline.parse(LOWERING.format(steps=steps)) if "steps" not in known else Pipeline()
    return peak(rule, lowering(ann, data=data)[0], data)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", metavar="RULE", help="all by default")
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--samples", type=int, default=16)
    chosen = parser.parse_args(arguments)
    ann, data = snnc.load(EXAMPLES / "digits_cnn.onnx"), snnc.data.load(EXAMPLES / "digits.npz")
    data = replace(data, train=data.train.take(chosen.samples))
    print(f"MB saved for backward, batch of {chosen.samples}")
    print(f"| rule | {' | '.join(f'T = {steps}' for steps in chosen.steps)} |")
    print(f"| --- |{' --- |' * len(chosen.steps)}")
    for name in chosen.rules or (*TRAINERS, "sltt{chunk=1}", "ltl-online{chunk=1}"):
        found = [one_update(name, ann, data, steps) / 1e6 for steps in chosen.steps]
        print(f"| `{name}` | {' | '.join(f'{size:.2f}' for size in found)} |", flush=True)


if __name__ == "__main__":
    main()
