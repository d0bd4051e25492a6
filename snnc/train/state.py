"""A training as the bytes of one file, in safetensors' format: nothing in it can run.

    real.NAME                the params that learn, at full precision
    running.NAME             running means over the batches
    kept.NAME                those of the best epoch
    optimizer.NAME.KEY       torch's state of the optimizer
    metadata facts           JSON: format, config (what must not change before it goes on), position
    metadata sha256          of the whole file, these 64 digits taken as zeros

No state of a random generator is in it: all chance follows from seed, rule and position (`Training.rng`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from snnc.errors import CheckpointError
from snnc.ir import Array

FORMAT = 2
LARGEST_HEADER = 2**24
"""Bytes of names, shapes and facts that are read at most."""
ZEROS = b"0" * 64
KEY = b'"sha256":"'
"""What stands before the digest; inside of JSON's strings the quotes are escaped."""


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Attributes:
        epochs: that are done.
        at: samples of the next one that are done.
        updates: that are done.
        best, best_epoch: the best judgement on validation samples, and after how many epochs it was.
        improved: after how many epochs it became what it is; those since only equalled it.
        stopped: it diverged.
        rates: the learning rates now, one per param.
        notes: what the training has noted.
    """

    epochs: int
    at: int
    updates: int
    best: float
    best_epoch: int
    improved: int
    stopped: bool
    rates: list[float]
    notes: list[str]

    @classmethod
    def of(cls, value: object) -> Position:
        """From JSON.

        Raises:
            CheckpointError: it is none.
        """
        if not isinstance(value, dict) or set(value) != {f.name for f in fields(cls)}:
            raise CheckpointError("does not say how far it is")
        made = cls(**value)
        counts = made.epochs, made.at, made.updates, made.best_epoch, made.improved
        good = {
            "counts": all(type(v) is int and v >= 0 for v in counts),
            "best": type(made.best) is float and math.isfinite(made.best),
            "end": type(made.stopped) is bool,
            "rates": type(made.rates) is list and all(type(r) is float and 0 <= r < math.inf for r in made.rates),
            "notes": type(made.notes) is list and all(type(note) is str for note in made.notes),
        }
        if wrong := [name for name, is_good in good.items() if not is_good]:
            raise CheckpointError(f"says something impossible of its {', '.join(wrong)}")
        return made


@dataclass(frozen=True, eq=False)
class State:
    """A training: its tensors by name, and its position."""

    tensors: Mapping[str, Array]
    position: Position

    def check(self, layout: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse tensors that are not the ones of `layout`, name -> shape, all float32.

        Raises:
            CheckpointError: names them.
        """
        found = {name: (a.dtype.str, a.shape) for name, a in self.tensors.items()}
        wanted = {name: ("<f4", shape) for name, shape in layout.items()}
        if wrong := sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n)):
            raise CheckpointError(f"holds other tensors than this training: {', '.join(wrong[:8])}")


def encode(state: State, config: Mapping[str, Any]) -> bytearray:
    """The bytes of a file.

    Args:
        config: plain JSON data.
    """
    facts = {"format": FORMAT, "config": dict(config), "position": asdict(state.position)}
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.tensors.items()}
    made = bytearray(save_tensors(arrays, {"facts": text, "sha256": ZEROS.decode()}))
    place = _digest_place(made)
    made[place : place + 64] = _digest(made, place)
    return made


def decode(raw: bytes | bytearray) -> tuple[dict[str, Any], State]:
    """The config and the state behind `encode`.

    Raises:
        CheckpointError: a byte has changed, or it is no checkpoint.
    """
    config, position = header(raw)
    place = _digest_place(raw)
    if raw[place : place + 64] != _digest(raw, place):
        raise CheckpointError("is damaged: it does not match its digest")
    try:
        tensors = dict(load_tensors(bytes(raw)))
    except (SafetensorError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"is no safetensors file: {error}") from None
    return config, State(tensors, Position.of(position))


def header(raw: bytes | bytearray) -> tuple[dict[str, Any], object]:
    """The config and the position, unverified, that a file begins with.

    Raises:
        CheckpointError: it begins with something else.
    """
    try:
        facts = json.loads(json.loads(raw[8 : 8 + _header_size(raw)])["__metadata__"]["facts"])
        config, position, form = facts["config"], facts["position"], facts["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"is no checkpoint: {type(error).__name__}") from None
    if form != FORMAT or not isinstance(config, dict):
        raise CheckpointError(f"is of format {form}, not {FORMAT}")
    return config, position


def _header_size(raw: bytes | bytearray) -> int:
    size = int.from_bytes(raw[:8], "little")
    if not 0 < size <= min(LARGEST_HEADER, len(raw) - 8):
        raise CheckpointError("is no checkpoint: it is cut short")
    return size


def _digest_place(raw: bytes | bytearray) -> int:
    """Where the digest's digits begin."""
    end = 8 + _header_size(raw)
    found = raw.find(KEY, 8, end)
    if found < 0 or raw.find(KEY, found + 1, end) >= 0 or found + len(KEY) + 64 > end:
        raise CheckpointError("is no checkpoint: it has no digest")
    return found + len(KEY)


def _digest(raw: bytes | bytearray, place: int) -> bytes:
    """SHA-256 of the file, the digits at `place` taken as zeros."""
    view, total = memoryview(raw), hashlib.sha256()
    for part in (view[:place], ZEROS, view[place + 64 :]):
        total.update(part)
    return total.hexdigest().encode()
