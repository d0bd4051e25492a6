"""Data -> arrays: npz files and folders of npy files with x_train, y_train, x_test, y_test (or x, y), and torch's data
sets; scaled when they are read, never pickled.

An npz file is read whole. Of a folder and of a data set only labels are; samples, and targets that are no single
numbers, are read where a batch asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import DataError
from .frames import frames as frames
from .ir import Array, Graph, Samples, Shape
from .ir.streams import is_stream, sample_shape
from .samples import MapStyle, Stored, finite, mapped, of_dataset, pick, wanted
from .score import ACCURACY, SI_SDR, Score, no_signals

HELD_OUT = 0.1
"""Share of the training samples that is kept back to choose by; at most `MOST_HELD_OUT` samples."""
MOST_HELD_OUT = 1000
BATCH = 256
"""Samples that are read at a time where it does not matter."""
IDENTIFIED = 256
"""Samples of a folder or a data set, evenly spaced, whose bytes go into the digest."""
SAVE = "numpy.savez(path, x_train=..., y_train=...)"


@dataclass(frozen=True)
class Scaling:
    """What the model wants of the raw numbers: x = (raw * scale - mean) / std, mean and std per channel or single."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if (
            not self.mean
            or not self.std
            or 0.0 in (self.scale, *self.std)
            or not np.isfinite([self.scale, *self.mean, *self.std]).all()
        ):
            raise DataError(f"scale {self.scale}, mean {self.mean}, std {self.std} scale nothing")

    @property
    def one_factor(self) -> bool:
        """Whether nothing is subtracted, and all channels are scaled alike: the total then is scaled as every step."""
        return self.mean == (0.0,) and len(self.std) == 1

    def __call__(self, raw: Array) -> Array:
        """float32 [N, C, ...] from raw [N, C, ...]."""
        mean, std = (self._shaped(np.asarray(v, np.float32), raw) for v in (self.mean, self.std))
        return np.asarray((raw.astype(np.float32) * np.float32(self.scale) - mean) / std, np.float32)

    @staticmethod
    def _shaped(values: Array, raw: Array) -> Array:
        if values.size == 1:
            return values
        if raw.ndim < 2 or raw.shape[1] != values.size:
            raise DataError(f"{values.size} means or deviations for samples of shape {list(raw.shape[1:])}")
        return values.reshape(-1, *[1] * (raw.ndim - 2))


