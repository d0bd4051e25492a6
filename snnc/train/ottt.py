r"""Online training through time (OTTT; Xiao et al. 2022, arXiv 2210.04195; gradients summed over the steps, OTTT_A).

    dL/dW_l = sum_t e_l[t] A_l[t]^T          A_l[t] = alpha_l A_l[t-1] + S_{l-1}[t]

e_l[t] is SLTT's error of the present step (SLTT eq. 13). A_l, the trace of what the synapses of layer l were sent,
decays as the charge does that they left on the membranes: dU_l[t]/dW_l with the reset left out. A bias is the weight
of an input that is 1 whenever it charges. A read-out is judged step by step and remembers nothing: its trace is the
spike.

Every step the network's own run gives the errors of all sums that neurons and read-outs are sent; the traces are led
through the same synapses, linear as they are, and these errors are handed on to the weights. A weighted sum of traces
that no other weight reads is never computed: its gradient does not ask for it. Where what is sent is the same at every
step (direct encoding), A[t] is a multiple a[t] of it, and sum_t a[t] e[t] is handed on once. Memory does not grow with
T. Where alpha = 0 this is SLTT; with one layer of neurons it is TET with the reset cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from snnc.errors import GraphError, PipelineError
from snnc.ir import LINEAR, WEIGHTED, Graph, Node, attr_ints, roles
from snnc.pipeline import Context
from snnc.sim.placement import moved
from snnc.sim.stepper import Stepper
from snnc.sim.steps import Stepwise
from snnc.sim.torch import KERNELS, Tensors, biased

from .losses import criterion
from .per_step import PerStep, counted
from .readout import readout
from .trainer import Batch, Learner


@dataclass(frozen=True)
class OTTT(PerStep):
    """Online training through time."""

    name = "ottt"

    def __post_init__(self) -> None:
        if self.batchnorm:
            why = "leads what was sent at earlier steps through the synapses, and each step has a batch norm of its own"
            raise PipelineError(
                f"'ottt' cannot have batchnorm: it {why}", hint="standardize=true, as its paper; or sltt"
            )
        self.check()

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch.

        Raises:
            GraphError: the neurons of a layer leak differently; names all such layers.
        """
        (source,) = graph.inputs
        scores, steps, synapses = readout(graph, ctx.score), counted(graph), all_synapses(graph)
        judge = criterion(self, graph, scores, ctx)

        def learn(batch: Batch) -> Tensor:
            fixed = {name: value.detach() for name, value in batch.params.items()}
            run = Stepwise(graph, fixed, {source: batch.x}, width=self.width, surrogate=self.surrogate)
            sums: dict[str, Tensor] = {}
            run.state.intercept = lambda node, current: sums.setdefault(node.name, differentiable(current))
            traces = [Trace(each, run.state) for each in synapses]
            total = torch.zeros((), device=batch.x.device)
            for t in range(1, graph.steps + 1):
                sums.clear()
                values = run.step(learn=t in steps)
                for trace in traces:
                    trace.advance(values, t)
                if t in steps:
                    decoded = {name: differentiable(value) for name, value in run.present().items()}
                    loss = self.at_a_step(judge, run.head(decoded)[scores], batch.labels) / len(steps)
                    hand_on(loss, {**sums, **decoded}, traces, batch.params)
                    total += loss.detach().to(total.device)
            for trace in traces:
                trace.finish(batch.params)
            return total

        return learn


def differentiable(value: Tensor) -> Tensor:
    """`value`, or a leaf in its place where autograd would not follow it."""
    return value if value.requires_grad else value.detach().requires_grad_()


@dataclass(frozen=True)
class Synapses:
    """What a layer of neurons, or a read-out, is driven through.

    Attributes:
        sink: the `lif` or `decode` node.
        end: the sum that it reads.
        nodes: between the events before and the sum; all linear.
        sources: what makes the events: neurons, spiking max pools, encoders.
        leak: alpha of the neurons; 0 for a read-out.
        worth: of the sum in what is judged: 1, or T for a read-out.
        unread: weighted sums of `nodes` whose value no gradient asks for.
    """

    sink: str
    end: str
    nodes: tuple[Node, ...]
    sources: tuple[str, ...]
    leak: float
    worth: float
    unread: frozenset[str]


def all_synapses(graph: Graph) -> list[Synapses]:
    """Those of every layer of neurons and every read-out.

    Raises:
        GraphError: the neurons of a layer leak differently: no one trace of what they are sent serves all.
    """
    made, problems = [], []
    for sink in graph.nodes:
        if sink.op not in ("lif", "decode"):
            continue
        leaks = graph.params[roles(sink, graph.params)["alpha"]] if sink.op == "lif" else np.zeros(())
        if leaks.min() < leaks.max():
            problems.append(GraphError(f"alpha is {leaks.min():g} to {leaks.max():g}", at=sink.at))
            continue
        found, ahead = set(), [graph.values(sink)[0]]
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                ahead += graph.values(graph[name]) if graph[name].op in LINEAR else ()
        nodes = [node for node in graph.nodes if node.name in found]
        linear = tuple(node for node in nodes if node.op in LINEAR)
        sources = tuple(node.name for node in nodes if node.op not in LINEAR)
        worth = float(graph.steps) if sink.op == "decode" else 1.0
        leak, unread = float(leaks.max()), _unread(graph, linear)
        made.append(Synapses(sink.name, graph.values(sink)[0], linear, sources, leak, worth, unread))
    if problems:
        raise GraphError.gather(
            "'ottt' keeps one trace for a layer, whose neurons must leak alike", problems, hint="sltt, or one alpha"
        )
    return made


