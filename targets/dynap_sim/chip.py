"""A programmed device: it runs, and it repairs itself by online LTL with targets that the host computes.

What leaves it is what leaves the real chip: spikes, and the potential of one monitored neuron per core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snnc.artifact import Bundle, canonical, pack, unpack
from snnc.data import Data, Split
from snnc.errors import ArtifactError
from snnc.ir import Array, Graph, Samples
from snnc.pipeline import Progress, silent
from snnc.report import Ledger
from snnc.target import Artifact, Chip

from .bench import DynapBench
from .device import Device
from .learning import Block
from .settings import Settings

if TYPE_CHECKING:
    from . import DynapSim


class DynapChip(Chip):
    """One device with one network: a bench of its own.

    Attributes:
        target, artifact: what was programmed.
        on: where it is simulated.
    """

    def __init__(
        self, target: DynapSim, artifact: Artifact, seed: int, state: Bundle | None = None, device: str = "cpu"
    ) -> None:
        """Draw the device `seed` and program it, with what an earlier calibration stored if there is a `state`.

        Raises:
            ArtifactError: the state, or the artifact's layout, belongs to another device or another network.
        """
        self.target, self.artifact, self.seed, self.on = target, artifact, seed, device
        self._bench = DynapBench(target, artifact, [seed], device)
        if state is not None:
            self._restore(state)

    @property
    def graph(self) -> Graph:
        """The placed network."""
        return self._bench.graph

    @property
    def device(self) -> Device:
        """Its parts."""
        return self._bench.device

    @property
    def block(self) -> Block:
        """Its learning block."""
        return self._bench.block

    @property
    def settings(self) -> Settings:
        """What it is set to."""
        return self._bench.settings

    @property
    def fired(self) -> Counter[str]:
        """Spikes of every layer of neurons in the last epoch of `learn`."""
        return self._bench.fired[0]

    @property
    def teacher(self) -> Graph:
        """The analog network that it learns from."""
        return self._bench.teacher

    def run(self, x: Samples, progress: Progress = silent, monitor: Sequence[tuple[str, int]] = ()) -> dict[str, Array]:
        """Outputs [N, ...] by name for inputs x [N, ...].

        Args:
            monitor: neurons, at most one per core, as their layer and their number in it; their potentials [N, T], in
                weight steps, are among the outputs as `LAYER[number]`.

        Raises:
            TargetError: the samples do not fit, or two monitored neurons share a core.
        """
        return self._bench.run(x, progress, monitor)[0]

    def calibrate(self, data: Data, epochs: int = 1, progress: Progress = silent) -> Ledger:
        return self._bench.calibrate(data, epochs, progress)[0]

    def check(self, x: Samples) -> None:
        """See `DynapBench.check`."""
        self._bench.check(x)

    def learn(self, split: Split, progress: Progress = silent) -> tuple[str, ...]:
        """See `DynapBench.learn`."""
        return self._bench.learn(split, progress)

    def state(self) -> Bundle:
        about = {"seed": self.seed, "epochs": self._bench.epochs, "artifact": self.artifact.digest}
        stored = self.settings.stored()
        return Bundle("chip", {"state.safetensors": pack(stored), "chip.json": canonical(about)}, about)

    def _restore(self, state: Bundle) -> None:
        about = state.json("chip.json")
        if not isinstance(about, dict) or type(about.get("epochs")) is not int:
            raise ArtifactError("chip.json does not say how far the calibration went")
        if about.get("seed") != self.seed or about.get("artifact") != self.artifact.digest:
            raise ArtifactError(
                f"the state is of chip {about.get('seed')} with artifact {str(about.get('artifact'))[:12]}, "
                f"this is chip {self.seed} with {self.artifact.digest[:12]}"
            )
        self.settings.program(unpack(state, "state.safetensors"))
        self._bench.epochs = about["epochs"]