@dataclass(frozen=True, eq=False)
class Split:
    """Samples for one purpose: raw [N, ...], or streams of events [N, T, ...], what is wanted of them, how to scale.

    It is `Samples` itself, scaled: who takes these is given the split, and reads no more of it at a time than it needs.

    Attributes:
        labels: right answers: class numbers [N], or targets in the units of the model's output, float32 [N, ...].
        score: what outputs are judged by: `accuracy` of class numbers; `mse` or `si-sdr` of targets.

    Raises:
        DataError: the score is not one of such labels.
    """

    raw: Samples
    labels: Samples
    scaling: Scaling = field(default_factory=Scaling)
    score: Score = ACCURACY

    def __post_init__(self) -> None:
        kind = np.asarray(self.labels[:0]).dtype
        if (kind.kind == "f") is (self.score is ACCURACY):
            hint = "Split(x, y, score=MSE) of floats, whole numbers are classes"
            raise DataError(f"labels that are {kind} are not judged by {self.score.name}", hint=hint)

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: slice | Array, /) -> Array:
        """As `x`."""
        return self.x(index)

    @property
    def shape(self) -> Shape:
        """[N, ...]."""
        return self.raw.shape

    def x(self, index: slice | Array = slice(None)) -> Array:
        """Scaled samples, float32 [n, ...]; all by default."""
        return self.scaling(self.raw[index])

    def batches(self, size: int = BATCH) -> Iterator[Array]:
        """All scaled samples, so many at a time."""
        return (self.x(slice(at, at + size)) for at in range(0, len(self), size))

    def pick(self, index: slice | Array) -> Split:
        """The samples of a slice or of indices; stored ones are not read yet."""
        return Split(pick(self.raw, index), pick(self.labels, index), self.scaling, self.score)

    def take(self, count: int | None) -> Split:
        """The first `count` samples (all, if None)."""
        return self if count is None else self.pick(slice(count))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts that do not overlap: `train` teaches, `validation` chooses, `test` is seen once."""

    train: Split
    validation: Split
    test: Split
    digest: str = ""

    def check(self, graph: Graph) -> None:
        """Refuse data that does not fit the model.

        Raises:
            DataError: lists all: sample shape, steps of a stream, its scaling, labels outside the model's classes,
                targets of another shape than the model's output.
        """
        problems: list[DataError] = []
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            names = ", ".join([*graph.inputs, *graph.outputs])
            raise DataError(
                f"an npz file of samples and labels feeds one input and judges one output; the model has {names}",
                hint="keep one output: --output NAME, or outputs=('NAME',) of snnc.load",
            )
        [name], [(user, output)] = graph.inputs, graph.outputs.items()
        shape = graph.type(output).shape
        score = self.train.score
        if score is ACCURACY and len(shape) != 1:
            what = f"output '{user}' has shape {list(shape)}: accuracy needs one score per class"
            problems.append(DataError(what, hint=f"targets are floats {['N', *shape]}".replace("'", "")))
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            if len(split) == 0:
                problems.append(DataError(f"the {part} part is empty"))
            elif (found := split.raw.shape[1:]) != (takes := sample_shape(graph, name, found)):
                what = f"{part} samples have shape {list(found)}, input '{name}' takes {list(takes)}"
                problems.append(DataError(what, hint=_reshaped("samples", found, takes)))
            elif is_stream(graph, name, found) and not split.scaling.one_factor:
                problems.append(DataError(f"{part} samples are streams of events, which are scaled by one factor only"))
            elif split.score is not score:
                problems.append(DataError(f"the train part is judged by {score.name}, {part} by {split.score.name}"))
            elif score is not ACCURACY:
                problems += _unlike(split, part, user, shape)
            elif len(shape) == 1 and int(split.labels[:].max()) >= shape[0]:
                problems.append(
                    DataError(f"{part} labels go up to {split.labels[:].max()}, the model has {shape[0]} classes")
                )
        if problems:
            raise DataError.gather("the data does not fit the model", problems)


def _reshaped(word: str, found: Shape, wanted: Shape) -> str:
    """The hint to reshape, where that is all."""
    return f"reshape the {word} to {list(wanted)} each" if np.prod(found) == np.prod(wanted) else ""


def _unlike(split: Split, part: str, user: str, shape: Shape) -> list[DataError]:
    """Why the targets of a part cannot be compared with the output `user` of this shape; nothing where they can."""
    found = split.labels.shape[1:]
    if found != shape:
        what = f"{part} targets have shape {list(found)}, output '{user}' has {list(shape)}"
        return [DataError(what, hint=_reshaped("targets", found, shape))]
    why = no_signals(shape) if split.score is SI_SDR else ""
    return [DataError(f"{part} targets: {why}")] if why else []


def load(
    path: str | Path,
    *,
    test: str | Path | None = None,
    scaling: Scaling | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
    score: str | None = None,
) -> Data:
    """Read an npz file, or a folder of npy files, with x_train, y_train, x_test, y_test, or with x, y.

    y are class numbers [N], or targets in the units of the model's output, floats [N, ...]. The npy files of samples
    and targets are memory-mapped: they may be larger than the memory, and NaN in them is found when a sample is read.
    Where there is no test part (and no `test` file or folder, with x, y or x_test, y_test), a tenth of the samples
    becomes it. The validation part is a fixed random tenth of the training samples, at most 1,000.

    Args:
        test: another file for the test part.
        scaling: what the model wants of the raw numbers.
        train_samples, test_samples: use only the first so many.
        score: what outputs are judged by: `mse` (the default) or `si-sdr` where y are targets.

    Raises:
        DataError: unreadable file, missing arrays, wrong dtypes, NaN, lengths that differ, a score that does not fit.
    """
    scaling = scaling or Scaling()
    arrays = read(path)
    train = _pick(path, arrays, scaling, score, ("x_train", "y_train"), ("x", "y"))
    held: Split | None = None
    if test is not None:
        held = _pick(test, read(test), scaling, score, ("x_test", "y_test"), ("x", "y"))
    elif "x_test" in arrays:
        held = _pick(path, arrays, scaling, score, ("x_test", "y_test"))
    return _divided(train, held, str(path), train_samples, test_samples)


def from_dataset(
    train: MapStyle,
    test: MapStyle | None = None,
    *,
    scaling: Scaling | None = None,
    labels: Array | None = None,
    test_labels: Array | None = None,
    score: str | None = None,
) -> Data:
    """Take the samples of `torch.utils.data.Dataset`s of pairs (sample, label or target); held out as by `load`.

    A sample is read when a batch asks for it, and again whenever it is asked for, so it must always be the same.

    Args:
        train, test: map-style: with a length, and items by number from 0; samples are tensors or arrays of one shape.
        scaling: what the model wants, if the data set's transforms do not do it.
        labels, test_labels: right answers [N], or targets [N, ...]; without them all labels are read once, at the
            beginning, and targets of more than one number as samples are.
        score: as in `load`.

    Raises:
        DataError: no length, items that are no such pairs or not the same when read again, wrong labels.
    """
    scaling = scaling or Scaling()

    def split(dataset: MapStyle, name: str, given: Array | None) -> Split:
        x, y = of_dataset(dataset, name, given)
        y, chosen = wanted(x.at, f"the labels of {name}", y, len(x), score)
        return Split(x, y, scaling, chosen)

    held = None if test is None else split(test, "test", test_labels)
    return _divided(split(train, "train", labels), held, type(train).__name__)


def load_test(path: str | Path, scaling: Scaling, samples: int | None = None, score: str | None = None) -> Split:
    """Only the test part of a file: x_test, y_test if it has them, else x, y."""
    return _pick(path, read(path), scaling, score, ("x_test", "y_test"), ("x", "y")).take(samples)


def read(path: str | Path) -> dict[str, Array]:
    """All arrays of an npz file, or those of a folder's npy files, memory-mapped; never unpickles.

    Raises:
        DataError: says what is wrong with the file.
    """
    path = Path(path)
    if path.is_dir():
        return {file.stem: _mapped(file) for file in sorted(path.glob("*.npy"))}
    if not path.is_file():
        raise DataError("there is no such file" if not path.exists() else "is not a file", at=str(path))
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError("is one array, not an npz file of named arrays", at=str(path), hint=SAVE)
        with file:
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # damaged files make numpy, zipfile, zlib, lzma and tokenize raise errors of any kind
        raise DataError(f"cannot be read as npz: {error}", at=str(path), hint=SAVE) from None
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"holds {', '.join(strange)}, which is no array", at=str(path), hint=SAVE)
    return arrays


def _mapped(path: Path) -> Array:
    """A memory-mapped npy file."""
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # as in `read`
        raise DataError(f"cannot be read as npy: {error}", at=str(path), hint="numpy.save(path, array)") from None


def _divided(
    train: Split, test: Split | None, at: str, train_samples: int | None = None, test_samples: int | None = None
) -> Data:
    """The three parts, and their digest; nothing is read but what that needs."""
    if test is None:
        rest, held = _hold_out(len(train), 1)
        test, train = train.pick(held), train.pick(rest)
    train, test = train.take(train_samples), test.take(test_samples)
    if len(train) < 2 or len(test) < 1:
        raise DataError(f"{len(train)} training and {len(test)} test samples are too few", at=at)
    rest, held = _hold_out(len(train), 0)
    how = repr(train.scaling) + ("" if train.score is ACCURACY else train.score.name)
    digest = _digest(how, train.raw, train.labels, test.raw, test.labels)
    return Data(train.pick(rest), train.pick(held), test, digest)


def _pick(
    path: str | Path, arrays: dict[str, Array], scaling: Scaling, score: str | None, *pairs: tuple[str, str]
) -> Split:
    for name_x, name_y in pairs:
        if name_x in arrays and name_y in arrays:
            x, count = _checked(path, name_x, arrays[name_x]), len(arrays[name_x])
            y, chosen = wanted(path, name_y, arrays[name_y], count, score)
            return Split(x, y, scaling, chosen)
    names = " or ".join(f"{a}, {b}" for a, b in pairs)
    raise DataError(f"holds {', '.join(arrays) or 'nothing'}, not {names}", at=str(path))


def _checked(path: str | Path, name: str, x: Array) -> Samples:
    if x.ndim < 2 or x.dtype.kind not in "fiu":
        raise DataError(f"{name} is {x.dtype}{list(x.shape)}, not numbers [samples, ...]", at=str(path))
    return mapped(path, name, x) if isinstance(x, np.memmap) else finite(path, name, x)


def _hold_out(count: int, stream: int) -> tuple[Array, Array]:
    """Sorted indices of the rest and of the held-out part; the same for every seed, so that seeds compare."""
    size = max(1, min(int(count * HELD_OUT), MOST_HELD_OUT))
    order = np.random.default_rng([stream, count]).permutation(count)
    return np.sort(order[size:]), np.sort(order[:size])


def _digest(how: str, *arrays: Samples) -> str:
    """Of types, shapes and contents; of stored samples `IDENTIFIED`, evenly spaced, stand for all."""
    total = hashlib.sha256(how.encode())
    for array in arrays:
        some = array
        if isinstance(array, Stored):
            some = array[np.unique(np.linspace(0, len(array) - 1, IDENTIFIED).astype(np.int64))]
        assert isinstance(some, np.ndarray)
        total.update(f"{some.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(some).tobytes())
    return total.hexdigest()
