r"""One time step at a time with gradients: what rules learn with that keep nothing from step to step.

`snnc.sim.stepper` advances the network. Before every step all state is cut off from what made it (potentials, the last
spikes, counts, what was read out, what pools counted), so that a gradient sees the present step alone:

    U[t] = membrane(sg(U[t-1]), sg(S[t-1]), I[t])     C[t] = sg(C[t-1]) + S[t]     read[t] = sg(read[t-1]) + V[t]

with sg(.) what carries no gradient (LTL eq. 10; SLTT eq. 9, with U and the reset cut at one point). Go back from a
loss before the next step is made: what was kept for the way back is released then, and memory does not grow with T.

What is the same at every step (the first layer's current under direct encoding) is computed once. Its gradients are
collected over the steps and go back once, in `finish`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnc.ir import Graph, Node, roles

from .chunks import Chunk
from .neurons import SURROGATES, Surrogate, charge, fires, leak
from .stepper import Stepper
from .torch import Normalize, Tensors, delay, per_channel


class Stepwise:
    """The differentiable running state of one network on one batch.

        run = Stepwise(graph, params, x)
        for _ in range(graph.steps):
            values = run.step()
            loss(values).backward()
        run.finish()

    Attributes:
        state: the stepper: `values`, `count` and `potential` of the present step, `t`, all differentiable in the
            present step.
    """

    def __init__(
        self, graph: Graph, params: Tensors, x: Tensors, *, width: float = 1.0, surrogate: Surrogate = "boxcar",
        normalize: Normalize | None = None,
    ) -> None:  # fmt: skip
        """Go to t = 0.

        Args:
            params: by param name; may require gradients. Those of neurons get none.
            x: inputs [N, ...], or streams of events [N, T, ...], by input name.
            width: the surrogate's width relative to theta (LTL eq. 8).
            surrogate: see `snnc.sim.neurons`.
            normalize: see `snnc.sim.torch.forward`.
        """
        self.graph, self.width, self.surrogate = graph, width, surrogate
        self.state = Stepper(graph, params, x, neurons=self._fire, normalize=normalize)
        self._neurons = {node.name: _neurons(graph, node, params) for node in graph.nodes if node.op == "lif"}
        self._once: list[tuple[Tensor, Tensor]] = []
        for held in (self.state.values, self.state.trains):
            for name, value in held.items():
                if value.requires_grad and (held is self.state.trains or name in self.state.still):
                    leaf = value.detach().requires_grad_()
                    self._once.append((value, leaf))
                    held[name] = leaf

    def step(self, learn: bool = True) -> Tensors:
        """Advance every layer by one time step.

        Args:
            learn: whether gradients will be asked for; without, nothing is kept for them.

        Returns:
            The values at this step [N, ...] by node name: currents and spikes; what was decoded so far.
        """
        self._forget()
        with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
            self.state.step()
        return self.state.values

    def chunk(self, count: int, learn: bool = True, counting: bool = True) -> Chunk:
        """Advance every layer by several time steps at once: the same as so many steps, up to the rounding of sums.

        Args:
            count: of steps; what is kept for gradients grows with it.
            learn: whether gradients will be asked for.
            counting: whether the stepper goes on counting spikes; else it has no counts any more.
        """
        learn = learn and torch.is_grad_enabled()
        with torch.set_grad_enabled(learn):
            return Chunk(self.state, count, learn, counting, self.width, self.surrogate)

    def _fire(self, node: Node, current: Tensor) -> tuple[Tensor, Tensor]:
        """U[t] and S[t] of a layer."""
        u, last = self.state.potential[node.name], self.state.values[node.name]
        alpha, theta = self._neurons[node.name]
        reset = str(node.attrs["reset"])
        made: tuple[Tensor, Tensor] = _Present.apply(  # type: ignore[no-untyped-call]
            current, u, last, alpha, theta, reset, self.width, self.surrogate
        )
        return made

    def _forget(self) -> None:
        """Cut all state off from what made it."""
        state = self.state
        for held in (state.potential, state.count, state.arrived, state.most, state.read):
            held.update({name: value.detach() for name, value in held.items()})
        for name in state.potential:
            state.values[name] = state.values[name].detach()

    def present(self) -> dict[str, Tensor]:
        """By `decode` node: what it would decode if all steps were as the present one; the mean over the steps decodes.

        T times the present value, [N, ...]; of a delayed read-out the steps that count.
        """
        return {
            node.name: self.state.values[self.graph.values(node)[0]] * self.graph.steps
            for node in self.graph.nodes
            if node.op == "decode"
        }

    def presents(self, chunk: Chunk) -> dict[str, Tensor]:
        """`present` of every step of a chunk, [steps, N, ...]."""
        found = {}
        for node in self.graph.nodes:
            if node.op == "decode":
                sent = chunk.values[self.graph.values(node)[0]]
                found[node.name] = sent.expand(chunk.count, *sent.shape[1:]) * self.graph.steps
        return found

    def running(self) -> dict[str, Tensor]:
        """By `decode` node: what it would decode if the steps to come were as those so far: sum * T / t, [N, ...].

        Of a delayed read-out, from the first step that counts.
        """
        steps, found = self.graph.steps, {}
        for node in self.graph.nodes:
            if node.op == "decode":
                counted = self.state.t - delay(node, steps)[0]
                found[node.name] = self.state.read[node.name] * (steps / max(counted, 1))
        return found

    def runnings(self, chunk: Chunk) -> dict[str, Tensor]:
        """`running` of every step of a chunk, [steps, N, ...]."""
        found = {}
        for name, read in chunk.read.items():
            skip = delay(self.graph[name], self.graph.steps)[0]
            shares = [self.graph.steps / max(chunk.first + 1 + i - skip, 1) for i in range(chunk.count)]
            share = torch.tensor(shares, dtype=read.dtype).to(read.device)
            found[name] = read * share.reshape(-1, *[1] * (read.ndim - 1))
        return found

    def head(self, decoded: Tensors) -> dict[str, Tensor]:
        """All that stands behind the read-outs, by node name, those included, for values that these might decode."""
        return self.state.head(decoded)

    def theta(self, layer: str) -> Tensor:
        """The thresholds of a layer of neurons, broadcastable to [N, ...]."""
        return self._neurons[layer][1]

    def finish(self) -> None:
        """Hand the gradients that arrived at values computed once on to the params; call it once, at the end."""
        found = [(value, leaf.grad) for value, leaf in self._once if leaf.grad is not None]
        if found:
            torch.autograd.backward([value for value, _ in found], [grad for _, grad in found])
        self._once.clear()


def _neurons(graph: Graph, node: Node, params: Tensors) -> tuple[Tensor, Tensor]:
    """alpha and theta of a layer, broadcastable to [N, ...]."""
    own, rank = roles(node, graph.params), len(node.type.shape)
    alpha, theta = (per_channel(params[own[role]].detach(), rank) for role in ("alpha", "theta"))
    return alpha, theta


class _Present(torch.autograd.Function):
    """U[t] and S[t], differentiable in I[t] alone: dU/dI = 1, dS/dU the surrogate. U is kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        u: Tensor,
        last: Tensor,
        alpha: Tensor,
        theta: Tensor,
        reset: str,
        width: float,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor]:
        made = charge(u, last, current, leak(alpha), theta, reset, out=torch.empty_like(current))
        ctx.save_for_backward(made, theta)
        ctx.width, ctx.surrogate = width, surrogate
        ctx.set_materialize_grads(False)
        return made, fires(made, theta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        by_potential, by_spikes = grads
        found = by_potential
        if by_spikes is not None:
            u, theta = ctx.saved_tensors
            found = SURROGATES[ctx.surrogate](u, theta, ctx.width).mul_(by_spikes)
            found = found if by_potential is None else found.add_(by_potential)
        return found, None, None, None, None, None, None, None
