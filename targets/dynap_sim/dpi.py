r"""Tier `dpi`: neurons as the currents of differential-pair integrators (DPI), solved in sub-steps.

The equations are those that Rockpool's DynapSim solves for DYNAP-SE2. In a time step of length dt the current I[t] of
`snnc.sim`, in weight steps, arrives as pulses at its beginning; h is a sub-step:

    synapse    Isyn += (Igain_syn / Itau_syn) * (1 - exp(-t_pulse / tau_syn)) * Iscale * I[t]
               Isyn decays by exp(-h / tau_syn), solved exactly; |Isyn| <= Isat
    input      Iin  = max(Isyn - Ileak, Io), 0 while refractory            Iinf = (Igain / Ileak) * (Iin - Ileak)
    membrane   Imem += h * Imem / (tau * (Imem + Igain)) * (Iinf + feedback * (Ifb / Ileak) * (Imem + Igain) - Imem)
               Imem >= Io                        Ifb = Io * (Imem / Io) ** (kappa / (kappa + 1))
    spike      where Imem >= Ith: back to Io, refractory for t_ref
    tau = C * Ut / (kappa * Ileak)

Excitatory and inhibitory synapses have equal gains and time constants, so that only their difference is needed.

Stability: Iinf >= -Igain, as Iin >= 0, so that a sub-step shrinks Imem by h / tau at most: forward Euler keeps Imem
positive where h <= tau. `substeps` takes h <= tau / 10, tau_syn / 5 and t_ref; mismatch leaves tau a tenth or more.

How a placed network is set up. For Imem >> Igain, without leak, one weight step raises Imem by

    J = (Igain / Ileak) / tau * Q       Q = Iscale * (Igain_syn / Itau_syn) * (1 - exp(-t_pulse / tau_syn)) * tau_syn

(Q is the charge of one pulse), and so Ith = theta * J, Imem[0] = max(u0 * J, Io). An input of V weight steps a step
then brings a spike every dt * theta / V, as in the discrete tier. A leaky neuron has tau = -dt / ln(alpha); one that
does not leak has the slowest that the chip can be set to, Ileak = Io. Igain and C give the slope of Imem, Ileak does
not: a mismatched leak changes how fast Imem is lost only.

With a constant Iinf = A > Ith and no feedback the interval between spikes is exactly, by partial fractions,

    t_ref + tau * ((Igain / A) * ln(Ith / Io) + (1 + Igain / A) * ln((A - Io) / (A - Ith)))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Graph, Node, roles

from .profile import Times, load_profile


def step() -> float:
    """Seconds that one discrete time step stands for where no profile says another."""
    return load_profile("se2").times.dt


@dataclass(frozen=True)
class Circuit:
    """What the cores are set to, in s, A, F and V; capacitance, Io, kappa, Ut, gains, t_pulse, Iscale from Rockpool.

    Attributes:
        dt: what one discrete time step stands for.
        tau_syn, t_ref: an operating point for rates of up to one spike a step: charge arrives soon enough for a sample
            of 16 steps, and late enough to be added up with what inhibits it. Rockpool's own are 10 ms and 1 ms.
        gain, gain_syn: Igain / Ileak of the membrane (where Ileak is as set), Igain / Itau of the synapse.
        saturation: Isat; no source gives one.
        feedback: share of the positive feedback Ifb; 0 leaves the upstroke of a spike to the comparator at Ith. With
            Ifb the membrane runs away from about 1 nA within a few steps: no neuron integrates over T steps then.
    """

    dt: float = field(default_factory=step)
    tau_syn: float = 2e-3
    t_ref: float = 1e-3
    t_pulse: float = field(default_factory=lambda: load_profile("se2").times.t_pulse)
    gain: float = 4.0
    gain_syn: float = 100.0
    iscale: float = 1e-8
    capacitance: float = 3e-12
    io: float = 5e-13
    kappa: float = 0.705
    ut: float = 0.025
    saturation: float = 1e-6
    feedback: float = 0.0

    def __post_init__(self) -> None:
        given = {f.name: float(getattr(self, f.name)) for f in fields(self)}
        may_be_zero = ("t_ref", "feedback")
        if bad := [
            f"{name}={value}"
            for name, value in given.items()
            if not 0 <= value < math.inf or (value == 0 and name not in may_be_zero)
        ]:
            raise PipelineError(f"no circuit has {', '.join(bad)}")

    @classmethod
    def of(cls, times: Times) -> Circuit:
        """The circuit of a chip with this time step and pulse width."""
        return cls(dt=times.dt, t_pulse=times.t_pulse)

    @property
    def slowest(self) -> float:
        """The longest time constant of a membrane, in s: that of Ileak = Io."""
        return self.capacitance * self.ut / (self.kappa * self.io)

    @property
    def pulse(self) -> float:
        """What a pulse of one weight step adds to Isyn, in A."""
        return self.iscale * self.gain_syn * -math.expm1(-self.t_pulse / self.tau_syn)

    @property
    def direct(self) -> float:
        """The constant current that brings the charge of a pulse of one weight step in every time step, in A."""
        return self.pulse * self.tau_syn / self.dt

    def tau(self, alpha: Tensor) -> Tensor:
        """The time constant that a neuron of leak `alpha` is set to, in s."""
        return torch.where(alpha < 1, -self.dt / alpha.clamp(1e-6, 1 - 1e-6).log(), math.inf).clamp(max=self.slowest)

    def leak(self, tau: Tensor) -> Tensor:
        """Ileak of a time constant, in A."""
        return self.capacitance * self.ut / (self.kappa * tau)

    def rise(self, tau: Tensor) -> Tensor:
        """J, in A per weight step."""
        return self.gain / tau * self.pulse * self.tau_syn

    def substeps(self, tau: Tensor) -> int:
        """Sub-steps of a time step that are stable for all these time constants (as set), and fine enough for t_ref."""
        longest = min(float(tau.min()) / 10, self.tau_syn / 5, self.t_ref or math.inf)
        return math.ceil(self.dt / longest - 1e-9)

    def interval(self, drive: float, threshold: float, tau: float) -> float:
        """The closed form of the module: s between spikes at Iinf = `drive`, inf where it never reaches `threshold`."""
        if drive <= threshold:
            return math.inf
        igain = self.gain * float(self.leak(torch.tensor(tau)))
        start = igain / drive * math.log(threshold / self.io)
        rest = (1 + igain / drive) * math.log((drive - self.io) / (drive - threshold))
        return self.t_ref + tau * (start + rest)


def charged(circuit: Circuit, imem: Tensor, iin: Tensor, igain: Tensor, tau: Tensor, h: float) -> Tensor:
    """Imem after one sub-step of h s with the input current Iin; formula in the module."""
    ileak = circuit.leak(tau)
    grow = igain / ileak * (iin - ileak) - imem
    if circuit.feedback:
        ifb = circuit.io * (imem / circuit.io) ** (circuit.kappa / (circuit.kappa + 1))
        grow = grow + circuit.feedback * ifb / ileak * (imem + igain)
    return (imem + h * imem / (tau * (imem + igain)) * grow).clamp(min=circuit.io)


class Neurons:
    """The running state of all layers of one batch; a call advances one layer by a step, as `snnc.sim.stepper` asks.

    The potential that it gives back is the highest of the step, before any reset, in weight steps.
    """

    def __init__(
        self, graph: Graph, circuit: Circuit, params: Mapping[str, Tensor], nominal: Mapping[str, Tensor],
        tau: Mapping[str, Tensor], refractory: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        """Set the currents for a network.

        Args:
            params, nominal: what the parts really do, and what they are set to, by param name.
            tau, refractory: factors of mismatch, by layer.
        """
        self.circuit = circuit
        self._layers = {
            n.name: _Layer.of(circuit, {role: params[p] for role, p in roles(n, graph.params).items()},
                              nominal[roles(n, graph.params)["alpha"]], tau.get(n.name), refractory.get(n.name))
            for n in graph.nodes if n.op == "lif"
        }  # fmt: skip
        self._state: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, node: Node, current: Tensor) -> tuple[Tensor, Tensor]:
        """Highest potential and number of spikes of a layer at this step, [N, ...], from its current [N, ...]."""
        c, layer = self.circuit, self._layers[node.name]
        h = c.dt / layer.substeps
        start = layer.start.expand_as(current), torch.zeros_like(current), torch.zeros_like(current)
        imem, isyn, rest = self._state.get(node.name, start)
        isyn = (isyn + c.pulse * current).clamp(-c.saturation, c.saturation)
        spikes, peak = torch.zeros_like(current), torch.zeros_like(current)
        decay = math.exp(-h / c.tau_syn)
        mean = (1 - decay) * c.tau_syn / h
        for _ in range(layer.substeps):
            iin = (isyn * mean - layer.leak).clamp(min=c.io) * (rest < h / 2)
            imem = charged(c, imem, iin, layer.igain, layer.tau, h)
            fired = imem >= layer.threshold
            peak = torch.maximum(peak, imem)
            imem = torch.where(fired, c.io, imem)
            rest = torch.where(fired, layer.t_ref, rest - h)
            spikes += fired
            isyn = isyn * decay
        self._state[node.name] = imem, isyn, rest
        return peak / layer.rise, spikes


@dataclass(frozen=True, eq=False)
class _Layer:
    """The currents and times of one layer's neurons, each broadcastable to [N, ...]."""

    threshold: Tensor
    start: Tensor
    igain: Tensor
    tau: Tensor
    leak: Tensor
    rise: Tensor
    t_ref: Tensor
    substeps: int

    @classmethod
    def of(
        cls, c: Circuit, own: Mapping[str, Tensor], alpha: Tensor, slower: Tensor | None, refractory: Tensor | None
    ) -> _Layer:
        """What `own` (theta and u0 as they are) and `alpha` (as it is set) come to."""
        nominal = c.tau(alpha)
        tau = nominal if slower is None else (nominal * slower)
        rise = c.rise(nominal)
        t_ref = c.t_ref * (torch.ones_like(tau) if refractory is None else refractory)
        start = (own["u0"] * rise).clamp(min=c.io)
        substeps = c.substeps(nominal)
        return cls(own["theta"] * rise, start, c.gain * c.leak(nominal), tau, c.leak(tau), rise, t_ref, substeps)
