r"""Energy and time of one inference, from event counts: second to these, and no better than the table they go by.

    E = spikes (E_generate + E_encode) + broadcasts E_broadcast + hops E_route + matches E_extend + P_static T dt

The latency is that of discrete time, T steps of dt: nothing of a step's own delays is known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .mapping import Traffic
from .profile import Profile


@dataclass(frozen=True)
class Expense:
    """What one inference takes, and by which table.

    Attributes:
        energy: in J, at `voltage`.
        latency: in s of chip time.
        static: in W, part of the energy; 0 where it is not known.
        verified: whether somebody has checked the table against its source.
    """

    energy: float
    latency: float
    voltage: float
    static: float
    provenance: str
    verified: bool

    @classmethod
    def of(cls, found: Traffic, chip: Profile, steps: int) -> Expense:
        """Of T steps with the events of one sample."""
        table, latency = chip.energy, steps * chip.times.dt
        energy = (
            found.spikes * (table.generate + table.encode)
            + found.broadcasts * table.broadcast
            + found.hops * table.route
            + found.matches * table.extend
            + table.static * latency
        )
        return cls(energy, latency, table.voltage, table.static, table.provenance, table.verified)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def line(self, steps: int) -> str:
        """For people."""
        static = "" if self.static else ", static power excluded"
        grade = "" if self.verified else ", unverified literature figures"
        return (
            f"chip time {1e3 * self.latency:g} ms ({steps} steps); energy about {1e6 * self.energy:.3g} uJ at "
            f"{self.voltage:g} V{static}{grade}"
        )
