"""The training of a placed network's own parts that a host does: one physical synapse, one param."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from snnc.data import Data
from snnc.ir import Graph
from snnc.pipeline import Context, Progress, silent
from snnc.sim.torch import exact, to_tensor
from snnc.targets.dynap_sim.bench import one_thread
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.train import Learner, Rule
from snnc.train.loop import Training
from snnc.train.units import weights_of


def train(
    rule: Rule, graph: Graph, chip: DynapChip, data: Data, learn: Learner, progress: Progress = silent, seed: int = 0,
    more: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """What the parts of `graph` shall be set to after the epochs of `rule`, constraints obeyed, by param name.

    No epoch is judged and none chosen: the last is kept, as validation samples are no part of a repair's budget.

    Args:
        chip: whose parts learn: those that its learning block has registers for.
        more: further params that learn, and the unit of each one's rate.
    """

    def told(text: str, done: int, total: int) -> None:
        progress(f"chip {chip.seed} and its host train", done, total)

    ctx = Context(data, chip.teacher, seed, chip.on, told)
    units = {name: unit for name, unit in weights_of(graph).items() if name in chip.block.registers}
    units |= more or {}
    training = Training(rule, graph, ctx, units, lambda made: 0.0)
    with exact(), one_thread():
        while training.goes_on():
            training.epoch(data.train, learn)
        return {name: to_tensor(array, chip.on) for name, array in training.params().items()}
