r"""Several time steps at once, layer after layer, each step's gradient alone: `snnc.sim.steps` in fewer calls.

Going forward nothing but the neurons' state leads from step to step, and going back nothing does. So a chunk of C steps
runs as one batch of C * N through every linear op, and only the neurons loop over its steps; what is kept for the way
back grows with C, not with T. Convolutions of small batches are what gains: of 64 samples one is about a fifth faster
for each than of 16.

    U[t] = membrane(U[t-1], S[t-1], I[t])        dL/dI[t] = dS/dU(U[t]) * dL/dS[t]          t in the chunk
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from snnc.ir import Node, last_read

from .neurons import SURROGATES, Surrogate, charge, leak
from .placement import moved
from .stepper import Neurons, Stepper
from .torch import delay, evaluate, largest, per_channel


class Chunk:
    """What a network makes in `count` steps that follow on the `first` ones; advances the stepper's state by them.

    Attributes:
        values: currents and spikes by node name, [count, N, ...], or [1, N, ...] where they are the same at every step.
        potential: U by layer of neurons, [count, N, ...], or of the last step alone, [1, N, ...], if nobody learns.
            Going back writes over it.
        read: what was summed up until each step, by decode node, [count, N, ...]; differentiable in the step alone.
    """

    def __init__(
        self, state: Stepper, count: int, learn: bool, counting: bool, width: float = 1.0,
        surrogate: Surrogate = "boxcar", neurons: Neurons | None = None, keep: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Run.

        Args:
            learn: whether anybody learns from it, by gradients or from potentials and spikes.
            counting: whether the stepper goes on counting spikes; else it has no counts any more.
            neurons: what fires, step by step and without a gradient, in place of the neurons of `snnc.sim.neurons`.
            keep: nodes whose values are kept, beside those of neurons if somebody learns.
        """
        self.state, self.first, self.count, self.learn = state, state.t, count, learn
        self.width, self.surrogate, self.neurons, self.keep = width, surrogate, neurons, keep
        if not counting:
            state.count.clear()
        self.values: dict[str, Tensor] = {}
        self.potential: dict[str, Tensor] = {}
        self.read: dict[str, Tensor] = {}
        graph = state.graph
        for node in graph.nodes:
            read = [self.values[name] for name in graph.values(node) if name in self.values]
            if node.name in state.still:
                self.values[node.name] = state.values[node.name][None]
            elif node.op == "encode":
                self.values[node.name] = state.trains[node.name][self.first : self.first + count]
            elif node.op == "lif":
                self.values[node.name] = self._fire(node, read[0])
            elif node.name in state.most:
                self.values[node.name] = self._pool(node, read[0])
            elif node.op == "decode":
                self._read_out(node, read[0])
            elif node.type.kind != "analog":
                self.values[node.name] = self._compute(node, read)
            self._forget(node)
        state.t += count

    def _read_out(self, node: Node, sent: Tensor) -> None:
        """What the stepper has read out at the end; by step in `read`."""
        skip, more = delay(node, self.state.graph.steps)
        sent = sent.expand(self.count, *sent.shape[1:])
        if left := min(max(skip - self.first, 0), self.count):
            sent = torch.cat([torch.zeros_like(sent[:left]), sent[left:]])
        before = self.state.read[node.name].detach() + sent.detach().cumsum(0)
        self.read[node.name] = before + (sent - sent.detach()) if sent.requires_grad else before
        self.state.read[node.name] = before[-1].clone()
        self.state.values[node.name] = self.state.read[node.name] * more if skip else self.state.read[node.name]

    def _forget(self, node: Node) -> None:
        """Let go of what `node` was the last to read; of spikes only if nobody learns."""
        graph = self.state.graph
        for name in last_read(graph)[node.name] if node.op != "decode" else ():
            if name in self.values and name not in self.keep and not (self.learn and graph[name].op == "lif"):
                del self.values[name]

    def _compute(self, node: Node, read: list[Tensor]) -> Tensor:
        state, here = self.state, self.state.place.get(node.name)
        own = state.own(node)
        if self.first and node.attrs.get("bias_at") != "per-step":
            own.pop("bias", None)
        made = evaluate(node, [moved(value, here) for value in read], own, state.batch, self.count)
        normalize = state.normalize.get(node.name)
        return made if normalize is None else torch.stack([normalize(value) for value in made])

    def _fire(self, node: Node, current: Tensor) -> Tensor:
        """S[t] of a layer; its last potentials, spikes and counts are those of the stepper then."""
        state, name = self.state, node.name
        current = moved(current, state.place.get(name))
        if state.intercept is not None:
            current = state.intercept(node, current)
        if "current" in state.disturb:
            current = state.disturb["current"](node, current.expand(self.count, *current.shape[1:]))
        spikes, kept = self._usual(node, current) if self.neurons is None else self._other(node, current)
        self.potential[name] = kept
        state.potential[name] = kept[-1].clone() if self.learn else kept[-1]
        if "spikes" in state.disturb:
            state.fired[name] = spikes[-1]
            spikes = state.disturb["spikes"](node, spikes)
        last = spikes[-1].detach()
        state.values[name] = last.clone() if self.count > 1 else last
        if name in state.count:
            state.count[name] = state.count[name] + spikes.detach().sum(0)
        made: Tensor = spikes
        return made

    def _usual(self, node: Node, current: Tensor) -> tuple[Tensor, Tensor]:
        """S[t] and U[t] of neurons of `snnc.sim.neurons`."""
        state, own, rank = self.state, self.state.own(node), len(node.type.shape)
        last = state.fired.get(node.name, state.values[node.name])
        alpha, theta = (per_channel(own[role].detach(), rank) for role in ("alpha", "theta"))
        given = (
            current, state.potential[node.name].detach(), last.detach(), alpha, theta, self.count,
            str(node.attrs["reset"]), self.learn,
        )  # fmt: skip
        if not current.requires_grad:
            return _fired(*given)
        made: tuple[Tensor, Tensor] = _Apart.apply(  # type: ignore[no-untyped-call]
            *given, self.width, self.surrogate
        )
        return made

    def _other(self, node: Node, current: Tensor) -> tuple[Tensor, Tensor]:
        """S[t] and U[t] of other neurons."""
        assert self.neurons is not None
        potentials, spikes = zip(
            *(self.neurons(node, each) for each in current.expand(self.count, *current.shape[1:])), strict=True
        )
        return torch.stack(spikes), torch.stack(potentials if self.learn else potentials[-1:])

    def _pool(self, node: Node, spikes: Tensor) -> Tensor:
        """A spike wherever the largest count in the window grows; the gradient goes to the spikes of the same step."""
        state, name = self.state, node.name
        arrived = spikes.detach().cumsum(0) + state.arrived[name]
        counts = arrived + (spikes - spikes.detach())
        most = largest(node, counts.flatten(0, 1)).reshape(len(counts), -1, *node.type.shape)
        before = torch.cat([state.most[name].detach()[None], most[:-1].detach()])
        state.arrived[name], state.most[name] = arrived[-1].clone(), most[-1].detach().clone()
        return most - before


