"""Checkpoints: a training goes on after an interruption as if there had been none, bit for bit.

One file per save (`snnc.train.state`), written beside its place, synced and renamed: 000-000000012.safetensors is save
12 of the pipeline's first training. Two are kept of each; the position of the last one says that a training is
finished, so that a pipeline goes on behind it. Passes before run again: they are deterministic, and the digest of the
graph that training starts from proves it.

A reader takes no more bytes than the graph's own params can fill, and verifies the digest, then what must not have
changed, then every shape: a file from a stranger runs nothing and fills no memory. Who can write the files can of
course choose the weights that training goes on from.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snnc.errors import CheckpointError
from snnc.ir import Array, Graph, to_text
from snnc.pipeline import Context
from snnc.sim.placement import kinds

from .parallel import is_first, on_first, processes
from .state import LARGEST_HEADER, Position, State, decode, encode, header

EVERY = 30.0
"""Seconds between two saves within an epoch, at least; the end of an epoch is always saved."""
KEPT = 2
NAME = re.compile(r"\d{3}-\d{9}\.safetensors")
Layout = Mapping[str, tuple[int, ...]]
"""The tensors of a training, all float32, and their shapes."""


class Checkpoints:
    """A folder of the checkpoints of one pipeline's trainings, numbered in the order in which they begin.

    Attributes:
        before: the passes before the current one, as text.
    """

    def __init__(self, folder: str | Path, *, every: float = EVERY, facts: Mapping[str, Any] | None = None) -> None:
        """Nothing is read or written yet.

        Args:
            every: seconds between two saves within an epoch, at least.
            facts: what else must be the same when a training goes on, as plain JSON data.

        Raises:
            CheckpointError: `every` is no time.
        """
        if not 0 <= every < math.inf:
            raise CheckpointError(f"cannot save every {every} seconds", hint="a number from 0")
        self.folder, self.every, self.facts, self.before = Path(folder), every, dict(facts or {}), ""
        self._begun = itertools.count()

    def after(self, before: str) -> None:
        """The pipeline tells that what comes next runs after the passes `before`."""
        self.before = before

    def begin(self, resume: bool | None) -> None:
        """What becomes of an interrupted training: it goes on (True), is forgotten (False), or must not be (None).

        Raises:
            CheckpointError: there is one, and `resume` does not say what to do with it.
        """
        if resume is False:
            self.remove()
        elif resume is None and self.interrupted:
            hint = "--resume goes on with it, --restart begins again"
            what = "trial on simulated devices" if self.chips.is_dir() else "training"
            raise CheckpointError(f"there is an interrupted {what}", at=str(self.folder), hint=hint)

    @property
    def interrupted(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self.files()) or self.chips.is_dir()

    @property
    def chips(self) -> Path:
        """Where a compile keeps what the devices have reached that it has tried behind the trainings."""
        return self.folder / "chips"

    def files(self, training: int | None = None) -> list[Path]:
        """The checkpoints (of one training), oldest first.

        Raises:
            CheckpointError: the place is no folder, or cannot be read.
        """
        if not os.path.lexists(self.folder):
            return []
        try:
            names = sorted(entry.name for entry in self.folder.iterdir() if NAME.fullmatch(entry.name))
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", at=str(self.folder)) from None
        return [self.folder / name for name in names if training is None or name.startswith(f"{training:03}-")]

    def remove(self) -> None:
        """Delete all checkpoints, and the folder if nothing else is in it. Only the first process does."""
        if not is_first() or not self.folder.is_dir():
            return
        for path in [*self.files(), *self.folder.glob(".*.safetensors.part")]:
            path.unlink(missing_ok=True)
        for place in [self.chips, *self.folder.glob(f".{self.chips.name}.*")]:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def training(self, rule: object, graph: Graph, ctx: Context) -> Slot:
        """The checkpoints of the pipeline's next training: of `rule`, from `graph`."""
        config: dict[str, Any] = {
            **self.facts,
            "data": _data_digest(ctx),
            "passes before": self.before,
            "rule": str(rule),
            "seed": ctx.seed,
            "device": kinds(ctx.device),
            "processes": processes(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "graph": digest(graph_parts(graph)),
        }
        return Slot(self, next(self._begun), config)


class Slot:
    """The checkpoints of one training.

    Attributes:
        config: what must be the same when it goes on.
    """

    def __init__(self, place: Checkpoints, training: int, config: Mapping[str, Any]) -> None:
        self.place, self.training, self.config = place, training, dict(config)
        self.number = 0
        self.saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save within an epoch; only the first process ever does."""
        return is_first() and time.monotonic() - self.saved >= self.place.every

    def save(self, state: State) -> None:
        """Write a checkpoint, and delete all but the two newest. Only the first process does.

        Raises:
            CheckpointError: it cannot be written; those before it are still there.
        """
        if not is_first():
            return
        self.number += 1
        path = self.place.folder / f"{self.training:03}-{self.number:09}.safetensors"
        try:
            self.place.folder.mkdir(parents=True, exist_ok=True)
            _write(path, encode(state, self.config))
        except OSError as error:
            raise CheckpointError(f"cannot be written: {error.strerror}", at=str(path)) from None
        for old in [each for each in self.place.files(self.training) if each.name <= path.name][:-KEPT]:
            old.unlink(missing_ok=True)
        self.saved = time.monotonic()

    def newest(self, layout: Layout, check: Callable[[Position], None], ctx: Context) -> State | None:
        """The newest checkpoint that is whole, the same in all processes; None if there is none at all.

        Damaged ones that were passed over are noted.

        Args:
            check: raises CheckpointError for a position that this training cannot be at.

        Raises:
            CheckpointError: it belongs to another training (names what has changed), or all are damaged.
        """
        damaged: list[CheckpointError] = []

        def find() -> bytes:
            paths = self.place.files(self.training)
            for path in reversed(paths):
                try:
                    raw = self._read(path, layout, check)
                except _ChangedError:
                    raise
                except CheckpointError as error:
                    damaged.append(CheckpointError(f"{path.name} {error.message}"))
                    continue
                self.number = int(path.stem.partition("-")[2])
                return raw
            if paths:
                hint = "--restart begins again"
                raise CheckpointError("no checkpoint is whole", at=str(self.place.folder), hint=hint, problems=damaged)
            return b""

        raw = on_first(find)
        for error in damaged:
            ctx.note(f"{error.message}: went on from the checkpoint before")
        return decode(raw)[1] if raw else None

    def _read(self, path: Path, layout: Layout, check: Callable[[Position], None]) -> bytes:
        """The bytes of a whole checkpoint of this training."""
        if not path.is_file():
            raise CheckpointError("is no file")
        most = LARGEST_HEADER + 8 + sum(4 * math.prod(shape) for shape in layout.values())
        try:
            with path.open("rb") as file:
                raw = file.read(LARGEST_HEADER + 8)
                if path.stat().st_size > most:
                    self._same(header(raw)[0])
                    raise CheckpointError("is larger than this training")
                raw += file.read(most + 1 - len(raw))
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}") from None
        config, state = decode(raw)
        self._same(config)
        state.check(layout)
        check(state.position)
        return raw

    def _same(self, config: Mapping[str, Any]) -> None:
        """Refuse to go on where something has changed; what a user set comes before what follows from it."""
        changed = [n for n in {**self.config, **config} if config.get(n, None) != self.config.get(n, None)]
        if not changed:
            return
        problems = [
            _ChangedError(f"{n} was {_short(config.get(n))}, now it is {_short(self.config.get(n))}") for n in changed
        ]
        hint = "use what it was, or --restart, which begins again"
        raise _ChangedError.gather("this is not the training that was interrupted", problems, hint=hint)


class _ChangedError(CheckpointError):
    """The checkpoint is whole, but of another training."""


def digest(parts: Iterable[str | Array]) -> str:
    """SHA-256 over texts and arrays, with their types and shapes."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        kind = "text" if isinstance(part, str) else f"{part.dtype}{part.shape}"
        total.update(f"{kind} {len(data)} ".encode())
        total.update(data)
    return total.hexdigest()


def graph_parts(graph: Graph) -> Iterator[str | Array]:
    """Everything of a graph and its teacher."""
    yield to_text(graph)
    for name, array in sorted(graph.arrays().items()):
        yield name
        yield array
    if graph.teacher is not None:
        yield from graph_parts(graph.teacher)


def _data_digest(ctx: Context) -> str:
    """The digest of the data; those that a script made have none until they are asked."""
    assert ctx.data is not None
    if ctx.data.digest:
        return ctx.data.digest
    splits = ctx.data.train, ctx.data.validation
    how = [f"{split.scaling} {split.score.name}" for split in splits]
    return digest(p for text, split in zip(how, splits, strict=True) for p in (text, split.raw[:], split.labels[:]))


def _short(value: object) -> str:
    """A value in a message; of a digest its first digits."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{64}", text) else f"'{text}'"


def _write(path: Path, data: bytes | bytearray) -> None:
    """Put a file in its place when it is whole and on the disk."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
