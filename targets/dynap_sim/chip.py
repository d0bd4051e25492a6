"""A programmed device: it runs, and it repairs itself by online LTL with targets that the host computes.

What leaves it is what leaves the real chip: spikes, and the potential of one monitored neuron per core.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from snnc.artifact import Bundle, canonical, pack, unpack
from snnc.data import Data, Split
from snnc.errors import ArtifactError, TargetError
from snnc.ir import Array, Graph, Samples, roles
from snnc.ir.streams import sample_shape
from snnc.pipeline import Progress, silent, single
from snnc.report import Ledger, Row
from snnc.sim.torch import exact, to_tensor
from snnc.target import Artifact, Chip
from snnc.train.targets import Targets

from .answers import Answers, host_params
from .counters import CountingBlock
from .device import Device, Model, advance
from .dpi import Circuit
from .layout import sites
from .learning import Block, LearningBlock, Rule
from .mismatch import GRID, Mismatch
from .noise import Noise
from .place import place
from .registers import Wear

if TYPE_CHECKING:
    from . import DynapSim

CHUNK = 128
"""Samples that run at once."""
BLOCKS: dict[str, type[Block]] = {"float": LearningBlock, "hardware": CountingBlock}
"""The learning block by the option `learning`."""


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


class DynapChip(Chip):
    """One device with one network.

    Attributes:
        target, artifact: what was programmed.
        device: its parts.
        on: where it is simulated.
        fired: spikes of every layer of neurons in the last epoch of `learn`.
    """

    def __init__(
        self, target: DynapSim, artifact: Artifact, seed: int, state: Bundle | None = None, device: str = "cpu"
    ) -> None:
        """Draw the device `seed` and program it, with what an earlier calibration stored if there is a `state`.

        Raises:
            ArtifactError: the state, or the artifact's layout, belongs to another device or another network.
        """
        if seed < 0:
            raise TargetError(f"a chip's seed is a number from 0, not {seed}")
        self.target, self.artifact, self.seed = target, artifact, seed
        self.graph = place(artifact.graph)
        self.device = Device(self.graph, seed, model(target), device, sites(self.graph, artifact.bundle))
        warm_up = min(int(target.warm_up * self.graph.steps), self.graph.steps - 1)
        learning = target.chip.learning
        form = BLOCKS[target.learning]
        width = form.usual_width if target.width is None else target.width
        guard = learning.guard_bits if target.guard_bits is not None else form.usual_guard_bits or learning.guard_bits
        self.block = form(self.device, Rule(target.rate, width, warm_up, guard, target.p_write, learning))
        self.on, self._epochs, self.fired = device, 0, Counter[str]()
        if state is not None:
            self._restore(state)

    @property
    def teacher(self) -> Graph:
        """The analog network that it learns from."""
        if self.artifact.graph.teacher is None:
            raise TargetError("the artifact holds no teacher to learn from")
        return self.artifact.graph.teacher

    def run(self, x: Samples, progress: Progress = silent, monitor: Sequence[tuple[str, int]] = ()) -> dict[str, Array]:
        """Outputs [N, ...] by name for inputs x [N, ...].

        Args:
            monitor: neurons, at most one per core, as their layer and their number in it; their potentials [N, T], in
                weight steps, are among the outputs as `LAYER[number]`.

        Raises:
            TargetError: the samples do not fit, or two monitored neurons share a core.
        """
        self.check(x)
        self._watchable(monitor)
        name = next(iter(self.graph.inputs))
        parts: dict[str, list[Array]] = {}
        with torch.inference_mode(), exact(), one_thread():
            for at in range(0, len(x), CHUNK):
                progress(f"chip {self.seed} runs", at, len(x))
                stepper = self.device.stepper({name: to_tensor(x[at : at + CHUNK], self.on)}, at // CHUNK)
                seen: dict[str, list[torch.Tensor]] = {f"{layer}[{i}]": [] for layer, i in monitor}
                for some in advance(stepper, self.graph.steps, learn=bool(monitor)):
                    for layer, i in monitor:
                        seen[f"{layer}[{i}]"].append(some.potential[layer].flatten(2)[..., i])
                made = {**stepper.outputs(), **{user: torch.cat(train).T for user, train in seen.items()}}
                for user, value in made.items():
                    parts.setdefault(user, []).append(value.cpu().numpy())
        return {user: np.concatenate(found) for user, found in parts.items()}

    def check(self, x: Samples) -> None:
        """Refuse samples that it cannot run.

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

    def calibrate(self, data: Data, epochs: int = 1, progress: Progress = silent) -> Ledger:
        data.check(self.artifact.graph)
        ledger = Ledger([self._judged("before", data.validation)])
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            kept, told = self._stored(), self.learn(data.train, progress)
            notes = (str(Wear.of(self.block.registers.values())), *told)
            row = self._judged(f"epoch {epoch}", data.validation, notes, time.perf_counter() - start)
            before = ledger.rows[-1].value
            assert row.value is not None
            assert before is not None
            if row.score.better(before, row.value):
                self._program(kept)
                worse = f"taken back: {row.score.text(row.value)} on validation samples is worse than before"
                row = replace(row, value=before, notes=(*notes, worse))
            ledger.add(row)
        return ledger

    def state(self) -> Bundle:
        about = {"seed": self.seed, "epochs": self._epochs, "artifact": self.artifact.digest}
        return Bundle("chip", {"state.safetensors": pack(self._stored()), "chip.json": canonical(about)}, about)

    def _restore(self, state: Bundle) -> None:
        about = state.json("chip.json")
        if not isinstance(about, dict) or type(about.get("epochs")) is not int:
            raise ArtifactError("chip.json does not say how far the calibration went")
        if about.get("seed") != self.seed or about.get("artifact") != self.artifact.digest:
            raise ArtifactError(
                f"the state is of chip {about.get('seed')} with artifact {str(about.get('artifact'))[:12]}, "
                f"this is chip {self.seed} with {self.artifact.digest[:12]}"
            )
        self._program(unpack(state, "state.safetensors"))
        self._epochs = about["epochs"]

    def _program(self, stored: Mapping[str, Array]) -> None:
        """Set everything to what `_stored` said.

        Raises:
            ArtifactError: this chip cannot be set to that.
        """
        for name, register in self.block.registers.items():
            if name not in stored or not register.restore(stored[name]):
                raise ArtifactError(f"the state has no fitting '{name}'")
            self.device.nominal[name] = register.nominal()
        thresholds = self._thresholds()
        for name in (*thresholds, *host_params(self.graph)):
            start = self.graph.params[name]
            value = stored.get(name, start)
            fits = value.shape == start.shape and value.dtype == np.float32 and np.isfinite(value).all()
            if not fits or (name in thresholds and (value <= 0).any()):
                raise ArtifactError(f"the state has no fitting '{name}'")
            self.device.nominal[name] = torch.tensor(value, device=self.on)

    def _thresholds(self) -> tuple[str, ...]:
        return tuple(roles(node, self.graph.params)["theta"] for node in self.graph.nodes if node.op == "lif")

    def _stored(self) -> dict[str, Array]:
        """The registers, and thresholds and the host's read-out where they are not what the artifact says, by param."""
        names = (*self._thresholds(), *host_params(self.graph))
        now = {name: self.device.nominal[name].cpu().numpy() for name in names}
        moved = {name: value for name, value in now.items() if not np.array_equal(value, self.graph.params[name])}
        return {name: r.stored.cpu().numpy().copy() for name, r in self.block.registers.items()} | moved

    def learn(self, split: Split, progress: Progress = silent) -> tuple[str, ...]:
        """One epoch of the learning block, and of the host's read-out, on these samples; nothing is judged.

        Returns:
            What there is to say about it.
        """
        self._epochs += 1
        batches = -(-len(split) // self.target.batch)
        self.block.begin(self.seed, self._epochs, batches)
        name = next(iter(self.graph.inputs))
        targets = Targets(self.artifact.graph, self.teacher, self.on)
        answers = None
        self.fired.clear()
        if self.target.readout == "labels":
            answers = Answers(self.graph, self.device.nominal, split.score, self.target.rate, batches)
        with torch.inference_mode(), exact(), one_thread():
            for i, (index, x, wanted) in enumerate(self._pipelined(split, targets)):
                progress(f"chip {self.seed} calibrates", i * self.target.batch, len(split))
                stepper = self.device.stepper({name: x}, -self._epochs * 10**6 - i)
                self.block.learn(stepper, wanted)
                self.fired.update({layer: int(count.sum()) for layer, count in stepper.count.items()})
                if answers is not None:
                    answers.learn(stepper.values, torch.as_tensor(split.labels[index], device=self.on))
        return (f"the read-out stays as it is: {answers.why}",) if answers is not None and answers.why else ()

    def _pipelined(
        self, split: Split, targets: Targets
    ) -> Iterator[tuple[Array, torch.Tensor, dict[str, torch.Tensor]]]:
        """Which samples are a batch, themselves and their targets, which the host computes one batch ahead."""
        order = np.random.default_rng([self.seed, self._epochs]).permutation(len(split))
        batches = [order[at : at + self.target.batch] for at in range(0, len(order), self.target.batch)]

        def prepare(index: Array) -> tuple[Array, torch.Tensor, dict[str, torch.Tensor]]:
            x = to_tensor(split.x(index), self.on)
            return index, x, targets(x)

        with ThreadPoolExecutor(1) as host:
            coming = host.submit(prepare, batches[0])
            for following in [*batches[1:], None]:
                ready = coming.result()
                if following is not None:
                    coming = host.submit(prepare, following)
                yield ready

    def _judged(self, step: str, split: Split, notes: tuple[str, ...] = (), seconds: float = 0.0) -> Row:
        value, nodes = split.score.measure(single(self.run(split)), split.labels), len(self.graph.nodes)
        return Row(step, value, "validation", self.graph.stage, nodes, {}, notes, True, seconds, score=split.score)


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
