"""Samples that are read when they are asked for: of files larger than the memory, and of torch's data sets.

Only the numbers of the samples are held. Whoever asks for a slice or for an array of indices gets an array of these
samples alone, and each is checked whenever it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import DataError
from .ir import Array, Samples, Shape

TWICE = 8
"""The first so many samples of a data set are read twice, to see that they stay what they are."""


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


def mapped(path: Path, name: str, array: Array) -> Stored:
    """The samples of a memory-mapped array [N, ...]."""
    return Stored(
        lambda numbers: np.array(array[numbers]), np.arange(len(array)), array.shape[1:], array.dtype, name, str(path)
    )


class MapStyle(Protocol):
    """A map-style data set, as `torch.utils.data.Dataset` is one: (sample, label) by number; with a length."""

    def __getitem__(self, index: Any, /) -> Any: ...


def of_dataset(dataset: MapStyle, name: str, labels: Any = None) -> tuple[Stored, Array]:
    """The samples of a data set and their labels [N], which are read now where they are not given.

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
    first = _item(dataset, 0, name)[0]
    if first.dtype.kind not in "fiu" or first.ndim < 1:
        hint = "a transform that gives tensors or arrays"
        raise DataError(f"sample 0 of {name} is {first.dtype}{list(first.shape)}, not numbers", at=at, hint=hint)

    def read(numbers: Array) -> Array:
        made = np.empty((len(numbers), *first.shape), first.dtype)
        for place, number in enumerate(numbers.tolist()):
            sample = _item(dataset, number, name)[0]
            if sample.shape != first.shape or sample.dtype != first.dtype:
                got, want = (f"{a.dtype}{list(a.shape)}" for a in (sample, first))
                raise DataError(f"sample {number} of {name} is {got}, sample 0 is {want}", at=at)
            made[place] = sample
        return made

    samples = Stored(read, np.arange(count), first.shape, first.dtype, name, at)
    once, again = samples[:TWICE], samples[:TWICE]
    if not np.array_equal(once, again):
        hint = "no transforms by chance: the option augment of the learning rules moves images"
        raise DataError(f"samples of {name} are not the same when they are read again", at=at, hint=hint)
    given = [_item(dataset, i, name)[1] for i in range(count)] if labels is None else labels
    return samples, np.array(given)


def _item(dataset: MapStyle, number: int, name: str) -> tuple[Array, Any]:
    """A sample as an array, and its label."""
    try:
        item = dataset[number]
        sample, label = item
        return np.asarray(sample), label
    except Exception as error:  # whatever a user's data set raises
        what = f"sample {number} of {name} cannot be read: {type(error).__name__}: {error}"
        raise DataError(what, at=type(dataset).__name__, hint="items are pairs (sample, label)") from error
