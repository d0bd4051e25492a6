r"""Replace a curved activation by bounded relus, fitted to what the layer really sees; a trainer mends the rest.

    f(x) ~ P(x) - Q(-x),   P(x) = relu{h}(s (x - l)),   h = infinity where f is not bounded above

P is fitted to max(f, 0), and Q, where the data takes f well below 0, to max(-f, 0): least squares over the
pre-activations of the calibration data, the best corners of a grid, the slope in closed form. Both are measured in
units of f, so that the neurons of P, which take the function's own name, learn from the teacher's values as they are
(a trainer cuts them at 0). Q reads the same weights through a negative scale and so learns with them. Functions
without layers on both sides stay as they are: they are pre-processing or read-out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from snnc.errors import PipelineError
from snnc.ir import OFF, Array, Draft, Graph, Node, Stage, between_layers
from snnc.pipeline import Context, Pass
from snnc.sim.curves import curve
from snnc.sim.reference import LIBRARY
from snnc.sim.torch import exact, forward, tensors, to_tensor

CHUNK = 64
POINTS = 1001
"""Quantiles of a layer's pre-activations that the fit looks at."""
DIP = 0.1
"""Root mean square of f below 0, as a share of its deviation, up to which that part is given up."""
CORNERS = 60
"""Places that a corner of the fit may stand at."""
ONE = "becomes a layer of neurons fitted to the data; a trainer must mend it"
TWO = "becomes layers of neurons fitted to the data, one for each sign it takes; a trainer must mend it"
POSITIVE = ("sigmoid", "softplus", "thresholdedrelu")
SIGNED = ("celu", "elu", "erf", "gelu", "hardswish", "mish", "selu", "sign", "softsign", "swish", "tanh")
BOUNDED = ("erf", "sigmoid", "sign", "softsign", "tanh")
"""Those with a largest value."""


@dataclass(frozen=True)
class ReplaceActivation(Pass):
    """Turn curved activations between layers into bounded relus, fitted to calibration data.

    Attributes:
        samples: calibration samples from the beginning of the training part.
    """

    name = "replace-activation"
    takes = frozenset({Stage.ANALOG})
    rewrites: ClassVar[Mapping[str, str]] = {**dict.fromkeys(POSITIVE, ONE), **dict.fromkeys(SIGNED, TWO)}

    samples: int = 1000

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise PipelineError(f"'{self.name}' cannot work with samples={self.samples}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        inside = between_layers(graph)
        mine = [n for n in graph.nodes if n.op in self.rewrites and n.name in inside]
        if not mine:
            return graph
        if ctx.data is None:
            ctx.note("no data: fitted to inputs from -4 to 4")
            seen = dict.fromkeys((n.name for n in mine), np.linspace(-4.0, 4.0, POINTS))
        else:
            seen = _pre_activations(graph, mine, ctx, self.samples, self.name)
        draft = Draft(graph)
        for node in mine:
            error = _replace(draft, node, seen[node.name])
            ctx.note(f"{node.at} became relus, off by {error:.1%} of its deviation: a trainer must mend it")
        return draft.finish()


def _pre_activations(graph: Graph, mine: list[Node], ctx: Context, samples: int, name: str) -> dict[str, Array]:
    """What each node reads: `POINTS` quantiles of it over calibration data, mean over batches of samples."""
    split = ctx.training(name).take(samples)
    params, source = tensors(graph, ctx.device), next(iter(graph.inputs))
    read = {graph.values(n)[0] for n in mine}
    levels = np.linspace(0, 1, POINTS)
    found: dict[str, list[Array]] = {n.name: [] for n in mine}
    with torch.inference_mode(), exact():
        for at in range(0, len(split), CHUNK):
            ctx.progress(f"{name}: collect inputs", at, len(split))
            batch = {source: to_tensor(split.x(slice(at, at + CHUNK)), ctx.device)}
            values = forward(graph, params, batch, keep=lambda n: n.name in read)
            for node in mine:
                seen = values[graph.values(node)[0]].cpu().numpy()
                found[node.name].append(np.quantile(seen, levels, method="inverted_cdf"))
    return {name: np.asarray(np.mean(parts, axis=0, dtype=np.float64)) for name, parts in found.items()}


def _replace(draft: Draft, node: Node, x: Array) -> float:
    """Add the relus that stand for `node`; gives back the error of the fit as a share of the deviation of f."""
    y = curve(LIBRARY, node.op, x, node.attrs)
    bounded = node.op in BOUNDED
    source = draft.graph.values(node)[0]
    up = Corner.fit(x, np.maximum(y, 0), bounded)
    result = _half(draft, node, "", source, up, 1.0)
    fitted = up(x)
    below = np.maximum(-y, 0)
    if np.sqrt(np.mean(below**2)) > DIP * y.std():
        down = Corner.fit(-x[::-1], below[::-1], True)
        negative = _half(draft, node, OFF, source, down, -1.0)
        result = draft.add(node, "both", "add", result, draft.add(node, "signed", "scale", negative, factor=-1.0))
        fitted = fitted - down(-x)
    draft.replace(node, result)
    return float(np.sqrt(np.mean((fitted - y) ** 2)) / (y.std() or 1.0))


def _half(draft: Draft, node: Node, suffix: str, source: str, corner: Corner, sign: float) -> str:
    """relu{high}(slope * (sign * x - low))."""
    slope, offset = sign * corner.slope, -corner.slope * corner.low
    line = draft.add(node, f"{suffix}.line".lstrip("."), "scale", source, factor=slope, bias=offset)
    return draft.add(node, suffix, "relu", line, attrs={} if corner.high is None else {"max": corner.high})


@dataclass(frozen=True)
class Corner:
    """relu{high}(slope * (x - low)); high is None where there is no bound."""

    low: float
    slope: float
    high: float | None

    def __call__(self, x: Array) -> Array:
        """Its values."""
        return np.clip(self.slope * (x - self.low), 0, self.high)

    @classmethod
    def fit(cls, x: Array, y: Array, bounded: bool) -> Corner:
        """The corner with the least squared distance to y >= 0 at the points x, ascending."""
        span = float(x[-1] - x[0]) or 1.0
        lows = np.concatenate(
            [np.linspace(x[0] - 4 * span, x[0], CORNERS), np.quantile(x, np.linspace(0, 0.99, CORNERS))]
        )
        tops = (
            np.concatenate([np.quantile(x, np.linspace(0.01, 1, CORNERS)), [x[-1] + 4 * span]]) if bounded else [np.inf]
        )
        best, least = cls(0.0, 1.0, None), np.inf
        for low in lows:
            for top in tops:
                if top <= low + 1e-6 * span:
                    continue
                shape = np.clip(x, low, top) - low
                slope = float(shape @ y / max(shape @ shape, 1e-30))
                error = float(np.square(slope * shape - y).sum())
                if slope > 0 and error < least:
                    high = slope * float(top - low) if np.isfinite(top) else None
                    best, least = cls(float(low), slope, high), error
        return best