def _unread(graph: Graph, nodes: tuple[Node, ...]) -> frozenset[str]:
    """The convolutions and dense sums among linear `nodes`, in runnable order, that lead to no other weight."""
    read: set[str] = set()
    for node in reversed(nodes):
        if node.op in WEIGHTED or node.name in read:
            read.update(graph.values(node))
    return frozenset(node.name for node in nodes if node.name not in read and _gradient_alone(node))


def _gradient_alone(node: Node) -> bool:
    """Whether torch has the weights' gradient without the sum."""
    if node.op == "conv":
        top, left, bottom, right = attr_ints(node, "pads")
        return (top, left) == (bottom, right)
    return node.op == "dense"


def without_value(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    """In place of a weighted sum [N, ...] of x [N, ...]: zeros, with the sum's own gradient in the weights."""
    made: Tensor = _Unread.apply(node, x, weight)  # type: ignore[no-untyped-call]
    return made


class _Unread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, node: Node, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.node, ctx.shape = node, weight.shape
        return x.new_zeros(()).expand(len(x), *node.type.shape)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[None, None, Tensor]:
        (x,), (error,), node = ctx.saved_tensors, errors, ctx.node
        if node.op == "dense":
            return None, None, error.flatten(0, -2).T @ x.flatten(0, -2)
        pads, strides, dilations = (attr_ints(node, name) for name in ("pads", "strides", "dilations"))
        group = int(str(node.attrs["group"]))
        made: Tensor = conv2d_weight(x, ctx.shape, error, strides, pads[:2], dilations, group)  # type: ignore[no-untyped-call]
        return None, None, made


class Trace:
    """A of the module, for what one layer or read-out is sent, on one batch.

    Attributes:
        events: A of every source, [N, ...] by name.
        charged: A of the input of a bias, by `bias_at`.
        even: what is sent is the same at every step.
        share: a of the module, where it is.
    """

    def __init__(self, synapses: Synapses, state: Stepper) -> None:
        """Begin with nothing; `state`: of the network that sends."""
        self.graph, self.synapses, self.place, still = state.graph, synapses, state.place, state.still
        self.events: dict[str, Tensor] = {}
        self.charged = {"per-step": 0.0, "first-step": 0.0}
        params = state.graph.params
        steadily = all("bias" not in roles(n, params) or n.attrs.get("bias_at") == "per-step" for n in synapses.nodes)
        self.even, self.share = steadily and all(name in still for name in synapses.sources), 0.0
        self._error: Tensor | None = None

    def advance(self, values: Tensors, t: int) -> None:
        """Take in what was sent at step t, from 1: `values` [N, ...] by node name."""
        leak = self.synapses.leak
        if self.even:
            self.share = leak * self.share + 1
            self.events = {name: values[name] for name in self.synapses.sources}
            self.charged["per-step"] = 1.0
            return
        for name in self.synapses.sources:
            sent = values[name].detach()
            self.events[name] = leak * self.events[name] + sent if name in self.events else sent
        self.charged["per-step"] = leak * self.charged["per-step"] + 1
        self.charged["first-step"] = leak * self.charged["first-step"] + (t == 1)

    def take(self, error: Tensor, params: Tensors) -> None:
        """Hand the error of the present step's sum [N, ...] on to the params, or keep it until `finish`."""
        if not self.even:
            self._hand_on(error, params)
        elif self._error is None:
            self._error = error * self.share
        else:
            self._error.add_(error, alpha=self.share)

    def finish(self, params: Tensors) -> None:
        """Hand on what was kept; call it once, at the end."""
        if self._error is not None:
            self._hand_on(self._error, params)

    def _hand_on(self, error: Tensor, params: Tensors) -> None:
        made = self.through(params)
        if made.requires_grad:
            made.backward(error.to(made.device))  # type: ignore[no-untyped-call]

    def through(self, params: Tensors) -> Tensor:
        """Something whose gradient in `params` is that of the traces led through the synapses, [N, ...]."""
        found = dict(self.events)
        for node in self.synapses.nodes:
            here = self.place.get(node.name)
            own = {role: moved(params[name], here) for role, name in roles(node, self.graph.params).items()}
            if "bias" in own:
                own["bias"] = own["bias"] * self.charged[str(node.attrs.get("bias_at", "first-step"))]
            read = [moved(found[name], here) for name in self.graph.values(node)]
            unread = node.name in self.synapses.unread
            made = without_value(node, read[0], own["weight"]) if unread else KERNELS[node.op](node, read, own)
            found[node.name] = biased(node, made, own)
        return found[self.synapses.end] * self.synapses.worth


def hand_on(loss: Tensor, sums: Tensors, traces: list[Trace], params: Tensors) -> None:
    """Add to the gradients of `params`: the error of every sum, each times its trace.

    Args:
        sums: what the loss [] is differentiable in, by sink.
    """
    errors = torch.autograd.grad(loss, list(sums.values()), allow_unused=True)
    found = {name: error for name, error in zip(sums, errors, strict=True) if error is not None}
    for trace in traces:
        error = found.get(trace.synapses.sink)
        if error is not None:
            trace.take(error, params)
