r"""The host's read-out learns while the chip learns: the output layer of local tandem learning (LTL section 2.2).

    L = cross-entropy(o, labels),   o = W sum_t S[t] + b          (eq. 4's last term; targets: what `auto` stands for)

The last layer of neurons sends its spikes, as ever; what is behind it is the host's own, real-valued and the same for
every chip. So it can answer for what no synapse of the chip can mend. One step of Adam a batch, its rate in the units
of `snnc.train.units` and falling to 0 over an epoch as a cosine, with fresh moments for every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import WEIGHTED, Graph, roles
from snnc.score import Score
from snnc.sim.torch import Tensors, forward
from snnc.train.losses import usual
from snnc.train.per_step import host
from snnc.train.readout import readout
from snnc.train.units import rate_share


def host_units(graph: Graph) -> dict[str, float]:
    """Weights and biases of a placed network that the host computes with behind the last neurons, and the unit of each
    one's learning rate.
    """
    late = [n for n in graph.nodes if n.op in WEIGHTED and n.type.kind == "analog" and not graph.feeds(n.name, "lif")]
    return {
        name: (rate_share(graph, node) if role == "weight" else 1.0) / graph.steps
        for node in late
        for role, name in roles(node, graph.params).items()
    }


def host_params(graph: Graph) -> tuple[str, ...]:
    """Weights and biases of a placed network that the host computes with behind the last neurons."""
    return tuple(host_units(graph))


class Answers:
    """What the host makes of the spikes of one chip.

    Attributes:
        learns: the params that move; none where the read-out has none, or cannot be taught.
        why: why it cannot be taught; empty if it can.
    """

    def __init__(self, graph: Graph, nominal: dict[str, Tensor], score: Score, rate: float, batches: int) -> None:
        """Begin an epoch of so many batches.

        Args:
            graph: the placed network.
            nominal: what its parts are set to, by param name; `learn` changes the host's.
            score: what the outputs are judged by.
        """
        self._nominal, self.why = nominal, ""
        self.learns: tuple[str, ...] = ()
        try:
            self._scores = readout(graph, score)
        except PipelineError as error:
            self.why = error.message
            return
        self._part, self._loss = host(graph, self._scores), usual(score)
        units = host_units(graph)
        self.learns = tuple(name for name in units if name in self._part.params)
        if not self.learns:
            return
        with torch.inference_mode(False):
            self._params = {name: nominal[name].clone().requires_grad_() for name in self.learns}
        self._adam = torch.optim.Adam(
            [{"params": [param], "lr": rate * units[name]} for name, param in self._params.items()]
        )
        self._falls = torch.optim.lr_scheduler.CosineAnnealingLR(self._adam, batches)

    def learn(self, values: Mapping[str, Tensor], labels: Tensor) -> None:
        """Take one step, given what the network made of a batch [N, ...] by name, and its labels [N] or targets."""
        if not self.learns:
            return
        with torch.inference_mode(False), torch.enable_grad():
            read: Tensors = {name: values[name].clone() for name in self._part.inputs}
            fixed = {name: self._nominal[name].clone() for name in self._part.params if name not in self._params}
            made = forward(self._part, {**fixed, **self._params}, read)[self._scores]
            self._adam.zero_grad()
            self._loss(made, labels.clone()).backward()  # type: ignore[no-untyped-call]
            self._adam.step()
            self._falls.step()
        self._nominal.update({name: param.detach().clone() for name, param in self._params.items()})
