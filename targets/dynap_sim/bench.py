"""Programmed devices, one or several side by side: they run, and repair themselves by online LTL with targets that the
host computes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from snnc.data import Data, Split
from snnc.errors import TargetError
from snnc.ir import Array, Graph, Samples
from snnc.ir.streams import sample_shape
from snnc.pipeline import Progress, silent, single
from snnc.report import Ledger, Row
from snnc.sim.torch import exact, to_tensor
from snnc.target import Artifact, Bench
from snnc.train.targets import Targets

from .answers import Answers
from .counters import CountingBlock
from .device import Device, Model, advance
from .dpi import Circuit
from .layout import sites
from .learning import Block, LearningBlock, Rule
from .mismatch import GRID, Mismatch
from .noise import Noise
from .place import place
from .registers import Wear
from .rewiring import rewired
from .settings import Settings
from .side_by_side import apart, joined

if TYPE_CHECKING:
    from . import DynapSim

CHUNK = 128
"""Samples that run at once."""
CELLS = {"cpu": 2**22, "cuda": 2**27}
"""Synapses, biases and thresholds of the devices that run at once, at most, by the kind of machine. On a CPU a device
of 160,000 of them takes half its time in company, one of 800,000 four fifths; that of a GPU is not measured.
"""
MOST = {"cpu": 8, "cuda": 64}
"""Devices that run at once, at most."""
BLOCKS: dict[str, type[Block]] = {"float": LearningBlock, "hardware": CountingBlock}
"""The learning block by the option `learning`."""
Batch: TypeAlias = tuple[list[Array], torch.Tensor, dict[str, torch.Tensor]]
"""For every device the numbers of its samples; the samples and their targets, side by side."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch inside: a chip's kernels are small, and threads that wait for each other cost more.

    Chips are many: run them in processes. It also makes a chip the same whatever the number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_once(placed: Graph, device: str = "cpu") -> int:
    """How many devices with this network run at once."""
    kind = torch.device(device).type
    if any(not t.shape for t in placed.inputs.values()):
        return 1  # there is nothing to put them side by side along
    cells = sum(param.size for param in placed.params.values())
    return max(1, min(MOST.get(kind, 1), CELLS.get(kind, 0) // cells))


class DynapBench(Bench):
    """Devices with one network, which run side by side.

    Attributes:
        target, artifact: what was programmed.
        seeds: which devices.
        graph: the placed network.
        device: their parts.
        block: their learning block.
        settings: what they are set to.
        on: where they are simulated.
        fired: spikes of every layer of neurons in the last epoch of `learn`, by device.
        epochs: of calibration so far.
    """

    def __init__(self, target: DynapSim, artifact: Artifact, seeds: Sequence[int], device: str = "cpu") -> None:
        """Draw the devices and program them.

        Raises:
            ArtifactError: the artifact's layout belongs to another network.
            TargetError: no seed is given, or one below 0.
        """
        if not seeds:
            raise TargetError("there is no chip on the bench", hint="name at least one seed")
        if bad := [seed for seed in seeds if seed < 0]:
            raise TargetError(f"a chip's seed is a number from 0, not {bad[0]}")
        self.target, self.artifact, self.seeds = target, artifact, tuple(seeds)
        self.graph = place(artifact.graph)
        self.device = Device(self.graph, self.seeds, model(target), device, sites(self.graph, artifact.bundle))
        warm_up = min(int(target.warm_up * self.graph.steps), self.graph.steps - 1)
        learning = target.chip.learning
        form = BLOCKS[target.learning]
        width = form.usual_width if target.width is None else target.width
        guard = learning.guard_bits if target.guard_bits is not None else form.usual_guard_bits or learning.guard_bits
        self.block = form(self.device, Rule(target.rate, width, warm_up, guard, target.p_write, learning))
        self.settings = Settings(self.graph, self.device, self.block)
        self.on, self.epochs = device, 0
        self.fired = tuple(Counter[str]() for _ in self.seeds)

    @property
    def teacher(self) -> Graph:
        """The analog network that they learn from."""
        if self.artifact.graph.teacher is None:
            raise TargetError("the artifact holds no teacher to learn from")
        return self.artifact.graph.teacher

    def run(
        self, x: Samples, progress: Progress = silent, monitor: Sequence[tuple[str, int]] = ()
    ) -> list[dict[str, Array]]:
        """Outputs [N, ...] of every device by name for inputs x [N, ...]; `monitor` as of `DynapChip.run`."""
        self.check(x)
        self._watchable(monitor)
        name = next(iter(self.graph.inputs))
        found: list[dict[str, list[Array]]] = [{} for _ in self.seeds]
        with torch.inference_mode(), exact(), one_thread():
            for at in range(0, len(x), CHUNK):
                progress(f"{self} run", at, len(x))
                given = {name: self._beside([to_tensor(x[at : at + CHUNK], self.on)] * len(self.seeds))}
                stepper = self.device.stepper(given, at // CHUNK)
                seen: dict[tuple[str, int], list[torch.Tensor]] = {where: [] for where in monitor}
                for some in advance(stepper, self.graph.steps, learn=bool(monitor)):
                    for layer, i in monitor:
                        seen[layer, i].append(some.potential[layer])
                for k, made in enumerate(self.device.outputs(stepper, given)):
                    for (layer, i), potential in seen.items():
                        made[f"{layer}[{i}]"] = self._own(torch.cat(potential), layer)[k].flatten(2)[..., i].T
                    for user, value in made.items():
                        found[k].setdefault(user, []).append(value.cpu().numpy())
        return [{user: np.concatenate(parts) for user, parts in outputs.items()} for outputs in found]

    def check(self, x: Samples) -> None:
        """Refuse samples that they cannot run.

        Raises:
            TargetError: there are none, or they have another shape.
        """
        name, sample = next(iter(self.graph.inputs)), x.shape[1:]
        want = sample_shape(self.graph, name, sample)
        if not x.shape or sample != want:
            raise TargetError(f"input '{name}' takes samples of shape {list(want)}, not {list(sample)}")
        if len(x) == 0:
            raise TargetError("there are no samples to run")

    def _watchable(self, monitor: Sequence[tuple[str, int]]) -> None:
        """Refuse to monitor what no core can show."""
        cores: dict[int, tuple[str, int]] = {}
        for layer, i in monitor:
            if layer not in self.device.sites or not 0 <= i < self.device.sites[layer].size:
                raise TargetError(f"there is no neuron {i} of a layer '{layer}'", hint=", ".join(self.device.sites))
            core = int(self.device.sites[layer].reshape(-1)[i]) // GRID**2
            if core in cores:
                raise TargetError(f"{cores[core]} and {(layer, i)} are both on core {core}, which shows one potential")
            cores[core] = layer, i

    def calibrate(self, data: Data, epochs: int = 1, progress: Progress = silent) -> list[Ledger]:
        """An epoch of every device that validates worse than the one before is taken back; so is rewiring, which comes
        before the first epoch, if the target says so.
        """
        data.check(self.artifact.graph)
        ledgers = [Ledger([row]) for row in self._judged("before", data.validation)]
        if self.target.rewire and self.epochs == 0:
            self._step("rewire", ledgers, data.validation, lambda: self._rewire(data.train, progress))

        def learn() -> list[tuple[str, ...]]:
            told = self.learn(data.train, progress)
            return [(str(Wear.of(self.block.registers.values(), k)), *told) for k in range(len(self.seeds))]

        for epoch in range(1, epochs + 1):
            self._step(f"epoch {epoch}", ledgers, data.validation, learn)
        return ledgers

    def _step(
        self, name: str, ledgers: list[Ledger], judged_on: Split, change: Callable[[], list[tuple[str, ...]]]
    ) -> None:
        """Change all devices, and take back what makes one worse; `change` says what there is to say of each."""
        start, kept = time.perf_counter(), [self.settings.stored(k) for k in range(len(self.seeds))]
        told = change()
        seconds = (time.perf_counter() - start) / len(self.seeds)
        for k, row in enumerate(self._judged(name, judged_on)):
            row = replace(row, notes=told[k], seconds=seconds)
            before = ledgers[k].rows[-1].value
            assert row.value is not None
            assert before is not None
            if row.score.better(before, row.value):
                self.settings.program(kept[k], k)
                worse = f"taken back: {row.score.text(row.value)} on validation samples is worse than before"
                row = replace(row, value=before, notes=(*told[k], worse))
            ledgers[k].add(row)

    def _rewire(self, split: Split, progress: Progress) -> list[tuple[str, ...]]:
        """Of a lone device."""
        chosen = np.random.default_rng([*self.seeds, *b"rewire"]).permutation(len(split))[: self.target.rewire]
        targets = Targets(self.artifact.graph, self.teacher, self.on)
        with torch.inference_mode(), exact(), one_thread():
            parts = [chosen[at : at + CHUNK] for at in range(0, len(chosen), CHUNK)]
            x = [to_tensor(split.x(part), self.on) for part in parts]
            return [(str(rewired(self.settings, x, targets, progress=progress)),)]

    def learn(self, split: Split, progress: Progress = silent) -> tuple[str, ...]:
        """One epoch of the learning block, and of the host's read-out, on these samples; nothing is judged.

        Returns:
            What there is to say about it.
        """
        self.epochs += 1
        batches = -(-len(split) // self.target.batch)
        self.block.begin(self.epochs, batches)
        name = next(iter(self.graph.inputs))
        targets = Targets(self.artifact.graph, self.teacher, self.on)
        answers = []
        self.fired = tuple(Counter[str]() for _ in self.seeds)
        if self.target.readout == "labels":
            hosts = self.device.hosts
            answers = [Answers(self.graph, host, split.score, self.target.rate, batches) for host in hosts]
        with torch.inference_mode(), exact(), one_thread():
            for i, (index, x, wanted) in enumerate(self._pipelined(split, targets)):
                progress(f"{self} calibrate", i * self.target.batch, len(split))
                stepper = self.device.stepper({name: x}, -self.epochs * 10**6 - i)
                self.block.learn(stepper, wanted)
                for layer, count in stepper.count.items():
                    for fired, own in zip(self.fired, self._own(count, layer), strict=True):
                        fired[layer] += int(own.sum())
                if any(answer.learns for answer in answers):
                    read = self.device.read_out(stepper, {name: x})
                    for answer, numbers, values in zip(answers, index, read, strict=True):
                        answer.learn(values, torch.as_tensor(split.labels[numbers], device=self.on))
        return tuple({f"the read-out stays as it is: {answer.why}": None for answer in answers if answer.why})

    def _pipelined(self, split: Split, targets: Targets) -> Iterator[Batch]:
        """Batches, whose targets the host computes one batch ahead."""
        orders = [np.random.default_rng([seed, self.epochs]).permutation(len(split)) for seed in self.seeds]
        size = self.target.batch
        batches = [[order[at : at + size] for order in orders] for at in range(0, len(split), size)]

        def prepare(index: list[Array]) -> Batch:
            x = [to_tensor(split.x(own), self.on) for own in index]
            wanted = [targets(own) for own in x]
            layers = {layer: len(self.graph[layer].type.shape) for layer in wanted[0]}
            return index, self._beside(x), {n: joined([own[n] for own in wanted], rank) for n, rank in layers.items()}

        with ThreadPoolExecutor(1) as host:
            coming = host.submit(prepare, batches[0])
            for following in [*batches[1:], None]:
                ready = coming.result()
                if following is not None:
                    coming = host.submit(prepare, following)
                yield ready

    def _beside(self, x: list[torch.Tensor]) -> torch.Tensor:
        """Every device's inputs, side by side."""
        return joined(x, len(next(iter(self.graph.inputs.values())).shape))

    def _own(self, value: torch.Tensor, layer: str) -> list[torch.Tensor]:
        """Every device's share of a value of a layer of neurons."""
        return apart(value, len(self.graph[layer].type.shape), len(self.seeds))

    def _judged(self, step: str, split: Split) -> list[Row]:
        nodes = len(self.graph.nodes)
        return [
            Row(step, split.score.measure(single(made), split.labels), "validation", self.graph.stage, nodes, {}, (),
                True, 0.0, score=split.score)
            for made in self.run(split)
        ]  # fmt: skip

    def __str__(self) -> str:
        if len(self.seeds) == 1:
            return f"chip {self.seeds[0]}"
        row = self.seeds == tuple(range(self.seeds[0], self.seeds[-1] + 1))
        return f"chips {self.seeds[0]} to {self.seeds[-1]}" if row else f"chips {', '.join(map(str, self.seeds))}"


def model(target: DynapSim) -> Model:
    """What the options of a target say about its devices."""
    return Model(
        Mismatch(target.chip.mismatch.preset, target.chip.mismatch.sigma, target.sharing, target.excitatory),
        Noise(
            target.thermal, target.thermal_on, target.silencing, target.silence, target.defects, target.listed,
            target.jitter, target.chip.times.dt,
        ),
        Circuit.of(target.chip.times) if target.tier == "dpi" else None,
    )  # fmt: skip
