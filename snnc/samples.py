"""Samples that are read when they are asked for: of files larger than the memory, and of torch's data sets; and what is
wanted of them: class numbers, or targets, which may be read in the same way.

Only the numbers of the samples are held. Whoever asks for a slice or for an array of indices gets an array of these
samples alone, and each is checked whenever it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import DataError
from .ir import Array, Samples, Shape
from .score import ACCURACY, MSE, SCORES, Score

TWICE = 8
"""The first so many samples of a data set are read twice, to see that they stay what they are."""
LOOKED_AT = 256
"""Targets that are looked at to see whether they are one-hot."""


@dataclass(frozen=True, eq=False)
class Stored:
    """Samples [N, ...] that lie elsewhere.

    Attributes:
        read: the samples of these numbers [n] as an array [n, ...].
        numbers: of all the samples there are, the ones that these are, int64 [N].
        sample: the shape of one.
        dtype: of all.
        name, at: what they are called, and where they come from, in messages.
    """

    read: Callable[[Array], Array]
    numbers: Array
    sample: Shape
    dtype: np.dtype[Any]
    name: str
    at: str

    @property
    def shape(self) -> Shape:
        """[N, ...]."""
        return (len(self.numbers), *self.sample)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: slice | Array, /) -> Array:
        """The samples of a slice or of indices, read now.

        Raises:
            DataError: names the first that is no finite number, or cannot be read.
        """
        numbers = self.numbers[index]
        if not len(numbers):
            return np.zeros((0, *self.sample), self.dtype)
        made = self.read(numbers)
        if made.dtype.kind == "f":
            fine = np.isfinite(made.reshape(len(made), -1)).all(1)
            if not fine.all():
                raise DataError(f"{self.name} has NaN or infinity in sample {numbers[~fine][0]}", at=self.at)
        return made

    def pick(self, index: slice | Array) -> Stored:
        """Those of a slice or of indices; none is read."""
        return replace(self, numbers=self.numbers[index])


def pick(samples: Samples, index: slice | Array) -> Samples:
    """Samples of a slice or of indices; of `Stored` ones none is read."""
    return samples.pick(index) if isinstance(samples, Stored) else samples[index]


def mapped(path: str | Path, name: str, array: Array, dtype: Any = None) -> Stored:
    """The samples of a memory-mapped array [N, ...], as `dtype` (None: their own)."""
    kind = array.dtype if dtype is None else np.dtype(dtype)
    return Stored(
        lambda numbers: np.array(array[numbers], kind), np.arange(len(array)), array.shape[1:], kind, name, str(path)
    )


def finite(path: str | Path, name: str, x: Array) -> Array:
    """`x` [N, ...].

    Raises:
        DataError: says in how many samples there are NaN or infinity.
    """
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.unique(np.nonzero(~np.isfinite(x))[0]).size)
        raise DataError(f"{name} has NaN or infinity in {bad} of {len(x)} samples", at=str(path))
    return x


def wanted(path: str | Path, name: str, y: Samples, count: int, asked: str | None) -> tuple[Samples, Score]:
    """What is wanted of `count` samples, and what it is judged by: class numbers [N], int64, or targets, float32.

    Args:
        asked: the name of a score; None: what suits y.

    Raises:
        DataError: y is neither, or might be both, or the score is not one of such y.
    """
    if asked is not None and asked not in SCORES:
        raise DataError(f"no score is named '{asked}'", hint=f"one of {', '.join(SCORES)}")
    kind = y.dtype if isinstance(y, Stored) else np.asarray(y[:0]).dtype
    if kind.kind == "f" and asked != ACCURACY.name:
        return _targets(path, name, y, count, asked), SCORES[asked or MSE.name]
    if y.shape != (count,):
        hint = "targets of several numbers are floats, in the units of the output" if kind.kind in "iu" else ""
        what = f"{name} has shape {list(y.shape)}, not one label for each of {count} samples"
        raise DataError(what, at=str(path), hint=hint)
    labels = y[:]
    if kind.kind not in "iu" or (count and (labels.min() < 0 or labels.max() > np.iinfo(np.int64).max)):
        raise DataError(f"{name} is {kind}: labels are class numbers from 0", at=str(path))
    if asked not in (None, ACCURACY.name):
        hint = f"{name} as floats, in the units of the output, or no score for classes"
        raise DataError(f"{asked} judges targets that are floats, {name} is {kind}: classes", at=str(path), hint=hint)
    return labels.astype(np.int64), ACCURACY


def _targets(path: str | Path, name: str, y: Samples, count: int, asked: str | None) -> Samples:
    """Floats [N, ...] as float32; those of one number a sample are read now."""
    if len(y) != count or not y.shape:
        raise DataError(f"{name} has shape {list(y.shape)}, not one target for each of {count} samples", at=str(path))
    if asked is None:
        _refuse_ambiguous(path, name, y)
    if isinstance(y, Stored):
        return y
    assert isinstance(y, np.ndarray)
    if isinstance(y, np.memmap) and math.prod(y.shape) > count:
        return mapped(path, name, y, np.float32)
    with np.errstate(over="ignore"):
        return finite(path, name, np.asarray(y, np.float32))


def _refuse_ambiguous(path: str | Path, name: str, y: Samples) -> None:
    """Refuse floats that may well be class numbers, or one-hot vectors."""
    single = math.prod(y.shape) == len(y)
    if not single and len(y.shape) != 2:
        return
    few = y[:] if single else y[:LOOKED_AT]
    as_targets = f"score='{MSE.name}' (--score {MSE.name}) for targets"
    if single and len(few) and (few == np.rint(few)).all():
        what = f"{name} is {few.dtype}: labels are class numbers from 0, and floats are targets; these may be either"
        raise DataError(what, at=str(path), hint=f"y.astype('int64') for classes, {as_targets}")
    if not single and len(few) and np.isin(few, (0, 1)).all() and (few.sum(1) == 1).all():
        what = f"{name} has shape {list(y.shape)}, not one label for each of {len(y)} samples: its rows are one-hot"
        raise DataError(what, at=str(path), hint=f"y.argmax(1) for classes, {as_targets}")


class MapStyle(Protocol):
    """A map-style data set, as `torch.utils.data.Dataset` is one: (sample, label) by number; with a length."""

    def __getitem__(self, index: Any, /) -> Any: ...


def of_dataset(dataset: MapStyle, name: str, labels: Any = None) -> tuple[Stored, Samples]:
    """The samples of a data set and their labels [N], which are read now where they are not given.

    Targets that are floats [N, ...], of more than one number each, are read when they are asked for.

    Raises:
        DataError: it has no length; its items are no pairs of numbers and a label, or are others when read again.
    """
    at = type(dataset).__name__
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        hint = "a map-style data set: torch.utils.data.Dataset with __len__ and __getitem__"
        raise DataError(f"{name} has no length", at=at, hint=hint) from None
    if count < 1:
        raise DataError(f"{name} is empty", at=at)
    first, label = _item(dataset, 0, name)
    if first.dtype.kind not in "fiu" or first.ndim < 1:
        hint = "a transform that gives tensors or arrays"
        raise DataError(f"sample 0 of {name} is {first.dtype}{list(first.shape)}, not numbers", at=at, hint=hint)
    samples = _stored(dataset, 0, name, first, first.dtype)
    once, again = samples[:TWICE], samples[:TWICE]
    if not np.array_equal(once, again):
        hint = "no transforms by chance: the option augment of the learning rules moves images"
        raise DataError(f"samples of {name} are not the same when they are read again", at=at, hint=hint)
    if labels is not None:
        return samples, np.array(labels)
    target = np.asarray(label)
    if target.dtype.kind == "f" and target.size > 1:
        return samples, _stored(dataset, 1, name, target, np.float32)
    return samples, np.array([_item(dataset, i, name)[1] for i in range(count)])


def _stored(dataset: MapStyle, part: int, name: str, first: Array, dtype: Any) -> Stored:
    """One part of the pairs of a data set, 0: samples, 1: targets, all of the shape and type of the first."""
    at, word = type(dataset).__name__, ("sample", "target")[part]

    def read(numbers: Array) -> Array:
        made = np.empty((len(numbers), *first.shape), dtype)
        for place, number in enumerate(numbers.tolist()):
            sample = np.asarray(_item(dataset, number, name)[part])
            if sample.shape != first.shape or sample.dtype != first.dtype:
                got, want = (f"{a.dtype}{list(a.shape)}" for a in (sample, first))
                raise DataError(f"{word} {number} of {name} is {got}, {word} 0 is {want}", at=at)
            made[place] = sample
        return made

    title = name if part == 0 else f"the targets of {name}"
    return Stored(read, np.arange(len(dataset)), first.shape, np.dtype(dtype), title, at)  # type: ignore[arg-type]


def _item(dataset: MapStyle, number: int, name: str) -> tuple[Array, Any]:
    """A sample as an array, and its label."""
    try:
        item = dataset[number]
        sample, label = item
        return np.asarray(sample), label
    except Exception as error:  # whatever a user's data set raises
        what = f"sample {number} of {name} cannot be read: {type(error).__name__}: {error}"
        raise DataError(what, at=type(dataset).__name__, hint="items are pairs (sample, label)") from error
