"""The chip description as data: what a mixed-signal processor of the DYNAP family has, each number with its source.

Three descriptions come with the package as TOML files (folder `profiles`): `se2`, `se1` and `ideal`, a chip without
mismatch and without narrow limits, which shows what each restriction costs. A user's own file names one of them as its
base and overrides what differs:

    base = "se2"
    name = "mychip"
    fan_in = 128
    [energy]
    voltage = 1.3
    [sources]
    fan_in = "[V] our data sheet, table 3"

Every value has a source, a text that begins with its evidence mark:

    [V] read in a source that is named    [C] computed from raw data or by running code    [D] derived by arithmetic
    [M] recalled from the literature, not checked    [U] given by the user's file, which names no source
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias

from snnc.errors import PipelineError, SnncError

from .mismatch import Preset
from .schema import names, ranged, read_table, to_table

BUILT_IN = ("se2", "se1", "ideal")
LARGEST = 64 * 1024
"""Bytes of a profile's file that are read at most."""
MANY = 2**20
"""More of anything than a chip has: where `ideal` sets no limit."""

Shared: TypeAlias = Literal["threshold", "tau_mem", "tau_syn", "gain", "t_ref", "dc", "base_weights"]
NeuronBit: TypeAlias = Literal["dc", "type", "kill"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MARKED = re.compile(r"\[[VCDMU]\] \S")


@dataclass(frozen=True, kw_only=True)
class BiasGenerator:
    """What currents a core can be given: `coarse` ranges, each in `fine` even steps from 0 to its full scale.

    Attributes:
        full_scale: of every range, ascending, in A.
    """

    coarse: int = ranged(1, 16)
    fine: int = ranged(2, 65536)
    full_scale: tuple[float, ...] = ranged(1e-15, 1e-2, "A")


@dataclass(frozen=True, kw_only=True)
class Times:
    """Time constants of neurons and synapses, and the step that stands for one discrete time step."""

    tau_mem: float = ranged(1e-6, 100, "s")
    tau_syn: float = ranged(1e-6, 100, "s")
    t_ref: float = ranged(0, 1, "s")
    t_pulse: float = ranged(0, 1, "s")
    dt: float = ranged(1e-6, 1, "s")


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """How the devices differ where nothing else is asked for; the presets are those of `mismatch.py`."""

    preset: Preset
    sigma: float = ranged(0, 1)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of every event, and where the figures come from.

    Attributes:
        voltage: the supply that they hold for.
        generate, encode: one spike: made, and its destinations appended.
        broadcast: one spike to all of one core.
        route: one spike from one core's router to another's.
        extend: the pulse of one matching CAM word.
        static: power that flows anyway; 0 where it is not known, and then it is excluded.
        verified: whether somebody has checked these figures against their source.
    """

    voltage: float = ranged(0.1, 10, "V")
    generate: float = ranged(0, 1, "J")
    encode: float = ranged(0, 1, "J")
    broadcast: float = ranged(0, 1, "J")
    route: float = ranged(0, 1, "J")
    extend: float = ranged(0, 1, "J")
    static: float = ranged(0, 1000, "W")
    provenance: str
    verified: bool


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The on-chip learning block, which no SE1 or SE2 has: bits of its registers, its dead zone and guard bits.

    Attributes:
        counter_bits, target_bits: of the spike counter and the target rate of every neuron.
        dead_zone: counts by which a neuron may be off before it learns.
        certain: counts from which on it learns at every chance; in between as often as it is off.
        guard_bits: bits below the level that collect small updates; the float form has more, if nobody asks.
    """

    counter_bits: int = ranged(1, 32)
    target_bits: int = ranged(1, 32)
    dead_zone: float = ranged(0, 1024)
    certain: float = ranged(2**-8, 1024)
    guard_bits: int = ranged(0, 16)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a chip is.

    Attributes:
        name: what reports call it.
        chips: how many there are on the board; a network that needs more is laid out on virtual ones.
        cores_per_chip, neurons_per_core: the layout.
        fan_in: CAM words of a neuron.
        destinations: SRAM words of a neuron, each one chip, a mask of its cores and one tag.
        monitor_words: of these, what watching the neuron's spikes takes.
        tag_bits: of the address that a spike carries and CAM words match.
        hop_range: chips that a spike can go in x, and in y.
        weight_coding: `masks` of currents that a core shares, with the sign in the type of the synapse; `repeated`: a
            weight of k is k CAM words; `free`: every neuron has a weight step of its own.
        weight_bits: currents in a mask (masks), bits of one CAM word (repeated), bits of the integers (free).
        shared_per_core: what all neurons of a core have in common.
        per_neuron_bits: what each neuron can switch.
        reset: what a spike does to the potential of the real neuron.
        sources: by dotted name of a value: its evidence mark and where it comes from.
    """

    name: str
    chips: int = ranged(1, MANY)
    cores_per_chip: int = ranged(1, MANY)
    neurons_per_core: int = ranged(1, MANY)
    fan_in: int = ranged(1, MANY)
    destinations: int = ranged(1, MANY)
    monitor_words: int = ranged(0, 16)
    tag_bits: int = ranged(1, 32)
    hop_range: int = ranged(0, MANY)
    weight_coding: Literal["masks", "repeated", "free"]
    weight_bits: int = ranged(1, 8)
    shared_per_core: tuple[Shared, ...]
    per_neuron_bits: tuple[NeuronBit, ...]
    reset: Literal["zero", "subtract"]
    bias_generator: BiasGenerator
    times: Times
    mismatch: Mismatch
    energy: Energy
    learning: Learning
    sources: Mapping[str, str] = field(hash=False)

    @property
    def neurons_per_chip(self) -> int:
        """Neurons of one chip."""
        return self.cores_per_chip * self.neurons_per_core

    @property
    def tags(self) -> int:
        """Different tags."""
        return int(2**self.tag_bits)

    def source(self, name: str) -> str:
        """Evidence mark and source of the value with that dotted name."""
        return self.sources[name]

    def to_json(self) -> dict[str, Any]:
        """Plain data, which `from_json` reads."""
        return to_table(self)

    def __str__(self) -> str:
        return self.name


VALUES = tuple(name for name in names(Profile) if name not in ("name", "sources"))
"""The dotted names of all values, each of which has a source."""


def load_profile(name_or_path: str | Path) -> Profile:
    """A built-in profile by its name, or a user's own by the path of its TOML file (which ends in .toml).

    A file is read alone: its base is a built-in one, and it can name no other file.

    Raises:
        PipelineError: there is no such profile, the file cannot be read, or lists all that is wrong in it.
    """
    if str(name_or_path) in BUILT_IN:
        return _built_in(str(name_or_path))
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise PipelineError(
            f"no profile is named '{name_or_path}'", hint=f"one of {', '.join(BUILT_IN)}, or the path of a .toml file"
        )
    table = _parsed(_read(path), str(path))
    base = table.pop("base", None)
    if base is not None and base not in BUILT_IN:
        raise PipelineError(
            f"base is {base!r}, no built-in profile", at=str(path), hint=f"one of {', '.join(BUILT_IN)}"
        )
    table.setdefault("name", path.stem)
    return _made(table, None if base is None else _built_in(base), str(path))


def from_json(table: Any, at: str = "profile") -> Profile:
    """The profile behind `Profile.to_json`; strict, as for a file.

    Raises:
        PipelineError: lists all that is wrong.
    """
    if not isinstance(table, dict):
        raise PipelineError("is no table", at=at)
    return _made(table, None, at)


def _built_in(name: str) -> Profile:
    """One that comes with the package, whether it is installed or not."""
    text = (resources.files(__package__ or "") / "profiles" / f"{name}.toml").read_bytes()
    table = _parsed(text, f"{name}.toml")
    base = table.pop("base", None)
    return _made(table, None if base is None else _built_in(base), f"{name}.toml")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise PipelineError("there is no such profile", at=str(path), hint=f"one of {', '.join(BUILT_IN)}")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise PipelineError(f"the profile cannot be read: {error.strerror}", at=str(path)) from None
    if len(text) > LARGEST:
        raise PipelineError(f"the profile is larger than {LARGEST} bytes", at=str(path))
    return text


def _parsed(text: bytes, at: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PipelineError(f"the profile is no TOML: {error}", at=at) from None


def _made(table: Mapping[str, Any], base: Profile | None, at: str) -> Profile:
    """The profile of a table on top of its base; what it overrides loses the base's source."""
    problems: list[SnncError] = []
    made: Profile | None = None
    try:
        made = read_table(Profile, {"sources": {}, **table}, base)
    except PipelineError as error:
        problems += error.problems or [error]
    if made is not None:
        made = replace(made, sources=_sources(table, base, Path(at).name))
        problems += _inconsistent(made)
    if problems or made is None:
        raise PipelineError(f"the profile '{at}' is wrong", problems=problems)
    return made


def _sources(table: Mapping[str, Any], base: Profile | None, file: str) -> dict[str, str]:
    """The source of every value: what the table says, else that of the base for what the table leaves alone."""
    given = dict(table.get("sources", {}))
    found = {}
    for name in VALUES:
        first, _, rest = name.partition(".")
        own = first in table and (not rest or rest in table[first])
        found[name] = given.pop(name, f"[U] {file}" if own or base is None else base.sources[name])
    return {**found, **given}


def _inconsistent(profile: Profile) -> list[SnncError]:
    """What is wrong with values that are fine one by one."""
    found: list[SnncError] = [
        PipelineError(f"'sources.{name}' speaks of a value that there is not", hint=f"one of {', '.join(VALUES)}")
        for name in sorted(set(profile.sources) - set(VALUES))
    ]
    found += [
        PipelineError(f"'sources.{name}' does not begin with an evidence mark", hint="[V], [C], [D], [M] or [U]")
        for name, text in sorted(profile.sources.items())
        if not _MARKED.match(text)
    ]
    if not _NAME.fullmatch(profile.name):
        found.append(PipelineError(f"'name' is {profile.name!r}", hint="letters, digits, _ . and -"))
    scales, coarse = profile.bias_generator.full_scale, profile.bias_generator.coarse
    if len(scales) != coarse or list(scales) != sorted(set(scales)):
        found.append(PipelineError(f"'bias_generator.full_scale' are not {coarse} ascending currents"))
    if profile.monitor_words >= profile.destinations:
        found.append(PipelineError(f"'monitor_words' {profile.monitor_words} leave no destination"))
    for name in ("shared_per_core", "per_neuron_bits"):
        if len(set(getattr(profile, name))) != len(getattr(profile, name)):
            found.append(PipelineError(f"'{name}' names something twice"))
    return found