def _fired(
    current: Tensor, u: Tensor, last: Tensor, alpha: Tensor, theta: Tensor, count: int, reset: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """S[t] and U[t] of some steps, or of U[t] the last, without a gradient."""
    shape, left = current.shape[1:], leak(alpha)
    spikes, kept = current.new_empty(count, *shape), current.new_empty(count if keep else 1, *shape)
    potentials = kept.unbind() if keep else (kept[0],) * count
    for now, held, made in zip(current.expand(count, *shape).unbind(), potentials, spikes.unbind(), strict=True):
        u = charge(u, last, now, left, theta, reset, out=held)
        last = torch.ge(u, theta, out=made)
    return spikes, kept


class _Apart(torch.autograd.Function):
    """S[t] and U[t] of some steps; S differentiable in I of the same step alone, U not at all."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        u: Tensor,
        last: Tensor,
        alpha: Tensor,
        theta: Tensor,
        count: int,
        reset: str,
        keep: bool,
        width: float,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor]:
        spikes, kept = _fired(current, u, last, alpha, theta, count, reset, keep)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(kept, theta)
        ctx.width, ctx.surrogate, ctx.still = width, surrogate, len(current) == 1
        ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)
        return spikes, kept

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:
        (u, theta), error = ctx.saved_tensors, errors[0]
        made = torch.zeros_like(u[:1]) if ctx.still else u
        for t in range(len(u)):
            slope = SURROGATES[ctx.surrogate](u[t], theta, ctx.width)
            if ctx.still:
                made[0].addcmul_(slope, error[t])
            else:
                torch.mul(slope, error[t], out=made[t])
        return made, *[None] * 9
