"""Where every neuron of a placed graph is on the chips, and how its spikes find their way: the whole mapping."""

from __future__ import annotations

import math
import re
from collections import abc
from dataclasses import astuple, dataclass, fields

import numpy as np

from snnc.errors import TargetError
from snnc.ir import Array

from .chips import onto_chips
from .mesh import Mesh, positions
from .netlist import Netlist
from .partition import partition, sequential
from .tags import Memories, Words, aliasing, allocate, delivered, memories

METHODS = ("greedy", "mtkahypar", "sequential")
_PARTS = ("source", "chip", "tag", "start", "core")


@dataclass(frozen=True, eq=False)
class Mapping:
    """Neurons on cores, cores on chips, chips on the mesh, and the words that spikes are sent by.

    Attributes:
        mesh: what it was made for.
        core: by layer, the core of every neuron, in the layer's shape.
        chip: [cores], the chip of every core.
        xy: [chips, 2], the place of every chip.
        words: the destination words of every source.
    """

    mesh: Mesh
    core: abc.Mapping[str, Array]
    chip: Array
    xy: Array
    words: Words

    @property
    def chips(self) -> int:
        """How many chips it takes."""
        return len(self.xy)

    @property
    def note(self) -> str:
        """`3 virtual chips, 1 exists` where it takes more chips than there are, else nothing."""
        if self.chips <= self.mesh.chips:
            return ""
        return f"{self.chips} virtual chips, {self.mesh.chips} exist{'s' if self.mesh.chips == 1 else ''}"

    @property
    def cores(self) -> Array:
        """[N], the core of every neuron."""
        return np.concatenate([array.reshape(-1) for array in self.core.values()])

    @property
    def slot(self) -> Array:
        """[cores], the number of every core on its chip: the bit that a word's mask has for it."""
        order = np.argsort(self.chip, kind="stable")
        slot = np.empty(len(self.chip), np.int64)
        begin = np.concatenate([[0], np.cumsum(np.bincount(self.chip))])
        slot[order] = np.arange(len(order)) - begin[self.chip[order]]
        return slot

    def arrays(self) -> dict[str, Array]:
        """Everything as plain arrays, which `from_arrays` reads; their names keep the order of the layers."""
        layers = enumerate(self.core.items())
        made = {f"core/{i:06}/{name}": np.asarray(array, np.int32) for i, (name, array) in layers}
        made |= {f"word/{part}": np.asarray(getattr(self.words, part), np.int64) for part in _PARTS}
        made["chip"], made["xy"] = np.asarray(self.chip, np.int32), np.asarray(self.xy, np.int32)
        made["mesh"] = np.array(astuple(self.mesh), np.int64)
        return made

    @classmethod
    def from_arrays(cls, arrays: abc.Mapping[str, Array]) -> Mapping:
        """The mapping behind `arrays`.

        Raises:
            TargetError: arrays are missing, or do not fit together.
        """
        needed = ["chip", "xy", "mesh", *(f"word/{part}" for part in _PARTS)]
        if missing := [name for name in needed if name not in arrays]:
            raise TargetError(f"the mapping lacks {', '.join(missing)}")
        if odd := sorted(name for name, array in arrays.items() if array.dtype.kind != "i"):
            raise TargetError(f"the mapping has numbers that are no integers: {', '.join(odd)}")
        core = {name.split("/", 2)[2]: arrays[name] for name in sorted(arrays) if re.match(r"core/\d{6}/", name)}
        words = Words(*(arrays[f"word/{part}"] for part in _PARTS))
        if not core or arrays["mesh"].shape != (len(fields(Mesh)),):
            raise TargetError("the mapping has no cores, or its mesh is of another version")
        made = cls(Mesh(*arrays["mesh"].tolist()), core, arrays["chip"], arrays["xy"], words)
        if problem := _misfit(made):
            raise TargetError(f"the mapping does not fit together: {problem}")
        return made

    def memories(self, nets: Netlist) -> Memories:
        """What the neurons' CAMs must hold."""
        return memories(nets, self.cores, self.chip, self.words)

    def check(self, nets: Netlist, held: Memories | None = None) -> list[TargetError]:
        """Replay one event of every source and compare what arrives with the netlist; [] if all is as it should be.

        Args:
            held: what the CAMs hold; what they must, by default.
        """
        held = self.memories(nets) if held is None else held
        return aliasing(nets, *delivered(self.cores, self.chip, self.xy, self.words, held, self.mesh))


