"""How a network stands to what a chip is: its walls, its budgets and what its cores share, each with its source."""

from __future__ import annotations

import math

from snnc.errors import TargetError
from snnc.ir import WEIGHTED, Graph, Stage, roles
from snnc.sim.cost import fan_in
from snnc.target import Finding, Limits

from . import generator, shared
from .cores import core_count, cores
from .place import EXACT, MOST_BITS, Layer, counted
from .profile import Profile

FAN_IN, BITS, NEURONS, CORES = "fan-in", "weight bits", "neurons per chip", "cores per chip"
POTENTIAL = "potential in weight steps"
RESETS = "neurons that the chip resets otherwise"
UNCHECKED = ("destinations per neuron", "tags", "refractory periods", "potentials below rest")


SUMS = "[D] sums of multiples of 1/16 weight step that float32 adds exactly"


def limits_of(chip: Profile, bits: int, strict: bool) -> Limits:
    """The limits of a chip whose weights have `bits` bits; `strict`: what its cores share is a wall."""
    common = shared.limits(chip)
    return Limits(
        walls={FAN_IN: chip.fan_in, BITS: bits, POTENTIAL: EXACT, **(common if strict else {})},
        budgets={
            NEURONS: chip.neurons_per_chip,
            CORES: chip.cores_per_chip,
            RESETS: 0,
            **generator.limit(chip),
            **({} if strict else common),
        },
        unchecked=UNCHECKED,
        sources={**_sources(chip), **shared.sources(chip), **generator.sources(chip)},
    )


def findings_of(graph: Graph, chip: Profile, bits: int, strict: bool, steps: int) -> list[Finding]:
    """How a graph of any stage stands to these limits; what its cores share shows once weights have levels.

    Args:
        steps: T of the recipe, for graphs that have none yet.
    """
    layers = _counted(graph)
    placed = cores(graph, chip.neurons_per_core)
    found = [*_connections(graph, layers, chip), *_bits(graph, chip, bits)]
    found += _potentials(graph, layers, chip, bits, steps)
    for layer in layers:
        found += shared.findings([(layer, placed[layer.neuron.name])], chip, strict, layer.neuron.name)
        if generator.limit(chip):
            found.append(generator.finding(layer, placed[layer.neuron.name], chip))
    neurons, used = sum(core.size for core in placed.values()), core_count(placed)
    chips = max(-(-used // chip.cores_per_chip), 1)
    note = f"{chips} virtual chips" if chips > chip.chips else f"{chips} of {chip.chips} chips" if chips > 1 else ""
    source = _sources(chip)
    return [
        *found,
        Finding(NEURONS, neurons, chip.neurons_per_chip, "", False, note, source[NEURONS]),
        Finding(CORES, used, chip.cores_per_chip, "", False, note, source[CORES]),
        _resets(graph, chip),
    ]


def _counted(graph: Graph) -> tuple[Layer, ...]:
    """The layers as the chip counts them; none where that cannot be said yet, or placing refuses the graph anyway."""
    if graph.stage is not Stage.CONSTRAINED:
        return ()
    try:
        return counted(graph)
    except TargetError:
        return ()


def _connections(graph: Graph, layers: tuple[Layer, ...], chip: Profile) -> list[Finding]:
    """The CAM words of every layer's neurons."""
    analog = graph.stage is Stage.ANALOG
    most = fan_in(graph)
    repeated = chip.weight_coding == "repeated"
    most |= {layer.neuron.name: shared.words(layer, repeated) for layer in layers}
    found = []
    for name, count in most.items():
        pruned = "limit-fan-in prunes it" if analog and count > chip.fan_in else ""
        found.append(Finding(FAN_IN, count, chip.fan_in, name, not analog, pruned, chip.source("fan_in")))
    return found


def _potentials(graph: Graph, layers: tuple[Layer, ...], chip: Profile, bits: int, steps: int) -> list[Finding]:
    """What potentials may reach: with the weights that there are, or while there are none with the largest."""
    source = SUMS
    found = [Finding(POTENTIAL, layer.reach(), EXACT, layer.neuron.name, True, "", source) for layer in layers]
    if graph.stage is Stage.ANALOG:
        for name, count in fan_in(graph).items():
            most = (2 ** (bits - 1) - 1) * min(count, chip.fan_in) * steps
            over = f"if all weights of {bits} bits were the largest, for {steps} steps" if most > EXACT else ""
            found.append(Finding(POTENTIAL, most, EXACT, name, False, over, source))
    return found


def _resets(graph: Graph, chip: Profile) -> Finding:
    """How many neurons have another reset than the chip's."""
    others = [n for n in graph.nodes if n.op == "lif" and n.attrs["reset"] != chip.reset]
    neurons = sum(math.prod(node.type.shape) for node in others)
    theirs = ", ".join(sorted({str(node.attrs["reset"]) for node in others}))
    own = f"{{reset={chip.reset}}}"
    hint = f"try dynap-sim{own}, in a pipeline threshold-layernorm{own}"
    note = f"reset={theirs}, the chip's is {chip.reset}; {hint}" if others else ""
    return Finding(RESETS, neurons, 0, "", False, note, chip.source("reset"))


def _bits(graph: Graph, chip: Profile, bits: int) -> list[Finding]:
    """The bits of every layer's weights."""
    found = []
    for node in graph.nodes:
        if node.op not in WEIGHTED or not graph.feeds(node.name, "lif"):
            continue
        name = next(name for role, name in roles(node, graph.params).items() if role != "bias")
        constraint = graph.constraints.get(name)
        if constraint is not None and constraint.bits is not None:
            found.append(Finding(BITS, constraint.bits, bits, node.name, True, "", chip.source("weight_bits")))
    return found


def _sources(chip: Profile) -> dict[str, str]:
    return {
        FAN_IN: chip.source("fan_in"),
        POTENTIAL: SUMS,
        BITS: chip.source("weight_bits"),
        NEURONS: chip.source("neurons_per_core"),
        CORES: chip.source("cores_per_chip"),
        RESETS: chip.source("reset"),
    }


def most_bits(chip: Profile) -> int:
    """The most bits of integer weights, one of them the sign, where the user names none.

    Masks and free steps: as many as the profile says. Where weights are repeated words, any that the words are
    enough for.
    """
    return MOST_BITS if chip.weight_coding == "repeated" else chip.weight_bits


__all__ = ["findings_of", "limits_of", "most_bits"]
