r"""The levels that a synapse of the chip can have: integers, or sums of a few currents that its core shares.

    integers        |q| <= 2**(b-1) - 1 of a set of levels of b bits: the set is left away
    base currents   sums of b currents, in steps of a power of two times the graph's: the largest sum is at most
                    2**b, as if the currents were 1, 2, 4, ...; each row of a param may have currents of its own

Sums of base currents must stand on the grid of `FINEST`, which those of quantize-weights{levels=base-currents} do. They
are kept as they are where the neurons that they drive count in their own step. Where these count in the step of another
layer, or their sums leave no room for so fine a grid, the currents are rounded to it, each of them, and stay currents.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snnc.errors import TargetError
from snnc.ir import Array, Constraint, Graph
from snnc.ir.graph import nearest

FINEST = 1024
"""Parts of a weight step: what is finer is no setting of this chip."""
BIT = 1
"""Bits of a bias that every neuron can switch (pass limit-biases)."""
TRY = "quantize-weights{levels=symmetric}"


def placeable(graph: Graph) -> Graph:
    """The graph with its sets of levels as the chip counts them; itself where there is none.

    Raises:
        TargetError: lists the weights with levels that no synapse holds.
    """
    made, problems = dict(graph.constraints), []
    for name, constraint in graph.constraints.items():
        if constraint.levels is None or constraint.bits is None or constraint.scale is None or constraint.bits == BIT:
            continue
        plain = replace(constraint, levels=None)
        if _integers(constraint.levels) and np.abs(constraint.levels).max() <= plain.top_level:
            made[name] = plain
            continue
        factor = 2.0 ** (constraint.bits - np.ceil(np.log2(np.abs(constraint.levels).max(axis=-1, keepdims=True))))
        levels = np.asarray(constraint.levels * factor, np.float32)
        rank = graph.params[name].ndim
        step = constraint.scale / (factor.reshape(-1, *[1] * (rank - 1)) if levels.ndim > 1 else factor[0])
        made[name] = replace(constraint, levels=levels, scale=np.asarray(step, np.float32))
        if why := _unfit(levels, constraint.bits, plain.top_level):
            problems.append(TargetError(f"the levels of '{name}' {why}", at=graph.users(name)[0].at, hint=TRY))
    if problems:
        raise TargetError.gather("the network has weights that no synapse holds", problems)
    return graph if made == graph.constraints else replace(graph, constraints=made)


def repeatable(graph: Graph) -> None:
    """Refuse sums of currents on a chip whose weights are words that repeat one current.

    Raises:
        TargetError: lists the layers.
    """
    sums = [name for name, c in placeable(graph).constraints.items() if c.levels is not None and c.bits != BIT]
    problems = [TargetError(f"'{name}' has levels", at=graph.users(name)[0].at, hint=TRY) for name in sums]
    if problems:
        raise TargetError.gather("CAM words repeat one current, of which only integers are made", problems)


def currents(levels: Array) -> list[float]:
    """Currents, ascending, of which all levels [L] are sums: each is the least that those before it do not make."""
    sums, found = {0.0}, list[float]()
    for level in levels[levels > 0].tolist():
        if level not in sums:
            found.append(level)
            sums |= {level + other for other in sums}
    return found


def on_grid(levels: Array, step: float, fine: int) -> Array:
    """The same sums, in the order of `levels` [L], of their currents times `step`, on a grid of 1/fine and never 0."""
    before = np.array(currents(levels))
    after = np.maximum(np.rint(before * step * fine), 1) / fine
    masks = (np.arange(2 ** len(before))[:, None] >> np.arange(len(before))) & 1
    sums = masks @ before
    order = np.argsort(sums, kind="stable")
    found = order[np.searchsorted(sums[order], np.abs(levels).astype(np.float64))]
    return np.asarray(np.sign(levels) * (masks @ after)[found], np.float32)


def in_levels(weight: Array, constraint: Constraint) -> Array:
    """The level of every weight, in steps."""
    steps = weight / np.asarray(constraint.scale)
    return np.rint(steps) if constraint.levels is None else nearest(steps, constraint.levels)


def _unfit(levels: Array, bits: int, top: int) -> str:
    """Why levels are no sums of `bits` currents, nor integers up to `top`; nothing: empty."""
    none = f"are not integers up to {top}, nor"
    if not np.array_equal(levels, -levels[..., ::-1]):
        return f"{none} the same for both signs"
    if not _integers(levels * FINEST):
        return f"{none} on a grid of 1/{FINEST} step"
    most = max(len(currents(own)) for own in np.unique(np.atleast_2d(levels), axis=0))
    return f"{none} sums of {bits} currents (but of {most})" if most > bits else ""


def _integers(levels: Array) -> bool:
    return bool((np.rint(levels) == levels).all())
