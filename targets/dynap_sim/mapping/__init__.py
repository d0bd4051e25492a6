"""From a placed graph to chips: neurons on cores, cores on chips, chips on a mesh, tags, and what that costs.

nets = netlist(placed, expected_spikes(placed, x))
mapping = map_neurons(nets, Mesh(chips=4))
assert not violations(nets, mapping) and not mapping.check(nets)
print(*traffic(nets, mapping).lines(), sep="\n")
"""

from .mapping import METHODS, Mapping, map_neurons
from .mesh import Mesh
from .netlist import Netlist, expected_spikes, netlist
from .traffic import Traffic, traffic, violations

__all__ = [
    "METHODS",
    "Mapping",
    "Mesh",
    "Netlist",
    "Traffic",
    "expected_spikes",
    "map_neurons",
    "netlist",
    "traffic",
    "violations",
]
