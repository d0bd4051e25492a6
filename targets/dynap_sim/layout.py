"""Where the neurons of a compiled network go on the chips, what that costs, and how it stands to limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snnc.artifact import Bundle, canonical, pack, unpack
from snnc.errors import ArtifactError, TargetError
from snnc.ir import Array, Graph, Samples, roles
from snnc.target import Finding, Layout

from .cores import core_count, cores
from .energy import Expense
from .mapping import Mapping, Mesh, expected_spikes, map_neurons, netlist, traffic, violations
from .mapping.chips import allowed_words
from .mapping.netlist import Netlist
from .mismatch import sites_on
from .needs import alike
from .place import Layer, counted, place
from .profile import Profile
from .shared import findings as kept

MAPPING, TRAFFIC = "mapping.safetensors", "traffic.json"
"""Files of an artifact: the core, chip, words and tags of every neuron; what that costs, core by core."""
MOST = 2**25
"""Connections of a network that is laid out; of more, memory would run out."""
WORDS, TAGS = "destinations per neuron", "tags"


def laid_out(graph: Graph, chip: Profile, strict: bool, x: Samples) -> Layout:
    """The layout of a constrained graph.

    Args:
        strict: destinations, tags and hops beyond what there are are refused.
        x: samples [N, ...] that expected spikes are measured on.

    Raises:
        TargetError: lists all walls that the layout breaks, if `strict`; or that routing would not deliver what the
            network says.
    """
    placed = place(graph)
    if (size := _connections(placed)) > MOST:
        return Layout(lines=(f"not laid out on cores: {size:,} weights, more than {MOST:,}",))
    mesh = Mesh(
        chip.chips, chip.cores_per_chip, chip.neurons_per_core, chip.fan_in, chip.destinations, chip.monitor_words,
        chip.tag_bits, chip.hop_range,
    )  # fmt: skip
    nets = netlist(placed, expected_spikes(placed, x))
    layers = counted(graph)
    mapping = map_neurons(nets, mesh, group=groups(layers, chip))
    broken = [f for f in kept([(one, mapping.core[one.neuron.name]) for one in layers], chip, strict) if not f.ok]
    if broken and strict:
        problems = [TargetError(f"{f.limit} {f.value:g}, the chip has {f.allowed:g}: {f.note}") for f in broken]
        raise TargetError.gather("cores of the layout cannot share what they must", problems)
    if problems := violations(nets, mapping):
        if strict:
            raise TargetError.gather("the network cannot be laid out on the chips", problems)
    elif wrong := mapping.check(nets):
        raise TargetError.gather("spikes would not arrive where they should; please report this", wrong)
    found = traffic(nets, mapping)
    words, excess = _words(nets, mesh, np.bincount(mapping.words.source, minlength=len(nets.spikes)))
    highest = int(mapping.words.tag.max(initial=-1)) + 1
    findings = (
        Finding(WORDS, words + excess, words, "", strict, "", chip.source("destinations")),
        Finding(TAGS, highest, mesh.tags, "", strict, "", chip.source("tag_bits")),
        *(replace(f, note=f"as laid out: {f.note}") for f in broken),
    )
    expense = Expense.of(found, chip, graph.steps)
    return Layout(
        {MAPPING: pack(mapping.arrays()), TRAFFIC: canonical({**found.to_json(), "expense": expense.to_json()})},
        (*found.lines(), expense.line(graph.steps), *(f"layout: {problem.message}" for problem in problems)),
        findings,
    )


def sites(placed: Graph, bundle: Bundle) -> dict[str, Array] | None:
    """The place of every neuron, by layer in its shape, as an artifact's layout has it; None if it has no layout.

    Raises:
        ArtifactError: the layout is damaged, or another network's.
    """
    core = _stored(placed, bundle)
    return None if core is None else sites_on(core)


def cores_of(placed: Graph, bundle: Bundle, neurons_per_core: int) -> dict[str, Array]:
    """The core of every neuron, by layer in its shape: the artifact's layout, else sequential filling.

    Raises:
        ArtifactError: the layout is damaged, or another network's.
    """
    core = _stored(placed, bundle)
    return cores(placed, neurons_per_core) if core is None else core


def _stored(placed: Graph, bundle: Bundle) -> dict[str, Array] | None:
    """The core of every neuron as an artifact's layout has it."""
    if MAPPING not in bundle.files:
        return None
    try:
        core = Mapping.from_arrays(unpack(bundle, MAPPING)).core
    except TargetError as error:
        raise ArtifactError(f"{MAPPING}: {error.message}") from None
    shapes = {node.name: node.type.shape for node in placed.nodes if node.op == "lif"}
    if {name: array.shape for name, array in core.items()} != shapes:
        raise ArtifactError(f"{MAPPING} is of another network")
    return {name: core[name] for name in shapes}


def groups(layers: Sequence[Layer], chip: Profile) -> dict[str, Array] | None:
    """Numbers of groups, by layer of neurons in its shape: neurons of one group can share what a core has one of.

    None where neurons differ more than there are cores: what a core shares is broken then, and the findings say so.
    """
    if not chip.shared_per_core:
        return None
    found = alike(layers, chip.weight_coding == "masks")
    if max(int(number.max()) for number in found) >= core_count(cores(layers[0].graph, chip.neurons_per_core)):
        return None
    return {one.neuron.name: number for one, number in zip(layers, found, strict=True)}


def _connections(placed: Graph) -> int:
    """Weights of all synapses, those that are 0 among them."""
    layers = [node for node in placed.nodes if node.op in ("local", "dense")]
    return sum(placed.params[roles(node, placed.params)["weight"]].size for node in layers)


def _words(nets: Netlist, mesh: Mesh, sent: Array) -> tuple[int, int]:
    """The destination words that the neuron nearest to its limit has room for, and by how many it exceeds them."""
    room = allowed_words(nets, mesh)[: nets.neurons]
    worst = int(np.argmax(sent[: nets.neurons] - room))
    return int(room[worst]), int(sent[worst] - room[worst])