def _misfit(mapping: Mapping) -> str:
    """What in a mapping points to nowhere, '' if nothing does."""
    words, cores = mapping.words, len(mapping.chip)
    if any(array.ndim != 1 for array in (mapping.chip, *(getattr(words, part) for part in _PARTS))):
        return "lists of other ranks than 1"
    if mapping.xy.shape != (mapping.chips, 2) or len({tuple(place) for place in mapping.xy.tolist()}) < mapping.chips:
        return "chips without a place of their own"
    if not len(words.source) == len(words.chip) == len(words.tag) == len(words.start) - 1:
        return "words of different number"
    if (np.diff(words.start) < 1).any() or words.start[0] != 0 or words.start[-1] != len(words.core):
        return "words without cores"
    inside = [(mapping.cores, cores), (words.core, cores), (mapping.chip, mapping.chips), (words.chip, mapping.chips)]
    if any(len(array) and (array.min() < 0 or array.max() >= most) for array, most in inside):
        return "cores or chips that do not exist"
    if len(words.tag) and (words.tag.min() < 0 or words.source.min() < 0):
        return "negative tags or sources"
    on = mapping.chip[words.core] == np.repeat(words.chip, np.diff(words.start))
    return "" if on.all() else "words for cores of other chips"


def map_neurons(
    nets: Netlist, mesh: Mesh, method: str = "greedy", group: abc.Mapping[str, Array] | None = None
) -> Mapping:
    """The mapping of a netlist; it may break walls, which `violations` lists.

    Args:
        method: `greedy`; `mtkahypar`, which needs the extra `placement`; `sequential`, layer after layer in raster
            order on core after core and chip after chip, to compare with.
        group: by layer, in its shape: numbers of groups; neurons of different groups never share a core. It stands for
            what a core has one of, thresholds or weight steps.

    Raises:
        TargetError: there is no such method, or its partitioner is not installed.
    """
    kinds = None if group is None else np.concatenate([np.asarray(group[name]).reshape(-1) for name in nets.layers])
    if method not in METHODS:
        raise TargetError(f"there is no method '{method}'", hint=f"one of {', '.join(METHODS)}")
    if method == "sequential":
        core = sequential(nets, mesh, kinds)
        return in_rows(nets, mesh, core)
    core = partition(nets, mesh, method, kinds)
    chip = onto_chips(nets, core, mesh)
    words = allocate(nets, core, chip)
    xy = positions(between_chips(nets, core, chip, words), mesh.hop_range)
    return Mapping(mesh, by_layer(nets, core), chip, xy, words)


def in_rows(nets: Netlist, mesh: Mesh, core: Array) -> Mapping:
    """Cores on chips in their order, chips row by row."""
    chip = np.arange(int(core.max()) + 1) // mesh.cores_per_chip
    chips = int(chip.max()) + 1
    wide = math.ceil(math.sqrt(chips))
    xy = np.stack([np.arange(chips) % wide, np.arange(chips) // wide], axis=1)
    return Mapping(mesh, by_layer(nets, core), chip, xy, allocate(nets, core, chip))


def by_layer(nets: Netlist, values: Array) -> dict[str, Array]:
    """An array over all neurons as one array a layer, in the layer's shape."""
    ends = np.cumsum([math.prod(shape) for shape in nets.layers.values()])[:-1]
    parts = np.split(values, ends)
    return {name: part.reshape(shape) for (name, shape), part in zip(nets.layers.items(), parts, strict=True)}


def between_chips(nets: Netlist, core: Array, chip: Array, words: Words) -> Array:
    """[chips, chips], spikes of neurons that go from one chip to another."""
    chips = int(chip.max()) + 1
    inside = words.source < nets.neurons
    source = words.source[inside]
    key = chip[core[source]] * chips + words.chip[inside]
    return np.bincount(key, nets.spikes[source], chips * chips).reshape(chips, chips)
